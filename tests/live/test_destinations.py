"""What holds for every destination: one story, told of each."""
import contextlib
import json
import os
import sqlite3
import tempfile
import urllib.parse

import pytest

import delivery
import herald as program
import kafka_server
import postgres
import store
from amqp_server import Rabbit
from mqtt_server import Mosquitto
from nats_server import NatsServer
from redis_server import RedisServer
from test_restart import resident_kib
from webhook_server import Receiver

BODY = "x" * 500
ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", 3))
STILL = 60 if ROUNDS >= 30 else 6.5  # seconds


# Each is url, freeze(), and events(), which is told how to know the last one where it has to wait.


@contextlib.contextmanager
def nats(new_proxy):
    with NatsServer() as server:
        proxy = new_proxy(server.port)
        yield server.url("?stream=S", port=proxy.port), still(proxy), lambda _: server.events("S")


@contextlib.contextmanager
def redis(new_proxy):
    with RedisServer() as server:
        proxy = new_proxy(server.port)
        yield server.url("rows", port=proxy.port), still(proxy), lambda _: server.events("rows")


@contextlib.contextmanager
def mqtt(new_proxy):
    with Mosquitto() as server:
        reader, proxy = server.subscribe(), new_proxy(server.port)

        def events(is_last):
            reader.wait_for(lambda: is_last(json.loads(reader.messages[-1].body)))
            return [json.loads(m.body) for m in reader.messages]
        yield server.url("all", port=proxy.port), still(proxy), events


@contextlib.contextmanager
def amqp(new_proxy):
    with Rabbit() as server:
        queue, proxy = server.bind("x"), new_proxy(server.port)
        yield (server.url(exchange="x", port=proxy.port), still(proxy),
               lambda _: [json.loads(m.body) for m in server.take(queue)])


@contextlib.contextmanager
def kafka(new_proxy):
    with contextlib.closing(kafka_server.Kafka()) as server:
        yield server.url("all"), server.freeze, lambda _: server.bodies("all")


@contextlib.contextmanager
def kafka_transactional(new_proxy):
    with contextlib.closing(kafka_server.Kafka()) as server:
        yield server.url("all", transactional="shop"), server.freeze, lambda _: server.bodies("all")


@contextlib.contextmanager
def webhook(new_proxy):
    server = Receiver()
    proxy = new_proxy(server.port)
    yield f"http://127.0.0.1:{proxy.port}/?batch=100", still(proxy), lambda _: server.events
    server.stop()


@contextlib.contextmanager
def table(new_proxy):
    with postgres.Postgres(tcp=True) as server:
        proxy = new_proxy(server.port)
        yield (f"postgres://postgres@127.0.0.1:{proxy.port}/postgres?table=events", still(proxy),
               lambda _: [row[0] for row in server.sql("select event from events order by n")])


def still(proxy):
    """freeze() by the network."""
    def freeze(frozen=True):
        proxy.still = frozen
    return freeze


NETWORK = (nats, amqp, kafka, kafka_transactional, redis, mqtt, webhook, table)


# And those of this machine. A file is frozen by nothing.


@contextlib.contextmanager
def sqlite(_):
    with tempfile.TemporaryDirectory() as folder:
        def freeze(frozen=True):
            if frozen:
                held.append(sqlite3.connect(f"{folder}/x", isolation_level=None))
                held[0].execute("begin immediate")
            else:
                held.pop().close()
        held = []

        def events(_):
            with contextlib.closing(sqlite3.connect(f"{folder}/x")) as db:
                return [json.loads(row[0]) for row in db.execute("select event from events order by n")]
        yield f"sqlite:{folder}/x?table=events", freeze, events


def lines(url, *, can_freeze):
    @contextlib.contextmanager
    def destination(_):
        with tempfile.TemporaryDirectory() as folder:
            def freeze(frozen=True):
                (os.mkdir if frozen else os.rmdir)(f"{folder}/gate")

            def events(_):
                with open(f"{folder}/x") as f:
                    return [json.loads(line) for line in f]
            yield url.format(folder), freeze if can_freeze else None, events
    destination.__name__ = url.partition(":")[0]
    return destination


file = lines("file:{}/x", can_freeze=False)
exec_ = lines("exec:cd {}; while [ -e gate ]; do sleep 0.1; done; cat >> x?ack=exit", can_freeze=True)
LOCAL = (sqlite, file, exec_)
# Where the table of destinations in README says that nothing comes twice.
EXACT = (nats, kafka_transactional, redis, table, sqlite)


LAST = 5000


@pytest.mark.parametrize("destination", (*NETWORK, sqlite, exec_), ids=lambda d: d.__name__)
def test_case_2_and_12_a_destination_that_stands_still_holds_the_slot_and_costs_no_connection(
        new_server, herald, new_proxy, destination):
    # Given a server that gives up on silent receivers after 2 s, and a destination that stands still
    db = postgres.Database(new_server(wal_sender_timeout="2s"))
    delivery.make_tables(db)
    with destination(new_proxy) as (url, freeze, events):
        stream = herald(db, "--to", url)
        delivery.insert(db, 1, 10)
        stream.wait_confirmed(db)
        sender = db.slot_state()["active_pid"]
        freeze()

        # when an event and then some more have waited for three times that, or for a minute
        delivery.insert(db, 11, 11)
        first = db.wal_lsn()
        db.sql(f"insert into a select n, '{BODY}' from generate_series(12, {LAST}) n")
        db.sql("select pg_sleep(%s)", (STILL,))

        # then the slot is before it, over the same connection, in little memory
        assert db.slot_state()["confirmed"] < first
        assert db.slot_state()["active_pid"] == sender
        assert resident_kib(stream.pid) < 400_000  # a sanitizer's own share included

        # and all arrives when it goes on, once where that is promised; what comes again has its id
        freeze(False)
        stream.wait_confirmed(db)
        delivery.check(events(lambda e: e["new"]["n"] == LAST), {"a": range(1, LAST + 1)},
                       repeats=destination not in EXACT)
        stream.stop()


@pytest.mark.parametrize("destination", NETWORK + LOCAL, ids=lambda d: d.__name__)
def test_case_19_a_changed_key_beside_a_long_value(db, herald, new_proxy, destination):
    # Given a table whose long values are stored out of line
    db.sql("create table t (id int primary key, v text); alter table t alter v set storage external")
    with destination(new_proxy) as (url, _, events):
        stream = herald(db, "--to", url)

        # when the key of a row changes and its long value does not
        db.sql("insert into t select 1, repeat('x', 9000)")
        db.sql("update t set id = 2")
        db.sql("delete from t")
        stream.wait_confirmed(db)
        stream.stop()
        inserted, updated, deleted = events(lambda e: e["action"] == "delete")

        # then the event has both keys, and says of the value that it is as before
        assert inserted["key"] == {"id": 1} and inserted["new"] == {"id": 1, "v": "x" * 9000}
        assert updated["key"] == {"id": 2} and updated["old"] == {"id": 1}
        assert updated["new"] == {"id": 2} and updated["unchanged"] == ["v"]
        assert deleted["key"] == {"id": 2} and "new" not in deleted


# CloudEvents with their attributes in headers


@contextlib.contextmanager
def nats_headers():
    with NatsServer() as server:
        def read():
            _, headers, body = server.messages("S")[0]
            return dict(line.split(": ", 1) for line in headers.split("\r\n")[1:] if line), body
        yield server.url("?stream=S"), "ce-", True, ("ce-datacontenttype", "application/json"), read


@contextlib.contextmanager
def amqp_headers():
    with Rabbit() as server:
        queue = server.bind("x")

        def read():
            message, = server.take(queue)
            return {**message.headers, "type": message.properties["content_type"]}, message.body
        yield server.url(exchange="x"), "cloudEvents:", False, ("type", "application/json"), read


@contextlib.contextmanager
def kafka_headers():
    with contextlib.closing(kafka_server.Kafka()) as server:
        def read():
            message, = server.read("all")
            return message.headers, message.body
        yield server.url("all"), "ce_", False, ("content-type", "application/json"), read


@contextlib.contextmanager
def mqtt_headers():
    with Mosquitto() as server:
        reader = server.subscribe()

        def read():
            message, = reader.wait(1)
            properties = message.properties
            return {**properties["user-properties"], "t": properties["content-type"]}, message.body
        yield server.url("all"), "", False, ("t", "application/json"), read


@contextlib.contextmanager
def webhook_headers():
    server = Receiver()

    def read():
        request, = server.taken
        return {name.lower(): value for name, value in request.headers.items()}, request.body
    yield server.url(), "ce-", True, ("content-type", "application/json"), read
    server.stop()


with_headers = pytest.mark.parametrize("destination", (nats_headers, amqp_headers, kafka_headers, mqtt_headers,
                                                       webhook_headers), ids=lambda d: d.__name__.partition("_")[0])


@with_headers
def test_cloudevents_in_binary_mode_have_their_attributes_in_headers(db, herald, destination):
    # Given a table whose name is not ASCII, and one row
    db.sql('create table "tä" (id int primary key)')
    with destination() as (url, prefix, escaped, content_type, read):
        stream = herald(db, "--to", url, "--format", "cloudevents", "--cloudevents-mode", "binary")
        db.sql('insert into "tä" values (1)')
        stream.wait_confirmed(db)
        headers, body = read()

        # then the body is the data, and the rest is in the headers
        assert json.loads(body) == {"new": {"id": 1}}
        assert len(headers[f"{prefix}id"]) == 25 and headers[f"{prefix}time"].endswith("Z")
        kind, subject = "pgherald.public.tä.insert", '{"id":1}'
        assert headers[f"{prefix}type"] == (kind.replace("ä", "%C3%A4") if escaped else kind)
        assert headers[f"{prefix}subject"] == (subject.replace('"', "%22") if escaped else subject)
        assert headers[f"{prefix}source"] == f"/pgherald/{db.name}/public/t%C3%A4".replace(
            "%", "%25" if escaped else "%")
        assert headers[f"{prefix}specversion"] == "1.0"
        assert headers[content_type[0]] == content_type[1]
        stream.stop()


@with_headers
@pytest.mark.skipif(postgres.server_major() < 13, reason="the event store needs PostgreSQL 13")
def test_domain_events_in_binary_mode_have_all_their_attributes(db, herald, destination):
    # Given an event store
    store.init(db)
    event = {"type": "Placed", "id": "6b1b36cb-cba5-4e9f-a8a1-3fd2e38a4e0a", "topic": "money", "data": {"total": 5},
             "metadata": {"by": "me"}}
    with destination() as (url, prefix, _, _, read):
        stream = herald(db, "--to", url, "--format", "cloudevents", "--cloudevents-mode", "binary")

        # when an event is appended that has everything an event can have
        db.sql("select herald.append('order', '42', %s)", (json.dumps(event),))
        stream.wait_confirmed(db)
        headers, body = read()
        stream.stop()

    # then its id is its own, and the place in the log stands beside it
    names = ("type", "subject", "category", "topic", "id", "specversion")
    assert json.loads(body) == event["data"]
    assert [headers[prefix + name] for name in names] == ["Placed", "42", "order", "money", event["id"], "1.0"]
    assert len(headers[f"{prefix}position"]) == 25 and headers[f"{prefix}version"]
    assert json.loads(urllib.parse.unquote(headers[f"{prefix}metadata"])) == event["metadata"]


@pytest.mark.parametrize(("url", "words"), (
    ("redis://h/x", "have no headers"), ("file:x", "have no headers"),
    ("nats://h/x?on_refused=dead-letter&dead_letter=file:d", "dead letters keep no headers")))
def test_cloudevents_in_binary_mode_where_there_are_no_headers(url, words):
    done = program.run("stream", "dbname=x", "--to", url, "--format", "cloudevents",
                       "--cloudevents-mode", "binary")
    assert done.code == 78 and words in done.err


@pytest.mark.parametrize("url", ("tls://h/x?stream=S&", "amqps://h/?", "kafka://h/x?", "rediss://h/x?", "mqtts://h/x?",
                                 "https://h/x?"))
def test_what_is_misspelt_or_cannot_be_read_is_named_before_anything_starts(url):
    scheme = url.partition(":")[0]
    done = program.run("stream", "dbname=x", "--to", f"{url}ca=/missing/ca.pem")
    assert done.code == 78 and "ca: cannot read /missing/ca.pem: No such file" in done.err
    if scheme != "https":  # where they belong to the target
        done = program.run("stream", "dbname=x", "--to", f"{url}cu=x")
        assert done.code == 78 and 'has no parameter \\"cu\\"; there are ' in done.err and " ca, cert" in done.err


def test_a_writer_has_a_name_of_its_own():
    done = program.run("stream", "dbname=x", "--to", "redis://h/x?writer=a", "--to", "mqtt://h/x?writer=a")
    assert done.code == 78 and "two outputs are the writer a: give each a name of its own" in done.err
    done = program.run("stream", "dbname=x", "--to", "redis://h/x?writer=a/b")
    assert done.code == 78 and 'writer \\"a/b\\" may have only letters' in done.err


@pytest.mark.parametrize("args", (
    ("--to", "redis://:s3cret@127.0.0.1:1/x"), ("--to=redis://:s3cret@127.0.0.1:1/x",),
    ("--to", "amqp://me:s3cret@127.0.0.1:1/x?exchange=x"), ("--to", "nats://s3cret@127.0.0.1:1/x"),
    ("--to", "nats://127.0.0.1:1/x?token=s3cret"), ("--to", "postgres://127.0.0.1:1/x?table=x&password=s3cret"),
    ("--to", "kafka://127.0.0.1:1/x?p.sasl.username=me&p.sasl.password=s3cret"),
    ("--to", "kafka://127.0.0.1:1/x?p.ssl.key.password=s3cret"), ("--to", "http://127.0.0.1:1/x?secret=s3cret"),
    ("--to", "http://127.0.0.1:1/x?header.Authorization=Bearer%20s3cret"),
    ("--to", "http://127.0.0.1:1/x?header.Cookie=s3cret"), ("--to", "null:", "--dead-letter", "mqtt://a:s3cret@h/x"),
    ("--to", "mqtt://a:s3cret@127.0.0.1:1/x?on_refused=dead-letter&dead_letter=mqtt://a:s3cret@127.0.0.1:1/y"),
    ("--to", "mqtt://127.0.0.1:1/x?on_refused=dead-letter&dead_letter=http%3A%2F%2Fh%2Fx%3Fsecret%3Ds3cret")),
    ids=lambda a: a[-1].replace("127.0.0.1:1", "h"))
def test_case_64_passwords_are_nowhere_to_be_seen(db, herald, args):
    # Given a password in a URL and one in the connection
    known = db.conninfo
    shown = program.run("stream", f"{known} password=s3cret", *args, "--print-config")
    stream = program.Herald("stream", f"{known} password=s3cret", "--slot", db.slot, "--log-level", "debug", *args)
    try:
        stream.wait_until(lambda: "trying again" in stream.err or "null:" in args and "level=" in stream.err,
                          "it to begin")

        # then who looks at processes, settings and logs sees all but these
        with open(f"/proc/{stream.pid}/cmdline", "rb") as f:
            title = f.read().decode()
        assert "s3cret" not in title and "***" in title and db.slot in title and known.split()[0] in title
        assert "s3cret" not in stream.err
        assert shown.code == 0 and "s3cret" not in shown.out + shown.err
    finally:
        stream.kill9()
