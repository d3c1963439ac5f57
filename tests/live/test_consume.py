"""`pgherald consume` with NATS, Kafka, Redis and MQTT. (RabbitMQ: test_amqp.py.)"""
import contextlib
import gzip
import json
import re
import socket

import pytest

import delivery
import herald as program
import kafka_server
from mqtt_server import Mosquitto
from nats_server import NatsServer
from postgres import LIMIT, wait_until
from redis_server import RedisServer


@contextlib.contextmanager
def consuming(*args):
    """A `pgherald consume` that runs until the block ends, with --json."""
    one = program.Herald("consume", *args, "--json")
    try:
        yield one
        one.stop()
    finally:
        one.close()


def shown(result):
    assert result.code == 0, result
    return [json.loads(line) for line in result.out.splitlines()]


def consume(*args):
    """What it has shown when it has ended at its limit."""
    return shown(program.run("consume", *args, "--json"))


def numbers(messages, table="a"):
    """Those of the table's rows, in their order."""
    return [m["event"]["new"]["n"] for m in messages if m["event"]["table"] == table]


def insert_until(db, first, done):
    """Inserts rows, one after the other, until done(); returns the number of the last one."""
    n = first - 1

    def step():
        nonlocal n
        n += 1
        db.sql(f"insert into a values ({n})")
        return done()

    wait_until(step, "a message to be shown", LIMIT, 0.05)
    return n


@pytest.fixture
def nats():
    server = NatsServer().start()
    yield server
    server.remove()


@pytest.fixture
def filled_stream(db, herald, nats):
    """A NATS stream S with rows 1 to 5 of a and 1 to 2 of b, from the URL with path and stream."""
    delivery.make_tables(db)
    nats.output = herald(db, "--to", nats.url("x.{schema}.{table}.{action}?stream=S"))
    delivery.insert(db, 1, 5)
    delivery.insert(db, 1, 2, table="b")
    nats.output.wait_confirmed(db)
    return nats


def consumers(nats):
    return nats.api("CONSUMER.NAMES.S")["consumers"] or []


def test_nats_a_stream_is_read_from_its_beginning(filled_stream):
    # Given a stream with messages, when it is read by the URL of the output
    messages = consume(filled_stream.url("x.{schema}.{table}.{action}?stream=S&from=beginning"), "--limit", 7)

    # then all are shown as the stream has them
    delivery.check([m["event"] for m in messages], {"a": range(1, 6), "b": range(1, 3)})
    assert [m["address"] for m in messages] == ["x.public.a.insert"] * 5 + ["x.public.b.insert"] * 2
    assert all(m["id"].endswith("-" + m["event"]["id"]) for m in messages)
    assert filled_stream.count("S") == 7


def test_nats_a_stream_is_watched_by_keys_from_now_on(db, filled_stream):
    # Given readers of the stream's end: with one key, and with several
    url = filled_stream.url("?stream=S")
    with consuming(url, "--keys", "x.public.b.>") as one, \
            consuming(url, "--keys", "no.such,*.*.a.insert,x.public.c.>") as several:
        wait_until(lambda: len(consumers(filled_stream)) == 2, "the consumers")

        # when more rows come
        delivery.insert(db, 6, 8)
        delivery.insert(db, 3, 4, table="b")

        # then each sees its own
        one.wait_for(2)
        several.wait_for(3)
        assert numbers(one.events, "b") == [3, 4] and one.count == 2
        assert numbers(several.events) == [6, 7, 8] and several.count == 3
    wait_until(lambda: not consumers(filled_stream), "the consumers to be gone")


def test_nats_a_durable_consumer_goes_on_where_it_was(filled_stream):
    url = filled_stream.url("?stream=S&durable=me&from=beginning")
    assert numbers(consume(url, "--keys", "x.public.a.*", "--limit", 3)) == [1, 2, 3]
    assert consumers(filled_stream) == ["me"]
    assert numbers(consume(url, "--limit", 2)) == [4, 5]
    info = filled_stream.api("CONSUMER.INFO.S.me")
    assert (info["ack_floor"]["stream_seq"], info["num_ack_pending"]) == (5, 0)


def test_nats_without_a_stream_what_is_published_is_shown(db, herald, nats):
    delivery.make_tables(db)
    herald(db, "--to", nats.url("x.{table}?core=true"))
    with consuming(nats.url("x.{table}?core=true")) as look:
        last = insert_until(db, 1, lambda: look.count)
        seen = numbers(look.events)
        assert seen == list(range(seen[0], seen[-1] + 1)) and seen[-1] <= last
        assert {m["address"] for m in look.events} == {"x.a"}


def test_nats_what_is_compressed_is_unpacked(nats):
    with consuming(nats.url(), "--keys", "x") as look, nats.client() as client:
        def publish():
            client.publish("x", gzip.compress(b'{"a":1}'))
            return look.count
        wait_until(publish, "a message", LIMIT, 0.05)
        assert look.events[0] == {"address": "x", "id": None, "event": {"a": 1}}


def test_nats_says_what_is_wrong(filled_stream):
    filled_stream.api("CONSUMER.DURABLE.CREATE.S.pushed", {"stream_name": "S", "config": {
        "durable_name": "pushed", "deliver_subject": "somewhere", "ack_policy": "explicit"}})
    for query, keys, word in (("stream=NONE", "*", "no stream NONE"),
                              ("durable=d", "*", "needs stream=NAME"),
                              ("from=beginning", "*", "needs stream=NAME"),
                              ("stream=S&from=now", "*", "not one of beginning|end"),
                              ("stream=S&durable=d", "a,b", "name one key"),
                              ("stream=S&durable=pushed", ">", "push consumer"),
                              ("stream=S&dorable=d", "*", "dorable")):
        result = program.run("consume", filled_stream.url("?" + query), "--keys", keys)
        assert result.code == 78 and word in result.err, result


# Kafka


@pytest.fixture
def mock():
    cluster = kafka_server.Mock()
    yield cluster
    cluster.close()


def test_kafka_topics_are_read_from_their_beginning(db, herald, mock):
    # Given an output to a topic for each table
    delivery.make_tables(db)
    url = mock.url("x.{table}")
    output = herald(db, "--to", url)
    delivery.insert(db, 1, 5)
    delivery.insert(db, 1, 2, table="b")
    output.wait_confirmed(db)

    # when they are read twice, by its URL and by keys
    messages = consume(url + "?from=beginning", "--limit", 7)
    again = consume(mock.url(**{"from": "beginning"}), "--keys", "none,?.b", "--limit", 2)

    # then all is there each time, by partition
    assert sorted(numbers(messages)) == [1, 2, 3, 4, 5] and sorted(numbers(messages, "b")) == [1, 2]
    assert {m["address"] for m in messages} == {"x.a", "x.b"}
    assert all(m["id"] == m["event"]["id"] for m in messages)
    assert sorted(numbers(again, "b")) == [1, 2]


def test_kafka_a_topic_is_watched_from_its_end_and_new_ones_are_found(db, herald, mock):
    # Given messages in one topic, and a reader of what comes
    delivery.make_tables(db)
    url = mock.url("{table}")
    output = herald(db, "--to", url)
    delivery.insert(db, 1, 5)
    output.wait_confirmed(db)
    with consuming(url) as look:
        # when more are written, there and in a new one
        last = insert_until(db, 6, lambda: look.count)
        db.sql("insert into b values (1)")
        look.wait_until(lambda: numbers(look.events, "b") and last in numbers(look.events), "the last ones")

        # then it sees these alone, once
        seen = numbers(look.events)
        assert min(seen) > 5 and len(seen) == len(set(seen)) and numbers(look.events, "b") == [1]


def test_kafka_says_what_is_wrong():
    kafka = kafka_server.Kafka(user="PLAIN:me:secret")
    try:
        result = program.run("consume", kafka.url(user="me:hunter2@"))
        assert result.code == 78 and "user and password" in result.err and "hunter2" not in result.err
        result = program.run("consume", kafka.url("x", user="me:secret@", **{"from": "7"}))
        assert result.code == 78 and "beginning|end" in result.err
    finally:
        kafka.close()


# Redis


@pytest.fixture
def redis():
    server = RedisServer().start()
    yield server
    server.remove()


def test_redis_streams_are_read_from_their_beginning(db, herald, redis):
    # Given an output to a stream for each table, in another database than the first
    delivery.make_tables(db)
    url = redis.url("3/x.{table}")
    output = herald(db, "--to", url)
    delivery.insert(db, 1, 250)
    delivery.insert(db, 1, 2, table="b")
    output.wait_confirmed(db)
    redis.cli("xadd", "x.other", "*", "k", "v", "l", '"', db=3)
    redis.cli("set", "x.string", "s", db=3)

    # when they are read twice, by its URL and by keys
    messages = consume(url + "?from=beginning", "--limit", 253)
    again = consume(redis.url("3?from=beginning"), "--keys", "none,x.b", "--limit", 2)

    # then all is there each time, with the ids of the entries
    delivery.check([m["event"] for m in messages if m["address"] != "x.other"],
                   {"a": range(1, 251), "b": range(1, 3)})
    assert [m["id"] for m in messages if m["address"] == "x.a"] == [i for i, _ in redis.entries("x.a", db=3)]
    assert [m["event"] for m in messages if m["address"] == "x.other"] == [{"k": "v", "l": '"'}]
    assert numbers(again, "b") == [1, 2]


def test_redis_a_stream_is_watched_from_its_end_and_new_ones_are_found(db, herald, redis):
    # Given entries in one stream, and readers of what comes: of all, and of a stream that is to be
    delivery.make_tables(db)
    output = herald(db, "--to", redis.url("x.{table}"))
    delivery.insert(db, 1, 5)
    output.wait_confirmed(db)
    with consuming(redis.url()) as all_, consuming(redis.url(), "--keys", "x.b") as b:
        wait_until(lambda: redis.raw("client", "list").count("cmd=xread") == 2, "the readers")

        # when more are written, there and in a new one
        delivery.insert(db, 6, 8)
        delivery.insert(db, 1, 2, table="b")

        # then they see these alone
        all_.wait_for(5)
        b.wait_for(2)
        assert numbers(all_.events) == [6, 7, 8] and numbers(all_.events, "b") == [1, 2]
        assert numbers(b.events, "b") == [1, 2] and b.count == 2


def test_redis_says_what_is_wrong(redis):
    redis.cli("set", "word", "x")
    for url, word in ((redis.url("word"), "word is not a stream"),
                      (redis.url(user=":hunter2"), "no passwords"),
                      (redis.url("x?from=0"), "beginning|end")):
        result = program.run("consume", url)
        assert result.code == 78 and word in result.err and "hunter2" not in result.err, result


# MQTT


@pytest.fixture
def mosquitto():
    broker = Mosquitto()
    yield broker
    broker.remove()


def subscriptions(broker):
    """How many there have been: lines "TIME: CLIENT QOS TOPIC"."""
    return len(re.findall(r"^\d+: \S+ 1 \S+$", broker.log(), re.M))


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_mqtt_what_is_published_is_shown(db, herald, mosquitto, version):
    # Given readers of all that the output writes, and by keys
    delivery.make_tables(db)
    url = mosquitto.url("x/{table}/{action}", version=version)
    with consuming(url) as all_, consuming(mosquitto.url(), "--keys", "no,+/b/#") as b:
        wait_until(lambda: subscriptions(mosquitto) == 3, "the subscriptions")

        # when rows are written
        output = herald(db, "--to", url)
        delivery.insert(db, 1, 50)
        delivery.insert(db, 1, 2, table="b")
        output.wait_confirmed(db)

        # then they are shown, with their ids if the protocol has a place for them
        all_.wait_for(52)
        b.wait_for(2)
        delivery.check([m["event"] for m in all_.events], {"a": range(1, 51), "b": range(1, 3)})
        assert {m["address"] for m in b.events} == {"x/b/insert"}
        assert all(m["id"] == (m["event"]["id"] if version == "5" else None) for m in all_.events)


def test_mqtt_says_what_is_wrong(mosquitto):
    for args, word in (((mosquitto.url(), "--keys", "a/#/b"), "no filter"),
                       ((mosquitto.url(fram="x"),), "fram"),
                       (("mqtt://",), "no broker")):
        result = program.run("consume", *args)
        assert result.code == 78 and word in result.err, result


# All


@pytest.mark.parametrize("url", ("amqp://{}/?exchange=e", "kafka://{}/t", "mqtt://{}/t", "nats://{}/?stream=S",
                                 "redis://{}/s"))
def test_it_ends_at_once_while_it_waits_for_a_server_that_says_nothing(url):
    # Given a server that takes the connection and is silent
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(LIMIT)
        one = program.Herald("consume", url.format("127.0.0.1:%d" % silent.getsockname()[1]))
        try:
            with silent.accept()[0]:
                # when it is told to stop, then it does not wait for an answer, and nothing is wrong
                one.stop()
                assert one.err == "", one.describe()
        finally:
            one.close()
