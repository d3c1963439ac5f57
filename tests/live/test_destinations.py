"""What holds for every destination: one story, told of each."""
import contextlib
import json

import pytest

import delivery
import kafka_server
import postgres
from amqp_server import Rabbit
from mqtt_server import Mosquitto
from nats_server import NatsServer
from redis_server import RedisServer
from test_restart import resident_kib
from webhook_server import Receiver

BODY = "x" * 500


@contextlib.contextmanager
def nats(new_proxy):
    with contextlib.ExitStack() as stack:
        server = NatsServer().start()
        stack.callback(server.remove)
        proxy = new_proxy(server.port)
        yield server.url("?stream=S", port=proxy.port), still(proxy), lambda: server.events("S")


@contextlib.contextmanager
def redis(new_proxy):
    with contextlib.ExitStack() as stack:
        server = RedisServer().start()
        stack.callback(server.remove)
        proxy = new_proxy(server.port)
        yield server.url("rows", port=proxy.port), still(proxy), lambda: server.events("rows")


@contextlib.contextmanager
def mqtt(new_proxy):
    with contextlib.ExitStack() as stack:
        server = Mosquitto()
        stack.callback(server.remove)
        reader, proxy = server.subscribe(), new_proxy(server.port)

        def events():
            reader.wait_for(lambda: json.loads(reader.messages[-1].body)["new"]["n"] == LAST)
            return [json.loads(m.body) for m in reader.messages]
        yield server.url("all", port=proxy.port), still(proxy), events


@contextlib.contextmanager
def amqp(new_proxy):
    with Rabbit() as server:
        queue, proxy = server.bind("x"), new_proxy(server.port)
        yield (server.url(exchange="x", port=proxy.port), still(proxy),
               lambda: [json.loads(m.body) for m in server.take(queue)])


@contextlib.contextmanager
def kafka(new_proxy):
    with contextlib.closing(kafka_server.Kfake()) as server:
        yield server.url("all"), server.freeze, lambda: server.bodies("all")


@contextlib.contextmanager
def webhook(new_proxy):
    server = Receiver()
    proxy = new_proxy(server.port)
    yield f"http://127.0.0.1:{proxy.port}/?batch=100", still(proxy), lambda: server.events
    server.stop()


@contextlib.contextmanager
def table(new_proxy):
    with postgres.Postgres(tcp=True) as server:
        proxy = new_proxy(server.port)
        yield (f"postgres://postgres@127.0.0.1:{proxy.port}/postgres?table=events", still(proxy),
               lambda: [row[0] for row in server.sql("select event from events order by n")])


def still(proxy):
    """freeze() by the network."""
    def freeze(frozen=True):
        proxy.still = frozen
    return freeze


LAST = 5000


@pytest.mark.parametrize("destination", (nats, amqp, kafka, redis, mqtt, webhook, table), ids=lambda d: d.__name__)
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

        # when an event and then some more have waited for three times that
        delivery.insert(db, 11, 11)
        first = db.wal_lsn()
        db.sql(f"insert into a select n, '{BODY}' from generate_series(12, {LAST}) n")
        db.sql("select pg_sleep(6.5)")

        # then the slot is before it, over the same connection, in little memory
        assert db.slot_state()["confirmed"] < first
        assert db.slot_state()["active_pid"] == sender
        assert resident_kib(stream.pid) < 400_000  # a sanitizer's own share included

        # and all arrives when it goes on; what comes again has its id
        freeze(False)
        stream.wait_confirmed(db)
        delivery.check(events(), {"a": range(1, LAST + 1)}, repeats=True)
        stream.stop()
