#include "sink/webhook.h"

#include "base/clock.h"
#include "base/mem.h"
#include "encode/encode.h"

#include <ctype.h>
#include <pthread.h>

#define CONNECT_TIMEOUT_MS 10000
#define ANSWER_MOST (1u << 20)

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_curl(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* The URL without its user, who goes into a header. */
static void put_target(struct strbuf *out, const struct sink_driver *d, const struct url *url)
{
	struct strbuf text = { 0 };
	const char *start, *end, *at;

	driver_rest(d, url, &text);
	start = strstr(strbuf_cstr(&text), "://") + 3;
	end = start + strcspn(start, "/?#");
	at = memrchr(start, '@', (size_t)(end - start));
	strbuf_add(out, text.p, (size_t)(start - text.p));
	strbuf_str(out, str_c(at ? at + 1 : start));
	strbuf_cstr(out);
	strbuf_release(&text);
}

static const char *content_type(const struct sink *s, bool array)
{
	if (strcmp(s->format->name, "cloudevents") == 0)
		return array ? "Content-Type: application/cloudevents-batch+json"
			     : "Content-Type: application/cloudevents+json";
	if (strcmp(s->format->name, "pretty") == 0)
		return "Content-Type: text/plain; charset=utf-8";
	return "Content-Type: application/json";
}

void webhook_request_init(void)
{
	pthread_once(&once, init_curl);
}

void webhook_request_prepare(struct sink *s)
{
	struct webhook *w = s->state;

	put_target(&w->target, s->driver, &s->url);
	url_escape_header(&w->origin, str_c(s->origin));
	strbuf_cstr(&w->origin);
	w->content_type = content_type(s, w->array > 1);
}

/* Keeps an answer's beginning; one without an end is cut. */
static size_t on_body(char *p, size_t size, size_t n, void *user)
{
	struct lane *lane = user;

	for (size_t i = 0; i < n && lane->answer_n + i < sizeof(lane->answer); i++)
		lane->answer[lane->answer_n + i] = (char)(iscntrl((unsigned char)p[i]) ? ' ' : p[i]);
	lane->answer_n += n;
	return lane->answer_n > ANSWER_MOST ? 0 : n;
}

static void set_text(CURL *easy, CURLoption option, const char *value)
{
	if (value)
		curl_easy_setopt(easy, option, value);
}

/* Of every request: whom to trust, how long to wait, and nothing that follows or asks. */
static void set_up(struct sink *s, CURL *easy, char *error)
{
	struct webhook *w = s->state;

	curl_easy_setopt(easy, CURLOPT_URL, w->target.p);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT, (long)sink_int(s, "timeout"));
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error);
	set_text(easy, CURLOPT_CAINFO, sink_text(s, "ca"));
	set_text(easy, CURLOPT_SSLCERT, sink_text(s, "cert"));
	set_text(easy, CURLOPT_SSLKEY, sink_text(s, "cert_key"));
	set_text(easy, CURLOPT_USERNAME, s->url.user);
	set_text(easy, CURLOPT_PASSWORD, s->url.password);
	if (s->url.user)
		curl_easy_setopt(easy, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
}

void webhook_request_open(struct sink *s, struct lane *lane)
{
	struct webhook *w = s->state;

	lane->easy = curl_easy_init();
	if (!lane->easy)
		mem_die();
	lane->most = w->array;
	set_up(s, lane->easy, lane->error);
	curl_easy_setopt(lane->easy, CURLOPT_POST, 1L);
	curl_easy_setopt(lane->easy, CURLOPT_USERAGENT, "pgherald/" PGHERALD_VERSION);
	curl_easy_setopt(lane->easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(lane->easy, CURLOPT_WRITEDATA, lane);
	curl_easy_setopt(lane->easy, CURLOPT_PRIVATE, lane);
}

int webhook_request_failed(CURLcode code, const char *text, struct err *err)
{
	bool mend = code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ||
		    code == CURLE_SSL_CERTPROBLEM || code == CURLE_URL_MALFORMAT ||
		    code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_SSL_ISSUER_ERROR;

	return err_set(err, mend ? ERR_CONFIG : ERR_RETRY, "%s",
		       *text ? text : curl_easy_strerror(code));
}

int webhook_request_probe(struct sink *s, struct err *err)
{
	char text[CURL_ERROR_SIZE] = "";
	CURL *easy = curl_easy_init();
	CURLcode code;

	if (!easy)
		mem_die();
	set_up(s, easy, text);
	curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
	code = curl_easy_perform(easy);
	curl_easy_cleanup(easy);
	return code ? webhook_request_failed(code, text, err) : 0;
}

static void add_header(struct lane *lane, const char *name, const char *value)
{
	struct strbuf line = { 0 };
	struct curl_slist *list;

	strbuf_printf(&line, "%s: %s", name, value);
	list = curl_slist_append(lane->headers, strbuf_cstr(&line));
	if (!list)
		mem_die();
	lane->headers = list;
	strbuf_release(&line);
}

void webhook_request_headers(struct sink *s, struct lane *lane, const struct item *first,
			     struct str body)
{
	struct webhook *w = s->state;
	struct str rest = batch_headers(first->b, first->i);
	const char *name, *value;
	char id[POSITION_LEN + 1] = "", time[32];
	struct strbuf signature = { 0 };

	position_print(first->b->messages[first->i].position, id);
	snprintf(time, sizeof(time), "%lld", (long long)(clock_wall_us() / 1000000));
	curl_slist_free_all(lane->headers);
	lane->headers =
		curl_slist_append(NULL, rest.n ? "Content-Type: application/json" : w->content_type);
	while (batch_next_header(&rest, &name, &value))
		add_header(lane, name, value);
	add_header(lane, "webhook-id", id);
	add_header(lane, "webhook-timestamp", time);
	if (w->signer.mac) {
		signer_print(&w->signer, id, time, body, &signature);
		add_header(lane, "webhook-signature", strbuf_cstr(&signature));
		strbuf_release(&signature);
	}
	add_header(lane, "pgherald-origin", w->origin.p);
	add_header(lane, "Expect", "");
	for (size_t i = 0; i < s->url.nparams; i++)
		if (strncmp(s->url.params[i].name, "header.", 7) == 0)
			add_header(lane, s->url.params[i].name + 7, s->url.params[i].value);
	curl_easy_setopt(lane->easy, CURLOPT_HTTPHEADER, lane->headers);
}
