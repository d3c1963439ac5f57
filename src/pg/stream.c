#include "pg/stream.h"

#include "base/clock.h"
#include "base/cursor.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "event/event.h"
#include "pg/conn.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#define RECEIVE_BUFFER (512u << 10)
#define NEAR_US 1000 /* the least round trip to a server in the same room */
#define NEAR_WINDOW (128 << 10)
#define EPOCH_2000 INT64_C(946684800000000)

/* The server's own limit for one message (MaxAllocSize) is just under 1 GB. */
#define MAX_MESSAGE (1u << 30)

struct stream {
	PGconn *conn;
	SSL *ssl;   /* NULL: plain */
	bool local; /* a unix socket */
	int fd;
	struct strbuf in; /* in.p[at..in.n) has not been handed out */
	size_t at;
	struct strbuf out;
	size_t out_at;
	bool tls_wants_write;
	bool copying;
	bool binary; /* was asked for */
};

static int broken(struct stream *s, const char *what, struct err *err)
{
	return err_set(err, ERR_RETRY, "%s PostgreSQL: %s", what,
		       errno ? strerror(errno) : "the server closed the connection");
}

/* recv or SSL_read: bytes, 0 for nothing now, -1 for failure. */
static ssize_t receive(struct stream *s, char *p, size_t n, struct err *err)
{
	ssize_t got;
	int got_tls;

	errno = 0;
	if (!s->ssl) {
		got = recv(s->fd, p, n, MSG_DONTWAIT);
		if (got > 0)
			return got;
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		return broken(s, "reading from", err);
	}
	ERR_clear_error(); /* what libpq left there would be taken for ours */
	got_tls = SSL_read(s->ssl, p, n > INT32_MAX ? INT32_MAX : (int)n);
	if (got_tls > 0)
		return got_tls;
	switch (SSL_get_error(s->ssl, got_tls)) {
	case SSL_ERROR_WANT_READ:
		return 0;
	case SSL_ERROR_WANT_WRITE:
		s->tls_wants_write = true;
		return 0;
	default:
		return broken(s, "reading from", err);
	}
}

static ssize_t transmit(struct stream *s, const char *p, size_t n, struct err *err)
{
	ssize_t put;
	int put_tls, why;

	errno = 0;
	if (!s->ssl) {
		put = send(s->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (put >= 0)
			return put;
		if (errno == EAGAIN || errno == EINTR)
			return 0;
		return broken(s, "writing to", err);
	}
	ERR_clear_error();
	put_tls = SSL_write(s->ssl, p, (int)n);
	if (put_tls > 0)
		return put_tls;
	why = SSL_get_error(s->ssl, put_tls);
	if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
		return 0;
	return broken(s, "writing to", err);
}

int stream_fd(const struct stream *s)
{
	return s->fd;
}

int64_t stream_nap_us(const struct stream *s)
{
	return s->local ? 200 : 40000;
}

bool stream_pending(const struct stream *s)
{
	return s->ssl && SSL_pending(s->ssl) > 0;
}

short stream_poll_events(const struct stream *s)
{
	return (short)(POLLIN | (s->out.n > s->out_at || s->tls_wants_write ? POLLOUT : 0));
}

int stream_flush(struct stream *s, struct err *err)
{
	s->tls_wants_write = false;
	while (s->out_at < s->out.n) {
		ssize_t n = transmit(s, s->out.p + s->out_at, s->out.n - s->out_at, err);

		if (n < 0)
			return -1;
		if (n == 0)
			return 0;
		s->out_at += (size_t)n;
	}
	s->out.n = s->out_at = 0;
	return 0;
}

static void put_u32(struct strbuf *b, uint32_t v)
{
	v = htobe32(v);
	strbuf_add(b, &v, 4);
}

static void put_u64(struct strbuf *b, uint64_t v)
{
	v = htobe64(v);
	strbuf_add(b, &v, 8);
}

int stream_status(struct stream *s, uint64_t lsn, bool reply, struct err *err)
{
	strbuf_lit(&s->out, "d");
	put_u32(&s->out, 4 + 1 + 8 + 8 + 8 + 8 + 1);
	strbuf_lit(&s->out, "r");
	for (int i = 0; i < 3; i++) /* written, flushed, applied */
		put_u64(&s->out, lsn);
	put_u64(&s->out, (uint64_t)(clock_wall_us() - EPOCH_2000));
	strbuf_ch(&s->out, (char)reply);
	return stream_flush(s, err);
}

/* Keeps what has not been handed out and makes room for at least one more message: a long one
 * grows the buffer once, and it shrinks again when it is empty. */
static void make_room(struct stream *s)
{
	size_t left = s->in.n - s->at;
	size_t want = RECEIVE_BUFFER;

	if (left >= 5) {
		struct cursor c = cursor_over((struct str){ s->in.p + s->at + 1, 4 });
		size_t need = (size_t)cursor_u32(&c) + 1;

		if (need > want && need <= MAX_MESSAGE)
			want = need;
	}
	if (left && s->at)
		memmove(s->in.p, s->in.p + s->at, left);
	s->in.n = left;
	s->at = 0;
	strbuf_shrink(&s->in, 2 * RECEIVE_BUFFER);
	if (want > s->in.cap)
		strbuf_grow(&s->in, want - s->in.n);
}

ssize_t stream_fill(struct stream *s, struct err *err)
{
	ssize_t n, total = 0;

	make_room(s);
	do {
		n = receive(s, s->in.p + s->in.n, s->in.cap - s->in.n, err);
		if (n < 0)
			return -1;
		s->in.n += (size_t)n;
		total += n;
	} while (s->ssl && n > 0 && s->in.n < s->in.cap); /* TLS reads one record at a time */
	return total;
}

/* ErrorResponse and NoticeResponse: fields of one letter and a NUL-terminated string. */
struct server_notice {
	struct str severity, sqlstate; /* in no language */
	struct str message, detail, hint, context;
	struct str file; /* of the server's source */
};

static struct server_notice parse_notice(struct str body)
{
	struct server_notice n = { 0 };
	struct cursor c = cursor_over(body);
	char field;

	while ((field = (char)cursor_u8(&c)) != 0) {
		struct str text = cursor_cstr(&c);

		if (field == 'V')
			n.severity = text;
		else if (field == 'C')
			n.sqlstate = text;
		else if (field == 'M')
			n.message = text;
		else if (field == 'D')
			n.detail = text;
		else if (field == 'H')
			n.hint = text;
		else if (field == 'W')
			n.context = text;
		else if (field == 'F')
			n.file = text;
	}
	return n;
}

static int server_error(const struct stream *s, struct str body, struct err *err)
{
	struct server_notice n = parse_notice(body);
	const char *what = "";
	char state[6] = "";

	if (n.sqlstate.p && n.sqlstate.n == 5)
		memcpy(state, n.sqlstate.p, 5);
	if (strcmp(state, "42704") == 0 && n.message.p &&
	    memmem(n.message.p, n.message.n, "publication", 11))
		return err_set(
			err, ERR_LOST,
			"%.*s at the point of the WAL where the slot stands; create it, then go on "
			"behind that point with --from now (what is before is given up)",
			STR_ARG(n.message));
	if (s->binary && strcmp(state, "42883") == 0) /* whatever the server's language */
		what = STREAM_NO_BINARY ": ";
	return err_set(err, conn_classify(state), "%s%.*s%s%.*s%s%s%.*s%s%.*s", what,
		       STR_ARG(n.message), n.detail.n ? " (" : "", STR_ARG(n.detail),
		       n.detail.n ? ")" : "", n.hint.n ? "; " : "", STR_ARG(n.hint),
		       n.context.n ? "; " : "", STR_ARG(n.context));
}

/* PostgreSQL 18 warns that it skipped a publication and goes on without its changes. The state is
 * object_not_in_prerequisite_state; the words depend on the server's language. Of the same state
 * are warnings that it waits for a standby (synchronized_standby_slots), which lose nothing. */
static int server_notice(struct str body, struct err *err)
{
	struct server_notice n = parse_notice(body);

	if (str_eq(n.severity, STR("WARNING")) && str_eq(n.sqlstate, STR("55000")) &&
	    str_eq(n.file, STR("pgoutput.c")))
		return err_set(err, ERR_LOST,
			       "%.*s: its changes would be lost; create the publication, then "
			       "start anew beyond this point with --from now",
			       STR_ARG(n.message));
	log_debug("PostgreSQL: %.*s", STR_ARG(n.message));
	return 0;
}

static int parse_copy_data(struct str body, struct stream_message *m, struct err *err)
{
	struct cursor c = cursor_over(body);
	uint8_t kind = cursor_u8(&c);

	if (kind == 'w') {
		m->kind = STREAM_DATA;
		m->start = cursor_u64(&c);
		m->end = cursor_u64(&c);
		m->time = (int64_t)(cursor_u64(&c) + (uint64_t)EPOCH_2000);
		m->payload = (struct str){ c.p, cursor_left(&c) };
	} else if (kind == 'k') {
		m->kind = STREAM_KEEPALIVE;
		m->end = cursor_u64(&c);
		m->time = (int64_t)(cursor_u64(&c) + (uint64_t)EPOCH_2000);
		m->reply = cursor_u8(&c) != 0;
	} else {
		c.bad = true;
	}
	return c.bad ? err_set(err, ERR_RETRY, "the server sent a malformed replication message") : 0;
}

/* The next protocol message; false when it is not whole yet. */
static bool next_frame(struct stream *s, char *type, struct str *body, struct err *err)
{
	struct cursor c = cursor_over((struct str){ s->in.p + s->at, s->in.n - s->at });
	uint32_t n;

	*type = (char)cursor_u8(&c);
	n = cursor_u32(&c);
	if (c.bad)
		return false;
	if (n < 4 || n > MAX_MESSAGE) {
		*type = 0;
		return true;
	}
	*body = cursor_bytes(&c, n - 4);
	if (c.bad)
		return false;
	s->at += (size_t)n + 1;
	return true;
}

int stream_next(struct stream *s, struct stream_message *m, struct err *err)
{
	struct str body;
	char type;

	for (;;) {
		*m = (struct stream_message){ 0 };
		if (!next_frame(s, &type, &body, err))
			return 0;
		switch (type) {
		case 'd':
			return parse_copy_data(body, m, err);
		case 'E':
			return server_error(s, body, err);
		case 'N':
			if (server_notice(body, err))
				return -1;
			break;
		case 'W': /* CopyBothResponse */
			s->copying = true;
			break;
		case 'S': /* ParameterStatus */
		case 'A': /* NotificationResponse */
		case 'C': /* CommandComplete behind CopyDone */
			break;
		case 'c': /* CopyDone */
		case 'Z': /* ReadyForQuery */
			m->kind = STREAM_END;
			return 0;
		default:
			return err_set(err, ERR_RETRY, "the server sent what is not the protocol");
		}
	}
}

/* A quoted identifier inside of a quoted string: both levels double their quotes. */
static void put_publication(struct strbuf *q, const char *name)
{
	strbuf_ch(q, '"');
	for (; *name; name++) {
		if (*name == '"' || *name == '\'')
			strbuf_ch(q, *name);
		strbuf_ch(q, *name);
	}
	strbuf_ch(q, '"');
}

static void start_command(struct strbuf *q, PGconn *conn, const struct stream_start *start)
{
	int version = PQserverVersion(conn);

	strbuf_printf(q,
		      "START_REPLICATION SLOT \"%s\" LOGICAL " LSN_FMT
		      " (proto_version '1', publication_names '",
		      start->slot, LSN_ARG(start->lsn));
	for (size_t i = 0; i < start->npublications; i++) {
		if (i)
			strbuf_ch(q, ',');
		put_publication(q, start->publications[i]);
	}
	strbuf_ch(q, '\'');
	if (start->messages && version >= 140000)
		strbuf_lit(q, ", messages 'true'");
	if (start->binary && version >= 140000)
		strbuf_lit(q, ", binary 'true'");
	strbuf_ch(q, ')');
}

/* Waits until the copy has begun or the server has refused. */
static int await_copy(struct stream *s, const _Atomic int *stop, struct err *err)
{
	int64_t end = clock_ms() + 60000;

	while (!s->copying) {
		struct pollfd pfd = { s->fd, stream_poll_events(s), 0 };
		struct str body;
		char type;

		if (stream_flush(s, err))
			return -1;
		if (poll(&pfd, 1, 100) < 0 && errno != EINTR)
			return broken(s, "waiting for", err);
		if (*stop)
			return err_set(err, ERR_RETRY, "interrupted before the stream began");
		if (stream_fill(s, err) < 0)
			return -1;
		while (!s->copying && next_frame(s, &type, &body, err)) {
			if (type == 'E')
				return server_error(s, body, err);
			if (type == 'N' && server_notice(body, err))
				return -1;
			s->copying = type == 'W';
		}
		if (clock_ms() > end)
			return err_set(err, ERR_RETRY, "no answer to START_REPLICATION in 60 s");
	}
	return 0;
}

static bool is_local(int fd)
{
	struct sockaddr address = { 0 };

	return getsockname(fd, &address, &(socklen_t){ sizeof(address) }) == 0 &&
	       address.sa_family == AF_UNIX;
}

/* The server sends each row by itself. While our window is open each is a packet of its own, which
 * costs the server's core more than decoding the row; rows that find it full share packets. So where
 * the server is near the window is small. One that is far away needs all that the system gives. */
static void narrow_window(int fd)
{
	struct tcp_info info = { 0 };

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){ sizeof(info) }) == 0 &&
	    info.tcpi_min_rtt < NEAR_US)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ NEAR_WINDOW }, sizeof(int));
}

struct stream *stream_open(PGconn *conn, const struct stream_start *start, struct err *err)
{
	struct stream *s = mem_alloc(sizeof(*s));
	struct strbuf q = { 0 };

	s->conn = conn;
	s->binary = start->binary;
	s->fd = PQsocket(conn);
	s->local = is_local(s->fd);
	if (!s->local)
		narrow_window(s->fd);
	s->ssl = PQsslInUse(conn) ? PQsslStruct(conn, "OpenSSL") : NULL;
	start_command(&q, conn, start);
	strbuf_lit(&s->out, "Q");
	put_u32(&s->out, (uint32_t)(4 + q.n + 1));
	strbuf_str(&s->out, strbuf_view(&q));
	strbuf_ch(&s->out, '\0');
	strbuf_release(&q);
	if (await_copy(s, start->stop, err)) {
		stream_close(s);
		return NULL;
	}
	return s;
}

void stream_finish(struct stream *s, int timeout_ms)
{
	int64_t end = clock_ms() + timeout_ms;
	struct err err;

	strbuf_lit(&s->out, "c\0\0\0\4"); /* CopyDone */
	while (stream_flush(s, &err) == 0 && clock_ms() < end) {
		struct pollfd pfd = { s->fd, stream_poll_events(s), 0 };
		struct str body;
		char type = 0;

		poll(&pfd, 1, (int)(end - clock_ms()));
		if (stream_fill(s, &err) < 0)
			return;
		while (type != 'Z' && next_frame(s, &type, &body, &err))
			;
		if (type == 'Z')
			return;
	}
}

void stream_close(struct stream *s)
{
	if (!s)
		return;
	PQfinish(s->conn);
	strbuf_release(&s->in);
	strbuf_release(&s->out);
	free(s);
}
