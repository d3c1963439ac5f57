/*
 * Reads from a queue of RabbitMQ. With exchange=NAME alone it looks on: a queue of its own, which
 * goes when it ends, gets copies. With queue=NAME it takes messages off that queue, which is made
 * where it is missing, and bound to the exchange when it is made or keys are named.
 */
#include "sink/amqp_conn.h"
#include "sink/reader.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#define PREFETCH 100

struct amqp_reader {
	struct amqp_conn conn;
	amqp_message_t message;
	struct strbuf address;
	uint64_t tag;
	bool has_message;
};

static int find_exchange(struct amqp_reader *a, const char *exchange, struct err *err)
{
	char what[300];

	amqp_exchange_declare(a->conn.state, AMQP_CHANNEL, amqp_cstring_bytes(exchange),
			      amqp_cstring_bytes("topic"), true, true, false, false,
			      amqp_empty_table);
	snprintf(what, sizeof(what), "finding the exchange %s", exchange);
	return amqp_conn_reply(&a->conn, what, err);
}

/* The broker has closed the channel, and waits until it is told that this was heard. */
static int reopen_channel(struct amqp_reader *a, struct err *err)
{
	amqp_channel_close_ok_t ok = { 0 };

	amqp_send_method(a->conn.state, AMQP_CHANNEL, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
	amqp_channel_open(a->conn.state, AMQP_CHANNEL);
	return amqp_conn_reply(&a->conn, "opening a channel", err);
}

static int make_queue(struct amqp_reader *a, const char *name, struct strbuf *made, struct err *err)
{
	bool durable = *name != '\0';
	amqp_queue_declare_ok_t *ok = amqp_queue_declare(a->conn.state, AMQP_CHANNEL,
							 amqp_cstring_bytes(name), false, durable,
							 !durable, !durable, amqp_empty_table);

	if (amqp_conn_reply(&a->conn, "making the queue", err))
		return -1;
	strbuf_str(made, amqp_text(ok->queue));
	return 0;
}

/* Whether the queue is there; the broker closes the channel when it is not. */
static int find_queue(struct amqp_reader *a, const char *name, bool *found, struct err *err)
{
	amqp_rpc_reply_t r;

	amqp_queue_declare(a->conn.state, AMQP_CHANNEL, amqp_cstring_bytes(name), true, true, false,
			   false, amqp_empty_table);
	r = amqp_get_rpc_reply(a->conn.state);
	*found = r.reply_type == AMQP_RESPONSE_NORMAL;
	if (r.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
	    r.reply.id == AMQP_CHANNEL_CLOSE_METHOD &&
	    ((amqp_channel_close_t *)r.reply.decoded)->reply_code == AMQP_NOT_FOUND)
		return reopen_channel(a, err);
	return amqp_conn_reply(&a->conn, "finding the queue", err);
}

static int bind_keys(struct amqp_reader *a, struct str queue, const char *exchange,
		     const char *keys, struct err *err)
{
	while (keys) {
		size_t n = strcspn(keys, ",");

		amqp_queue_bind(a->conn.state, AMQP_CHANNEL, amqp_str(queue),
				amqp_cstring_bytes(exchange),
				(amqp_bytes_t){ n, (void *)(uintptr_t)keys }, amqp_empty_table);
		if (amqp_conn_reply(&a->conn, "binding the queue", err))
			return -1;
		keys = keys[n] ? keys + n + 1 : NULL;
	}
	return 0;
}

static int consume(struct reader *r, struct str queue, struct err *err)
{
	struct amqp_reader *a = r->state;
	bool few = r->limit && r->limit < PREFETCH;

	amqp_basic_qos(a->conn.state, AMQP_CHANNEL, 0, few ? (uint16_t)r->limit : PREFETCH, false);
	if (amqp_conn_reply(&a->conn, "setting the prefetch", err))
		return -1;
	amqp_basic_consume(a->conn.state, AMQP_CHANNEL, amqp_str(queue), amqp_empty_bytes, false,
			   false, false, amqp_empty_table);
	return amqp_conn_reply(&a->conn, "reading the queue", err);
}

static int set_up(struct reader *r, struct strbuf *queue, struct err *err)
{
	struct amqp_reader *a = r->state;
	const char *exchange = reader_text(r, "exchange"), *name = reader_text(r, "queue");
	bool found = false;

	if (!name && !exchange)
		return err_set(err, ERR_CONFIG, "say what to read: exchange=NAME or queue=NAME");
	if ((exchange && find_exchange(a, exchange, err)) ||
	    (name && find_queue(a, name, &found, err)))
		return -1;
	if (found)
		strbuf_str(queue, str_c(name));
	else if (make_queue(a, name ? name : "", queue, err))
		return -1;
	if (exchange && (!found || r->keys) &&
	    bind_keys(a, strbuf_view(queue), exchange, r->keys ? r->keys : "#", err))
		return -1;
	return consume(r, strbuf_view(queue), err);
}

static int reader_amqp_open(struct reader *r, struct err *err)
{
	struct amqp_reader *a = r->state;
	struct amqp_wanted wanted = {
		.url = &r->url,
		.ca = reader_text(r, "ca"),
		.cert = reader_text(r, "cert"),
		.cert_key = reader_text(r, "cert_key"),
		.heartbeat = (int)strtol(reader_text(r, "heartbeat"), NULL, 10),
		.label = "pgherald consume",
	};
	struct strbuf queue = { 0 };
	int failed = amqp_conn_open(&a->conn, &wanted, err) || set_up(r, &queue, err) ? -1 : 0;

	strbuf_release(&queue);
	return failed;
}

static void forget(struct amqp_reader *a)
{
	if (a->has_message)
		amqp_destroy_message(&a->message);
	a->has_message = false;
	amqp_maybe_release_buffers(a->conn.state);
}

static int read_message(struct amqp_reader *a, const amqp_basic_deliver_t *d, struct err *err)
{
	amqp_rpc_reply_t r;

	a->tag = d->delivery_tag;
	a->address.n = 0;
	strbuf_str(&a->address, amqp_text(d->routing_key));
	r = amqp_read_message(a->conn.state, AMQP_CHANNEL, &a->message, 0);
	if (r.reply_type != AMQP_RESPONSE_NORMAL)
		return amqp_conn_fail(&a->conn, "reading a message", r.library_error, err);
	a->has_message = true;
	return 1;
}

/* 1: a message is there, 0: not yet. */
static int look(struct amqp_reader *a, struct err *err)
{
	amqp_frame_t frame;
	int found;

	while ((found = amqp_conn_frame(&a->conn, &frame, err)) > 0) {
		const amqp_method_t *m = &frame.payload.method;

		if (frame.frame_type != AMQP_FRAME_METHOD)
			continue;
		if (m->id == AMQP_BASIC_DELIVER_METHOD)
			return read_message(a, m->decoded, err);
		if (m->id == AMQP_CHANNEL_CLOSE_METHOD || m->id == AMQP_CONNECTION_CLOSE_METHOD)
			return amqp_conn_closed(&a->conn, m, err);
		if (m->id == AMQP_BASIC_CANCEL_METHOD)
			return err_set(err, ERR_FAIL, "the queue has been deleted");
	}
	return found;
}

static int reader_amqp_next(struct reader *r, int timeout_ms, struct reader_message *m,
			    struct err *err)
{
	struct amqp_reader *a = r->state;
	struct pollfd pfd = { a->conn.fd, POLLIN, 0 };
	const amqp_basic_properties_t *p = &a->message.properties;
	int found;

	forget(a);
	found = look(a, err);
	if (found == 0 && poll(&pfd, 1, timeout_ms) > 0)
		found = look(a, err);
	if (found <= 0)
		return found;
	*m = (struct reader_message){ strbuf_view(&a->address), STR(""), amqp_text(a->message.body),
				      STR("") };
	if (p->_flags & AMQP_BASIC_MESSAGE_ID_FLAG)
		m->id = amqp_text(p->message_id);
	if (p->_flags & AMQP_BASIC_CONTENT_ENCODING_FLAG)
		m->encoding = amqp_text(p->content_encoding);
	return 1;
}

static int reader_amqp_done(struct reader *r, struct err *err)
{
	struct amqp_reader *a = r->state;
	int status = amqp_basic_ack(a->conn.state, AMQP_CHANNEL, a->tag, false);

	return status ? amqp_conn_fail(&a->conn, "acknowledging", status, err) : 0;
}

static void reader_amqp_close(struct reader *r)
{
	struct amqp_reader *a = r->state;

	if (a->conn.state)
		forget(a);
	strbuf_release(&a->address);
	amqp_conn_close(&a->conn);
}

static const struct sink_param params[] = {
	{ "exchange", PARAM_TEXT, "NAME", NULL, 1, 255, "look on at this exchange" },
	{ "queue", PARAM_TEXT, "NAME", NULL, 1, 255, "take messages off this queue" },
	{ "heartbeat", PARAM_INT, "SECONDS", "10", 0, 3600, "as of outputs" },
	PARAMS_TLS,
	{ 0 },
};

const struct reader_driver reader_amqp = {
	.name = "amqp",
	.schemes = (const char *const[]){ "amqp", "amqps", NULL },
	.help = "amqp://HOST/VHOST?exchange=NAME  looks on; with queue=NAME takes messages off it",
	.params = params,
	.state_size = sizeof(struct amqp_reader),
	.open = reader_amqp_open,
	.next = reader_amqp_next,
	.done = reader_amqp_done,
	.close = reader_amqp_close,
};
