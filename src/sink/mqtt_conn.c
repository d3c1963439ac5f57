#include "sink/mqtt_conn.h"

#include "base/clock.h"
#include "sink/driver.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>

#define OPEN_MS 10000
#define KEEPALIVE_S 30

extern const struct sink_driver sink_mqtt;

static const char *param(const struct url *url, const char *name)
{
	return driver_text(&sink_mqtt, url, name);
}

int mqtt_conn_check(const struct url *url, struct err *err)
{
	if (url->nhosts == 1)
		return 0;
	return err_set(err, ERR_CONFIG, "it names %s, as mqtt://HOST:1883 does",
		       url->nhosts ? "more than one broker, not one" : "no broker");
}

void mqtt_conn_over(struct mqtt_conn *q, enum err_kind kind, const char *what, const char *why)
{
	if (!q->err.kind)
		err_set(&q->err, kind, "%s%s", what, why);
}

static const char *connack_text(const struct mqtt_conn *q, int code)
{
	return q->v5 && code >= 0x80 ? mosquitto_reason_string(code) : mosquitto_connack_string(code);
}

/* Codes of MQTT 5, and below 0x80 those of 3.1.1, which old brokers answer to both. */
static void refused_connection(struct mqtt_conn *q, int code)
{
	const char *text = connack_text(q, code);

	switch (code) {
	case CONNACK_REFUSED_BAD_USERNAME_PASSWORD:
	case CONNACK_REFUSED_NOT_AUTHORIZED:
	case MQTT_RC_BAD_USERNAME_OR_PASSWORD:
	case MQTT_RC_NOT_AUTHORIZED:
	case MQTT_RC_BAD_AUTHENTICATION_METHOD:
		mqtt_conn_over(q, ERR_CONFIG, text, ": look at user and password in the URL");
		break;
	case CONNACK_REFUSED_PROTOCOL_VERSION:
	case MQTT_RC_UNSUPPORTED_PROTOCOL_VERSION:
		mqtt_conn_over(q, ERR_CONFIG, text,
			       ": set version=3.1.1 for brokers that do not speak 5");
		break;
	case CONNACK_REFUSED_IDENTIFIER_REJECTED:
	case MQTT_RC_CLIENTID_NOT_VALID:
		mqtt_conn_over(q, ERR_CONFIG, text, ": set another client_id");
		break;
	case MQTT_RC_BANNED:
	case MQTT_RC_USE_ANOTHER_SERVER:
	case MQTT_RC_SERVER_MOVED:
		mqtt_conn_over(q, ERR_CONFIG, "the broker refuses this client: ", text);
		break;
	default:
		mqtt_conn_over(q, ERR_RETRY, "the broker refuses the connection: ", text);
	}
}

static void on_connect(struct mosquitto *client, void *conn, int code, int flags,
		       const mosquitto_property *properties)
{
	struct mqtt_conn *q = conn;

	q->answered = true;
	if (code)
		refused_connection(q, code);
}

static void on_disconnect(struct mosquitto *client, void *conn, int code,
			  const mosquitto_property *properties)
{
	struct mqtt_conn *q = conn;

	mqtt_conn_over(q, ERR_RETRY, "the broker ended the connection: ",
		       code >= 0x80 ? mosquitto_reason_string(code)
		       : q->last[0] ? q->last
				    : mosquitto_strerror(code));
}

static void on_log(struct mosquitto *client, void *conn, int level, const char *text)
{
	struct mqtt_conn *q = conn;

	if (level & (MOSQ_LOG_ERR | MOSQ_LOG_WARNING))
		snprintf(q->last, sizeof(q->last), "%s", text);
}

static void init_library(void)
{
	mosquitto_lib_init();
}

static bool is_tls(const struct url *url)
{
	return strcmp(url->scheme, "mqtts") == 0;
}

static int set_tls(struct mqtt_conn *q, const struct url *url, struct err *err)
{
	const char *ca = param(url, "ca");
	int rc = 0;

	if (!is_tls(url))
		return 0;
	if (!ca)
		rc = mosquitto_int_option(q->client, MOSQ_OPT_TLS_USE_OS_CERTS, 1);
	if (!rc)
		rc = mosquitto_tls_set(q->client, ca, ca ? NULL : "/etc/ssl/certs",
				       param(url, "cert"), param(url, "cert_key"), NULL);
	if (!rc)
		return 0;
	return err_set(err, ERR_CONFIG, "cannot use ca, cert and cert_key: %s; are the files there?",
		       mosquitto_strerror(rc));
}

int mqtt_conn_make(struct mqtt_conn *q, const struct url *url, const char *id, void *owner,
		   struct err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, init_library);
	q->owner = owner;
	q->client = mosquitto_new(id, true, q);
	if (!q->client)
		return err_set(err, ERR_CONFIG, "client_id cannot be used");
	q->v5 = strcmp(param(url, "version"), "5") == 0;
	mosquitto_int_option(q->client, MOSQ_OPT_PROTOCOL_VERSION,
			     q->v5 ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311);
	mosquitto_int_option(q->client, MOSQ_OPT_SEND_MAXIMUM, 65535);
	mosquitto_int_option(q->client, MOSQ_OPT_TCP_NODELAY, 1);
	mosquitto_connect_v5_callback_set(q->client, on_connect);
	mosquitto_disconnect_v5_callback_set(q->client, on_disconnect);
	mosquitto_log_callback_set(q->client, on_log);
	if (url->user && mosquitto_username_pw_set(q->client, url->user, url->password))
		return err_set(err, ERR_CONFIG, "user and password cannot be used");
	return set_tls(q, url, err);
}

int mqtt_conn_verdict(struct mqtt_conn *q, int rc, struct err *err)
{

	if (strstr(q->last, "verify failed") || strstr(q->last, "host name verification failed"))
		err_set(&q->err, ERR_CONFIG,
			"%s; ca= names the authority that the broker's certificate comes from",
			q->last);
	if (rc == MOSQ_ERR_ERRNO)
		mqtt_conn_over(q, ERR_RETRY, "the connection failed: ", strerror(errno));
	else if (rc)
		mqtt_conn_over(q, ERR_RETRY, mosquitto_strerror(rc), "");
	if (!q->err.kind)
		return 0;
	*err = q->err;
	return -1;
}

int mqtt_conn_work(struct mqtt_conn *q, int wake, int timeout_ms, struct err *err)
{
	bool wants = mosquitto_want_write(q->client) || !q->answered;
	struct pollfd pfd[] = { { mosquitto_socket(q->client),
				  (short)(POLLIN | (wants ? POLLOUT : 0)), 0 },
				{ wake, POLLIN, 0 } };
	int rc = 0;

	if (timeout_ms < 0 || timeout_ms > 1000)
		timeout_ms = 1000; /* keepalive, and silence that has lasted too long */
	poll(pfd, q->answered && wake >= 0 ? 2 : 1, timeout_ms);
	if (pfd[0].revents & (POLLIN | POLLHUP | POLLERR))
		rc = mosquitto_loop_read(q->client, 1000);
	if (!rc && pfd[0].revents & POLLOUT)
		rc = mosquitto_loop_write(q->client, 1000);
	if (!rc)
		rc = mosquitto_loop_misc(q->client);
	return mqtt_conn_verdict(q, rc, err);
}

int mqtt_conn_open(struct mqtt_conn *q, const struct url *url, struct err *err)
{
	const struct url_host *h = &url->hosts[0];
	int64_t end = clock_ms() + OPEN_MS;
	int rc;

	rc = mosquitto_connect_async(q->client, h->host,
				     h->port       ? h->port
				     : is_tls(url) ? 8883
						   : 1883,
				     KEEPALIVE_S);
	if (rc && mqtt_conn_verdict(q, rc, err))
		return -1;
	while (!q->answered) {
		if (clock_ms() >= end)
			return err_set(err, ERR_RETRY, "the broker does not answer");
		if (mqtt_conn_work(q, -1, 100, err))
			return -1;
	}
	return 0;
}

void mqtt_conn_close(struct mqtt_conn *q)
{
	if (!q->client)
		return;
	mosquitto_disconnect(q->client);
	mosquitto_destroy(q->client);
	q->client = NULL;
}
