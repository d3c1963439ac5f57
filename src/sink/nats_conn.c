/* Connections to NATS, of outputs and readers. */
#include "sink/nats.h"

static const char *param(const struct url *url, const char *name)
{
	return driver_text(&sink_nats, url, name);
}

static natsStatus loop_attach(void **data, void *loop, natsConnection *nc, natsSock fd)
{
	*(int *)loop = fd;
	*data = loop;
	return NATS_OK;
}

static natsStatus loop_read(void *data, bool add)
{
	return NATS_OK; /* poll() always looks */
}

/* Comes late and from another thread: what waits to be written is seen by its amount. */
static natsStatus loop_write(void *data, bool add)
{
	return NATS_OK;
}

static natsStatus loop_detach(void *data)
{
	return NATS_OK;
}

/* The library's own would write to standard error. */
static void ignore_error(natsConnection *nc, natsSubscription *sub, natsStatus status, void *arg)
{
}

/* Also for nats://, as servers may insist on TLS there. */
static natsStatus set_tls(const struct url *url, natsOptions *o, const char *host)
{
	const char *ca = param(url, "ca"), *cert = param(url, "cert");
	const char *key = param(url, "cert_key");
	natsStatus st = natsOptions_SetSecure(o, strcmp(url->scheme, "tls") == 0);

	if (!st && ca)
		st = natsOptions_LoadCATrustedCertificates(o, ca);
	if (!st && cert)
		st = natsOptions_LoadCertificatesChain(o, cert, key ? key : cert);
	if (!st)
		st = natsOptions_SetExpectedHostname(o, host);
	return st;
}

static natsStatus set_user(const struct url *url, natsOptions *o)
{
	const char *token = param(url, "token"), *creds = param(url, "creds");
	const char *nkey = param(url, "nkey"), *seed = param(url, "nkey_seed");
	natsStatus st = NATS_OK;

	if (url->user && url->password)
		st = natsOptions_SetUserInfo(o, url->user, url->password);
	else if (url->user)
		st = natsOptions_SetToken(o, url->user);
	if (!st && token)
		st = natsOptions_SetToken(o, token);
	if (!st && creds)
		st = natsOptions_SetUserCredentialsFromFiles(o, creds, NULL);
	if (!st && nkey)
		st = natsOptions_SetNKeyFromSeed(o, nkey, seed);
	return st;
}

static natsStatus set_options(const struct url *url, natsOptions *o, const struct url_host *h, int *fd)
{
	struct strbuf to = { 0 };
	natsStatus st;

	strbuf_printf(&to, strchr(h->host, ':') ? "nats://[%s]:%d" : "nats://%s:%d", h->host,
		      h->port ? h->port : 4222);
	st = natsOptions_SetURL(o, strbuf_cstr(&to));
	strbuf_release(&to);
	if (!st)
		st = natsOptions_SetName(o, "pgherald");
	if (!st)
		st = natsOptions_SetAllowReconnect(o, false);
	if (!st)
		st = natsOptions_SetTimeout(o, NATS_WAIT_MS);
	if (!st)
		st = natsOptions_SetWriteDeadline(o, NATS_WAIT_MS);
	if (!st)
		st = natsOptions_SetPingInterval(o, NATS_WAIT_MS);
	if (!st)
		st = natsOptions_SetErrorHandler(o, ignore_error, NULL);
	if (!st)
		st = set_user(url, o);
	if (!st)
		st = set_tls(url, o, h->host);
	if (!st && fd) /* "send as soon as possible" spares waking the library's flusher */
		st = natsOptions_SetSendAsap(o, true);
	if (!st && fd)
		st = natsOptions_SetEventLoop(o, fd, loop_attach, loop_read, loop_write, loop_detach);
	return st;
}

static bool is_one_of(natsStatus st, const natsStatus *list)
{
	while (*list && *list != st)
		list++;
	return *list != NATS_OK;
}

/* The library's words, without the place in its source that they begin with: "(conn.c:2088): ". */
static const char *bare(const char *why)
{
	const char *end = why && *why == '(' ? strstr(why, "): ") : NULL;

	return end ? end + 3 : why ? why : "";
}

static int explain(const struct url_host *h, natsStatus st, struct err *err)
{
	static const natsStatus users[] = { NATS_SSL_ERROR,
					    NATS_INVALID_ARG,
					    NATS_NOT_PERMITTED,
					    NATS_SECURE_CONNECTION_WANTED,
					    NATS_SECURE_CONNECTION_REQUIRED,
					    NATS_ERR,
					    NATS_OK };
	int port = h->port ? h->port : 4222;
	const char *why = bare(nats_GetLastError(NULL));

	if (st == NATS_CONNECTION_AUTH_FAILED)
		return err_set(err, ERR_CONFIG,
			       "NATS at %s does not let us in: user and password, token or "
			       "credentials are wrong or missing",
			       h->host);
	if (st == NATS_NO_SERVER)
		return err_set(err, ERR_RETRY, "NATS at %s:%d: no server answers", h->host, port);
	return err_set(err, is_one_of(st, users) ? ERR_CONFIG : ERR_RETRY, "NATS at %s:%d: %s%s%s%s",
		       h->host, port, natsStatus_GetText(st), *why ? ": " : "", why,
		       st == NATS_SECURE_CONNECTION_REQUIRED ? "; use tls://"
		       : st == NATS_SECURE_CONNECTION_WANTED ? "; it has no TLS, use nats://"
							     : "");
}

/* Who signs the server's nonce asks again when refused: libnats (3.4.1) leaves a signature out that
 * begins with a zero byte, as one of 256 does, and another nonce gives another one. */
static natsStatus connect_with(const struct url *url, natsOptions *o, natsConnection **nc)
{
	int tries = param(url, "creds") || param(url, "nkey") ? 4 : 1;
	natsStatus st;

	do
		st = natsConnection_Connect(nc, o);
	while (st == NATS_CONNECTION_AUTH_FAILED && --tries);
	return st;
}

static int connect_to(const struct url *url, const struct url_host *h, int *fd, natsConnection **nc,
		      struct err *err)
{
	natsOptions *o = NULL;
	natsStatus st = natsOptions_Create(&o);

	if (!st)
		st = set_options(url, o, h, fd);
	if (!st)
		st = connect_with(url, o, nc);
	natsOptions_Destroy(o);
	return st ? explain(h, st, err) : 0;
}

int nats_connect(const struct url *url, int *fd, natsConnection **nc, struct err *err)
{
	int failed = -1;

	for (size_t i = 0; i < url->nhosts && failed; i++)
		failed = connect_to(url, &url->hosts[i], fd, nc, err);
	return failed;
}
