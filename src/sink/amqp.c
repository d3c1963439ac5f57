/*
 * amqp://HOST/VHOST?exchange=NAME publishes to an exchange of RabbitMQ; the address is the routing
 * key. Taken when the broker has confirmed it (basic.ack): it is in its queues, on disk where these
 * are durable.
 *
 * After a crash or a lost connection what was not confirmed is sent again, so a message can come
 * twice, with the same message-id. The first message of a connection goes alone: a broker that
 * refuses for now (a full queue) is not sent a whole window at each attempt.
 *
 * Messages are published as the broker has room for them, from send and from poll: one that says
 * connection.blocked (no memory, no disk) reads nothing until it says connection.unblocked.
 */
#include "base/mem.h"
#include "encode/encode.h"
#include "sink/amqp_conn.h"
#include "sink/cork.h"
#include "sink/sink.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_ROUTING_KEY 255
/* What RabbitMQ allows when it is told nothing else. */
#define MAX_MESSAGE (128u << 20)
/* Looks for the broker's word and for room after so many messages or bytes. */
#define LOOK_EVERY 16
#define LOOK_BYTES 16384

enum tag_state { TAG_DONE, TAG_OPEN, TAG_RETURNED };

/* What was published under a delivery tag. */
struct tag {
	uint64_t seq;
	struct position position;
	enum tag_state state;
};

struct amqp {
	struct amqp_conn conn;
	struct tag *tags; /* a ring, by delivery tag */
	uint64_t cap;
	uint64_t low, high; /* the tags low..high may be unconfirmed; they count from 1 */
	uint64_t next;      /* the number of the message to be published next */
	uint64_t given;     /* the last number that send was given */
	bool refused;       /* a message was, since poll looked */
	bool blocked;       /* by the broker */
	bool confirmed;     /* it has taken something on this connection */
	bool full;          /* the socket has no room */
	char returned[700]; /* why the message that is being returned is; "": none is */
	char exchange[256];
	char app_id[256]; /* a short string of the protocol: 255 bytes */
	bool mandatory;
	bool bare; /* without properties */
};

static int amqp_check(const struct url *url, struct err *err)
{
	const char *properties = url_param(url, "properties");
	const char *mandatory = url_param(url, "mandatory");

	if (properties && strcmp(properties, "none") == 0 &&
	    (!mandatory || strcmp(mandatory, "false") != 0))
		return err_set(err, ERR_CONFIG,
			       "properties=none needs mandatory=false: a returned message is known "
			       "by its message-id");
	if (url_param(url, "cert") && !url_param(url, "cert_key"))
		return err_set(err, ERR_CONFIG, "cert needs cert_key");
	return 0;
}

/* ---- opening ---- */

static int declare(struct sink *s, struct err *err)
{
	struct amqp *a = s->state;
	bool make = sink_bool(s, "declare");
	char what[400];

	if (!a->exchange[0]) /* the default exchange is always there */
		return 0;
	amqp_exchange_declare(a->conn.state, AMQP_CHANNEL, amqp_cstring_bytes(a->exchange),
			      amqp_cstring_bytes(sink_text(s, "type")), !make, true, false, false,
			      amqp_empty_table);
	snprintf(what, sizeof(what), "%s exchange %s",
		 make ? "declaring the durable" : "finding the", a->exchange);
	return amqp_conn_reply(&a->conn, what, err);
}

static int amqp_open(struct sink *s, struct err *err)
{
	struct amqp *a = s->state;
	struct amqp_wanted wanted = {
		.url = &s->url,
		.ca = sink_text(s, "ca"),
		.cert = sink_text(s, "cert"),
		.cert_key = sink_text(s, "cert_key"),
		.heartbeat = (int)sink_int(s, "heartbeat"),
		.label = s->origin,
	};

	snprintf(a->exchange, sizeof(a->exchange), "%s", sink_text(s, "exchange"));
	snprintf(a->app_id, sizeof(a->app_id), "pgherald/%s", s->origin);
	a->mandatory = sink_bool(s, "mandatory");
	a->bare = strcmp(sink_text(s, "properties"), "none") == 0;
	a->cap = s->max_in_flight;
	a->tags = mem_array(a->cap, sizeof(*a->tags));
	a->low = 1;
	if (amqp_conn_open(&a->conn, &wanted, err) || declare(s, err))
		return -1;
	amqp_confirm_select(a->conn.state, AMQP_CHANNEL);
	return amqp_conn_reply(&a->conn, "asking for confirms", err);
}

/* ---- what the broker says ---- */

static struct tag *tag_of(const struct amqp *a, uint64_t tag)
{
	return &a->tags[tag % a->cap];
}

static void confirm(struct sink *s, uint64_t tag, bool all)
{
	struct amqp *a = s->state;
	uint64_t first = all ? a->low : tag, last = tag ? tag : a->high;

	for (uint64_t t = first; t >= a->low && t <= last && t <= a->high; t++) {
		struct tag *it = tag_of(a, t);

		if (it->state == TAG_OPEN)
			sink_ack(s, it->seq);
		it->state = TAG_DONE;
	}
	while (a->low <= a->high && tag_of(a, a->low)->state == TAG_DONE)
		a->low++;
	a->confirmed = true;
}

static void begin_return(struct amqp *a, const amqp_basic_return_t *r)
{
	snprintf(a->returned, sizeof(a->returned),
		 "no queue took it: the exchange %s returned it with %d %.*s (routing key %.*s)",
		 a->exchange[0] ? a->exchange : "(default)", r->reply_code,
		 STR_ARG(amqp_text(r->reply_text)), STR_ARG(amqp_text(r->routing_key)));
}

/* The properties of the message that is being returned: its id tells which one it is. */
static void refuse_returned(struct sink *s, const amqp_basic_properties_t *p)
{
	struct amqp *a = s->state;
	struct position position;

	if (!a->returned[0] || !(p->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) ||
	    !position_parse(amqp_text(p->message_id), &position))
		return;
	for (uint64_t t = a->low; t <= a->high; t++) {
		struct tag *it = tag_of(a, t);

		if (it->state != TAG_OPEN || position_cmp(it->position, position) != 0)
			continue;
		it->state = TAG_RETURNED;
		sink_refuse(s, it->seq, a->returned);
		a->refused = true;
		break;
	}
	a->returned[0] = '\0';
}

/* The broker closes the channel when a message is too large for it, and says what would not be. */
static int closed(struct sink *s, const amqp_method_t *m, struct err *err)
{
	struct amqp *a = s->state;
	const amqp_channel_close_t *close = m->decoded;
	struct strbuf text = { 0 };
	const char *max;

	(void)!amqp_conn_closed(&a->conn, m, err);
	err->kind = close->reply_code == AMQP_ACCESS_REFUSED ? ERR_CONFIG : ERR_RETRY;
	strbuf_str(&text, amqp_text(close->reply_text));
	max = strstr(strbuf_cstr(&text), "max size ");
	if (close->reply_code == AMQP_PRECONDITION_FAILED && max)
		s->learned = strtoull(max + strlen("max size "), NULL, 10);
	strbuf_release(&text);
	return -1;
}

static int handle(struct sink *s, const amqp_frame_t *frame, struct err *err)
{
	const amqp_method_t *m = &frame->payload.method;
	struct amqp *a = s->state;

	if (frame->frame_type == AMQP_FRAME_HEADER)
		refuse_returned(s, frame->payload.properties.decoded);
	if (frame->frame_type != AMQP_FRAME_METHOD)
		return 0;
	switch (m->id) {
	case AMQP_BASIC_ACK_METHOD: {
		const amqp_basic_ack_t *ack = m->decoded;

		confirm(s, ack->delivery_tag, ack->multiple);
		return 0;
	}
	case AMQP_BASIC_NACK_METHOD:
		return err_set(err, ERR_RETRY,
			       "the broker does not take messages now (basic.nack): a queue of the "
			       "exchange %s is full or cannot write",
			       a->exchange[0] ? a->exchange : "(default)");
	case AMQP_BASIC_RETURN_METHOD:
		begin_return(a, m->decoded);
		return 0;
	case AMQP_CONNECTION_BLOCKED_METHOD:
		a->blocked = true;
		return 0;
	case AMQP_CONNECTION_UNBLOCKED_METHOD:
		a->blocked = false;
		return 0;
	case AMQP_CHANNEL_CLOSE_METHOD:
	case AMQP_CONNECTION_CLOSE_METHOD:
		return closed(s, m, err);
	default:
		return 0;
	}
}

/* All that has come. */
static int listen_to(struct sink *s, struct err *err)
{
	struct amqp *a = s->state;
	amqp_frame_t frame;
	int found;

	while ((found = amqp_conn_frame(&a->conn, &frame, err)) > 0) {
		if (handle(s, &frame, err))
			return -1;
		amqp_maybe_release_buffers(a->conn.state);
	}
	return found;
}

/* ---- publishing ---- */

#define MOST_HEADERS 16 /* the attributes of a CloudEvent are fewer */

static void set_header(amqp_table_t *headers, const char *name, const char *value)
{
	headers->entries[headers->num_entries++] = (amqp_table_entry_t){
		amqp_cstring_bytes(name),
		{ .kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(value) },
	};
}

static void set_properties(const struct sink *s, const struct batch *b, uint32_t i,
			   char id[POSITION_LEN], amqp_basic_properties_t *p)
{
	const struct message *m = &b->messages[i];
	struct str rest = batch_headers(b, i);
	const char *name, *value;

	p->_flags |= AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
		     AMQP_BASIC_APP_ID_FLAG;
	p->content_type = amqp_cstring_bytes("application/json");
	if (s->content_encoding) {
		p->_flags |= AMQP_BASIC_CONTENT_ENCODING_FLAG;
		p->content_encoding = amqp_cstring_bytes(s->content_encoding);
	}
	position_print(m->position, id);
	p->message_id = (amqp_bytes_t){ POSITION_LEN, id };
	p->app_id = amqp_cstring_bytes(((const struct amqp *)s->state)->app_id);
	while (p->headers.num_entries < MOST_HEADERS && batch_next_header(&rest, &name, &value))
		set_header(&p->headers, name, value);
	if (p->headers.num_entries) /* any header costs the broker a tenth of its time */
		p->_flags |= AMQP_BASIC_HEADERS_FLAG;
	if (m->time > 0) {
		p->_flags |= AMQP_BASIC_TIMESTAMP_FLAG;
		p->timestamp = (uint64_t)m->time / 1000000;
	}
}

/* Why it cannot be sent at all, or NULL. */
static const char *unsendable(const struct sink *s, const struct batch *b, uint32_t i, char *why,
			      size_t size)
{
	size_t n = batch_address(b, i).n, most = s->learned ? s->learned : MAX_MESSAGE;

	if (n > MAX_ROUTING_KEY)
		snprintf(why, size, "its routing key has %zu bytes; the most is %d", n,
			 MAX_ROUTING_KEY);
	else if (b->messages[i].n > most)
		snprintf(why, size,
			 "it has %zu bytes; the most that the broker takes is %zu "
			 "(its max_message_size)",
			 b->messages[i].n, most);
	else
		return NULL;
	return why;
}

static int publish(struct sink *s, const struct batch *b, uint32_t i, struct err *err)
{
	struct amqp *a = s->state;
	const struct message *m = &b->messages[i];
	amqp_basic_properties_t p = { ._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
				      .delivery_mode = AMQP_DELIVERY_PERSISTENT };
	amqp_table_entry_t headers[MOST_HEADERS];
	char id[POSITION_LEN];
	int status;

	if (a->bare && m->headers_n)
		return err_set(err, ERR_CONFIG,
			       "properties=none leaves no headers for cloudevents_mode=binary");
	p.headers.entries = headers;
	if (!a->bare)
		set_properties(s, b, i, id, &p);
	status = amqp_basic_publish(a->conn.state, AMQP_CHANNEL, amqp_cstring_bytes(a->exchange),
				    amqp_str(batch_address(b, i)), a->mandatory, false, &p,
				    amqp_str(batch_body(b, i)));
	if (status != AMQP_STATUS_OK)
		return amqp_conn_fail(&a->conn, "publishing", status, err);
	*tag_of(a, ++a->high) = (struct tag){ b->first + i, m->position, TAG_OPEN };
	return 0;
}

static bool has_room(const struct amqp *a)
{
	struct pollfd pfd = { a->conn.fd, POLLOUT, 0 };

	return poll(&pfd, 1, 0) > 0;
}

/* The batch that holds the message which is next, or NULL when none is waiting. */
static const struct batch *next_batch(struct sink *s, const struct batch *b)
{
	struct amqp *a = s->state;

	if (a->next <= sink_taken(s))
		a->next = sink_taken(s) + 1;
	if (a->next > a->given)
		return NULL;
	for (b = b ? b : s->sent; b && a->next >= b->first + b->n;)
		b = b->next;
	return b;
}

static bool may_publish(const struct amqp *a)
{
	uint64_t open = a->high + 1 - a->low;

	return !a->blocked && open < (a->confirmed ? a->cap : 1);
}

/* Publishes what was given as long as the broker has room for it. */
static int publish_some(struct sink *s, struct err *err)
{
	struct amqp *a = s->state;
	const struct batch *b = NULL;
	size_t n = LOOK_EVERY, bytes = 0;
	char text[200];

	while ((b = next_batch(s, b))) {
		uint32_t i = (uint32_t)(a->next - b->first);
		const char *why = unsendable(s, b, i, text, sizeof(text));

		if (n >= LOOK_EVERY || bytes >= LOOK_BYTES) {
			n = bytes = 0;
			if (listen_to(s, err))
				return -1;
			a->full = !has_room(a);
		}
		if (a->full || !may_publish(a))
			return 0;
		if (!why && publish(s, b, i, err))
			return -1;
		if (why)
			sink_refuse(s, a->next, why);
		a->refused |= why != NULL;
		a->next++;
		bytes += b->messages[i].n;
		n++;
	}
	return 0;
}

static int pump(struct sink *s, struct err *err)
{
	struct amqp *a = s->state;
	int failed;

	cork(a->conn.fd, true);
	failed = publish_some(s, err);
	if (!failed) /* or the library may have closed it */
		cork(a->conn.fd, false);
	return failed;
}

static int amqp_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		     struct err *err)
{
	struct amqp *a = s->state;

	if (a->next > a->given || !a->given)
		a->next = b->first + from;
	a->given = b->first + to - 1;
	return pump(s, err);
}

/* Heartbeats are kept by looking often enough. */
static int look_within(const struct sink *s, int timeout_ms)
{
	int beat = (int)sink_int(s, "heartbeat") * 500;

	if (beat && (timeout_ms < 0 || timeout_ms > beat))
		return beat;
	return timeout_ms;
}

static int amqp_poll(struct sink *s, int timeout_ms, struct err *err)
{
	struct amqp *a = s->state;
	struct pollfd pfd[] = { { s->wake, POLLIN, 0 }, { a->conn.fd, POLLIN, 0 } };
	uint64_t taken = sink_taken(s);

	if (listen_to(s, err) || pump(s, err))
		return -1;
	if (timeout_ms == 0 || sink_taken(s) != taken || a->refused) {
		a->refused = false;
		return 0;
	}
	if (a->full)
		pfd[1].events |= POLLOUT;
	poll(pfd, 2, look_within(s, timeout_ms));
	if (listen_to(s, err))
		return -1;
	return pump(s, err);
}

static void amqp_close(struct sink *s)
{
	struct amqp *a = s->state;

	a->conn.well = a->conn.well && !a->blocked;
	amqp_conn_close(&a->conn);
	free(a->tags);
	a->tags = NULL;
}

/* In a value dots would part words, and bindings take stars and hashes for patterns. */
static bool is_plain(unsigned char c)
{
	return c > ' ' && c != 0x7f && !strchr(".*#%", c);
}

static const struct sink_param params[] = {
	{ "exchange", PARAM_TEXT, "NAME", "pgherald", 0, 255,
	  "publish to this exchange; empty: the default one, whose routing keys are queues" },
	{ "type", PARAM_CHOICE, "topic|direct|fanout|headers", "topic", 0, 0, "its type" },
	{ "declare", PARAM_BOOL, NULL, "true", 0, 0,
	  "declare the exchange, durable; false: it must be there" },
	{ "mandatory", PARAM_BOOL, NULL, "true", 0, 0,
	  "refuse what no queue takes; false: the broker drops it" },
	{ "properties", PARAM_CHOICE, "all|none", "all", 0, 0,
	  "none: messages have no properties but delivery_mode" },
	{ "heartbeat", PARAM_INT, "SECONDS", "10", 0, 3600,
	  "a broker that is silent for twice as long is gone; 0: no heartbeats" },
	PARAMS_TLS,
	{ 0 },
};

static const struct header_style headers = { "cloudEvents:", NULL, false };

const struct sink_driver sink_amqp = {
	.name = "amqp",
	.headers = &headers,
	.schemes = (const char *const[]){ "amqp", "amqps", NULL },
	.help = "amqp://HOST/VHOST?exchange=NAME  publishes to RabbitMQ; taken when it has "
		"confirmed",
	.params = params,
	.address = "{schema}.{table}.{action}",
	.address_plain = is_plain,
	.address_escape = '%',
	.compressed = true,
	.max_in_flight = 2000,
	.state_size = sizeof(struct amqp),
	.check = amqp_check,
	.open = amqp_open,
	.send = amqp_send,
	.poll = amqp_poll,
	.close = amqp_close,
};
