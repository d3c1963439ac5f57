"""Kafka: librdkafka's mock cluster and a real broker, read with kcat."""
import contextlib
import json
import os
import random
import socket
import threading

import pytest

import delivery
import kafka_server
import tls
from postgres import free_port, wait_until

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", "3"))


@pytest.fixture
def brokers():
    """Ends what it is given: brokers(Kafka())."""
    made = []

    def keep(one):
        made.append(one)
        return one

    yield keep
    for one in made:
        one.close()


@pytest.fixture
def mock(brokers):
    """The mock cluster with the topic "all", of one partition."""
    cluster = brokers(kafka_server.Mock(brokers=3))
    cluster.tell("topic", "all", 1)
    return cluster


@pytest.fixture
def kafka(brokers):
    return brokers(kafka_server.Kafka())


@pytest.fixture(params=("own", "named") if kafka_server.NAMED else ("own",))
def broker(brokers, request):
    """One of our own, and the one that PGHERALD_TEST_KAFKA=HOST:PORT names."""
    return brokers(kafka_server.Kafka() if request.param == "own" else kafka_server.Named())


def check(messages, expected, **options):
    delivery.check([json.loads(m.body) for m in messages], expected, **options)


class Rows:
    """Inserts numbered rows, one transaction each, until it is stopped."""

    def __init__(self, db):
        self.db, self.n, self.stopped = db, 0, threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        with contextlib.closing(self.db.connect()) as connection, connection.cursor() as cursor:
            while not self.stopped.is_set():
                cursor.execute("insert into a select generate_series(%s, %s)", (self.n + 1, self.n + 5))
                self.n += 5

    def stop(self):
        self.stopped.set()
        self.thread.join()
        return range(1, self.n + 1)


def test_events_arrive_with_topic_key_id_and_body(db, herald, mock):
    # Given a table whose name Kafka does not allow
    db.sql('create table "Größe.1" (a int, b text, c text, primary key (a, b))')
    herald(db, "--to", mock.url())

    # when rows come, change and go
    db.sql("""insert into "Größe.1" values (1, 'x', 'y'); update "Größe.1" set c = 'z';
              delete from "Größe.1" """)

    # then they are in the table's topic, the forbidden bytes escaped, under their key
    got = mock.wait(f"{db.name}.public.Gr-C3-B6-C3-9Fe-2E1", 3)
    assert [json.loads(m.body)["action"] for m in got] == ["insert", "update", "delete"]
    assert {m.key for m in got} == {'{"a":1,"b":"x"}'}
    assert [m.id for m in got] == [json.loads(m.body)["id"] for m in got]


def test_many_events_arrive_once_and_in_order(db, herald, mock):
    delivery.make_tables(db)
    stream = herald(db, "--to", mock.url("all"))
    delivery.insert(db, 1, 3000)
    delivery.insert(db, 1, 1000, "b")
    stream.wait_confirmed(db)
    check(mock.read("all"), {"a": range(1, 3001), "b": range(1, 1001)})


def test_case_66_events_of_a_key_and_those_without_one_stay_in_a_partition(db, herald, mock):
    mock.tell("topic", "many", 8)
    db.sql("create table a (n int primary key, body text); create table k (n int, body text)")
    stream = herald(db, "--to", mock.url("many"))
    db.sql("insert into a select generate_series(1, 50); insert into k select generate_series(1, 50)")
    db.sql("update a set body = 'x'")
    stream.wait_confirmed(db)
    got = mock.read("many")
    assert len(got) == 150
    partitions = {}
    for m in got:
        partitions.setdefault(m.key or "none", set()).add(m.partition)
    assert all(len(p) == 1 for p in partitions.values())
    assert len(set.union(*partitions.values())) > 1


def test_case_64_brokers_that_are_down_at_the_start_are_waited_for(db, herald, brokers):
    # Given a broker that is down, and one event
    kafka = brokers(kafka_server.Kafka(ready=False))
    delivery.make_tables(db)
    stream = herald(db, "--to", kafka.url("all"), ready=False)
    stream.wait_log("is down, trying again")
    assert "Connection refused" in stream.err

    # when it comes
    kafka.start()

    # then the event is delivered
    stream.wait_ready(db)
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    check(kafka.read("all"), {"a": range(1, 11)})


def test_case_2_a_slot_stays_while_the_broker_is_down(db, herald, kafka):
    # Case 2: given a stream whose broker is gone
    delivery.make_tables(db)
    stream = herald(db, "--to", kafka.url("all", timeout=1))
    delivery.insert(db, 1, 1)
    stream.wait_confirmed(db)
    kafka.kill9()

    # when something is committed
    before = db.wal_lsn()
    delivery.insert(db, 2, 2)
    stream.wait_log("is down, trying again")

    # then the slot does not pass it until it is delivered
    assert db.slot_state()["confirmed"] <= before
    kafka.start()
    stream.wait_confirmed(db)
    check(kafka.read("all"), {"a": range(1, 3)}, repeats=True)


def test_case_64_a_broker_that_is_killed_and_comes_back_has_all(db, herald, kafka):
    """Its connections are cut in the middle of batches."""
    delivery.make_tables(db)
    stream = herald(db, "--to", kafka.url("all", timeout=2))
    rows = Rows(db)
    for _ in range(ROUNDS):
        n = rows.n
        stream.wait_until(lambda: rows.n > n + 300, "rows")
        kafka.kill9()
        n = rows.n
        stream.wait_until(lambda: rows.n > n + 300, "rows")
        kafka.start()
    expected = rows.stop()
    stream.wait_confirmed(db)
    check(kafka.read("all"), {"a": expected}, repeats=True)


def test_case_66_a_leader_that_changes_repeats_nothing(db, herald, mock):
    delivery.make_tables(db)
    stream = herald(db, "--to", mock.url("all"))
    rows = Rows(db)
    for leader in (1, 2, 3, 1):
        mock.tell("leader", "all", 0, leader)
        n = rows.n
        stream.wait_until(lambda: rows.n > n + 300, "rows")
    expected = rows.stop()
    stream.wait_confirmed(db)
    check(mock.read("all"), {"a": expected})
    assert "is down" not in stream.err


def test_case_66_a_broker_that_goes_and_another_that_leads(db, herald, mock):
    delivery.make_tables(db)
    mock.tell("leader", "all", 0, 1)
    stream = herald(db, "--to", mock.url("all", timeout=3))
    rows = Rows(db)
    stream.wait_until(lambda: rows.n > 300, "rows")
    mock.tell("down", 1)
    mock.tell("leader", "all", 0, 2)
    stream.wait_until(lambda: rows.n > 900, "rows")
    expected = rows.stop()
    stream.wait_confirmed(db)
    mock.tell("up", 1)
    check(mock.read("all"), {"a": expected}, repeats=True)


@pytest.mark.parametrize("params", ({}, {"transactional": "shop"}), ids=("idempotent", "transactional"))
def test_case_3_killed_at_random_nothing_is_lost(db, herald, broker, params):
    delivery.make_tables(db)
    url = broker.url("all", **params)
    herald(db, "--to", url).kill9()
    rows = Rows(db)
    dice = random.Random(3)
    for _ in range(ROUNDS):
        stream = herald(db, "--to", url)
        n = rows.n + dice.randint(10, 500)
        stream.wait_until(lambda: rows.n > n, "rows")
        stream.kill9()
    expected = rows.stop()
    stream = herald(db, "--to", url)
    stream.wait_confirmed(db)
    check(broker.read("all"), {"a": expected}, repeats=not params)


def test_case_66_a_broker_that_is_killed_within_transactions_has_nothing_twice(db, herald, kafka):
    delivery.make_tables(db)
    stream = herald(db, "--to", kafka.url("all", transactional="shop", timeout=3))
    rows = Rows(db)
    for _ in range(ROUNDS):
        n = rows.n
        stream.wait_until(lambda: rows.n > n + 300, "rows")
        kafka.kill9()
        n = rows.n
        stream.wait_until(lambda: rows.n > n + 300, "rows")
        kafka.start()
    expected = rows.stop()
    stream.wait_confirmed(db)
    check(kafka.read("all"), {"a": expected})


def test_outputs_with_the_same_transactional_id_keep_their_own_positions(db, herald, broker):
    # Given two outputs to one topic, of different tables
    delivery.make_tables(db)
    outputs = [arg for table in "ab" for arg in
               ("--to", broker.url("all", transactional="shop", tables=f"public.{table}"))]
    stream = herald(db, *outputs)
    delivery.insert(db, 1, 100)
    delivery.insert(db, 1, 50, "b")
    stream.wait_confirmed(db)
    stream.kill9()

    # when a goes on alone for a while, so that its position is far ahead
    delivery.insert(db, 101, 200)
    delivery.insert(db, 51, 100, "b")
    stream = herald(db, *outputs)
    stream.wait_confirmed(db)

    # then all of both is there, once
    check(broker.read("all"), {"a": range(1, 201), "b": range(1, 101)})
    assert len({m.key for m in broker.read(broker.positions)}) == 2


def test_a_slot_that_moved_is_noticed_by_the_position(db, herald, broker):
    delivery.make_tables(db)
    url = broker.url("all", transactional="shop")
    stream = herald(db, "--to", url)
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    stream.stop()
    db.drop_slots()
    stream = herald(db, "--to", url, ready=False)
    assert stream.wait_exit() == 76


def test_case_66_a_message_that_is_too_large_stops(db, herald, mock):
    delivery.make_tables(db)
    stream = herald(db, "--to", mock.url("all"))
    db.sql("insert into a select 1, repeat('x', 2000000)")
    assert stream.wait_exit() == 1
    assert "was refused" in stream.err and "public.a" in stream.err and "message.max.bytes" in stream.err


@pytest.mark.parametrize("params", ({}, {"transactional": "shop"}))
def test_case_66_messages_that_are_too_large_go_to_the_dead_letters(db, herald, broker, tmp_path, params):
    delivery.make_tables(db)
    dead = tmp_path / "dead.json"
    stream = herald(db, "--to", broker.url("all", on_refused="dead-letter", dead_letter=f"file:{dead}",
                                          **params))
    db.sql("insert into a select n, case when n in (5, 6, 9) then repeat('x', 2000000) end "
           "from generate_series(1, 10) n")
    stream.wait_confirmed(db)
    got = broker.bodies("all")
    assert [e["new"]["n"] for e in got] == [1, 2, 3, 4, 7, 8, 10]
    letters = [json.loads(line) for line in dead.read_text().splitlines()]
    assert [json.loads(one["body"])["new"]["n"] for one in letters] == [5, 6, 9]


@pytest.mark.parametrize("params", ({}, {"transactional": "shop"}))
def test_case_66_a_broker_with_a_lower_limit_refuses_only_what_is_over_it(db, herald, brokers, params):
    # Given a broker that takes less at once than the library sends by itself
    kafka = brokers(kafka_server.Kafka(message_max_bytes=20000))
    delivery.make_tables(db)
    stream = herald(db, "--to", kafka.url("all", on_refused="skip", **params))

    # when there are many small rows at once, and two that are too large
    db.sql("insert into a select n, repeat('x', case when n in (500, 501) then 30000 else 1000 end) "
           "from generate_series(1, 1000) n")
    stream.wait_confirmed(db)

    # then only these two are left out
    seen = {e["new"]["n"]: e["id"] for e in kafka.bodies("all")}
    assert sorted(set(range(1, 1001)) - set(seen)) == [500, 501]
    assert list(seen) == sorted(seen)
    assert stream.err.count("refused event") == 2


def test_case_66_one_bad_record_of_a_batch_is_found(db, herald, mock):
    """The broker refuses whole batches; the mock cluster does so a given number of times."""
    delivery.make_tables(db)
    mock.tell("fail", kafka_server.PRODUCE, kafka_server.INVALID_RECORD, 2)
    stream = herald(db, "--to", mock.url("all", on_refused="skip"))
    db.sql("insert into a select generate_series(1, 200)")
    stream.wait_confirmed(db)
    seen = dict.fromkeys(e["new"]["n"] for e in mock.bodies("all"))
    assert list(seen) == list(range(2, 201))
    assert stream.err.count("refused event") == 1


def test_case_66_a_missing_topic_is_said(db, herald, brokers):
    kafka = brokers(kafka_server.Kafka(auto_create_topics_enable="false"))
    delivery.make_tables(db)
    stream = herald(db, "--to", kafka.url("all"))
    delivery.insert(db, 1, 1)
    assert stream.wait_exit() == 78
    assert "no topic all" in stream.err and "kafka-topics" in stream.err


def test_case_66_a_topic_that_may_not_be_written_is_said(db, herald, mock):
    mock.tell("topic-error", "all", kafka_server.AUTHORIZATION)
    delivery.make_tables(db)
    stream = herald(db, "--to", mock.url("all", timeout=2))
    delivery.insert(db, 1, 1)
    assert stream.wait_exit() == 78
    assert "authorization failed" in stream.err.lower()


@pytest.mark.parametrize("method,version", (("PLAIN", "4.1.1"), ("SCRAM-SHA-256", "3.9.1")))
def test_a_password_is_shown_to_the_broker_and_to_nobody_else(db, herald, brokers, method, version):
    kafka = brokers(kafka_server.Kafka(
        user=f"{method}:me:s3cret", version=version,
        options=("-X", "security.protocol=SASL_PLAINTEXT", "-X", f"sasl.mechanisms={method}",
                 "-X", "sasl.username=me", "-X", "sasl.password=s3cret")))
    delivery.make_tables(db)
    stream = herald(db, "--to", kafka.url("all", user="me:s3cret@", sasl=method))
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    check(kafka.read("all"), {"a": range(1, 11)})
    assert "s3cret" not in stream.err


def test_a_library_that_kafka_4_does_not_take_scram_from_is_named(db, herald, brokers):
    """Up to 2.6.0 librdkafka repeats its nonce, which Kafka 4 refuses as it does a wrong password."""
    if kafka_server.library() >= (2, 6, 1):
        pytest.skip("this librdkafka can")
    kafka = brokers(kafka_server.Kafka(user="SCRAM-SHA-256:me:s3cret"))
    stream = herald(db, "--to", kafka.url("all", user="me:s3cret@", sasl="SCRAM-SHA-256"), ready=False)
    assert stream.wait_exit() == 78
    assert "SCRAM needs librdkafka 2.6.1" in stream.err


def test_case_64_a_wrong_password_is_said_but_not_shown(db, herald, brokers):
    kafka = brokers(kafka_server.Kafka(user="PLAIN:me:s3cret"))
    stream = herald(db, "--to", kafka.url("all", user="me:wr0ng@"), ready=False)
    assert stream.wait_exit() == 78
    assert "look at user and password" in stream.err and "wr0ng" not in stream.err


def test_case_64_a_password_that_is_changed_while_streaming_ends_the_stream(db, herald, brokers):
    # Given a broker that comes back with another password
    kafka = brokers(kafka_server.Kafka(user="PLAIN:me:s3cret"))
    delivery.make_tables(db)
    stream = herald(db, "--to", kafka.url("all", user="me:s3cret@"))
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    kafka.kill9()
    before = db.wal_lsn()
    delivery.insert(db, 4, 6)
    kafka.configure(user="PLAIN:me:0ther")
    kafka.start()

    # then that is said, and nothing is taken for delivered
    assert stream.wait_exit() == 78
    assert "look at user and password" in stream.err and "s3cret" not in stream.err
    assert db.slot_state()["confirmed"] <= before


@pytest.mark.parametrize("error", (kafka_server.NOT_ENOUGH_REPLICAS, kafka_server.STORAGE))
def test_case_64_brokers_that_cannot_store_are_waited_for(db, herald, mock, error):
    # Given brokers whose disk is full, or that have too few replicas, for a while. The mock cluster does
    # not look at the numbers of batches: it would store one behind one that it has refused, which to an
    # idempotent producer says that it has both. So one at a time.
    delivery.make_tables(db)
    stream = herald(db, "--to", mock.url("all", **{"p.max.in.flight": "1"}))
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    mock.tell("fail", kafka_server.PRODUCE, error, 20)

    # when more is written, then it all comes, in order
    delivery.insert(db, 4, 1000)
    stream.wait_confirmed(db)
    check(mock.read("all"), {"a": range(1, 1001)})


def test_wrong_properties_are_said_without_their_secrets(db, herald, mock):
    for params, word in (({"p.no.such": "x"}, "no.such"), ({"p.linger.ms": "soon"}, "linger.ms"),
                         ({"p.bootstrap.servers": "x"}, "cannot be set"),
                         ({"p.ssl.key.pem": "s3cret", "tls": "true"}, "ssl.key"), ({"nonsense": "1"}, "nonsense")):
        stream = herald(db, "--to", mock.url("all", **params), ready=False)
        assert stream.wait_exit() == 78, params
        assert word in stream.err and "s3cret" not in stream.err


def test_case_64_tls_is_verified(db, herald, brokers, tmp_path):
    # Given a broker with a certificate of a private authority, for 127.0.0.1
    ca, other = tls.Authority(tmp_path), tls.Authority(tmp_path, "other")
    cert, key = ca.issue("127.0.0.1")
    options = ("-X", "security.protocol=SSL", "-X", f"ssl.ca.location={ca.cert}")
    kafka = brokers(kafka_server.Kafka(cert=f"{cert}:{key}", options=options))
    delivery.make_tables(db)

    # then who knows the authority is served
    stream = herald(db, "--to", kafka.url("all", ca=ca.cert))
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    check(kafka.read("all"), {"a": range(1, 11)})
    stream.stop()

    # and who knows another or none, or means another host, is told
    for params in ({"ca": other.cert}, {"tls": "true"}):
        stream = herald(db, "--to", kafka.url("all", **params), ready=False)
        assert stream.wait_exit() == 78, params
        assert "verify failed" in stream.err
    cert, key = ca.issue("elsewhere.example")
    kafka = brokers(kafka_server.Kafka(cert=f"{cert}:{key}"))
    stream = herald(db, "--to", kafka.url("all", ca=ca.cert), ready=False)
    assert stream.wait_exit() == 78
    assert "verify failed" in stream.err


def test_case_66_debezium_deletes_are_followed_by_tombstones(db, herald, mock):
    db.sql("create table t (id int primary key, v text); create table k (v text)")
    stream = herald(db, "--to", mock.url("all", format="debezium"))
    db.sql("insert into t values (1, 'a'); update t set v = 'b'; update t set id = 2; delete from t;"
           "insert into k values ('x')")
    stream.wait_confirmed(db)
    got = [(m.key, m.body and json.loads(m.body)["op"], m.id) for m in mock.read("all")]
    one, two = '{"id":1}', '{"id":2}'
    assert [(key, op) for key, op, _ in got] == [
        (one, "c"), (one, "u"),
        (one, "d"), (one, None), (two, "c"),  # the key changed
        (two, "d"), (two, None), (None, "c")]
    ids = [i for *_, i in got]
    assert len(set(ids)) == len(ids)
    assert ids[3] == ids[2] + ".1" and ids[4] == ids[2] + ".2"


def test_case_19_a_changed_key_beside_a_long_value(db, herald, mock):
    db.sql("create table t (id int primary key, v text); alter table t alter v set storage external")
    stream = herald(db, "--to", mock.url("all", format="debezium"))
    db.sql("insert into t select 1, repeat('x', 9000)")
    db.sql("update t set id = 2")
    stream.wait_confirmed(db)
    got = mock.read("all")
    assert [m.key for m in got] == ['{"id":1}', '{"id":1}', '{"id":1}', '{"id":2}']
    created = json.loads(got[3].body)
    assert created["op"] == "c" and created["before"] is None
    assert created["after"] == {"id": 2, "v": "__debezium_unavailable_value"}


def test_the_key_may_be_of_other_columns(db, herald, mock):
    # Given a table whose old rows are sent in full
    db.sql("create table t (id int primary key, region text, v int); alter table t replica identity full")
    stream = herald(db, "--to", mock.url("all", key_columns="region,id"))
    db.sql("insert into t values (1, 'eu', 1); update t set region = 'us'; delete from t")
    stream.wait_confirmed(db)
    assert [m.key for m in mock.read("all")] == ['{"id":1,"region":"eu"}'] + ['{"id":1,"region":"us"}'] * 2
    stream.stop()

    # then one where they are not cannot have such a key, nor one without the column
    db.sql("create table u (id int primary key, region text); create table w (id int)")
    for table, word in (("u", "REPLICA IDENTITY FULL"), ("w", "no such column")):
        stream = herald(db, "--to", mock.url("all", key_columns="region", tables=table))
        db.sql(f"insert into {table} values (1)")
        assert stream.wait_exit() == 78
        assert word in stream.err
        db.drop_slots()
