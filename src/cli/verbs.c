#include "cli/verbs.h"

const struct verb verbs[] = {
	{ "stream", "deliver every committed change as an event",
	  "pgherald stream postgresql://me@localhost/shop --to file:shop.json",
	  "Reads the committed changes of a database through a replication slot and delivers them\n"
	  "in commit order. The slot moves on only past what every output has taken.\n",
	  stream_run },
	{ "check", "tell whether streaming can start, and what to do where it cannot",
	  "pgherald check postgresql://me@localhost/shop",
	  "Looks at the server, the role, slots, publication and tables. Each finding comes with\n"
	  "the SQL that mends it; the exit code is 0 when streaming can start.\n",
	  check_run },
	{ "status", "show slots, publications, lag and who is connected",
	  "pgherald status postgresql://me@localhost/shop",
	  "Shows how far behind each slot is, in bytes and in time.\n", status_run },
	{ "drop", "remove the slot and the publication",
	  "pgherald drop postgresql://me@localhost/shop --slot pgherald",
	  "Says what it will remove and asks before it does. Events that no output has taken are\n"
	  "given up with the slot.\n",
	  drop_run },
	{ "replay", "send events again that an output had refused",
	  "pgherald replay refused.json --to nats://localhost/shop.{table}?stream=SHOP",
	  "Reads dead letters and sends each to where it was to go, with its key and its id.\n",
	  replay_run },
	{ "consume", "show the messages that arrive at a destination",
	  "pgherald consume 'amqp://localhost/?exchange=pgherald' --keys 'public.users.*'",
	  "Prints address, id and event of each message, with tabs between them, unpacked where "
	  "it\n"
	  "is compressed. Given an exchange it looks on; from a queue it takes messages off.\n",
	  consume_run },
	{ "store", "make the event store in a database, look at it",
	  "pgherald store init postgresql://me@localhost/shop",
	  "init makes the schema or brings it up to date, as often as it is called; check tells "
	  "what\n"
	  "is wrong with it; stats shows its size and what is in flight. snapshot stores a state;\n"
	  "truncate, delete and redact remove what is not to be kept.\n",
	  store_run },
	{ "append", "append events to the store, from JSON lines",
	  "pgherald append postgresql://me@localhost/shop --category order <events.json",
	  "Each line of standard input is an event, {\"category\", \"stream\", \"type\", \"data\", "
	  "...}.\n"
	  "They are appended in bulk, in this order.\n",
	  append_run },
	{ "read", "print events of the store as JSON lines",
	  "pgherald read postgresql://me@localhost/shop --category order --follow",
	  "Prints all events in the order of the feed, or those that were asked for.\n", read_run },
	{ "subscribe", "deliver a subscription of the event store to any destination",
	  "pgherald subscribe mailer postgresql://me@localhost/shop --to exec:./mailer",
	  "Several processes share a subscription's partitions. What all outputs have taken is\n"
	  "acknowledged. With --follow and without a name it shows new events.\n",
	  subscribe_run },
	{ "load", "print what an aggregate is made of",
	  "pgherald load postgresql://me@localhost/shop --category order --stream-id 42",
	  "Prints the stream's snapshot, if there is one, and the events behind it as JSON "
	  "lines.\n",
	  load_run },
	{ "parked", "look at events that a subscription has put aside",
	  "pgherald parked list mailer postgresql://me@localhost/shop",
	  "list shows them, and why; retry prints each as a JSON line and takes it off the list; "
	  "drop\n"
	  "takes it off unseen.\n",
	  parked_run },
	{ "retain", "say how long events are kept",
	  "pgherald retain postgresql://me@localhost/shop --category log --max-age 90d",
	  "Events of the category that are older, or beyond so many of each stream, go with the "
	  "next\n"
	  "purge. Without either they are kept for ever.\n",
	  retain_run },
	{ "purge", "remove events that need not be kept",
	  "pgherald purge postgresql://me@localhost/shop --every 1h",
	  "Removes what retain allows, in small batches, never what a subscription has still to "
	  "see.\n",
	  purge_run },
	{ "demo", "show events of a small shop on a throwaway PostgreSQL",
	  "pgherald demo --seconds 10",
	  "Starts a private PostgreSQL in a temporary folder, runs a small shop on it and prints "
	  "its\n"
	  "events as they commit. All of it is gone at the end.\n",
	  demo_run },
	{ 0 },
};

const struct verb *verbs_find(const char *name)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (strcmp(v->name, name) == 0)
			return v;
	return NULL;
}
