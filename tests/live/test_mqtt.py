"""MQTT: Debian's Mosquitto, read with mosquitto_sub."""
import json
import os
import random
import subprocess

import pytest

import delivery
import mqtt_server
import tls

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", "3"))


@pytest.fixture
def mosquitto():
    """Makes a broker: mosquitto(max_packet_size=5000)."""
    made = []

    def make(**settings):
        made.append(mqtt_server.Mosquitto(**settings))
        return made[-1]

    yield make
    for one in made:
        one.remove()


def check(messages, expected, **options):
    delivery.check([json.loads(m.body) for m in messages], expected, **options)


def let_in(folder):
    """The broker runs as another user."""
    for one in (folder, *folder.parents[:3]):
        one.chmod(0o755)


def test_case_68_events_arrive_with_topic_id_and_body(db, herald, mosquitto):
    # Given a broker with a reader, and a table whose name has MQTT's special characters
    broker = mosquitto()
    reader = broker.subscribe()
    db.sql('create table "a/b+#%$ä" (n int primary key)')
    herald(db, "--to", broker.url())

    # when rows come and go
    db.sql('insert into "a/b+#%$ä" values (1); delete from "a/b+#%$ä"')

    # then they are under topics with these escaped, not retained, with their id
    got = reader.wait(2)
    table = f"{db.name}/public/a%2Fb%2B%23%25%24ä"
    assert [m.topic for m in got] == [f"{table}/insert", f"{table}/delete"]
    assert [m.id for m in got] == [json.loads(m.body)["id"] for m in got]
    assert {m.retain for m in got} == {0}


@pytest.mark.parametrize("qos", (1, 2))
def test_case_68_many_events_arrive_once_and_in_order(db, herald, mosquitto, qos):
    broker = mosquitto()
    reader = broker.subscribe()
    delivery.make_tables(db)
    stream = herald(db, "--to", broker.url("all", qos=qos))
    delivery.insert(db, 1, 3000)
    stream.wait_confirmed(db)
    check(reader.wait(3000), {"a": range(1, 3001)})


def test_case_64_a_broker_that_is_down_at_the_start_is_waited_for(db, herald, mosquitto):
    broker = mosquitto()
    reader = broker.subscribe()
    broker.stop()
    delivery.make_tables(db)
    stream = herald(db, "--to", broker.url("all"), ready=False)
    stream.wait_log("is down, trying again")
    broker.start()
    stream.wait_ready(db)
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    check(reader.wait(10), {"a": range(1, 11)})


@pytest.mark.parametrize("qos", (1, 2))
def test_case_64_a_broker_that_restarts_under_load_has_all(db, herald, mosquitto, qos):
    """It is stopped, not killed: Mosquitto answers before it saves."""
    broker = mosquitto()
    reader = broker.subscribe()
    delivery.make_tables(db)
    stream = herald(db, "--to", broker.url("all", qos=qos))
    for i in range(ROUNDS):
        delivery.insert(db, 100 * i + 1, 100 * i + 100)
        stream.wait_until(lambda: len(reader.messages) > 100 * i + 20, "some of them")
        broker.stop()
        broker.start()
    stream.wait_confirmed(db)
    total = 100 * ROUNDS
    reader.wait_for(lambda: reader.messages and json.loads(reader.messages[-1].body)["new"]["n"] == total)
    check(reader.messages, {"a": range(1, total + 1)}, repeats=True)


@pytest.mark.parametrize("qos", (1, 2))
def test_case_64_a_connection_cut_under_load_loses_nothing(db, herald, mosquitto, new_proxy, qos):
    broker = mosquitto()
    reader = broker.subscribe()
    delivery.make_tables(db)
    proxy = new_proxy(broker.port)
    stream = herald(db, "--to", broker.url("all", qos=qos, port=proxy.port))
    for i in range(ROUNDS):
        delivery.insert(db, 500 * i + 1, 500 * i + 500)
        stream.wait_until(lambda: len(reader.messages) > 500 * i + 20, "some of them")
        proxy.cut()
    stream.wait_confirmed(db)
    total = 500 * ROUNDS
    reader.wait_for(lambda: json.loads(reader.messages[-1].body)["new"]["n"] == total)
    check(reader.messages, {"a": range(1, total + 1)}, repeats=True)


def test_case_2_a_broker_that_answers_nothing_is_left(db, herald, mosquitto):
    # Given a broker that stands still
    broker = mosquitto()
    reader = broker.subscribe()
    delivery.make_tables(db)
    stream = herald(db, "--to", broker.url("all", timeout=1))
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    broker.freeze()
    try:
        before = db.wal_lsn()
        delivery.insert(db, 11, 20)
        stream.wait_log("answers nothing")
        assert db.slot_state()["confirmed"] <= before
    finally:
        broker.freeze(False)
    stream.wait_confirmed(db)
    check(reader.wait(20), {"a": range(1, 21)}, repeats=True)


def test_case_3_killed_at_random_nothing_is_lost(db, herald, mosquitto):
    broker = mosquitto()
    reader = broker.subscribe()
    delivery.make_tables(db)
    herald(db, "--to", broker.url("all")).stop()
    dice = random.Random(5)
    for i in range(ROUNDS):
        stream = herald(db, "--to", broker.url("all"))
        seen = len(reader.messages) + dice.randint(0, 300)
        delivery.insert(db, 500 * i + 1, 500 * i + 500)
        stream.wait_until(lambda: len(reader.messages) > seen, "some of them")
        stream.kill9()
    stream = herald(db, "--to", broker.url("all"))
    stream.wait_confirmed(db)
    total = 500 * ROUNDS
    reader.wait_for(lambda: json.loads(reader.messages[-1].body)["new"]["n"] == total)
    check(reader.messages, {"a": range(1, total + 1)}, repeats=True)


def test_case_68_a_message_that_is_too_large_stops(db, herald, mosquitto):
    broker = mosquitto(max_packet_size=5000)
    delivery.make_tables(db)
    stream = herald(db, "--to", broker.url("all"))
    db.sql("insert into a select 1, repeat('x', 6000)")
    assert stream.wait_exit() == 1
    assert "larger than the broker allows" in stream.err and "public.a" in stream.err


def test_case_64_messages_that_are_too_large_go_to_the_dead_letters(db, herald, mosquitto, tmp_path):
    broker = mosquitto(max_packet_size=5000)
    reader = broker.subscribe()
    delivery.make_tables(db)
    dead = tmp_path / "dead.json"
    stream = herald(db, "--to", broker.url("all", on_refused="dead-letter", dead_letter=f"file:{dead}"))
    db.sql("insert into a select n, case when n in (5, 6) then repeat('x', 6000) end "
           "from generate_series(1, 10) n")
    stream.wait_confirmed(db)
    assert [json.loads(m.body)["new"]["n"] for m in reader.wait(8)] == [1, 2, 3, 4, 7, 8, 9, 10]
    letters = [json.loads(line) for line in dead.read_text().splitlines()]
    assert [json.loads(one["body"])["new"]["n"] for one in letters] == [5, 6]


def test_case_68_a_topic_that_may_not_be_written_is_refused(db, herald, mosquitto, tmp_path):
    acl = tmp_path / "acl"
    let_in(tmp_path)
    acl.write_text("topic write good\ntopic read #\n")
    acl.chmod(0o644)
    broker = mosquitto(acl_file=acl)
    reader = broker.subscribe()
    delivery.make_tables(db)
    stream = herald(db, "--to", broker.url("{new.body}", on_refused="skip"))
    db.sql("insert into a values (1, 'good'), (2, 'bad'), (3, 'good')")
    stream.wait_confirmed(db)
    check(reader.wait(2), {"a": [1, 3]})
    assert stream.err.count("refused event") == 1 and "Not authorized" in stream.err


def test_case_68_outputs_to_one_broker_do_not_disturb_each_other(db, herald, mosquitto):
    broker = mosquitto()
    reader = broker.subscribe()
    delivery.make_tables(db)
    stream = herald(db, *(arg for table in "ab" for arg in
                          ("--to", broker.url("all", tables=f"public.{table}"))))
    delivery.insert(db, 1, 200)
    delivery.insert(db, 1, 100, "b")
    stream.wait_confirmed(db)
    check(reader.wait(300), {"a": range(1, 201), "b": range(1, 101)})
    assert "is down" not in stream.err


def test_case_64_a_password_is_checked_and_never_shown(db, herald, mosquitto, tmp_path):
    passwords = tmp_path / "passwords"
    let_in(tmp_path)
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "me", "s3cret"], check=True)
    passwords.chmod(0o644)
    broker = mosquitto(allow_anonymous="false", password_file=passwords)
    for version in ("5", "3.1.1"):
        right = herald(db, "--to", broker.url("all", user="me:s3cret@", version=version))
        right.stop()
        wrong = herald(db, "--to", broker.url("all", user="me:wr0ng@", version=version), ready=False)
        assert wrong.wait_exit() == 78
        assert "look at user and password" in wrong.err
        assert "s3cret" not in right.err and "wr0ng" not in wrong.err


def test_case_64_a_password_that_is_changed_while_streaming_ends_the_stream(db, herald, mosquitto, tmp_path):
    # Given a broker that comes back with another password
    passwords = tmp_path / "passwords"
    let_in(tmp_path)

    def set_password(word):
        subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "me", word], check=True)
        passwords.chmod(0o644)
    set_password("s3cret")
    broker = mosquitto(allow_anonymous="false", password_file=passwords)
    delivery.make_tables(db)
    stream = herald(db, "--to", broker.url("all", user="me:s3cret@"))
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    broker.stop()
    before = db.wal_lsn()
    delivery.insert(db, 4, 6)
    set_password("0ther")
    broker.start()

    # then that is said, and nothing is taken for delivered
    assert stream.wait_exit() == 78
    assert "look at user and password" in stream.err and "s3cret" not in stream.err
    assert db.slot_state()["confirmed"] <= before
    stream = herald(db, "--to", broker.url("all", user="me:0ther@"))
    stream.wait_confirmed(db)


def test_the_old_version_works_too(db, herald, mosquitto):
    broker = mosquitto()
    reader = broker.subscribe()
    delivery.make_tables(db)
    stream = herald(db, "--to", broker.url("all", version="3.1.1"))
    delivery.insert(db, 1, 500)
    stream.wait_confirmed(db)
    check(reader.wait(500), {"a": range(1, 501)})


def test_case_64_tls_is_verified(db, herald, mosquitto, tmp_path):
    # Given a broker with a certificate of a private authority, for 127.0.0.1
    let_in(tmp_path)
    ca, other = tls.Authority(tmp_path), tls.Authority(tmp_path, "other")
    brokers = {}
    for host in ("127.0.0.1", "elsewhere.example"):
        cert, key = ca.issue(host)
        os.chmod(key, 0o644)
        brokers[host] = mosquitto(tls={"certfile": cert, "keyfile": key})
    broker = brokers["127.0.0.1"]
    reader = broker.subscribe("#", "--cafile", ca.cert)
    delivery.make_tables(db)

    # then who knows the authority is served
    stream = herald(db, "--to", broker.url("all", scheme="mqtts", ca=ca.cert))
    delivery.insert(db, 1, 500)
    stream.wait_confirmed(db)
    check(reader.wait(500), {"a": range(1, 501)})
    stream.stop()

    # and who knows another or none, or means another host, is told
    for one, params in ((broker, {"ca": other.cert}), (broker, {}),
                        (brokers["elsewhere.example"], {"ca": ca.cert})):
        stream = herald(db, "--to", one.url("all", scheme="mqtts", **params), ready=False)
        assert stream.wait_exit() == 78, params
        assert "certificate" in stream.err


def test_wrong_files_and_urls_are_said(db, herald, mosquitto, tmp_path):
    broker = mosquitto()
    for url, word in ((broker.url("all", scheme="mqtts", ca=f"{tmp_path}/none"), "ca"),
                      ("mqtt:all", "no broker"), ("mqtt://a,b/all", "more than one"),
                      (broker.url("all", qos=3), "qos")):
        stream = herald(db, "--to", url, ready=False)
        assert stream.wait_exit() == 78, url
        assert word in stream.err
