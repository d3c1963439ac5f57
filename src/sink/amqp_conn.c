#include "sink/amqp_conn.h"

#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <sys/socket.h>

#define CONNECT_S 5
#define ANSWER_S 10
#define FRAME_MAX 131072

/* Why the broker's certificate was refused; the handshake runs in the caller's thread. */
static _Thread_local int verify_error;

static int remember_verify(int ok, X509_STORE_CTX *ctx)
{
	if (!ok)
		verify_error = X509_STORE_CTX_get_error(ctx);
	return ok;
}

int amqp_conn_fail(struct amqp_conn *c, const char *what, int status, struct err *err)
{
	c->well = false;
	if (status == AMQP_STATUS_SSL_CONNECTION_FAILED && verify_error != X509_V_OK)
		return err_set(err, ERR_CONFIG, "%s: the broker's certificate is refused: %s", what,
			       X509_verify_cert_error_string(verify_error));
	if (status == AMQP_STATUS_HEARTBEAT_TIMEOUT)
		return err_set(err, ERR_RETRY, "%s: the broker is silent", what);
	if (status == AMQP_STATUS_BAD_AMQP_DATA)
		return err_set(err, ERR_RETRY, "%s: this is not AMQP 0-9-1", what);
	return err_set(err, ERR_RETRY, "%s: %s", what, amqp_error_string2(status));
}

/* Whether the broker's code stands for what a user has to mend. */
static bool is_lasting(int code)
{
	switch (code) {
	case AMQP_ACCESS_REFUSED:
	case AMQP_NOT_FOUND:
	case AMQP_PRECONDITION_FAILED:
	case AMQP_NOT_ALLOWED:
	case AMQP_COMMAND_INVALID:
	case AMQP_NOT_IMPLEMENTED:
		return true;
	default:
		return false;
	}
}

int amqp_conn_closed(struct amqp_conn *c, const amqp_method_t *m, struct err *err)
{
	const amqp_connection_close_t *conn = m->decoded;
	const amqp_channel_close_t *channel = m->decoded;
	bool all = m->id == AMQP_CONNECTION_CLOSE_METHOD;
	int code = all ? conn->reply_code : channel->reply_code;
	struct str text = amqp_text(all ? conn->reply_text : channel->reply_text);

	c->well = c->well && !all;
	return err_set(err, is_lasting(code) ? ERR_CONFIG : ERR_RETRY, "the broker says %d %.*s",
		       code, STR_ARG(text));
}

static int check_reply(struct amqp_conn *c, amqp_rpc_reply_t r, const char *what, struct err *err)
{
	switch (r.reply_type) {
	case AMQP_RESPONSE_NORMAL:
		return 0;
	case AMQP_RESPONSE_SERVER_EXCEPTION:
		if (r.reply.id != AMQP_CONNECTION_CLOSE_METHOD &&
		    r.reply.id != AMQP_CHANNEL_CLOSE_METHOD)
			return amqp_conn_fail(c, what, AMQP_STATUS_WRONG_METHOD, err);
		(void)!amqp_conn_closed(c, &r.reply, err);
		return err_add(err, "%s", what);
	case AMQP_RESPONSE_NONE:
	case AMQP_RESPONSE_LIBRARY_EXCEPTION:
		break;
	}
	return amqp_conn_fail(c, what, r.library_error, err);
}

int amqp_conn_reply(struct amqp_conn *c, const char *what, struct err *err)
{
	return check_reply(c, amqp_get_rpc_reply(c->state), what, err);
}

const char *amqp_conn_vhost(const struct url *url)
{
	return url->path[0] == '/' && url->path[1] ? url->path + 1 : "/";
}

/* ---- TLS ---- */

/* OpenSSL itself compares the name: the library's own comparison knows no addresses. */
static int expect_name(SSL_CTX *ctx, const char *host)
{
	X509_VERIFY_PARAM *param = SSL_CTX_get0_param(ctx);
	struct in6_addr any;

	if (inet_pton(AF_INET, host, &any) == 1 || inet_pton(AF_INET6, host, &any) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(param, host);
	return X509_VERIFY_PARAM_set1_host(param, host, 0);
}

static amqp_socket_t *tls_socket(struct amqp_conn *c, const struct amqp_wanted *w, const char *host,
				 struct err *err)
{
	amqp_socket_t *socket = amqp_ssl_socket_new(c->state);
	SSL_CTX *ctx = socket ? amqp_ssl_socket_get_context(socket) : NULL;
	const char *wrong = NULL;

	if (!ctx) {
		err_set(err, ERR_FAIL, "cannot set TLS up");
		return NULL;
	}
	verify_error = X509_V_OK;
	amqp_ssl_socket_set_verify_peer(socket, 1);
	amqp_ssl_socket_set_verify_hostname(socket, 0);
	amqp_ssl_socket_set_ssl_versions(socket, AMQP_TLSv1_2, AMQP_TLSvLATEST);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, remember_verify);
	if (w->ca && SSL_CTX_load_verify_locations(ctx, w->ca, NULL) != 1)
		wrong = w->ca;
	else if (!w->ca && SSL_CTX_set_default_verify_paths(ctx) != 1)
		wrong = "the system's authorities";
	else if (w->cert && amqp_ssl_socket_set_key(socket, w->cert, w->cert_key) != AMQP_STATUS_OK)
		wrong = w->cert;
	else if (expect_name(ctx, host) != 1)
		wrong = host;
	if (wrong)
		err_set(err, ERR_CONFIG, "TLS cannot use %s: %s", wrong,
			ERR_peek_error() ? ERR_reason_error_string(ERR_peek_error())
					 : "it is malformed");
	ERR_clear_error();
	return wrong ? NULL : socket;
}

/* ---- connecting ---- */

static int connect_host(struct amqp_conn *c, const struct amqp_wanted *w,
			const struct url_host *host, struct err *err)
{
	bool tls = strcmp(w->url->scheme, "amqps") == 0;
	int port = host->port ? host->port : tls ? 5671 : 5672, status, on = 1;
	struct timeval most = { CONNECT_S, 0 };
	amqp_socket_t *socket;
	char what[300];

	c->state = amqp_new_connection();
	if (!c->state)
		return err_set(err, ERR_FAIL, "there is no memory for a connection");
	snprintf(what, sizeof(what), "connecting to %s:%d", host->host, port);
	socket = tls ? tls_socket(c, w, host->host, err) : amqp_tcp_socket_new(c->state);
	if (!socket)
		return tls ? -1 : err_set(err, ERR_FAIL, "there is no memory for a socket");
	amqp_set_handshake_timeout(c->state, &(struct timeval){ ANSWER_S, 0 });
	amqp_set_rpc_timeout(c->state, &(struct timeval){ ANSWER_S, 0 });
	status = amqp_socket_open_noblock(socket, host->host, port, &most);
	if (status == AMQP_STATUS_SOCKET_ERROR)
		return err_set(err, ERR_RETRY, "%s: no broker answers there", what);
	if (status != AMQP_STATUS_OK)
		return amqp_conn_fail(c, what, status, err);
	c->fd = amqp_get_sockfd(c->state);
	setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	return 0;
}

static amqp_table_entry_t entry(const char *name, amqp_field_value_t value)
{
	return (amqp_table_entry_t){ amqp_cstring_bytes(name), value };
}

static amqp_field_value_t yes(void)
{
	return (amqp_field_value_t){ .kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1 };
}

static amqp_field_value_t text(const char *s)
{
	return (amqp_field_value_t){ .kind = AMQP_FIELD_KIND_UTF8,
				     .value.bytes = amqp_cstring_bytes(s) };
}

static int log_in(struct amqp_conn *c, const struct amqp_wanted *w, struct err *err)
{
	const char *user = w->url->user ? w->url->user : "guest";
	const char *password = w->url->password ? w->url->password : w->url->user ? "" : "guest";
	const char *vhost = amqp_conn_vhost(w->url);
	amqp_table_entry_t can[] = { entry("connection.blocked", yes()),
				     entry("consumer_cancel_notify", yes()) };
	amqp_field_value_t all = { .kind = AMQP_FIELD_KIND_TABLE, .value.table = { 2, can } };
	amqp_table_entry_t about[] = { entry("product", text("pgherald")),
				       entry("version", text(PGHERALD_VERSION)),
				       entry("connection_name", text(w->label)),
				       entry("capabilities", all) };
	amqp_table_t properties = { sizeof(about) / sizeof(about[0]), about };
	char what[400];
	amqp_rpc_reply_t r = amqp_login_with_properties(c->state, vhost, 0, FRAME_MAX, w->heartbeat,
							&properties, AMQP_SASL_METHOD_PLAIN, user,
							password);

	snprintf(what, sizeof(what), "logging in as %.100s to the virtual host %.100s", user, vhost);
	return check_reply(c, r, what, err);
}

static int open_host(struct amqp_conn *c, const struct amqp_wanted *w, const struct url_host *host,
		     struct err *err)
{
	if (connect_host(c, w, host, err) || log_in(c, w, err))
		return -1;
	c->well = true;
	amqp_channel_open(c->state, AMQP_CHANNEL);
	return amqp_conn_reply(c, "opening a channel", err);
}

int amqp_conn_open(struct amqp_conn *c, const struct amqp_wanted *w, struct err *err)
{
	static const struct url_host localhost = { "localhost", 0 };
	size_t n = w->url->nhosts;

	if (n == 0)
		return open_host(c, w, &localhost, err);
	for (size_t i = 0; i < n; i++) {
		amqp_conn_close(c);
		if (open_host(c, w, &w->url->hosts[i], err) == 0)
			return 0;
	}
	return -1;
}

void amqp_conn_close(struct amqp_conn *c)
{
	if (c->state && c->well) {
		amqp_set_rpc_timeout(c->state, &(struct timeval){ 0, 500000 });
		amqp_connection_close(c->state, AMQP_REPLY_SUCCESS);
	}
	if (c->state)
		amqp_destroy_connection(c->state);
	*c = (struct amqp_conn){ 0 };
}

int amqp_conn_frame(struct amqp_conn *c, amqp_frame_t *frame, struct err *err)
{
	int status = amqp_simple_wait_frame_noblock(c->state, frame, &(struct timeval){ 0, 0 });

	if (status == AMQP_STATUS_TIMEOUT)
		return 0;
	if (status != AMQP_STATUS_OK)
		return amqp_conn_fail(c, "reading from the broker", status, err);
	return 1;
}
