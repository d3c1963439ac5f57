#include "events.h"

#include "base/json.h"
#include "event/domain.h"

#define XID 739
#define LSN UINT64_C(0x2BA2138)
#define TIME INT64_C(1795225918818793) /* 2026-11-21 01:51:58.818793 */

/* A column and what rows have in it, as text; NULL is NULL. */
struct cell {
	const char *name;
	uint32_t oid;
	const char *type_name; /* NULL: the type's own */
	int32_t typmod;        /* only where type_name */
	const char *new;
	const char *old;
	char flags; /* 'k' in the replica identity, 'f' in a full one, 'p' in that and in the key */
};

/* A value that was not sent because it did not change. */
static const char unsent[] = "unsent";

static const struct source source = {
	.db = STR("app"),
	.slot = STR("pgherald"),
	.name = STR("app"),
	.system_id = UINT64_C(7312345678901234567),
	.server_version = 150020,
};

static struct arena arena;
static struct types types;

static struct {
	const char *name;
	struct event event;
} events[64];

static size_t nevents;

static struct event *add(const char *name, enum action action)
{
	struct event *e = &events[nevents].event;

	events[nevents++].name = name;
	*e = (struct event){
		.action = action,
		.position = { LSN, 3 },
		.lsn = LSN - 0xf8,
		.time = TIME,
		.xid = XID,
		.source = &source,
	};
	return e;
}

static struct str copy(const struct strbuf *b)
{
	return (struct str){ arena_copy(&arena, b->p, b->n), b->n };
}

static struct field field(const char *name, uint32_t oid)
{
	const struct type *type = types_get(&types, oid);
	struct field f = { .name = str_c(name), .type = type ? type : &type_unknown };
	struct strbuf key = { 0 };

	json_string(&key, f.name);
	strbuf_ch(&key, ':');
	f.key = copy(&key);
	strbuf_release(&key);
	return f;
}

static struct column column(const struct cell *c)
{
	struct column col = { .field = field(c->name, c->oid), .type_oid = c->oid, .typmod = -1 };

	col.type_name = col.field.type->name;
	if (c->type_name) {
		col.type_name = str_c(c->type_name);
		col.typmod = c->typmod;
	}
	col.key = c->flags != 0;
	col.primary = c->flags == 'k' || c->flags == 'p';
	return col;
}

static struct value value(const char *text)
{
	if (!text)
		return (struct value){ .kind = VALUE_NULL };
	if (text == unsent)
		return (struct value){ .kind = VALUE_UNCHANGED };
	return (struct value){ text, (uint32_t)strlen(text), VALUE_TEXT };
}

enum rows { NONE, NEW, OLD, BOTH };

struct cells {
	const struct cell *v;
	uint32_t n;
};

/* An event of a table with these columns. */
static struct event *add_row(const char *name, enum action action, const char *table, char identity,
			     enum rows rows, struct cells cells)
{
	const uint32_t n = cells.n;
	struct event *e = add(name, action);
	struct relation *rel = arena_alloc(&arena, sizeof(*rel));
	struct value *new = arena_alloc(&arena, n * sizeof(*new));
	struct value *old = arena_alloc(&arena, n * sizeof(*old));

	*rel = (struct relation){ .oid = 16385,
				  .identity = identity,
				  .schema = STR("public"),
				  .name = str_c(table),
				  .ncols = n };
	rel->cols = arena_alloc(&arena, n * sizeof(*rel->cols));
	for (uint32_t i = 0; i < n; i++) {
		rel->cols[i] = column(&cells.v[i]);
		rel->nprimary += rel->cols[i].primary;
		new[i] = value(cells.v[i].new);
		old[i] = value(cells.v[i].old);
	}
	e->rel = rel;
	e->new = rows == NEW || rows == BOTH ? new : NULL;
	e->old = rows == OLD || rows == BOTH ? old : NULL;
	e->old_full = e->old && identity == 'f';
	return e;
}

#define CELLS(...)                                                                                 \
	((struct cells){ (const struct cell[]){ __VA_ARGS__ },                                     \
			 sizeof((const struct cell[]){ __VA_ARGS__ }) / sizeof(struct cell) })
#define ROW(name, action, table, identity, rows, ...)                                              \
	add_row(name, action, table, identity, rows, CELLS(__VA_ARGS__))

/* defid(id int primary key, a text, big text), default identity */
static void add_default_identity(void)
{
	ROW("insert", ACTION_INSERT, "defid", 'd', NEW, { "id", 23, .new = "5", .flags = 'k' },
	    { "a", 25, .new = "five" }, { "big", 25 });
	ROW("update", ACTION_UPDATE, "defid", 'd', NEW, { "id", 23, .new = "1", .flags = 'k' },
	    { "a", 25, .new = "b" }, { "big", 25, .new = unsent });
	ROW("key_change", ACTION_UPDATE, "defid", 'd', BOTH,
	    { "id", 23, .new = "2", .old = "1", .flags = 'k' }, { "a", 25, .new = "b" },
	    { "big", 25, .new = unsent });
	ROW("delete", ACTION_DELETE, "defid", 'd', OLD, { "id", 23, .old = "2", .flags = 'k' },
	    { "a", 25 }, { "big", 25 });
	ROW("to_null", ACTION_UPDATE, "defid", 'd', NEW, { "id", 23, .new = "1", .flags = 'k' },
	    { "a", 25 }, { "big", 25, .new = "" });
}

static void add_other_identities(void)
{
	ROW("no_key", ACTION_INSERT, "nopk", 'n', NEW, { "a", 23, .new = "1" },
	    { "b", 25, .new = "x" });
	ROW("full_update", ACTION_UPDATE, "users", 'f', BOTH,
	    { "id", 23, .new = "1", .old = "1", .flags = 'p' },
	    { "full_name", 25, .new = "Geezer Butler", .old = "Tony Iommi", .flags = 'f' },
	    { "born", 1082, .new = NULL, .old = "1949-07-17", .flags = 'f' },
	    { "bio", 25, .new = "kept", .old = "kept", .flags = 'f' }, { "note", 25, .flags = 'f' });
	ROW("example", ACTION_UPDATE, "users", 'f', BOTH,
	    { "id", 23, .new = "1", .old = "1", .flags = 'p' },
	    { "full_name", 25, .new = "Geezer Butler", .old = "Tony Iommi", .flags = 'f' },
	    { "born", 1082, .new = "1949-07-17", .old = "1949-07-17", .flags = 'f' });
	ROW("full_delete", ACTION_DELETE, "users", 'f', OLD, { "id", 23, .old = "1", .flags = 'p' },
	    { "full_name", 25, .old = "Tony Iommi", .flags = 'f' }, { "born", 1082, .flags = 'f' });
	ROW("full_no_key", ACTION_UPDATE, "log", 'f', BOTH,
	    { "line", 25, .new = "b", .old = "a", .flags = 'f' });
	ROW("index_update", ACTION_UPDATE, "idx", 'i', NEW, { "a", 23, .new = "1" },
	    { "b", 25, .new = "x", .flags = 'k' }, { "c", 23, .new = "3" });
	ROW("index_key_change", ACTION_UPDATE, "idx", 'i', BOTH, { "a", 23, .new = "1" },
	    { "b", 25, .new = "y", .old = "x", .flags = 'k' }, { "c", 23, .new = "3" });
	ROW("index_delete", ACTION_DELETE, "idx", 'i', OLD, { "a", 23 },
	    { "b", 25, .old = "y", .flags = 'k' }, { "c", 23 });
}

/* A value of every kind that a format may treat in its own way. */
static void add_types(void)
{
	ROW("types", ACTION_INSERT, "types", 'd', NEW, { "id", 23, .new = "1", .flags = 'k' },
	    { "i2", 21, .new = "-2" }, { "i8", 20, .new = "9007199254740993" },
	    { "f4", 700, .new = "1.5" }, { "f8", 701, .new = "1e+20" },
	    { "n", 1700, "numeric(10,2)", 655366, .new = "10.20" },
	    { "nn", 1700, .new = "-12345678901234567890.123450" },
	    { "n3", 1700, "numeric(3,-2)", 198658, .new = "1200" }, { "b", 16, .new = "t" },
	    { "vc", 1043, "character varying(20)", 24, .new = "v" },
	    { "c", 1042, "character(5)", 9, .new = "ab   " }, { "by", 17, .new = "\\xdeadbeef" },
	    { "j", 114, .new = "{\"a\": 1,  \"a\":2}" },
	    { "jb", 3802, .new = "{\"b\": [1, 2.50, true, null], \"é\": \"<&>\\n\"}" },
	    { "u", 2950, .new = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11" },
	    { "o", 26, .new = "4000000000" }, { "mo", 790, .new = "-$1,234.50" },
	    { "b1", 1560, "bit(1)", 1, .new = "1" },
	    { "b10", 1560, "bit(10)", 10, .new = "1000000011" }, { "vb", 1562, .new = "00" },
	    { "p", 600, .new = "(1.5,-2)" }, { "r", 3904, .new = "[1,5)" },
	    { "mood", 16400, .new = "sad" }, { "co", 16401, .new = "(1,\"x y\")" },
	    { "h", 16402, .new = "\"a\"=>\"1\", \"b\"=>NULL" }, { "pd", 16403, .new = "5" },
	    { "x", 142, .new = "<a/>" });
	ROW("times", ACTION_INSERT, "times", 'd', NEW, { "id", 23, .new = "1", .flags = 'k' },
	    { "d", 1082, .new = "2020-01-02" }, { "ts", 1114, .new = "2020-01-02 03:04:05.678" },
	    { "ts3", 1114, "timestamp(3) without time zone", 3, .new = "1969-12-31 23:59:59.999" },
	    { "tz", 1184, .new = "2020-01-02 01:04:05.678+00" },
	    { "tz3", 1184, "timestamp(3) with time zone", 3, .new = "2020-01-02 01:04:05+00" },
	    { "tz0", 1184, "timestamp(0) with time zone", 0, .new = "2020-01-02 01:04:05+00" },
	    { "t", 1083, .new = "10:11:12.5" },
	    { "t3", 1083, "time(3) without time zone", 3, .new = "24:00:00" },
	    { "ttz", 1266, .new = "01:11:12.5+02" }, { "ttz24", 1266, .new = "24:00:00+00" },
	    { "iv", 1186, .new = "1 year 2 mons 3 days 04:05:06.78" },
	    { "iv2", 1186, .new = "-1 years -2 mons +3 days -00:00:00.5" });
	ROW("before_1970", ACTION_INSERT, "times", 'd', NEW,
	    { "ts", 1114, .new = "1969-12-31 23:59:59.9995" });
	/* never seen from a healthy server */
	ROW("broken", ACTION_INSERT, "broken", 'd', NEW, { "jb", 3802, .new = "\"\\" },
	    { "o", 26, .new = "x" }, { "ia", 1007, .new = "{1,,2}" },
	    { "d", 1082, .new = "2020-02-30" }, { "by", 17, .new = "\\xabc" },
	    { "p", 600, .new = "(1)" });
	ROW("specials", ACTION_INSERT, "specials", 'd', NEW, { "id", 23, .new = "1", .flags = 'k' },
	    { "f", 701, .new = "NaN" }, { "g", 700, .new = "-Infinity" },
	    { "n", 1700, .new = "Infinity" }, { "m", 1700, "numeric(10,2)", 655366, .new = "NaN" },
	    { "d", 1082, .new = "infinity" }, { "bc", 1082, .new = "0044-03-15 BC" },
	    { "ts", 1114, .new = "-infinity" },
	    { "far", 1114, .new = "294276-12-31 23:59:59.999999" },
	    { "tz", 1184, .new = "infinity" }, { "tzbc", 1184, .new = "0044-03-15 12:00:00+00 BC" },
	    { "tzfar", 1184, .new = "12345-01-02 03:04:05+00" },
	    { "dfar", 1082, .new = "5874897-12-31" });
}

static void add_arrays(void)
{
	ROW("arrays", ACTION_INSERT, "arrays", 'd', NEW, { "id", 23, .new = "1", .flags = 'k' },
	    { "ia", 1007, .new = "{{1,NULL},{3,4}}" },
	    { "ta", 1009, .new = "[0:1]={a,\"b,c\\\\\\\"é\"}" },
	    { "tn", 1009, .new = "{{NULL,\"NULL\"},{\"\",\"{x}\"}}" },
	    { "empty", 1009, .new = "{}" }, { "va", 1015, .new = "{v}" },
	    { "na", 1231, .new = "{1.50,NaN}" }, { "da", 1182, .new = "{2020-01-02}" },
	    { "tza", 1185, .new = "{\"2020-01-02 03:04:05+00\"}" },
	    { "bya", 1001, .new = "{\"\\\\x00ff\"}" },
	    { "jba", 3807, .new = "{\"{\\\"k\\\": \\\"v\\\"}\",[1]}" },
	    { "boxes", 1020, .new = "{(1,1),(0,0);(2,2),(1,1)}" }, { "iv", 22, .new = "1 2" });
}

/* Columns whose value was not sent, by the kinds that have a placeholder of their own. */
static void add_unsent(void)
{
	ROW("unsent", ACTION_UPDATE, "unsent", 'd', NEW, { "id", 23, .new = "1", .flags = 'k' },
	    { "t", 25, .new = unsent }, { "by", 17, .new = unsent }, { "ta", 1009, .new = unsent },
	    { "ia", 1007, .new = unsent }, { "bya", 1001, .new = unsent },
	    { "h", 16402, .new = unsent }, { "last", 23 });
}

/* All that needs escaping somewhere, in values and names. */
static void add_escapes(void)
{
	struct event *e =
		ROW("escapes", ACTION_INSERT, "t\"\xc3\xa9.<x>", 'd', NEW,
		    { "id", 23, .new = "1", .flags = 'k' }, { "quote", 25, .new = "\"\\/" },
		    { "control", 25, .new = "\b\f\n\r\t\x01\x1f\x7f" },
		    { "html", 25, .new = "<a href='x'>&amp;</a>" }, { "wide", 25, .new = "é€😀" },
		    { "line", 25, .new = "\xe2\x80\xa8\xe2\x80\xa9\xe2\x82\xac" },
		    { "Col \"<é>\n", 25, .new = "" }, { "A", 25, .new = "sorts first" },
		    { "jb", 3802, .new = "{\"\\\"\": \"😀\x7f, : \\\\\"}" });

	ROW("escaped_key", ACTION_DELETE, "t", 'd', OLD,
	    { "k", 25, .old = "a\"\\\n\xc3\xa9", .flags = 'k' }, { "h", 16402 });
	((struct relation *)(uintptr_t)e->rel)->schema = STR("sch ema");
}

static void add_truncates(void)
{
	struct event *e;

	ROW("truncate", ACTION_TRUNCATE, "users", 'd', NONE, { "id", 23, .flags = 'k' });
	e = ROW("truncate_all", ACTION_TRUNCATE, "users", 'd', NONE, { "id", 23, .flags = 'k' });
	e->cascade = e->restart_identity = true;
}

static struct event *add_message(const char *name, struct str prefix, struct str content)
{
	struct event *e = add(name, ACTION_MESSAGE);

	e->transactional = true;
	e->prefix = prefix;
	e->content = content;
	return e;
}

static void add_messages(void)
{
	struct event *e;

	add_message("message", STR("pfx"), STR("hello"));
	add_message("message_json", STR("p\"x"), STR("{\"a\":\n\"<é>\"}"));
	e = add_message("message_binary", STR("bin"), STR("\xff\x00\x10"));
	e->transactional = false;
	e->xid = 0;
	e->position.ordinal = 0;
}

static void add_others(void)
{
	const int64_t second = TIME / 1000000 * 1000000;

	add("begin", ACTION_BEGIN);
	add("commit", ACTION_COMMIT)->commit_end = LSN + 0x30;
	ROW("wal2json", ACTION_INSERT, "w", 'd', NEW, { "id", 23, .new = "1", .flags = 'k' },
	    { "j", 3802, .new = "{\"a\": 1}" });
	ROW("whole_second", ACTION_INSERT, "w", 'd', NEW, { "id", 23, .new = "1", .flags = 'k' })->time =
		second;
	ROW("tenths", ACTION_INSERT, "w", 'd', NEW, { "id", 23, .new = "1", .flags = 'k' })->time =
		second + 100000;
	add_row("no_columns", ACTION_INSERT, "empty", 'n', NEW, (struct cells){ NULL, 0 });
}

static struct domain domains[2];

/* A domain event as the log has it and, with a position, as the feed has it. */
static void add_domain(const char *name, struct domain *d, const char *topic, const char *position)
{
	static const char *const texts[DOMAIN_TOPIC] = {
		[DOMAIN_CATEGORY] = "order", [DOMAIN_STREAM] = "4\"2",
		[DOMAIN_VERSION] = "7",      [DOMAIN_ID] = "6b1b36cb-cba5-4e9f-a8a1-3fd2e38a4e0a",
		[DOMAIN_TYPE] = "Placed",    [DOMAIN_DATA] = "{\"total\": 10.20}",
	};
	struct event *e = add(name, ACTION_EVENT);

	for (int i = 0; i < DOMAIN_TOPIC; i++)
		d->values[i] = value(texts[i]);
	d->values[DOMAIN_TOPIC] = value(topic);
	d->values[DOMAIN_TIME] = value("2026-11-21 01:51:58.5+00");
	d->values[DOMAIN_POSITION] = value(position);
	if (position)
		d->values[DOMAIN_METADATA] = value("{\"by\": \"é\"}");
	domain_event(d, STR("herald"), e);
}

/* What would have been read from the catalog. */
static void add_user_types(void)
{
	struct type *mood = types_add(&types, 16400), *composite = types_add(&types, 16401);
	struct type *hstore = types_add(&types, 16402), *domain = types_add(&types, 16403);
	struct field *fields = arena_alloc(&arena, 2 * sizeof(*fields));

	mood->is_enum = true;
	mood->name = STR("mood");
	composite->kind = TYPE_RECORD;
	composite->name = STR("comp");
	composite->nfields = 2;
	composite->fields = fields;
	fields[0] = field("a", 23);
	fields[1] = field("b", 25);
	hstore->kind = TYPE_HSTORE;
	hstore->name = STR("hstore");
	domain->kind = TYPE_INT;
	domain->base = 23;
	domain->name = STR("posint");
}

void events_init(void)
{
	add_user_types();
	add_default_identity();
	add_other_identities();
	add_types();
	add_arrays();
	add_unsent();
	add_escapes();
	add_truncates();
	add_messages();
	add_others();
	add_domain("domain", &domains[0], NULL, NULL);
	add_domain("domain_position", &domains[1], "money", "1234");
}

void events_release(void)
{
	domain_release(&domains[0]);
	domain_release(&domains[1]);
	types_release(&types);
	arena_release(&arena);
}

const struct event *events_get(const char *name)
{
	for (size_t i = 0; i < nevents; i++)
		if (strcmp(events[i].name, name) == 0)
			return &events[i].event;
	return NULL;
}
