#include "sink/wire.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static int wait_for(struct wire *w, short events, const char *what, struct err *err)
{
	struct pollfd pfd = { w->fd, events, 0 };
	int n = poll(&pfd, 1, w->limit_ms);

	if (n > 0 || (n < 0 && errno == EINTR))
		return 0;
	return err_set(err, ERR_RETRY, "%s: no answer within %d s", what, w->limit_ms / 1000);
}

static int connect_to(struct wire *w, const struct addrinfo *a, struct err *err)
{
	int on = 1, failed = 0;
	socklen_t n = sizeof(failed);

	w->fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (w->fd < 0)
		return err_set(err, ERR_RETRY, "cannot make a socket: %s", strerror(errno));
	setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(w->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	if (connect(w->fd, a->ai_addr, a->ai_addrlen) && errno != EINPROGRESS)
		return err_set(err, ERR_RETRY, "cannot connect: %s", strerror(errno));
	if (wait_for(w, POLLOUT, "connecting", err))
		return -1;
	getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &failed, &n);
	return failed ? err_set(err, ERR_RETRY, "cannot connect: %s", strerror(failed)) : 0;
}

static int connect_any(struct wire *w, const char *host, int port, struct err *err)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
	char service[8];
	int failed;

	snprintf(service, sizeof(service), "%d", port);
	failed = getaddrinfo(host, service, &hints, &list);
	if (failed)
		return err_set(err, ERR_RETRY, "cannot find the host: %s", gai_strerror(failed));
	failed = -1;
	for (const struct addrinfo *a = list; a && failed; a = a->ai_next) {
		if (w->fd >= 0)
			close(w->fd);
		failed = connect_to(w, a, err);
	}
	freeaddrinfo(list);
	return failed;
}

static int tls_fail(enum err_kind kind, const char *what, struct err *err)
{
	char why[256];

	ERR_error_string_n(ERR_get_error(), why, sizeof(why));
	return err_set(err, kind, "%s: %s", what, why);
}

static int tls_context(struct wire *w, const struct wire_tls *tls, struct err *err)
{
	w->context = SSL_CTX_new(TLS_client_method());
	if (!w->context)
		return tls_fail(ERR_FAIL, "cannot use TLS", err);
	SSL_CTX_set_min_proto_version(w->context, TLS1_2_VERSION);
	SSL_CTX_set_verify(w->context, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_mode(w->context,
			 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (tls->ca ? SSL_CTX_load_verify_file(w->context, tls->ca) != 1
		    : SSL_CTX_set_default_verify_paths(w->context) != 1)
		return tls_fail(ERR_CONFIG, "cannot read the certificate authority", err);
	if (!tls->cert)
		return 0;
	if (SSL_CTX_use_certificate_chain_file(w->context, tls->cert) != 1 ||
	    SSL_CTX_use_PrivateKey_file(w->context, tls->key ? tls->key : tls->cert,
					SSL_FILETYPE_PEM) != 1)
		return tls_fail(ERR_CONFIG, "cannot read the client certificate and its key", err);
	return 0;
}

static int tls_name(struct wire *w, const char *host, struct err *err)
{
	X509_VERIFY_PARAM *param;
	unsigned char binary[16];
	bool ip = inet_pton(AF_INET, host, binary) == 1 || inet_pton(AF_INET6, host, binary) == 1;

	w->ssl = SSL_new(w->context);
	if (!w->ssl || SSL_set_fd(w->ssl, w->fd) != 1)
		return tls_fail(ERR_FAIL, "cannot use TLS", err);
	param = SSL_get0_param(w->ssl);
	if (ip ? X509_VERIFY_PARAM_set1_ip_asc(param, host) != 1
	       : SSL_set1_host(w->ssl, host) != 1 ||
			    SSL_set_tlsext_host_name(w->ssl, (char *)(uintptr_t)host) != 1)
		return tls_fail(ERR_CONFIG, "cannot verify this name", err);
	return 0;
}

static int tls_handshake(struct wire *w, struct err *err)
{
	long verified;
	int n;

	for (;;) {
		ERR_clear_error();
		n = SSL_connect(w->ssl);
		if (n == 1)
			return 0;
		n = SSL_get_error(w->ssl, n);
		if (n != SSL_ERROR_WANT_READ && n != SSL_ERROR_WANT_WRITE)
			break;
		if (wait_for(w, n == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, "TLS", err))
			return -1;
	}
	verified = SSL_get_verify_result(w->ssl);
	if (verified != X509_V_OK)
		return err_set(err, ERR_CONFIG, "the server's certificate is not trusted: %s",
			       X509_verify_cert_error_string(verified));
	if (ERR_peek_error())
		return tls_fail(ERR_CONFIG, "TLS failed", err);
	return err_set(err, ERR_RETRY, "the connection was closed while TLS began");
}

int wire_open(struct wire *w, const char *host, int port, const struct wire_tls *tls, int limit_ms,
	      struct err *err)
{
	w->fd = -1;
	w->limit_ms = limit_ms;
	w->reader = redisReaderCreate();
	if (connect_any(w, host, port, err))
		return -1;
	if (!tls)
		return 0;
	return tls_context(w, tls, err) || tls_name(w, host, err) || tls_handshake(w, err) ? -1 : 0;
}

void wire_close(struct wire *w)
{
	SSL_free(w->ssl);
	SSL_CTX_free(w->context);
	if (w->reader)
		redisReaderFree(w->reader);
	if (w->fd >= 0)
		close(w->fd);
	strbuf_release(&w->out);
	*w = (struct wire){ .fd = -1 };
}

static void put_length(struct wire *w, char kind, size_t n)
{
	char digits[20], *at = digits + sizeof(digits);

	do {
		*--at = (char)('0' + n % 10);
		n /= 10;
	} while (n);
	strbuf_ch(&w->out, kind);
	strbuf_add(&w->out, at, (size_t)(digits + sizeof(digits) - at));
	strbuf_lit(&w->out, "\r\n");
}

void wire_begin(struct wire *w, size_t words)
{
	put_length(w, '*', words);
}

void wire_word(struct wire *w, struct str word)
{
	put_length(w, '$', word.n);
	strbuf_str(&w->out, word);
	strbuf_lit(&w->out, "\r\n");
}

void wire_command(struct wire *w, ...)
{
	const char *word;
	size_t n = 0;
	va_list list;

	va_start(list, w);
	while (va_arg(list, const char *))
		n++;
	va_end(list);
	wire_begin(w, n);
	va_start(list, w);
	while ((word = va_arg(list, const char *)))
		wire_word(w, str_c(word));
	va_end(list);
}

static int lost(const char *why, struct err *err)
{
	return err_set(err, ERR_RETRY, "the connection is lost: %s", why);
}

/* What a call of the TLS library that did not succeed means: 0 for "not now". */
static int tls_result(struct wire *w, int n, struct err *err)
{
	n = SSL_get_error(w->ssl, n);
	w->wants_write = n == SSL_ERROR_WANT_WRITE;
	if (n == SSL_ERROR_WANT_READ || n == SSL_ERROR_WANT_WRITE)
		return 0;
	return lost(ERR_peek_error() ? ERR_reason_error_string(ERR_get_error()) : "closed", err);
}

static int write_some(struct wire *w, size_t *n, struct err *err)
{
	const char *from = w->out.p + w->written;
	size_t left = w->out.n - w->written;
	ssize_t done;

	*n = 0;
	if (w->ssl) {
		ERR_clear_error();
		return SSL_write_ex(w->ssl, from, left, n) ? 0 : tls_result(w, 0, err);
	}
	done = send(w->fd, from, left, MSG_NOSIGNAL);
	if (done < 0 && errno != EAGAIN && errno != EINTR)
		return lost(strerror(errno), err);
	*n = done > 0 ? (size_t)done : 0;
	return 0;
}

int wire_push(struct wire *w, struct err *err)
{
	size_t n = 1;

	while (w->written < w->out.n && n) {
		if (write_some(w, &n, err))
			return -1;
		w->written += n;
	}
	if (w->written == w->out.n) {
		w->written = w->out.n = 0;
		strbuf_shrink(&w->out, 4u << 20);
	}
	return 0;
}

static int read_some(struct wire *w, char *buffer, size_t size, size_t *n, struct err *err)
{
	ssize_t done;

	*n = 0;
	if (w->ssl) {
		ERR_clear_error();
		return SSL_read_ex(w->ssl, buffer, size, n) ? 0 : tls_result(w, 0, err);
	}
	done = recv(w->fd, buffer, size, 0);
	if (done == 0)
		return lost("the server closed it", err);
	if (done < 0 && errno != EAGAIN && errno != EINTR)
		return lost(strerror(errno), err);
	*n = done > 0 ? (size_t)done : 0;
	return 0;
}

int wire_reply(struct wire *w, redisReply **reply, struct err *err)
{
	char buffer[16384];
	void *got = NULL;
	size_t n, before;

	for (;;) {
		if (redisReaderGetReply(w->reader, &got) != REDIS_OK)
			return err_set(err, ERR_RETRY, "not Redis's protocol: %s", w->reader->errstr);
		if (got)
			break;
		before = w->written;
		if (wire_push(w, err) || read_some(w, buffer, sizeof(buffer), &n, err))
			return -1;
		if (n)
			redisReaderFeed(w->reader, buffer, n);
		else if (w->written <= before &&
			 wait_for(w, w->out.n || w->wants_write ? POLLIN | POLLOUT : POLLIN,
				  "waiting for a reply", err))
			return -1;
	}
	*reply = got;
	return 0;
}

int wire_check_idle(struct wire *w, struct err *err)
{
	char buffer[256];
	size_t n;

	if (read_some(w, buffer, sizeof(buffer), &n, err))
		return -1;
	return n ? err_set(err, ERR_RETRY, "the server says something unasked") : 0;
}
