/*
 * The YAML files of wal-listener and of its relative pgwalstreams, as settings: who used these swaps
 * the program and keeps file and consumers. Keys that mean nothing here are let pass, as there.
 *
 * wal-listener's keys can be overridden by environment variables, WAL_DATABASE_PORT for
 * database.port, when they are in the file.
 */
#include "base/strbuf.h"
#include "base/url.h"
#include "conf/outputs.h"
#include "conf/preset.h"
#include "conf/yaml.h"

#include <ctype.h>
#include <stdlib.h>

struct file {
	struct settings *s;
	struct yaml *root;
	const char *name;
	bool is_pgwalstreams;
	struct err *err;
};

static int wrong(struct file *f, const char *path, const char *what)
{
	return err_set(f->err, ERR_CONFIG, "%s: %s: %s", f->name, path, what);
}

/* The node at "database.filter.tables", or NULL. Case does not count in keys, as there. */
static const struct yaml *find(const struct file *f, const char *path)
{
	const struct yaml *node = f->root;

	while (node && *path) {
		size_t n = strcspn(path, ".");

		node = node->kind == YAML_MAP ? node->first : NULL;
		while (node && (strlen(node->key) != n || strncasecmp(node->key, path, n) != 0))
			node = node->next;
		path += n + (path[n] == '.');
	}
	return node;
}

/* A value as text; the fallback where the file says nothing. */
static const char *get(const struct file *f, const char *path, const char *fallback)
{
	const struct yaml *node = find(f, path);
	char variable[80] = "WAL_";
	size_t n = 4;
	const char *value;

	if (!node || node->kind != YAML_SCALAR || node->absent)
		return fallback;
	for (; *path && n < sizeof(variable) - 1; path++)
		variable[n++] = *path == '.' ? '_' : (char)toupper((unsigned char)*path);
	value = f->is_pgwalstreams ? NULL : getenv(variable);
	return value && *value ? value : node->text;
}

static int set(struct file *f, const char *option, const char *value)
{
	if (!value || settings_set(f->s, option, value, f->err) == 0)
		return 0;
	return err_add(f->err, "%s", f->name);
}

/* ---- the database ---- */

static void put_keyword(struct strbuf *out, const char *keyword, const char *value)
{
	if (!value)
		return;
	strbuf_printf(out, "%s=", keyword);
	preset_quote(out, value);
	strbuf_ch(out, ' ');
}

static int read_database(struct file *f)
{
	bool tls = strcmp(get(f, "database.enableTLS", "false"), "true") == 0;
	const char *slot = get(f, "listener.slotName", NULL), *db = get(f, "database.name", "");
	struct strbuf conninfo = { 0 }, name = { 0 };
	int failed;

	if (!slot)
		return wrong(f, "listener.slotName", "it is missing");
	put_keyword(&conninfo, "host", get(f, "database.host", NULL));
	put_keyword(&conninfo, "port", get(f, "database.port", NULL));
	put_keyword(&conninfo, "dbname", db);
	put_keyword(&conninfo, "user", get(f, "database.user", NULL));
	put_keyword(&conninfo, "password",
		    get(f, "database.password", get(f, "database.pass", NULL)));
	put_keyword(&conninfo, "sslmode", tls ? get(f, "database.sslMode", "require") : NULL);
	strbuf_str(&name, str_c(slot));
	if (f->is_pgwalstreams)
		strbuf_printf(&name, "_%s", db);
	failed = set(f, "connection", strbuf_cstr(&conninfo)) || set(f, "slot", strbuf_cstr(&name)) ||
		 set(f, "publication", f->is_pgwalstreams ? "pgwalstreams" : "wal-listener");
	strbuf_release(&conninfo);
	strbuf_release(&name);
	return failed;
}

/* What is no level is the lowest, as pgwalstreams has it. */
static const char *level(const char *word)
{
	static const char *const levels[][2] = { { "info", "info" },
						 { "warn", "warn" },
						 { "warning", "warn" },
						 { "error", "error" },
						 { "fatal", "error" } };

	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
		if (strcasecmp(levels[i][0], word) == 0)
			return levels[i][1];
	return "debug";
}

static int read_log(struct file *f)
{
	bool human = strcmp(get(f, "logger.humanReadable", "false"), "true") == 0 ||
		     strcmp(get(f, "logger.fmt", ""), "text") == 0;

	return set(f, "log-level", level(get(f, "logger.level", "info"))) ||
	       set(f, "log-format", human ? "logfmt" : "json");
}

/* ---- the filter: tables in any schema, with their actions ---- */

static void put_lower(struct strbuf *out, const char *text)
{
	for (; *text; text++)
		strbuf_ch(out, (char)tolower((unsigned char)*text));
}

/* "users":insert+update; schema is as in "public"., or empty. */
static int put_table(struct file *f, struct strbuf *out, const char *schema, const struct yaml *table)
{
	char sep = ':';

	if (table->kind != YAML_LIST)
		return wrong(f, table->key, "its actions are not a list, as in [insert, update]");
	strbuf_printf(out, "%s%s%s\"%s\"", out->n ? "," : "", table->first ? "" : "!", schema,
		      table->key);
	for (const struct yaml *y = table->first; y; y = y->next) {
		if (y->kind != YAML_SCALAR || y->absent)
			return wrong(f, table->key, "an action is not a word");
		strbuf_ch(out, sep);
		put_lower(out, y->text);
		sep = '+';
	}
	return 0;
}

/* The first of the tables of the filter, or NULL. */
static const struct yaml *tables(const struct file *f)
{
	const struct yaml *map = find(f, "listener.filter.tables");

	if (!map)
		map = find(f, "database.filter.tables");
	return map && map->kind == YAML_MAP ? map->first : NULL;
}

/* A table that is not listed is not published; without a list nothing is. */
static int put_tables(struct file *f, struct strbuf *out)
{
	for (const struct yaml *y = tables(f); y; y = y->next)
		if (put_table(f, out, "", y))
			return -1;
	if (!out->n)
		strbuf_lit(out, "!*");
	return 0;
}

/* ---- the broker ---- */

/* Without a scheme it is just host and port. */
static void put_address(struct strbuf *out, const char *scheme, const char *address)
{
	if (!strstr(address, "://"))
		strbuf_printf(out, "%s://", scheme);
	strbuf_add(out, address, strlen(address) - (address[strlen(address) - 1] == '/'));
}

static void put_param(struct strbuf *out, const char *name, const char *value)
{
	if (!value)
		return;
	strbuf_printf(out, "%c%s=", out->n && memchr(out->p, '?', out->n) ? '&' : '?', name);
	url_encode(out, str_c(value));
}

/* Certificates count only with enableTLS, as there. */
static void put_tls(struct file *f, struct strbuf *to)
{
	if (strcmp(get(f, "publisher.enableTLS", "false"), "true") != 0)
		return;
	put_param(to, "tls", "true");
	put_param(to, "ca", get(f, "publisher.CACert", NULL));
	put_param(to, "cert", get(f, "publisher.clientCert", NULL));
	put_param(to, "cert_key", get(f, "publisher.clientKey", NULL));
}

/* The output whose addresses end in `place`, for tables that match. */
static int add_output(struct file *f, const char *place, const char *tables)
{
	const char *type = f->is_pgwalstreams ? "nats" : get(f, "publisher.type", "");
	const char *topic = get(f, "publisher.topic", "");
	const char *address = get(f, f->is_pgwalstreams ? "nats.address" : "publisher.address", "");
	struct output_settings *os;
	struct strbuf to = { 0 }, subjects = { 0 };
	int failed;

	if (!*address)
		return wrong(f, f->is_pgwalstreams ? "nats.address" : "publisher.address",
			     "it is missing");
	if (strcmp(type, "nats") == 0) {
		put_address(&to, "nats", address);
		strbuf_printf(&subjects, "%s.*", topic);
		put_param(&to, "stream", f->is_pgwalstreams ? NULL : topic);
		put_param(&to, "subjects", f->is_pgwalstreams ? NULL : strbuf_cstr(&subjects));
	} else if (strcmp(type, "kafka") == 0) {
		put_address(&to, "kafka", address);
		put_param(&to, "key_columns", get(f, "publisher.messageKeyFrom", NULL));
		put_tls(f, &to);
	} else if (strcmp(type, "rabbitmq") == 0) {
		put_address(&to, "amqp", address);
		put_param(&to, "exchange", topic);
		put_param(&to, "type", get(f, "publisher.exchangeKind", "topic"));
		put_param(&to, "mandatory", "false"); /* what nobody is bound for is dropped */
	} else {
		return wrong(f, "publisher.type", "it is not one of nats, kafka and rabbitmq");
	}
	put_param(&to, "format", "wal-listener");
	put_param(&to, "numeric", "string");
	put_param(&to, "int8", f->is_pgwalstreams ? "string" : NULL);
	put_param(&to, "variant", f->is_pgwalstreams ? "pgwalstreams" : NULL);
	put_param(&to, "address", place);
	put_param(&to, "tables", tables);
	os = outputs_add(f->s, f->err);
	failed = os ? outputs_set_url(f->s, os, str_c(strbuf_cstr(&to)), f->err) : -1;
	strbuf_release(&to);
	strbuf_release(&subjects);
	return failed;
}

/* Where the schema ends in "schema_table", when that is a table of this name; 0 when not. */
static size_t schema_len(const char *key, const char *table)
{
	size_t n = strlen(key), t = strlen(table);

	return n > t + 1 && key[n - t - 1] == '_' && strcmp(key + n - t, table) == 0 ? n - t - 1 : 0;
}

/* topicsMap says another place for "schema_table": an output of its own. */
static int add_mapped(struct file *f, const char *key, const struct yaml *table, const char *place,
		      struct strbuf *others)
{
	struct strbuf schema = { 0 }, own = { 0 };
	int failed;

	strbuf_printf(&schema, "\"%.*s\".", (int)schema_len(key, table->key), key);
	strbuf_printf(others, ",!%s\"%s\"", strbuf_cstr(&schema), table->key);
	failed = put_table(f, &own, schema.p, table) || add_output(f, place, strbuf_cstr(&own));
	strbuf_release(&schema);
	strbuf_release(&own);
	return failed ? -1 : 0;
}

/* Either part of "a_b_c" may have an underscore. What is not in the filter is not published. */
static int add_entry(struct file *f, const struct yaml *entry, const char *root, struct strbuf *others)
{
	struct strbuf place = { 0 };
	int failed = 0;

	if (entry->kind != YAML_SCALAR || !strchr(entry->key, '_'))
		return wrong(f, entry->key, "it is not schema_table: topic");
	strbuf_printf(&place, "%s%s", root, entry->text);
	strbuf_cstr(&place);
	for (const struct yaml *t = tables(f); t && !failed; t = t->next)
		if (schema_len(entry->key, t->key))
			failed = add_mapped(f, entry->key, t, place.p, others);
	strbuf_release(&place);
	return failed;
}

static int read_publisher(struct file *f)
{
	const struct yaml *map = find(f, "listener.topicsMap");
	struct strbuf others = { 0 }, place = { 0 };
	int failed = put_tables(f, &others);

	if (f->is_pgwalstreams)
		strbuf_printf(&place, "%s.", get(f, "nats.topicPrefix", ""));
	else
		strbuf_printf(&place, "%s.%s", get(f, "publisher.topic", ""),
			      get(f, "publisher.topicPrefix", ""));
	strbuf_cstr(&place);
	for (const struct yaml *y = map && map->kind == YAML_MAP ? map->first : NULL; y && !failed;
	     y = y->next)
		failed = add_entry(f, y, place.p, &others);
	strbuf_lit(&place, "{schema}");
	if (f->is_pgwalstreams)
		strbuf_lit(&place, ".{table}.{action}");
	else
		strbuf_lit(&place, "_{table}");
	if (!failed)
		failed = add_output(f, strbuf_cstr(&place), strbuf_cstr(&others));
	strbuf_release(&others);
	strbuf_release(&place);
	return failed;
}

static int read_all(struct file *f, struct str text)
{
	if (yaml_tree(&f->root, &f->s->arena, f->name, text, f->err))
		return -1;
	if (!f->root || f->root->kind != YAML_MAP)
		return err_set(f->err, ERR_CONFIG, "%s: it is not a mapping of keys to values",
			       f->name);
	return read_database(f) || read_log(f) || read_publisher(f) ? -1 : 0;
}

int preset_read_wal_listener(struct settings *s, const char *name, struct str text, struct err *err)
{
	struct file f = { .s = s, .name = name, .err = err };

	return read_all(&f, text);
}

int preset_read_pgwalstreams(struct settings *s, const char *name, struct str text, struct err *err)
{
	struct file f = { .s = s, .name = name, .is_pgwalstreams = true, .err = err };

	return read_all(&f, text);
}
