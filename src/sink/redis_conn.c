/* Connections to Redis, of outputs and readers. */
#include "sink/redis.h"

#include <stdio.h>
#include <stdlib.h>

static const char *param(const struct url *url, const char *name)
{
	return driver_text(&sink_redis, url, name);
}

bool redis_says(const redisReply *r, const char *word)
{
	return r->type == REDIS_REPLY_ERROR && strncmp(r->str, word, strlen(word)) == 0;
}

#define REDIS_CLUSTER                                                                              \
	"a stream or " REDIS_WRITERS " is on another node of its cluster, which is not "           \
	"supported: name a Redis server that is not split over nodes"

int redis_fail(const redisReply *r, struct err *err)
{
	static const char *const mends[][2] = {
		{ "WRONGPASS", "user or password are wrong" },
		{ "NOAUTH", "it wants a password" },
		{ "ERR AUTH", "it has no passwords: leave it out of the URL" },
		{ "ERR invalid password", "the password is wrong" },
		{ "NOPERM", "this user may not do what is needed: XADD, XRANGE, XINFO, HGET, HSET, "
			    "WATCH, MULTI and EXEC, on the streams and on " REDIS_WRITERS },
		{ "DENIED", "it is in protected mode" },
		{ "MOVED", REDIS_CLUSTER },
		{ "CROSSSLOT", REDIS_CLUSTER },
		{ "ERR DB index", "it has no such database" },
		{ "ERR unknown command", "Redis 5.0 or newer is needed" },
	};

	for (size_t i = 0; i < sizeof(mends) / sizeof(mends[0]); i++)
		if (redis_says(r, mends[i][0]))
			return err_set(err, ERR_CONFIG, "Redis: %s (%s)", mends[i][1], r->str);
	return err_set(err, ERR_RETRY, "Redis does not take it: %s",
		       r->type == REDIS_REPLY_ERROR ? r->str : "an unexpected reply");
}

int redis_reply(struct wire *w, bool may_fail, redisReply **out, struct err *err)
{
	redisReply *got;

	if (wire_reply(w, &got, err)) {
		err_add(err, "Redis");
		return -1;
	}
	if (got->type == REDIS_REPLY_ERROR && !may_fail) {
		redis_fail(got, err);
		freeReplyObject(got);
		return -1;
	}
	*out = got;
	return 0;
}

int redis_done(struct wire *w, bool may_fail, struct err *err)
{
	redisReply *got;

	if (redis_reply(w, may_fail, &got, err))
		return -1;
	freeReplyObject(got);
	return 0;
}

int redis_database(const struct url *url, size_t *n)
{
	const char *at = url->path + (url->path[0] == '/');
	size_t digits = strspn(at, "0123456789");

	*n = digits;
	return digits && digits < 10 && (at[digits] == '/' || !at[digits])
		       ? (int)strtol(at, NULL, 10)
		       : -1;
}

static int connect_any(struct wire *w, const struct url *url, struct err *err)
{
	struct wire_tls tls = { param(url, "ca"), param(url, "cert"), param(url, "cert_key") };
	bool secure = strcmp(url->scheme, "rediss") == 0;
	int failed = -1, limit_ms = (int)strtol(param(url, "timeout"), NULL, 10) * 1000;

	w->fd = -1;
	for (size_t i = 0; i < url->nhosts && failed; i++) {
		const struct url_host *h = &url->hosts[i];

		wire_close(w);
		failed = wire_open(w, h->host, h->port ? h->port : 6379, secure ? &tls : NULL,
				   limit_ms, err);
		if (failed)
			err_add(err, "Redis at %s", h->host);
	}
	return failed;
}

static int login(struct wire *w, const struct url *url, struct err *err)
{
	char number[12];
	size_t n;
	int db = redis_database(url, &n);

	if (url->password && url->user && url->user[0])
		wire_command(w, "AUTH", url->user, url->password, NULL);
	else if (url->password)
		wire_command(w, "AUTH", url->password, NULL);
	if (url->password && redis_done(w, false, err))
		return -1;
	if (db <= 0)
		return 0;
	snprintf(number, sizeof(number), "%d", db);
	wire_command(w, "SELECT", number, NULL);
	return redis_done(w, false, err);
}

int redis_connect(struct wire *w, const struct url *url, struct err *err)
{
	return connect_any(w, url, err) || login(w, url, err) ? -1 : 0;
}
