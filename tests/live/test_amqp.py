"""RabbitMQ: what arrives, what is refused, and what a broker that goes and comes back gets."""
import base64
import json
import os
import random
import subprocess
import tempfile

import pytest

import amqp_server
import herald as program
from amqp_server import Rabbit
from delivery import check, insert, make_tables
from postgres import wait_until
from tls import Authority


@pytest.fixture(scope="session")
def rabbit():
    """The broker that most tests share; each has exchanges and queues of its own."""
    with Rabbit() as shared:
        yield shared


@pytest.fixture
def new_rabbit():
    """Makes and starts a broker for one test alone: new_rabbit(max_message_size=1000)."""
    made = []

    def make(**settings):
        made.append(Rabbit(**settings))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.remove()


def arrived(broker, queue):
    return [json.loads(m.body) for m in broker.take(queue)]


def test_an_event_arrives_with_its_key_id_and_properties(db, herald, rabbit):
    # Given a queue that gets everything
    make_tables(db)
    queue = rabbit.bind(db.name)
    stream = herald(db, "--to", rabbit.url(exchange=db.name))

    # when a row is written
    db.sql("insert into a values (1, 'one')")
    stream.wait_confirmed(db)

    # then the queue has its event
    [message] = rabbit.take(queue)
    event = json.loads(message.body)
    assert event["new"] == {"n": 1, "body": "one"}
    assert message.key == "public.a.insert"
    assert message.properties["message_id"] == event["id"]
    assert message.properties["delivery_mode"] == 2
    assert message.properties["content_type"] == "application/json"
    assert message.properties["app_id"].startswith("pgherald/")
    assert f"/{db.name}/{db.slot}/" in message.properties["app_id"]
    stream.stop()


def unpack(body, encoding):
    command = {"br": ["brotli", "-dc"], "gzip": ["gzip", "-dc"], "zstd": ["zstd", "-dcq"]}[encoding]
    return subprocess.run(command, input=body, capture_output=True, check=True).stdout


@pytest.mark.parametrize(("name", "encoding"), [("brotli", "br"), ("gzip", "gzip"), ("zstd", "zstd")])
def test_messages_can_be_compressed(db, herald, rabbit, name, encoding):
    make_tables(db)
    queue = rabbit.bind(db.name)
    stream = herald(db, "--to", rabbit.url(exchange=db.name, compress=name))
    insert(db, 1, 50, body="å" * 300)
    stream.wait_confirmed(db)
    messages = rabbit.take(queue)
    assert {m.properties["content_encoding"] for m in messages} == {encoding}
    assert all(len(m.body) < 400 for m in messages)
    check([json.loads(unpack(m.body, encoding)) for m in messages], {"a": range(1, 51)})
    stream.stop()


def test_what_has_no_place_to_say_so_is_not_compressed(tmp_path):
    result = program.run("stream", "--to", f"file:{tmp_path}/x?compress=gzip")
    assert result.code == 78 and "compress" in result.err


# A broker that goes and comes back


def test_case_64_a_broker_that_is_down_at_the_start_gets_all_when_it_comes(db, herald, new_rabbit):
    # Given a broker that is down
    make_tables(db)
    broker = new_rabbit()
    queue = broker.bind("x")
    herald(db, "--to", broker.url(exchange="x")).stop()
    broker.stop()
    stream = herald(db, "--to", broker.url(exchange="x"), ready=False)
    stream.wait_log("trying again")

    # when rows are written and it comes
    insert(db, 1, 100)
    broker.start()
    stream.wait_confirmed(db)

    # then it has them
    check(arrived(broker, queue), {"a": range(1, 101)}, repeats=True)
    stream.stop()


def test_case_64_a_broker_that_is_killed_and_restarted_gets_all_in_order(db, herald, new_rabbit):
    # Given a stream of thousands of rows
    make_tables(db)
    broker = new_rabbit()
    queue = broker.bind("x")
    stream = herald(db, "--to", broker.url(exchange="x"))
    broker.settle()
    insert(db, 1, 3000)

    # when the broker dies in the middle of it, as in a power cut, and more is written
    stream.wait_until(lambda: broker.count(queue) > 100, "messages in the queue")
    broker.kill9()
    insert(db, 3001, 4000)
    stream.wait_log("is down, trying again")
    broker.start()
    stream.wait_confirmed(db)

    # then nothing is lost, and repeats are known by their id
    check(arrived(broker, queue), {"a": range(1, 4001)}, repeats=True)
    stream.stop()


def test_case_64_a_connection_that_is_cut_in_the_middle_of_a_batch_loses_nothing(db, herald, rabbit, new_proxy):
    # Given a network that breaks whenever some more was sent
    make_tables(db)
    queue = rabbit.bind(db.name)
    proxy = new_proxy(rabbit.port)
    stream = herald(db, "--to", rabbit.url(exchange=db.name, port=proxy.port))

    # when rows are written
    for first in range(1, 3001, 500):
        proxy.cut_after(20000 + 7 * first)
        insert(db, first, first + 499)
        stream.wait_until(lambda: not proxy.cuts, "the network to break")
    stream.wait_confirmed(db)

    # then all come, in order but for repeats
    check(arrived(rabbit, queue), {"a": range(1, 3001)}, repeats=True)
    stream.stop()


def test_case_67_a_broker_without_memory_is_waited_for(db, herald, new_rabbit):
    # Given a broker that has too little memory
    make_tables(db)
    broker = new_rabbit()
    queue = broker.bind("x")
    stream = herald(db, "--to", broker.url(exchange="x", heartbeat=1))
    broker.ctl("set_vm_memory_high_watermark", "absolute", "1MB")

    # when far more is written than is in flight
    insert(db, 1, 6000, body="x" * 500)
    wait_until(lambda: "blocked" in broker.ctl("list_connections", "state"), "the connection to be blocked")
    before = db.slot_state()["confirmed"]

    # then the output waits without an error until it has memory again
    broker.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
    stream.wait_confirmed(db)
    check(arrived(broker, queue), {"a": range(1, 6001)})
    assert before < db.slot_state()["confirmed"]
    assert "trying again" not in stream.err
    stream.stop()


def test_case_67_a_stream_ends_while_the_broker_blocks_it(db, herald, new_rabbit):
    make_tables(db)
    broker = new_rabbit()
    queue = broker.bind("x")
    stream = herald(db, "--to", broker.url(exchange="x"))
    broker.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    insert(db, 1, 6000, body="x" * 500)
    wait_until(lambda: "blocked" in broker.ctl("list_connections", "state"), "the connection to be blocked")

    # When it is told to end, it does
    stream.stop()

    # and a new one goes on where it stopped
    broker.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
    stream = herald(db, "--to", broker.url(exchange="x"))
    stream.wait_confirmed(db)
    check(arrived(broker, queue), {"a": range(1, 6001)}, repeats=True)


def test_case_67_a_full_queue_is_waited_for(db, herald, rabbit):
    # Given a queue that takes ten messages and refuses more, and one message at a time: of several it
    # could refuse one and take the next
    make_tables(db)
    queue = rabbit.bind(db.name, arguments={"x-max-length": 10, "x-overflow": "reject-publish"})
    stream = herald(db, "--to", rabbit.url(exchange=db.name, max_in_flight=1))

    # when more is written
    insert(db, 1, 30)
    stream.wait_log("basic.nack")
    assert rabbit.count(queue) < 30  # the limit is not exact

    # then the rest comes as somebody takes messages off
    events = []
    wait_until(lambda: events.extend(arrived(rabbit, queue)) or len({e["new"]["n"] for e in events}) == 30,
               "all rows", interval=0.2)
    check(events, {"a": range(1, 31)}, repeats=True)
    stream.wait_confirmed(db)
    stream.stop()


def test_case_64_a_silent_broker_is_left_and_tried_again(db, herald, new_rabbit):
    # Given heartbeats each second
    make_tables(db)
    broker = new_rabbit()
    queue = broker.bind("x")
    stream = herald(db, "--to", broker.url(exchange="x", heartbeat=1))
    insert(db, 1, 10)
    stream.wait_confirmed(db)

    # when the broker hangs
    broker.freeze()
    insert(db, 11, 20)
    stream.wait_log("trying again")
    assert "silent" in stream.err

    # then all goes on when it does
    broker.freeze(False)
    stream.wait_confirmed(db)
    check(arrived(broker, queue), {"a": range(1, 21)}, repeats=True)
    stream.stop()


HEARTBEAT = b"\x08\0\0\0\0\0\0\xce"


def test_an_idle_stream_keeps_its_connection_by_heartbeats(db, herald, rabbit, new_proxy):
    # Given a connection with a heartbeat each second and nothing to send
    make_tables(db)
    queue = rabbit.bind(db.name)
    proxy = new_proxy(rabbit.port)
    stream = herald(db, "--to", rabbit.url(exchange=db.name, port=proxy.port, heartbeat=1))

    # when several have gone by
    stream.wait_until(lambda: bytes(proxy.links[0].sent).count(HEARTBEAT) >= 6, "heartbeats")

    # then the same connection still works
    insert(db, 1, 1)
    stream.wait_confirmed(db)
    check(arrived(rabbit, queue), {"a": range(1, 2)})
    assert len(proxy.links) == 1 and "trying again" not in stream.err
    stream.stop()


def test_case_3_pgherald_killed_at_random_loses_nothing(db, herald, rabbit):
    # Given a writer that goes on all the time
    make_tables(db)
    queue = rabbit.bind(db.name)
    rounds, random_, last = int(os.environ.get("PGHERALD_TEST_ROUNDS", 3)), random.Random(5), 0
    herald(db, "--to", rabbit.url(exchange=db.name)).stop()

    # when the process dies at random moments
    for _ in range(rounds):
        stream = herald(db, "--to", rabbit.url(exchange=db.name))
        mark = rabbit.count(queue)
        insert(db, last + 1, last + 1000)
        last += 1000
        most = mark + random_.randrange(1, 1000)
        stream.wait_until(lambda: rabbit.count(queue) >= most, "some messages")  # noqa: B023
        stream.kill9()
    stream = herald(db, "--to", rabbit.url(exchange=db.name))
    stream.wait_confirmed(db)

    # then each row is there, in order but for repeats
    check(arrived(rabbit, queue), {"a": range(1, last + 1)}, repeats=True)
    stream.stop()


def test_a_restart_after_a_clean_end_repeats_nothing(db, herald, rabbit):
    make_tables(db)
    queue = rabbit.bind(db.name)
    for first in (1, 501, 1001):
        stream = herald(db, "--to", rabbit.url(exchange=db.name))
        insert(db, first, first + 499)
        stream.wait_until(lambda: rabbit.count(queue) >= first, "some messages")  # noqa: B023
        stream.stop()
    stream = herald(db, "--to", rabbit.url(exchange=db.name))
    stream.wait_confirmed(db)
    check(arrived(rabbit, queue), {"a": range(1, 1501)})


# What is refused


def test_case_67_what_no_queue_takes_stops_the_stream(db, herald, rabbit):
    # Given a queue for the table a alone
    make_tables(db)
    rabbit.bind(db.name, "public.a.*")
    stream = herald(db, "--to", rabbit.url(exchange=db.name))

    # when a row of b is written, the stream ends and says why
    db.sql("insert into b values (1)")
    assert stream.wait_exit() == 1
    assert "of public.b was refused" in stream.err and "NO_ROUTE" in stream.err
    assert "public.b.insert" in stream.err


def test_case_67_what_no_queue_takes_can_be_skipped(db, herald, rabbit):
    make_tables(db)
    queue = rabbit.bind(db.name, "public.a.*")
    stream = herald(db, "--to", rabbit.url(exchange=db.name, on_refused="skip"))
    db.sql("do $$ begin for n in 1..500 loop insert into a values (n); insert into b values (n); "
           "commit; end loop; end $$")
    stream.wait_confirmed(db)
    check(arrived(rabbit, queue), {"a": range(1, 501)})
    assert stream.err.count("skipped") == 500
    stream.stop()


def test_case_67_without_mandatory_the_broker_drops_what_no_queue_takes(db, herald, rabbit):
    make_tables(db)
    queue = rabbit.bind(db.name, "public.a.*")
    stream = herald(db, "--to", rabbit.url(exchange=db.name, mandatory="false"))
    db.sql("insert into b values (1)")
    db.sql("insert into a values (1)")
    stream.wait_confirmed(db)
    check(arrived(rabbit, queue), {"a": range(1, 2)})
    assert "refused" not in stream.err
    stream.stop()


def test_case_64_a_message_too_large_goes_to_the_dead_letters(db, herald, new_rabbit, tmp_path):
    # Given a broker that takes 100,000 bytes
    make_tables(db)
    broker = new_rabbit(max_message_size=100000)
    queue, dead = broker.bind("x"), tmp_path / "dead.json"
    url = broker.url(exchange="x", on_refused="dead-letter")
    stream = herald(db, "--dead-letter", f"file:{dead}", "--to", url)

    # when some rows are larger
    insert(db, 1, 300)
    insert(db, 1, 1, table="b", body="x" * 200_000)
    insert(db, 301, 600)
    insert(db, 2, 2, table="b", body="x" * 99_000)
    insert(db, 3, 3, table="b", body="x" * 100_001)
    stream.wait_confirmed(db)

    # then all others arrive, and these are among the dead letters once
    check(arrived(broker, queue), {"a": range(1, 601), "b": [2]}, repeats=True)
    letters = [json.loads(line) for line in dead.read_text().splitlines()]
    assert [json.loads(one["body"])["new"]["n"] for one in letters] == [1, 3]
    assert all("100000" in one["reason"] for one in letters)
    stream.stop()


def test_case_67_dead_letters_can_go_to_an_exchange(db, herald, rabbit):
    # Given a queue for one table, and another exchange for what is refused
    make_tables(db)
    queue, dead = rabbit.bind(db.name, "public.a.*"), rabbit.bind(f"{db.name}.dead")
    stream = herald(db, "--dead-letter", rabbit.url(exchange=f"{db.name}.dead"),
                    "--to", rabbit.url(exchange=db.name, on_refused="dead-letter", compress="brotli"))
    insert(db, 1, 3)
    insert(db, 1, 3, table="b")
    stream.wait_confirmed(db)

    # then it has the refused ones with all that is needed to send them again
    assert rabbit.count(queue) == 3
    letters = rabbit.take(dead)
    assert [m.key for m in letters] == ["dead-letter"] * 3
    for n, letter in enumerate((json.loads(m.body) for m in letters), 1):
        assert letter["address"] == "public.b.insert" and letter["table"] == "public.b"
        assert letter["encoding"] == "br"
        assert json.loads(unpack(base64.b64decode(letter["body_base64"]), "br"))["new"]["n"] == n
    assert "password" not in stream.err and "guest:guest" not in stream.err
    stream.stop()


def test_a_routing_key_that_is_too_long_is_refused(db, herald, rabbit):
    make_tables(db)
    queue = rabbit.bind(db.name)
    stream = herald(db, "--on-refused", "skip", "--address", "{schema}.{new.body}",
                    "--to", rabbit.url(exchange=db.name))
    insert(db, 1, 1, body="x" * 249)
    insert(db, 2, 2, body="x" * 248)
    insert(db, 3, 3, body="a.b #*%")
    stream.wait_confirmed(db)
    assert [m.key for m in rabbit.take(queue)] == ["public." + "x" * 248, "public.a%2Eb%20%23%2A%25"]
    assert "routing key has 256 bytes" in stream.err
    stream.stop()


def test_two_outputs_to_one_exchange_have_all_events_of_each(db, herald, rabbit):
    # Given two outputs that publish to the same exchange under different keys
    make_tables(db)
    queue = rabbit.bind(db.name)
    stream = herald(db, "--to", rabbit.url(exchange=db.name, address="one.{table}"),
                    "--to", rabbit.url(exchange=db.name, address="two.{table}"))

    # when rows are written and one process is killed on the way
    insert(db, 1, 1000)
    stream.wait_until(lambda: rabbit.count(queue) > 300, "some messages")
    stream.kill9()
    stream = herald(db, "--to", rabbit.url(exchange=db.name, address="one.{table}"),
                    "--to", rabbit.url(exchange=db.name, address="two.{table}"))
    stream.wait_confirmed(db)

    # then each has all of them
    messages = rabbit.take(queue)
    for key in ("one.a", "two.a"):
        check([json.loads(m.body) for m in messages if m.key == key], {"a": range(1, 1001)}, repeats=True)
    stream.stop()


# What the user has to mend


def test_what_is_wrong_in_the_url_is_said_before_anything_starts():
    for url, word in (("amqp://h/?exchang=x", "exchang"), ("amqp://h/?type=fan", "topic|direct"),
                      ("amqp://h/?properties=none", "mandatory=false"), (f"amqps://h/?cert={__file__}", "cert_key")):
        result = program.run("stream", "--to", url)
        assert result.code == 78 and word in result.err, result


@pytest.mark.parametrize(("change", "words"), [
    ({"user": "guest:hunter2"}, ["guest", "ACCESS_REFUSED"]),
    ({"vhost": "shop"}, ["shop", "NOT_ALLOWED"]),
    ({"exchange": "missing", "declare": "false"}, ["missing", "NOT_FOUND"]),
    ({"type": "direct"}, ["PRECONDITION_FAILED", "'type'"]),
    ({"exchange": "amq.mine"}, ["amq.mine", "ACCESS_REFUSED"]),
])
def test_what_the_broker_will_not_have_is_an_error_of_the_settings(db, herald, rabbit, change, words):
    rabbit.bind(db.name)
    stream = herald(db, "--to", rabbit.url(**{"exchange": db.name, **change}), ready=False)
    assert stream.wait_exit() == 78
    for word in words:
        assert word in stream.err
    assert "hunter2" not in stream.err


def test_case_64_a_password_that_is_changed_while_streaming_ends_the_stream(db, herald, rabbit):
    # Given a user
    make_tables(db)
    rabbit.bind(db.name)
    rabbit.ctl("add_user", db.name, "hunter2")
    rabbit.ctl("set_permissions", db.name, ".*", ".*", ".*")
    stream = herald(db, "--to", rabbit.url(user=f"{db.name}:hunter2", exchange=db.name))

    # when its password is another one and the connection ends
    rabbit.ctl("change_password", db.name, "hunter3")
    rabbit.ctl("close_all_user_connections", db.name, "rotated")

    # then the stream says what is wrong
    assert stream.wait_exit() == 78
    assert "ACCESS_REFUSED" in stream.err and "hunter" not in stream.err


# TLS


@pytest.fixture(scope="session")
def tls():
    """A broker with a certificate of a private authority for localhost and one of another."""
    with tempfile.TemporaryDirectory(prefix="pgherald-tls-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)  # pytest's own folders are closed to the broker's user
        ours, other = Authority(folder), Authority(folder, "other")
        cert, key = ours.issue("localhost", owner=amqp_server.owner())
        with Rabbit(tls=(ours.cert, cert, key)) as broker:
            broker.ours, broker.other = ours, other
            yield broker


def test_case_64_a_private_authority_is_trusted_when_named(db, herald, tls):
    make_tables(db)
    queue = tls.bind(db.name)
    stream = herald(db, "--to", tls.url(scheme="amqps", host="localhost", exchange=db.name, ca=tls.ours.cert))
    insert(db, 1, 500, body="x" * 1000)
    stream.wait_confirmed(db)
    check(arrived(tls, queue), {"a": range(1, 501)})
    stream.stop()


@pytest.mark.parametrize(("host", "ca", "words"), [
    ("localhost", "other", "certificate"),
    ("localhost", None, "certificate"),
    ("127.0.0.1", "ours", "IP address mismatch"),
])
def test_case_64_a_certificate_that_is_not_to_be_trusted_is_refused(db, herald, tls, host, ca, words):
    params = {"ca": getattr(tls, ca).cert} if ca else {}
    stream = herald(db, "--to", tls.url(scheme="amqps", host=host, exchange=db.name, **params), ready=False)
    assert stream.wait_exit() == 78
    assert words in stream.err


# The preset of PGEvents


def test_preset_pgevents_sends_what_its_consumers_know(db, herald, rabbit):
    # Given PGEvents' settings as environment, and its consumer's queue
    db.sql("create table users (id int primary key, name text); create table other (id int)")
    queue = rabbit.bind(db.name, "public.#")
    env = {"PGHOST": db.server.host, "PGDATABASE": db.name, "PGUSER": "postgres",
           "PGREPLICATIONSLOT": db.slot, "PGTABLES": "public.users", "LOG_LEVEL": "INFO",
           "RABBITMQ_URL": rabbit.url(heartbeat=0, connection_attempts=3), "RABBITMQ_EXCHANGE": db.name}
    stream = herald(db, "--preset", "pgevents", env=env)

    # when rows are written
    db.sql("insert into users values (1, 'å')")
    db.sql("insert into other values (1)")
    db.sql("update users set name = 'b'")
    db.sql("truncate users")
    db.sql("insert into users values (2, null)")
    db.sql("delete from users")
    stream.wait_confirmed(db)

    # then it gets Brotli with nothing but delivery_mode beside
    messages = rabbit.take(queue)
    assert [unpack(m.body, "br").decode() for m in messages] == [
        '{"table_name": "public.users", "old": {}, "new": {"id": 1, "name": "\\u00e5"}, "id": 1, '
        '"diff": {"id": 1, "name": "\\u00e5"}, "action": "I"}',
        '{"table_name": "public.users", "old": {"id": 1}, "new": {"id": 1, "name": "b"}, "id": 1, '
        '"diff": {"name": "b"}, "action": "U"}',
        '{"table_name": "public.users", "old": {}, "new": {"id": 2, "name": null}, "id": 2, '
        '"diff": {"id": 2}, "action": "I"}',
        '{"table_name": "public.users", "old": {"id": 2}, "new": {}, "id": 2, "diff": {}, "action": "D"}',
    ]
    assert {m.key for m in messages} == {"public.users"}
    assert all(m.properties == {"delivery_mode": 2} and m.headers == {} for m in messages)
    stream.stop()


@pytest.mark.parametrize("flags", [
    ("--pghost", "--pgdatabase", "--pguser", "--pgslot", "--pgtables", "--rabbitmq-url", "--rabbitmq-exchange"),
    ("--pg_host", "--pg_database", "--pg_user", "--pg_replication_slot", "--pg_tables", "--rabbitmq_url",
     "--rabbitmq_exchange"),
])
def test_preset_pgevents_knows_both_spellings_of_its_flags(db, herald, rabbit, flags):
    db.sql("create table users (id int)")
    queue = rabbit.bind(db.name)
    values = (db.server.host, db.name, "postgres", db.slot, "public.users", rabbit.url(), db.name)
    args = [word for pair in zip(flags, values, strict=True) for word in pair]
    stream = program.Herald("stream", "--preset", "pgevents", "--compress", "none", *args)
    try:
        stream.wait_ready(db)
        db.sql("insert into users values (1)")
        stream.wait_confirmed(db)
        assert [json.loads(m.body)["action"] for m in rabbit.take(queue)] == ["I"]
        stream.stop()
    finally:
        stream.close()


def test_preset_pgevents_drops_what_nobody_listens_to(db, herald, rabbit):
    db.sql("create table users (id int)")
    env = {"RABBITMQ_URL": rabbit.url(), "RABBITMQ_EXCHANGE": db.name}
    stream = herald(db, "--preset", "pgevents", env=env)
    db.sql("insert into users values (1)")
    stream.wait_confirmed(db)
    assert "refused" not in stream.err
    stream.stop()


# pgherald consume


@pytest.mark.parametrize("compress", ["none", "brotli", "gzip", "zstd"])
def test_consume_takes_messages_off_a_queue(db, herald, rabbit, compress):
    # Given messages in a queue
    make_tables(db)
    queue = rabbit.bind(db.name)
    url = rabbit.url(exchange=db.name, compress=compress)
    stream = herald(db, "--to", url)
    insert(db, 1, 5)
    stream.wait_confirmed(db)
    stream.stop()

    # when some are consumed, by the URL of the output with the queue in it
    result = program.run("consume", f"{url}&queue={queue}", "--limit", 3, "--json")

    # then they are shown, and the others stay
    shown = [json.loads(line) for line in result.out.splitlines()]
    check([m["event"] for m in shown], {"a": range(1, 4)})
    assert all(m["address"] == "public.a.insert" and m["id"] == m["event"]["id"] for m in shown)
    result = program.run("consume", f"{url}&queue={queue}", "--limit", 2)
    address, event_id, event = result.out.splitlines()[1].split("\t")
    assert address == "public.a.insert" and json.loads(event)["new"]["n"] == 5
    assert json.loads(event)["id"] == event_id
    assert rabbit.count(queue) == 0


def test_consume_looks_on_at_an_exchange_by_keys(db, herald, rabbit):
    # Given somebody who looks on, and the queue of somebody else
    make_tables(db)
    queue = rabbit.bind(db.name)
    stream = herald(db, "--to", rabbit.url(exchange=db.name))
    look = program.Herald("consume", rabbit.url(exchange=db.name), "--keys", "public.b.*,no.such", "--json")
    try:
        look.wait_until(lambda: f"{db.name}\tqueue\t" in (b := rabbit.ctl("list_bindings", "-q", "source_name",
                        "destination_kind", "routing_key")) and "no.such" in b, "the bindings")

        # when rows of both tables are written
        insert(db, 1, 3)
        insert(db, 1, 3, table="b")
        stream.wait_confirmed(db)

        # then he sees those of one, and takes nothing away
        check([m["event"] for m in look.wait_for(3)], {"b": range(1, 4)})
        assert rabbit.count(queue) == 6
        look.stop()
        stream.stop()
    finally:
        look.close()


def test_consume_with_the_preset_prints_what_pgevents_sends(db, herald, rabbit):
    db.sql("create table users (id int)")
    env = {"RABBITMQ_URL": rabbit.url(), "RABBITMQ_EXCHANGE": db.name, "RABBITMQ_QUEUE_NAME": f"{db.name}.q",
           "RABBITMQ_BINDING_KEYS": "public.users"}
    with rabbit.channel() as channel:
        channel.exchange_declare(db.name, "topic", durable=True, auto_delete=False)
    consumer = program.Herald("consume", "--preset", "pgevents", "--limit", 1, env=env)
    try:
        wait_until(lambda: f"{db.name}.q" in rabbit.ctl("list_bindings", "-q", "destination_name", "routing_key"),
                   "the binding")
        stream = herald(db, "--preset", "pgevents", env=env)
        db.sql("insert into users values (7)")
        assert consumer.wait_exit() == 0
        [line] = consumer.lines
        key, event_id, event = line.decode().rstrip("\n").split("\t")
        assert (key, event_id, json.loads(event)["new"]) == ("public.users", "-", {"id": 7})
        stream.stop()
    finally:
        consumer.close()


def test_consume_says_what_is_wrong(rabbit):
    for url, word in ((rabbit.url(), "exchange=NAME or queue=NAME"),
                      (rabbit.url(exchange="missing"), "NOT_FOUND"),
                      (rabbit.url(queue="x", quue="y"), "quue"),
                      ("file:x", "nothing can be read"),
                      (rabbit.url(user="guest:hunter2", queue="x"), "ACCESS_REFUSED")):
        result = program.run("consume", url)
        assert result.code == 78 and word in result.err and "hunter2" not in result.err, result
    assert program.run("consume").code == 64
