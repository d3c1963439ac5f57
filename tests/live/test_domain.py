"""Domain events out of the log: what is appended to the event store, without polling."""
import json

import pytest

import postgres
import store

pytestmark = pytest.mark.skipif(postgres.server_major() < 13, reason="the event store needs PostgreSQL 13")

SAME = ("category", "stream", "version", "id", "type", "data", "metadata", "topic")


def plain(events):
    """Native events of action `event` as the store's view shows them, without position and time."""
    return [{**{name: e.get(name) for name in SAME}, "id": e["uuid"]} for e in events]


def stored(db):
    here = store.open_store(db)
    events = here.read()
    here.connection.close()
    return [{name: e[name] for name in SAME} for e in events]


@pytest.fixture
def shop(db):
    """A database with a store and a table of its own."""
    store.init(db)
    db.sql("create table item (n int primary key)")
    here = store.open_store(db)
    yield here
    here.connection.close()


def test_an_append_is_one_event(db, shop, herald):
    # given a stream of a database with an event store
    stream = herald(db)
    # when events are appended, in any way there is
    shop.append("42", store.event("Placed", data={"total": 5}))
    shop.append("42", [store.event("Paid", topic="money", metadata={"by": "me"}), store.event("Sent")])
    shop.append("7", store.event("Joined"), category="customer")
    shop.call("append_many", json.dumps([store.event("A", stream="1"), store.event("B", stream="2")]), "order")
    # then each is one event, as the store shows it, and there is nothing else
    assert plain(stream.wait_for(6)) == stored(db)
    assert [e["action"] for e in stream.stop()] == ["event"] * 6
    first, *_, last = stream.events
    assert (first["time"], first["db"]) == (
        shop._events("select to_jsonb(to_char(time at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')) "
                     "from herald.event order by position limit 1", {})[0], db.name)
    assert "schema" not in first and "table" not in first and "new" not in first
    assert sorted(e["id"] for e in stream.events) == [e["id"] for e in stream.events]


def test_the_outbox_with_rows_of_the_same_transaction(db, shop, herald):
    # given a transaction that writes a row and appends, one that is rolled back, and a savepoint
    stream = herald(db)
    db.transaction("insert into item values (1)",
                   """select herald.append('order', '1', '{"type": "Placed"}')""",
                   "insert into item values (2)")
    db.sql("""begin; select herald.append('order', '1', '{"type": "Lost"}'); rollback""")
    db.sql("""begin; select herald.append('order', '1', '{"type": "Kept"}'); savepoint s;
           select herald.append('order', '2', '{"type": "Lost"}'); rollback to s;
           select herald.append('order', '1', '{"type": "Kept too"}'); commit""")
    # then rows and events come in the order in which they were written
    said = [e.get("type") or e["new"]["n"] for e in stream.wait_for(5)]
    assert said == [1, "Placed", 2, "Kept", "Kept too"]
    assert [e.get("version") for e in stream.stop()] == [None, 0, None, 1, 2]


def test_maintenance_is_no_event(db, shop, herald):
    # given a store in which everything happens but an append
    shop.append("1", [store.event("A", data={"secret": 1}), store.event("B")])
    stream = herald(db)
    db.sql("select herald.subscribe('s'); select herald.snapshot_put('order', '1', 1, '{}')")
    token, = db.sql("select token from herald.claim('s', 'me')")[0]
    db.sql("select herald.fetch('s', 0, %s)", (token,))
    db.sql("select herald.ack('s', 0, %s, 1); select herald.release('s', 0, %s)", (token, token))
    db.sql("select herald.redact(1); select herald.retain('order', max_count => 1)")
    db.sql("select herald.purge(10, true); select herald.truncate('order', '1', 1)")
    db.sql("select herald.delete('order', '1')")
    # when an event is appended after all that
    shop.append("2", store.event("C"))
    # then it is the first event of the stream
    assert [e["type"] for e in stream.wait_for(1)] == ["C"]
    assert len(stream.stop()) == 1


def test_a_store_by_another_name(db, herald):
    # given two stores, whose streams have the same numbers, and tables that are only called like them
    store.init(db)
    store.init(db, "audit", "uuid")
    db.sql("create schema mine; create table mine.entry (n int primary key); "
           "create table mine.stream (n int primary key)")
    stream = herald(db)
    one, two = store.open_store(db), store.open_store(db)
    two.schema = "audit"
    id = "6b1b36cb-cba5-4e9f-a8a1-3fd2e38a4e0a"
    # when both are appended to in turns
    for n in range(3):
        one.append("1", store.event(f"one {n}"))
        two.append(id, store.event(f"two {n}"))
    db.sql("insert into mine.entry values (1); insert into mine.stream values (2)")
    # then each event has its own stream, and the other tables are what they are
    events = stream.wait_for(8)
    assert [(e["stream"], e["type"]) for e in events[:6]] == [
        (s, f"{t} {n}") for n in range(3) for s, t in (("1", "one"), (id, "two"))]
    assert [(e["action"], e["table"]) for e in events[6:]] == [("insert", "entry"), ("insert", "stream")]
    one.connection.close()
    two.connection.close()


def test_patterns_and_actions(db, shop, herald, tmp_path):
    # given outputs that want a category, events alone, rows alone, and all but a category
    wants = {"order": "tables=herald.order", "events": "actions=event", "rows": "actions=insert",
             "but": "tables=!order&format=native"}
    stream = herald(db, *(a for name, url in wants.items() for a in ("--to", f"file:{tmp_path}/{name}?{url}")))
    # when there is something of each
    shop.append("1", store.event("A"))
    shop.append("2", store.event("B"), category="customer")
    db.sql("insert into item values (1)")
    shop.append("1", store.event("C"))
    stream.wait_confirmed(db)
    stream.stop()
    # then each has what it wants
    def said(name):
        with open(tmp_path / name) as f:
            return [e.get("type", e["action"]) for e in map(json.loads, f)]
    assert said("order") == ["A", "C"]
    assert said("events") == ["A", "B", "C"]
    assert said("rows") == ["insert"]
    assert said("but") == ["B", "insert"]


def test_a_publication_for_a_category(db, shop, herald):
    # given tables that are all named, one of them a category of the store
    stream = herald(db, "--tables", "herald.order,public.item")
    # when something is appended
    shop.append("1", store.event("A"))
    db.sql("insert into item values (1)")
    # then it comes, though only these tables are published
    assert [e["action"] for e in stream.wait_for(2)] == ["event", "insert"]
    assert sorted(r[0] for r in db.sql("select tablename from pg_publication_tables")) == ["entry", "item", "stream"]
    stream.stop()


def test_an_entry_whose_stream_is_not_in_the_log(db, shop, herald):
    # given a publication without the table of streams
    db.sql(f"create publication {db.slot} for table herald.entry")
    stream = herald(db, "--publication", db.slot)
    # when events are appended, old streams and new
    for n in range(3):
        shop.append("1", store.event(f"{n}"))
        shop.append("2", store.event(f"{n}"))
    # then their streams are looked up
    assert plain(stream.wait_for(6)) == stored(db)
    stream.stop()


def test_a_large_transaction_is_not_held(db, shop, herald):
    # given a stream of which nothing is read
    stream = herald(db, read=False)
    # when one transaction appends 200,000 events to two streams
    db.sql("""do $$ begin for n in 1..200 loop
        perform herald.append('order', (n % 2)::text, (select jsonb_agg(jsonb_build_object(
            'type', 'T', 'data', jsonb_build_object('n', n * 1000 + i))) from generate_series(0, 999) i));
        end loop; end $$""")
    # then memory stays as it is while they wait, and all of them come in order
    shop.append("end", store.event("End"))
    stream.drain()
    events = stream.wait_for(200001)
    with open(f"/proc/{stream.pid}/status") as f:
        peak = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
    assert [e["data"]["n"] for e in events[:-1]] == list(range(1000, 201000))
    assert peak < 400 * 1024, f"{peak} KiB"
    stream.stop()


def test_restart_in_the_middle(db, shop, herald, tmp_path):
    # given a stream into a file that is killed again and again
    path = tmp_path / "events"
    for n in range(5):
        stream = herald(db, file=path)
        for i in range(20):
            shop.append(str(i % 3), store.event(f"{n * 20 + i}"))
        stream.wait_for(n * 20 + 7)
        stream.kill9()
    # when it comes to the end
    stream = herald(db, file=path)
    stream.wait_for(100)
    # then the file holds each event once, in order
    assert [e["type"] for e in stream.stop()] == [str(n) for n in range(100)]


def test_formats_that_show_rows(db, shop, herald, tmp_path):
    # given an output in each format
    formats = ("pgevents", "wal-listener", "wal2json", "debezium", "cloudevents", "pretty")
    stream = herald(db, *(a for f in formats for a in ("--to", f"file:{tmp_path}/{f}?format={f}")))
    # when an event is appended
    shop.append("42", store.event("Placed", data={"total": 5}))
    stream.wait_confirmed(db)
    stream.stop()
    # then each shows it in its way
    def text(name):
        return (tmp_path / name).read_text()
    assert json.loads(text("pgevents"))["table_name"] == "herald.order"
    assert json.loads(text("wal-listener"))["data"]["data"] == {"total": 5}
    assert [json.loads(line)["action"] for line in text("wal2json").splitlines()] == ["B", "I", "C"]
    assert json.loads(text("debezium"))["after"]["type"] == "Placed"
    assert json.loads(text("cloudevents"))["type"] == "Placed"
    assert "order/42  0  Placed" in text("pretty")
