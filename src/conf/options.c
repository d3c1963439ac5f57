#include "conf/options.h"

#include "base/glob.h"

#include <ctype.h>

#define AT(field) .at = offsetof(struct settings, field), .output_at = OPTION_NOWHERE
#define AT_OUTPUT(field)                                                                           \
	.at = offsetof(struct settings, output.field),                                             \
	.output_at = offsetof(struct output_settings, field)
#define AT_BOTH(field)                                                                             \
	.at = offsetof(struct settings, field), .output_at = offsetof(struct output_settings, field)

/* clang-format off */
const struct option options[] = {
	{ "letters", 0, OPTION_STRING, OPTION_ARGUMENT | OPTION_FLAG_ONLY, AT(letters),
	  "replay", "FILE", NULL, 1, 4096, "a file of dead letters; - is standard input" },
	{ "url", 0, OPTION_STRING, OPTION_SECRET | OPTION_FLAG_ONLY | OPTION_ARGUMENT, AT(url),
	  "consume", "URL", NULL, 1, 4096, "what to read: the URL of an output, or one with its parameters",
	  .heading = "What to read" },
	{ "keys", 0, OPTION_STRING, OPTION_FLAG_ONLY, AT(keys),
	  "consume", "KEYS", NULL, 1, 4096, "which addresses, separated by commas; default: those of the URL" },
	{ "task", 0, OPTION_ENUM, OPTION_ARGUMENT | OPTION_FLAG_ONLY, AT(task),
	  "store", "init|check|stats|snapshot|truncate|delete|redact", .help = "what to do", .min = 1 },
	{ "parked-task", 0, OPTION_ENUM, OPTION_ARGUMENT | OPTION_FLAG_ONLY, AT(parked_task),
	  "parked", "list|retry|drop", .help = "what to do", .min = 1 },
	{ "subscription", 0, OPTION_STRING, OPTION_ARGUMENT | OPTION_FLAG_ONLY, AT(subscription),
	  "subscribe parked", "NAME", NULL, 1, 200, "the subscription; subscribe makes it when it is missing",
	  .heading = "Subscription" },
	{ "connection", 0, OPTION_STRING, OPTION_SECRET | OPTION_ARGUMENT, AT(connection),
	  "stream check status drop store append read subscribe load parked retain purge", "CONNINFO", "", 0, 65536,
	  "the database: a libpq URI or keywords; PG* variables apply too",
	  "On the command line it is the argument without a flag. An event store may also be a file: "
	  "sqlite:PATH.",
	  .heading = "Connection and slot" },
	{ "slot", 0, OPTION_SLOT, 0, AT(slot),
	  "stream check status drop", "NAME", "pgherald", .help = "replication slot",
	  .more = "It keeps the position. It is made when it is missing and never dropped except by "
		  "pgherald drop." },
	{ "publication", 0, OPTION_STRING, 0, AT(publication),
	  "stream check status drop", "NAME", "pgherald", 1, 63, "publication",
	  "When it is missing it is made: for all tables, or for those of --tables where these are "
	  "plain names; a partitioned table among these has its partitions' events under its own name. A "
	  "publication that exists is used as it is." },
	{ "temporary", 0, OPTION_BOOL, 0, AT(temporary),
	  "stream", .def = "false", .help = "use a slot that disappears on exit" },
	{ "create", 0, OPTION_BOOL, 0, AT(create),
	  "stream", .def = "true",
	  .help = "make the slot and the publication where they are missing" },
	{ "wait", 0, OPTION_BOOL, 0, AT(wait),
	  "stream", .def = "true", .help = "wait while another process uses the slot",
	  .more = "A process that waits stands by and takes over when the other goes." },
	{ "name", 0, OPTION_STRING, OPTION_MANUAL, AT(name),
	  "stream subscribe", "LABEL", NULL, 1, 200,
	  "label of this server in formats that show one; default: the database" },

	{ "tables", 0, OPTION_TABLES, OPTION_RELOAD, AT_BOTH(tables),
	  "stream check", "PATTERNS", .help = "tables wanted, as in 'public.*,!public.log'",
	  .more = "Patterns over schema.table, separated by commas: * and ? are wildcards, a leading "
		  "! excludes, a part in double quotes is taken as it is, and a pattern without a "
		  "dot means that table in any schema; with actions behind a colon, as in "
		  "orders:insert+update, only these. The last one that matches decides. The event store's "
		  "categories are tables of its schema.",
	  .heading = "Which events" },
	{ "actions", 0, OPTION_LIST, OPTION_RELOAD, AT_BOTH(actions),
	  "stream", "insert|update|delete|truncate|message|event",
	  .help = "actions wanted, separated by commas" },
	{ "from", 0, OPTION_POSITION, 0, AT(from),
	  "stream", "now|LSN", .help = "begin here instead of at the slot's position",
	  .more = "A slot never goes back: a position before the slot's own is an error, as is one that the "
		  "server's log has not come to." },
	{ "until", 0, OPTION_POSITION, 0, AT(until),
	  "stream", "now|LSN", .help = "deliver everything up to here and exit",
	  .more = "The word now means the end of the server's log when pgherald starts." },
	{ "limit", 0, OPTION_INT, 0, AT(limit),
	  "stream consume read subscribe", "N", "0", 0, INT64_MAX, "exit after so many events; 0: no limit" },

	{ "to", 0, OPTION_OUTPUT, OPTION_SECRET | OPTION_RELOAD, OPTION_NOWHERE, OPTION_NOWHERE,
	  "stream replay subscribe", "URL", .help = "output, as in file:PATH or nats://HOST/SUBJECT; may be repeated",
	  .more = "Options of a single output can be parameters of its URL, as in "
		  "file:/var/log/app.json?format=pgevents&tables=public.*. Without any output events "
		  "go to standard output.",
	  .heading = "Where to and how" },
	{ "format", 0, OPTION_ENUM, OPTION_RELOAD, AT_OUTPUT(format),
	  "stream subscribe", "native|pretty|pgevents|wal-listener|wal2json|cloudevents|debezium",
	  .help = "format of events; default: native, or pretty in a terminal" },
	{ "numeric", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(numeric),
	  "stream subscribe", "number|string", "number", .help = "how numeric values are written" },
	{ "int8", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(int8),
	  "stream subscribe", "number|string", "number", .help = "how 64-bit integers are written" },
	{ "bytea", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(bytea),
	  "stream subscribe", "hex|base64", "hex", .help = "how bytea values are written" },
	{ "timestamps", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(timestamps),
	  "stream subscribe", "iso|epoch_us", "iso", .help = "how dates and timestamps are written" },
	{ "tags", 0, OPTION_PAIRS, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(tags),
	  "stream subscribe", "NAME=VALUE,...", .help = "constant labels in every native event" },
	{ "address", 0, OPTION_STRING, OPTION_RELOAD, AT_OUTPUT(address),
	  "stream subscribe", "TEMPLATE", NULL, 1, 1000,
	  "subject, topic or routing key, as in 'shop.{table}.{action}'",
	  "There are {db}, {name}, {schema}, {table}, {action}, {prefix} (of a logical message), "
	  "{new.COLUMN}, {key.COLUMN}, and of a domain event {category}, {stream}, {type} and {topic}. Bytes of a value that the destination forbids are escaped "
	  "reversibly." },
	{ "compress", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(compress),
	  "stream subscribe", "none|brotli|gzip|zstd", .help = "compress each message",
	  .more = "Where messages have a content-encoding it says br, gzip or zstd." },
	{ "writer", 0, OPTION_STRING, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(writer),
	  "stream", "NAME", NULL, 1, 63, "the name by which a destination knows this output again",
	  "Destinations remember for each writer what they hold. Without a name the writer is made of the "
	  "output's URL, tables and actions, and is another one when these change: what was not yet "
	  "confirmed at a crash then comes again. With a name, other tables and actions hold for what is "
	  "behind the last event that was delivered. Of letters, digits, '-', '_' and '.'; each output needs "
	  "its own." },
	{ "key-columns", 0, OPTION_LIST, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(key_columns),
	  "stream subscribe", "COLUMNS", .help = "columns of the message's key, where a destination has keys",
	  .more = "By default those of the replica identity. Updates and deletes need columns that the "
		  "server sends of old rows: those of the replica identity, or any with FULL." },
	{ "on-refused", 0, OPTION_ENUM, OPTION_RELOAD, AT_OUTPUT(on_refused),
	  "stream replay subscribe", "stop|skip|dead-letter", "stop",
	  .help = "what to do with an event that an output refuses" },
	{ "dead-letter", 0, OPTION_STRING, OPTION_SECRET | OPTION_RELOAD, AT_OUTPUT(dead_letter),
	  "stream subscribe", "URL", NULL, 1, 4096, "where refused events go, with the reason",
	  "pgherald replay sends them again." },
	{ "max-in-flight", 0, OPTION_INT, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(max_in_flight),
	  "stream replay subscribe", "N", "0", 0, 65535,
	  "messages sent and not taken yet; 0: what is good for the destination" },
	{ "variant", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(variant),
	  "stream subscribe", "pgwalstreams", .help = "write as that relative of wal-listener does" },
	{ "cloudevents-mode", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(cloudevents_mode),
	  "stream subscribe", "structured|binary", "structured", .help = "where the attributes of a CloudEvent are",
	  .more = "In binary mode they are headers of the message, where a destination has headers." },
	{ "recorded-at", 0, OPTION_BOOL, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(recorded_at),
	  "stream subscribe", .def = "false", .help = "add recorded_at (pgevents)" },
	{ "transactions", 0, OPTION_BOOL, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(transactions),
	  "stream subscribe", .def = "true", .help = "show begin and commit (wal2json)" },
	{ "decimal-mode", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(decimal_mode),
	  "stream subscribe", "precise|double|string", .help = "debezium's decimal.handling.mode" },
	{ "time-precision", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(time_precision),
	  "stream subscribe", "adaptive|connect|isostring", .help = "debezium's time.precision.mode" },
	{ "interval-mode", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(interval_mode),
	  "stream subscribe", "numeric|string", .help = "debezium's interval.handling.mode" },
	{ "binary-mode", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(binary_mode),
	  "stream subscribe", "bytes|hex|base64", .help = "debezium's binary.handling.mode" },
	{ "hstore-mode", 0, OPTION_ENUM, OPTION_RELOAD | OPTION_MANUAL, AT_OUTPUT(hstore_mode),
	  "stream subscribe", "map|json", .help = "debezium's hstore.handling.mode" },

	{ "schema", 0, OPTION_STRING, 0, AT(schema),
	  "store append read subscribe load parked retain purge", "NAME", "herald", 1, 40, "schema of the event store",
	  "Lower-case letters, digits and underscores. Its roles are NAME_writer and NAME_reader.",
	  .heading = "Event store" },
	{ "stream-id-type", 0, OPTION_ENUM, OPTION_FLAG_ONLY, AT(stream_id_type),
	  "store", "text|uuid", "text", .help = "type of the ids of streams, for init" },
	{ "category", 0, OPTION_STRING, OPTION_FLAG_ONLY, AT(category),
	  "store append read subscribe load retain", "NAME", NULL, 1, 1000, "category of events",
	  "append: of those that name none. read: of those wanted, several separated by commas." },
	{ "stream-id", 0, OPTION_STRING, OPTION_FLAG_ONLY, AT(stream_id),
	  "store append read load", "ID", NULL, 1, 1000, "id of the stream within its category" },
	{ "before", 0, OPTION_INT, OPTION_FLAG_ONLY, AT(before),
	  "store read", "VERSION", "0", 0, INT64_MAX, "the stream's events before this version; 0: all",
	  "Of store truncate: those that go; of store snapshot: those whose state it is." },
	{ "types", 0, OPTION_STRING, OPTION_FLAG_ONLY, AT(types),
	  "read subscribe", "NAMES", NULL, 1, 10000, "types wanted, separated by commas" },
	{ "topics", 0, OPTION_STRING, OPTION_FLAG_ONLY, AT(topics),
	  "read subscribe", "NAMES", NULL, 1, 10000, "topics wanted, separated by commas" },
	{ "after", 0, OPTION_INT, OPTION_FLAG_ONLY, AT(after),
	  "read", "POSITION", "0", 0, INT64_MAX, "begin behind this position",
	  "Of one stream (--stream-id): begin with this version." },
	{ "backward", 0, OPTION_BOOL, OPTION_FLAG_ONLY, AT(backward),
	  "read", .help = "of one stream: the last event first" },
	{ "follow", 0, OPTION_BOOL, OPTION_FLAG_ONLY, AT(follow),
	  "read subscribe", .help = "go on with new events until interrupted" },

	{ "start", 0, OPTION_STRING, OPTION_FLAG_ONLY, AT(start),
	  "subscribe", "WHERE", NULL, 1, 20, "beginning, end or a position; default: beginning",
	  "Of a subscription that is made; one that is there goes on where it is. With --follow the "
	  "default is end." },
	{ "partitions", 0, OPTION_INT, OPTION_FLAG_ONLY, AT(partitions),
	  "subscribe", "N", "0", 0, 1024, "how many may work at the same time; 0: as it is, at first 1",
	  "A stream's events are always in one partition. A process works on one at a time." },
	{ "on-failure", 0, OPTION_ENUM, OPTION_FLAG_ONLY, AT(on_failure),
	  "subscribe", "stop|park|park-stream", .help = "after the last attempt to deliver an event",
	  .more = "stop is the default; park puts the event aside and goes on, park-stream also those of "
		  "its stream that follow." },
	{ "attempts", 0, OPTION_INT, OPTION_FLAG_ONLY, AT(attempts),
	  "subscribe", "N", "0", 0, 1000000, "how often an event that is refused is tried; 0: as it is, at first 5" },
	{ "lease", 0, OPTION_INT, OPTION_FLAG_ONLY | OPTION_MANUAL, AT(lease),
	  "subscribe", "SECONDS", "30", 1, 86400, "after so long without a sign of life others take over" },
	{ "max-sleep", 0, OPTION_INT, OPTION_FLAG_ONLY, AT(max_sleep),
	  "subscribe", "MS", "500", 1, 60000, "look for new events at least this often",
	  "Through a pooler, where nobody can be woken, this is how late an event may come." },

	{ "parked", 0, OPTION_BOOL, OPTION_FLAG_ONLY, AT(parked),
	  "subscribe", .help = "deliver the parked events, in their order, and exit" },
	{ "drop", 0, OPTION_BOOL, OPTION_FLAG_ONLY | OPTION_MANUAL, AT(drop),
	  "subscribe", .help = "remove the subscription, its place and what it has parked, and exit" },

	{ "position", 0, OPTION_INT, OPTION_FLAG_ONLY, AT(position),
	  "store parked", "N", "0", 0, INT64_MAX, "the event at this position; of parked ones 0: all" },
	{ "max-age", 0, OPTION_STRING, OPTION_FLAG_ONLY, AT(max_age),
	  "retain", "TIME", NULL, 1, 20, "events older than this need not be kept, as in 90d" },
	{ "max-count", 0, OPTION_INT, OPTION_FLAG_ONLY, AT(max_count),
	  "retain", "N", "0", 0, INT64_MAX, "events of a stream to keep, the last ones; 0: all" },
	{ "every", 0, OPTION_STRING, OPTION_FLAG_ONLY, AT(every),
	  "purge", "TIME", NULL, 1, 20, "do it again and again, as in 1h, until interrupted" },
	{ "force", 0, OPTION_BOOL, OPTION_FLAG_ONLY, AT(force),
	  "purge", .help = "also what a subscription has still to see" },

	{ "config", 'c', OPTION_STRING, OPTION_FLAG_ONLY, AT(file),
	  "stream check status drop replay store append read subscribe load parked retain purge", "FILE", NULL, 1, 4096, "read settings from a YAML file",
	  "The environment variable PGHERALD_CONFIG names it too.",
	  .heading = "Running" },
	{ "preset", 0, OPTION_ENUM, OPTION_FLAG_ONLY | OPTION_MANUAL, AT(preset),
	  "stream check status drop consume", "pgevents|wal-listener|pgwalstreams",
	  .help = "take over the settings of another program",
	  .more = "Its environment variables and flags are understood, and what its consumers see is "
		  "the same. The environment variable PGHERALD_PRESET names it too." },
	{ "print-config", 0, OPTION_BOOL, OPTION_FLAG_ONLY, AT(print_config),
	  "stream check status drop replay store append read subscribe load parked retain purge", .help = "show the settings that result, and exit" },
	{ "binary", 0, OPTION_BOOL, OPTION_MANUAL, AT(binary),
	  "stream", .def = "false", .help = "ask the server for binary values" },
	{ "log-format", 0, OPTION_ENUM, OPTION_RELOAD, AT(log_format),
	  "stream check status drop replay consume store append read subscribe load parked retain purge", "logfmt|json", "logfmt",
	  .help = "how the lines on standard error are written" },
	{ "log-level", 0, OPTION_ENUM, OPTION_RELOAD, AT(log_level),
	  "stream check status drop replay consume store append read subscribe load parked retain purge", "debug|info|warn|error", "info",
	  .help = "the least that is logged" },
	{ "seconds", 0, OPTION_INT, OPTION_FLAG_ONLY, AT(seconds),
	  "demo", "N", "0", 0, 1000000, "end after so many seconds; 0: when interrupted" },
	{ "json", 0, OPTION_BOOL, OPTION_FLAG_ONLY, AT(json),
	  "check status consume store", .help = "write JSON" },
	{ "yes", 'y', OPTION_BOOL, OPTION_FLAG_ONLY, AT(yes),
	  "drop", .help = "do not ask" },
	{ "help", 'h', OPTION_BOOL, OPTION_FLAG_ONLY, AT(help),
	  .help = "show this" },
};
/* clang-format on */

const size_t options_count = sizeof(options) / sizeof(options[0]);

_Static_assert(sizeof(options) / sizeof(options[0]) <= 128, "output_settings.given is 128 bits");

/* One of the words in a list of words; sep stands between them. */
static bool has_word(const char *words, char sep, struct str word)
{
	while (words) {
		const char *end = strchrnul(words, sep);

		if (str_eq((struct str){ words, (size_t)(end - words) }, word))
			return true;
		words = *end ? end + 1 : NULL;
	}
	return false;
}

bool option_of_verb(const struct option *o, const char *verb)
{
	return !o->verbs || !verb || has_word(o->verbs, ' ', str_c(verb));
}

const struct option *options_argument(const char *verb, size_t n)
{
	for (size_t i = 0; i < options_count; i++)
		if (options[i].flags & OPTION_ARGUMENT && option_of_verb(&options[i], verb) &&
		    n-- == 0)
			return &options[i];
	return NULL;
}

static bool same_char(char c, char in_table, char sep)
{
	if (in_table == '-')
		return sep ? c == sep : c == '-' || c == '_';
	return c == in_table;
}

const struct option *options_find(struct str name, char sep)
{
	for (size_t i = 0; i < options_count; i++) {
		const char *p = options[i].name;
		size_t n = 0;

		while (n < name.n && p[n] && same_char(name.p[n], p[n], sep))
			n++;
		if (n == name.n && !p[n])
			return &options[i];
	}
	return NULL;
}

const struct option *options_find_bool(struct str name, char sep, bool *negated)
{
	const struct option *o = options_find(name, sep);

	*negated = false;
	if (o || name.n < 4 || memcmp(name.p, "no", 2) != 0 || name.p[2] != sep)
		return o;
	o = options_find(str_from(name, 3), sep);
	if (o && o->type != OPTION_BOOL)
		return NULL;
	*negated = true;
	return o;
}

#define NAME_MAX_LEN 32

static char folded(char c)
{
	return c == '_' ? '-' : c;
}

/* Insertions, deletions, replacements and swaps of neighbours that make b of a; - and _ are the
 * same. Row i of the table, the one before it and the one before that are kept. */
static size_t distance(struct str a, struct str b)
{
	size_t rows[3][NAME_MAX_LEN + 1];

	for (size_t j = 0; j <= b.n; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= a.n; i++) {
		size_t *row = rows[i % 3], *above = rows[(i + 2) % 3], *swap = rows[(i + 1) % 3];

		row[0] = i;
		for (size_t j = 1; j <= b.n; j++) {
			bool same = folded(a.p[i - 1]) == folded(b.p[j - 1]);
			bool swapped = i > 1 && j > 1 && a.p[i - 1] == b.p[j - 2] &&
				       a.p[i - 2] == b.p[j - 1];

			row[j] = above[j - 1] + !same;
			if (row[j] > above[j] + 1)
				row[j] = above[j] + 1;
			if (row[j] > row[j - 1] + 1)
				row[j] = row[j - 1] + 1;
			if (swapped && row[j] > swap[j - 2] + 1)
				row[j] = swap[j - 2] + 1;
		}
	}
	return rows[a.n % 3][b.n];
}

const struct option *options_suggest(struct str name, const char *verb)
{
	const struct option *best = NULL;
	size_t least = (name.n + 2) / 3;

	if (name.n > NAME_MAX_LEN)
		return NULL;
	for (size_t i = 0; i < options_count; i++) {
		size_t d = distance(name, str_c(options[i].name));

		if (d <= least && option_of_verb(&options[i], verb)) {
			least = d - (d > 0);
			best = &options[i];
		}
	}
	return best;
}

bool option_is_list(const struct option *o)
{
	return o->type == OPTION_LIST || o->type == OPTION_TABLES || o->type == OPTION_PAIRS;
}

/* What to say of a value in a message. */
#define SHOWN "\"%.*s\""
#define SHOWN_ARG(s) (int)((s).n < 100 ? (s).n : 100), (s).p

static int set_string(const struct option *o, void *field, struct arena *arena, struct str text,
		      struct err *err)
{
	if (text.n == 0 && o->min > 0)
		return err_set(err, ERR_CONFIG, "it is empty");
	if (text.n > (size_t)o->max)
		return err_set(err, ERR_CONFIG, "it is longer than %lld bytes", (long long)o->max);
	*(const char **)field = arena_copy(arena, text.p, text.n);
	return 0;
}

static int set_slot(const struct option *o, void *field, struct arena *arena, struct str text,
		    struct err *err)
{
	bool good = text.n > 0 && text.n <= 63;

	for (size_t i = 0; i < text.n && good; i++)
		good = islower((unsigned char)text.p[i]) || isdigit((unsigned char)text.p[i]) ||
		       text.p[i] == '_';
	if (!good)
		return err_set(err, ERR_CONFIG,
			       SHOWN " is not a slot's name: 1 to 63 lower-case "
				     "letters, digits and underscores",
			       SHOWN_ARG(text));
	*(const char **)field = arena_copy(arena, text.p, text.n);
	return 0;
}

/* Two hexadecimal numbers of up to 8 digits with a slash between them. */
static bool is_lsn(struct str s)
{
	size_t digits = 0, slashes = 0;

	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] == '/' && digits > 0 && slashes++ == 0)
			digits = 0;
		else if (!isxdigit((unsigned char)s.p[i]) || ++digits > 8)
			return false;
	}
	return slashes == 1 && digits > 0;
}

static int set_position(const struct option *o, void *field, struct arena *arena, struct str text,
			struct err *err)
{
	if (!str_eq(text, STR("now")) && !is_lsn(text))
		return err_set(err, ERR_CONFIG, SHOWN " is neither now nor an LSN such as 0/16B3748",
			       SHOWN_ARG(text));
	*(const char **)field = arena_copy(arena, text.p, text.n);
	return 0;
}

static int set_enum(const struct option *o, void *field, struct arena *arena, struct str text,
		    struct err *err)
{
	if (!has_word(o->arg, '|', text))
		return err_set(err, ERR_CONFIG, SHOWN " is not one of %s", SHOWN_ARG(text), o->arg);
	*(const char **)field = arena_copy(arena, text.p, text.n);
	return 0;
}

static int set_bool(const struct option *o, void *field, struct arena *arena, struct str text,
		    struct err *err)
{
	bool yes = has_word("true|yes|on|1", '|', text);

	if (!yes && !has_word("false|no|off|0", '|', text))
		return err_set(err, ERR_CONFIG, SHOWN " is neither true nor false", SHOWN_ARG(text));
	*(bool *)field = yes;
	return 0;
}

static int set_int(const struct option *o, void *field, struct arena *arena, struct str text,
		   struct err *err)
{
	bool good = text.n > 0;
	int64_t v = 0;

	for (size_t i = 0; i < text.n && good; i++)
		good = isdigit((unsigned char)text.p[i]) && !__builtin_mul_overflow(v, 10, &v) &&
		       !__builtin_add_overflow(v, text.p[i] - '0', &v);
	if (!good || v < o->min || v > o->max)
		return err_set(err, ERR_CONFIG, SHOWN " is not a whole number from %lld to %lld",
			       SHOWN_ARG(text), (long long)o->min, (long long)o->max);
	*(int64_t *)field = v;
	return 0;
}

static int check_item(const struct option *o, struct arena *arena, struct str item, struct err *err)
{
	struct glob_name pattern;
	const char *eq;

	if (item.n == 0)
		return err_set(err, ERR_CONFIG, "the list has an empty item");
	if (o->type == OPTION_LIST && strchr(o->arg, '|') && !has_word(o->arg, '|', item))
		return err_set(err, ERR_CONFIG, SHOWN " is not one of %s", SHOWN_ARG(item), o->arg);
	eq = memchr(item.p, '=', item.n);
	if (o->type == OPTION_PAIRS && (!eq || eq == item.p))
		return err_set(err, ERR_CONFIG, SHOWN " is not NAME=VALUE", SHOWN_ARG(item));
	if (o->type == OPTION_TABLES && glob_name_parse(&pattern, arena, item, err))
		return err_add(err, SHOWN, SHOWN_ARG(item));
	return 0;
}

int option_set_list(const struct option *o, void *field, struct arena *arena, struct strings items,
		    struct err *err)
{
	if (items.n == 0)
		return err_set(err, ERR_CONFIG,
			       "the list is empty; leave it out to have the default");
	for (size_t i = 0; i < items.n; i++)
		if (check_item(o, arena, str_c(items.v[i]), err))
			return -1;
	*(struct strings *)field = items;
	return 0;
}

static struct str trim(struct str s)
{
	while (s.n && s.p[0] == ' ')
		s = str_from(s, 1);
	while (s.n && s.p[s.n - 1] == ' ')
		s.n--;
	return s;
}

/* The length up to the next comma that is not in double quotes. */
static size_t item_len(struct str s)
{
	bool quoted = false;
	size_t n = 0;

	for (; n < s.n && (quoted || s.p[n] != ','); n++)
		quoted ^= s.p[n] == '"';
	return n;
}

static int set_list(const struct option *o, void *field, struct arena *arena, struct str text,
		    struct err *err)
{
	struct strings items = { 0 };
	size_t most = 1;

	for (size_t i = 0; i < text.n; i++)
		most += text.p[i] == ',';
	items.v = arena_alloc(arena, most * sizeof(*items.v));
	for (bool more = text.n > 0; more;) {
		size_t n = item_len(text);
		struct str item = trim((struct str){ text.p, n });

		items.v[items.n++] = arena_copy(arena, item.p, item.n);
		more = n < text.n;
		text = str_from(text, n + more);
	}
	return option_set_list(o, field, arena, items, err);
}

int option_set(const struct option *o, void *field, struct arena *arena, struct str text,
	       struct err *err)
{
	static int (*const set[])(const struct option *o, void *field, struct arena *arena,
				  struct str text, struct err *err) = {
		[OPTION_STRING] = set_string,     [OPTION_SLOT] = set_slot,
		[OPTION_POSITION] = set_position, [OPTION_ENUM] = set_enum,
		[OPTION_BOOL] = set_bool,         [OPTION_INT] = set_int,
		[OPTION_LIST] = set_list,         [OPTION_TABLES] = set_list,
		[OPTION_PAIRS] = set_list,
	};

	return set[o->type](o, field, arena, text, err);
}

static size_t field_size(const struct option *o)
{
	if (option_is_list(o))
		return sizeof(struct strings);
	return o->type == OPTION_BOOL  ? sizeof(bool)
	       : o->type == OPTION_INT ? sizeof(int64_t)
				       : sizeof(const char *);
}

void option_copy(const struct option *o, void *to, const void *from)
{
	memcpy(to, from, field_size(o));
}

bool option_unset(const struct option *o, const void *field)
{
	if (option_is_list(o))
		return ((const struct strings *)field)->n == 0;
	return o->type != OPTION_BOOL && o->type != OPTION_INT && !*(const char *const *)field;
}

static bool strings_equal(const struct strings *a, const struct strings *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->v[i], b->v[i]) != 0)
			return false;
	return true;
}

bool option_equal(const struct option *o, const void *a, const void *b)
{
	if (option_unset(o, a) || option_unset(o, b))
		return option_unset(o, a) && option_unset(o, b);
	if (option_is_list(o))
		return strings_equal(a, b);
	if (o->type == OPTION_BOOL || o->type == OPTION_INT)
		return memcmp(a, b, field_size(o)) == 0;
	return str_eq(str_c(*(const char *const *)a), str_c(*(const char *const *)b));
}
