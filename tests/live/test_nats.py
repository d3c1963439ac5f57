"""Output to NATS JetStream, with real servers."""
import json
import os
import random

import pytest

import delivery
import tls
from nats_server import NatsServer
from postgres import wait_until


@pytest.fixture
def new_nats():
    """Makes and starts a server: new_nats(config="...")."""
    made = []

    def make(start=True, **options):
        made.append(NatsServer(**options))
        return made[-1].start() if start else made[-1]

    yield make
    for one in made:
        one.remove()


@pytest.fixture
def nats(new_nats):
    return new_nats()


def test_events_arrive_with_subject_id_and_body(db, herald, nats):
    # Given a stream of JetStream that does not exist yet
    delivery.make_tables(db)
    stream = herald(db, "--to", nats.url("shop.{schema}.{table}.{action}?stream=SHOP"))

    # when rows are written
    delivery.insert(db, 1, 5)
    db.sql("delete from a where n = 1")
    stream.wait_confirmed(db)

    # then it was made, and they are there
    config = nats.api("STREAM.INFO.SHOP")["config"]
    assert config["subjects"] == ["shop.*.*.*"] and config["storage"] == "file"
    messages = nats.messages("SHOP")
    assert [m[0] for m in messages] == ["shop.public.a.insert"] * 5 + ["shop.public.a.delete"]
    ids = [e["id"] for e in nats.events("SHOP")]
    assert ids == sorted(set(ids))
    for (_, headers, _), one in zip(messages, ids):
        assert f"-{one}\r\n" in headers and "Nats-Msg-Id: " in headers


def test_a_stream_that_is_made_is_made_as_the_url_says(db, herald, nats):
    herald(db, "--to", nats.url("shop.{table}?stream=SHOP&subjects=shop.%3E&storage=memory&max_age=3600"))
    config = nats.api("STREAM.INFO.SHOP")["config"]
    assert (config["subjects"], config["storage"], config["max_age"]) == (["shop.>"], "memory", 3600 * 10**9)


ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", "4"))


def start_rows(db, herald, nats, *args, path="?stream=S", **more):
    delivery.make_tables(db)
    return herald(db, "--to", nats.url(path), *args, **more)


def test_the_default_subject_names_database_schema_table_and_action(db, herald, nats):
    stream = start_rows(db, herald, nats)
    db.sql('create table "odd.na me" (n int); insert into "odd.na me" values (1)')
    stream.wait_confirmed(db)
    assert [m[0] for m in nats.messages("S")] == [f"{db.name}.public.odd%2Ena%20me.insert"]


def test_case_64_a_server_that_is_down_at_the_start_is_waited_for(db, herald, new_nats):
    # Given a server that does not run
    nats = new_nats(start=False)
    stream = start_rows(db, herald, nats, ready=False)
    stream.wait_log("is down")

    # when it starts
    nats.start()
    stream.wait_ready(db)

    # then events arrive
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": range(1, 4)})


def test_case_64_a_server_killed_and_started_again_loses_and_repeats_nothing(db, herald, nats):
    # Given a stream of events under way
    stream = start_rows(db, herald, nats)
    writer = delivery.insert_in_background(db, 3000)

    # when the server is killed and started, twice
    for least in (200, 1200):
        wait_until(lambda: nats.count("S") >= least, "messages")
        nats.kill9()
        stream.wait_log("is down")
        nats.start()
    writer.join()

    # then all is there once, in order
    stream.wait_confirmed(db)
    delivery.check_both(nats.events("S"), 3000)


def test_case_3_killed_at_random_nothing_is_lost_or_comes_twice(db, herald, nats):
    # Given a writer
    luck = random.Random(1)
    delivery.make_tables(db)
    herald(db, "--to", nats.url("?stream=S")).stop()
    last = 1000 * ROUNDS
    writer = delivery.insert_in_background(db, last)

    # when pgherald is killed again and again, sometimes behind the window of duplicates
    for _ in range(ROUNDS):
        stream = herald(db, "--to", nats.url("?stream=S"))
        wanted = nats.count("S") + luck.randrange(1, 800)
        wait_until(lambda: nats.count("S") >= min(wanted, last), "messages")
        stream.kill9()
        nats.edit_stream("S", duplicate_window=luck.choice((100_000_000, 120_000_000_000)))
    writer.join()

    # then the last run completes the stream
    stream = herald(db, "--to", nats.url("?stream=S"))
    stream.wait_confirmed(db)
    delivery.check_both(nats.events("S"), last)


def test_case_64_a_connection_cut_in_the_middle_of_a_batch(db, herald, nats, new_proxy):
    # Given a connection that is cut after so many bytes, five times
    proxy = new_proxy(nats.port, cuts=[40_000, 70_001, 100_002, 5_003, 200_004])
    delivery.make_tables(db)
    stream = herald(db, "--to", nats.url("?stream=S", port=proxy.port))
    delivery.insert(db, 1, 3000, body="x" * 100)

    # then all is there once, in order
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": range(1, 3001)})
    assert not proxy.cuts


@pytest.mark.parametrize(("writer", "repeats"), [("&writer=shop", 0), ("", 5)])
def test_case_65_a_named_writer_knows_its_messages_again_when_its_settings_change(db, herald, nats, new_proxy,
                                                                           writer, repeats):
    # Given events that are stored, but whose acknowledgements are lost
    delivery.make_tables(db)
    proxy = new_proxy(nats.port)
    stream = herald(db, "--to", nats.url(f"?stream=S{writer}", port=proxy.port))
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    proxy.mute = True
    delivery.insert(db, 11, 15)
    wait_until(lambda: nats.count("S") == 15, "the messages")
    stream.kill9()

    # when the output comes back with another URL and other tables
    stream = herald(db, "--to", nats.url(f"?stream=S{writer}"), "--tables", "public.*")
    delivery.insert(db, 16, 20)
    stream.wait_confirmed(db)

    # then it repeats what it does not know as its own
    delivery.check(nats.events("S"), {"a": range(1, 21)}, repeats=bool(repeats))
    assert nats.count("S") == 20 + repeats


def test_case_64_a_server_that_stops_answering_is_left(db, herald, nats):
    # Given a server that is frozen
    stream = start_rows(db, herald, nats, path="?stream=S&ack_wait=1")
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    nats.freeze()
    delivery.insert(db, 11, 20)

    # when no acknowledgement comes, then that is an error; and all is well when it goes on
    stream.wait_log("acknowledged nothing for 1 s")
    nats.freeze(False)
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": range(1, 21)})


def test_case_64_a_full_stream_is_waited_for_and_keeps_the_order(db, herald, nats):
    # Given a stream that takes nothing more when it has 100 kB, and rows of different sizes: one
    # that is too large for what is left is followed by some that are not
    nats.make_stream("S", f"{db.name}.>", max_bytes=100_000, discard="new")
    stream = start_rows(db, herald, nats, path="")
    db.sql("insert into a select n, repeat('x', case when n % 7 = 0 then 3000 else 1 end) "
           "from generate_series(1, 1000) n")
    stream.wait_log("maximum bytes exceeded")
    full = nats.count("S")
    assert full < 1000 and "is back" not in stream.err

    # when there is room again
    nats.edit_stream("S", max_bytes=10_000_000)

    # then all is there once, in order
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": range(1, 1001)})


def test_case_64_too_large_messages_stop_the_stream(db, herald, nats):
    nats.make_stream("S", f"{db.name}.>", max_msg_size=2000)
    stream = start_rows(db, herald, nats, path="")
    delivery.insert(db, 1, 3)
    delivery.insert(db, 4, 4, body="x" * 3000)
    assert stream.wait_exit() == 1
    assert "max_msg_size" in stream.err and "public.a" in stream.err
    delivery.check(nats.events("S"), {"a": range(1, 4)})


def test_case_64_too_large_messages_can_be_skipped(db, herald, new_nats):
    nats = new_nats(config="max_payload: 4096")
    nats.make_stream("S", f"{db.name}.>", max_msg_size=2000)
    stream = start_rows(db, herald, nats, "--on-refused", "skip", path="")
    for n in range(1, 10):
        delivery.insert(db, n, n, body="x" * (3000 if n == 4 else 5000 if n == 7 else 1))
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": (1, 2, 3, 5, 6, 8, 9)})


def test_case_64_too_large_messages_can_go_to_a_stream_of_dead_letters(db, herald, nats, tmp_path):
    nats.make_stream("S", "rows.>", max_msg_size=2000)
    nats.make_stream("DEAD", "dead.>")
    delivery.make_tables(db)
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"outputs": [{
        "to": nats.url("rows.{table}"), "on_refused": "dead-letter",
        "dead_letter": nats.url("dead.letters")}]}))
    stream = herald(db, "-c", str(config))
    delivery.insert(db, 1, 3, body="x" * 3000)
    delivery.insert(db, 4, 5)
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": (4, 5)})
    letters = nats.messages("DEAD")
    assert [m[0] for m in letters] == ["dead.letters"] * 3
    bodies = [json.loads(json.loads(m[2])["body"]) for m in letters]
    delivery.check(bodies, {"a": (1, 2, 3)})


def test_subjects_that_do_not_fit_are_refused(db, herald, nats):
    nats.make_stream("S", "rows.a.>")
    stream = start_rows(db, herald, nats, "--on-refused", "skip", path="rows.{table}.{action}?stream=S")
    delivery.insert(db, 1, 2, table="a")
    delivery.insert(db, 3, 4, table="b")
    delivery.insert(db, 5, 6, table="a")
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": (1, 2, 5, 6)})
    assert "no subject of the stream fits" in stream.err


@pytest.mark.parametrize("discard", ["old", "new"])
def test_case_3_two_outputs_to_one_stream_lose_nothing_of_each_other(db, herald, nats, tmp_path, discard):
    # Given two processes with slots of their own, and one of them with two outputs
    nats.make_stream("S", "rows.>", discard=discard)
    delivery.make_tables(db)
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"outputs": [{"to": nats.url("rows.one.{table}"), "tables": ["public.a"]},
                                              {"to": nats.url("rows.one.{table}"), "tables": ["public.b"]}]}))

    def start():
        one = herald(db, "-c", str(config), "--slot", f"{db.slot}_one", ready=False)
        two = herald(db, "--to", nats.url("rows.two.{table}"), "--slot", f"{db.slot}_two", ready=False)
        return [one.wait_ready(db, f"{db.slot}_one"), two.wait_ready(db, f"{db.slot}_two")]

    last = 1000 * ROUNDS // 2
    for stream in start():
        stream.stop()
    writer = delivery.insert_in_background(db, last)

    # when both are killed again and again, and no window of duplicates helps
    nats.edit_stream("S", duplicate_window=100_000_000)
    luck = random.Random(2)
    for _ in range(ROUNDS):
        streams = start()
        wanted = nats.count("S") + luck.randrange(1, 600)
        wait_until(lambda: nats.count("S") >= min(wanted, last), "messages")
        for stream in streams:
            stream.kill9()
    writer.join()
    for stream, slot in zip(start(), ("one", "two")):
        stream.wait_confirmed(db, slot=f"{db.slot}_{slot}")

    # then each has written all, once, in order
    messages = nats.messages("S")
    for name in ("one", "two"):
        delivery.check_both([json.loads(m[2]) for m in messages if m[0].startswith(f"rows.{name}.")], last)


def test_case_65_a_hole_in_a_shared_stream_is_filled_without_repeats(db, herald, nats, new_proxy):
    # Given an output that shares its stream with another program, and whose acknowledgements are lost
    nats.make_stream("S", "rows.>")
    with nats.client() as other:
        other.publish("rows.other", b"{}")
        wait_until(lambda: nats.count("S") == 1, "the other's message")
        delivery.make_tables(db)
        proxy = new_proxy(nats.port)
        url = nats.url("rows.{table}", port=proxy.port)
        stream = herald(db, "--to", url)
        delivery.insert(db, 1, 10)
        stream.wait_confirmed(db)
        proxy.mute = True
        delivery.insert(db, 11, 20)
        wait_until(lambda: nats.count("S") == 21, "the messages")
        stream.kill9()
        other.publish("rows.other", b"{}")
        wait_until(lambda: nats.count("S") == 22, "the other's message")

    # when one of them was not stored, and the server has forgotten the ids
    assert "error" not in nats.api("STREAM.MSG.DELETE.S", {"seq": 16})
    nats.edit_stream("S", duplicate_window=100_000_000)
    nats.stop()
    nats.start()
    proxy.mute = False
    stream = herald(db, "--to", url)
    delivery.insert(db, 21, 22)
    stream.wait_confirmed(db)

    # then that one is written again, and no other
    numbers = [json.loads(m[2])["new"]["n"] for m in nats.messages("S") if m[0] == "rows.a"]
    assert numbers == [*range(1, 15), *range(16, 21), 15, 21, 22]


# Setups that are wrong


def refused(herald, db, url, *args):
    stream = herald(db, "--to", url, *args, ready=False)
    assert stream.wait_exit() == 78, stream.describe()
    return stream.err


def test_case_65_no_stream_for_the_subject_says_how_to_make_one(db, herald, nats):
    err = refused(herald, db, nats.url("orders.{table}"))
    assert "no stream takes orders.*" in err and "nats stream add NAME --subjects 'orders.*'" in err


def test_case_65_several_streams_for_the_subject_want_a_name(db, herald, nats):
    nats.make_stream("A", "orders.a")
    nats.make_stream("B", "orders.b")
    assert "stream=NAME" in refused(herald, db, nats.url("orders.{table}"))


def test_case_65_a_stream_for_other_subjects_is_not_taken(db, herald, nats):
    nats.make_stream("S", "orders.>")
    err = refused(herald, db, nats.url("shop.{table}?stream=S"))
    assert "stream S has no subject that fits shop.*" in err


def test_a_server_without_jetstream_says_so(db, herald, new_nats):
    nats = new_nats(jetstream=False)
    assert "JetStream is not enabled" in refused(herald, db, nats.url("?stream=S"))


AUTH = """authorization { users: [
  {user: app, password: "s3cret-pw"},
  {user: weak, password: "w3ak-pw", permissions: {publish: {allow: ["$JS.API.>"]}}}
] }"""


def test_case_64_passwords_let_in_or_not_and_are_never_shown(db, herald, new_nats):
    nats = new_nats(config=AUTH, user={"user": "app", "pass": "s3cret-pw"})
    err = refused(herald, db, nats.url("?stream=S", user="app:wr0ng-pw"))
    assert "does not let us in" in err and "wr0ng-pw" not in err
    assert "does not let us in" in refused(herald, db, nats.url("?stream=S"))

    stream = start_rows(db, herald, nats, path=f"?stream=S", ready=False)
    assert stream.wait_exit() == 78
    delivery_url = nats.url("?stream=S", user="app:s3cret-pw")
    stream = herald(db, "--to", delivery_url)
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    assert stream.stop() == [] and "s3cret-pw" not in stream.err
    delivery.check(nats.events("S"), {"a": range(1, 4)})


def test_case_64_a_password_that_is_changed_while_streaming_ends_the_stream(db, herald, new_nats):
    # Given a server that learns of another password
    nats = new_nats(config=AUTH, user={"user": "app", "pass": "s3cret-pw"})
    delivery.make_tables(db)
    stream = herald(db, "--to", nats.url("?stream=S", user="app:s3cret-pw"))
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    nats.configure(AUTH.replace("s3cret-pw", "n3w-pw"))
    nats.user["pass"] = "n3w-pw"
    nats.reload()

    # then that is said, and with the new one nothing is lost or comes twice
    assert stream.wait_exit() == 78
    assert "does not let us in" in stream.err and "s3cret-pw" not in stream.err
    delivery.insert(db, 4, 6)
    stream = herald(db, "--to", nats.url("?stream=S", user="app:n3w-pw"))
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": range(1, 7)})


def test_a_user_who_may_not_publish_is_told(db, herald, new_nats):
    nats = new_nats(config=AUTH, user={"user": "app", "pass": "s3cret-pw"})
    nats.make_stream("S", f"{db.name}.>")
    delivery.make_tables(db)
    stream = herald(db, "--to", nats.url("?stream=S&ack_wait=1", user="weak:w3ak-pw"))
    delivery.insert(db, 1, 1)
    assert stream.wait_exit() == 78
    assert "does not permit" in stream.err and "w3ak-pw" not in stream.err


def test_a_token_lets_in(db, herald, new_nats):
    nats = new_nats(config='authorization { token: "t0ken" }', user={"auth_token": "t0ken"})
    stream = start_rows(db, herald, nats, path="?stream=S&token=t0ken")
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    assert nats.count("S") == 3 and "t0ken" not in stream.err
    assert "does not let us in" in refused(herald, db, nats.url("?stream=S&token=wr0ng"), "--slot", "other")


def test_case_64_tls_is_verified(db, herald, new_nats, tmp_path):
    # Given a server with a certificate of a private authority
    right, wrong = tls.Authority(tmp_path), tls.Authority(tmp_path, "other")
    cert, key = right.issue("localhost")
    nats = new_nats(config=f'tls {{ cert_file: "{cert}", key_file: "{key}" }}', scheme="tls",
                    host="localhost", tls=right.cert)
    delivery.make_tables(db)

    # then only the right authority and name are good
    err = refused(herald, db, nats.url(f"?stream=S&ca={wrong.cert}"))
    assert "unable to get local issuer certificate" in err
    assert "unable to get local issuer certificate" in refused(herald, db, nats.url("?stream=S"))
    err = refused(herald, db, nats.url(f"?stream=S&ca={right.cert}", host="127.0.0.1"))
    assert "mismatch" in err
    err = refused(herald, db, nats.url(f"?stream=S&ca={right.cert}", host="127.0.0.1").replace("tls:", "nats:"))
    assert "mismatch" in err
    stream = herald(db, "--to", nats.url(f"?stream=S&ca={right.cert}"))
    delivery.insert(db, 1, 2000, body="x" * 500)
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": range(1, 2001)})


def test_core_publishes_without_a_stream_and_says_so_once(db, herald, new_nats):
    nats = new_nats(jetstream=False)
    with nats.client() as client:
        client.subscribe("rows.>")
        stream = start_rows(db, herald, nats, path="rows.{table}?core=1")
        delivery.insert(db, 1, 3)
        got = [client.next_message() for _ in range(3)]
    stream.wait_confirmed(db)
    assert [m[0] for m in got] == ["rows.a"] * 3
    delivery.check([json.loads(m[2]) for m in got], {"a": range(1, 4)})
    stream.stop()
    assert stream.err.count("without acknowledgements") == 1


def test_an_address_that_names_a_missing_column_is_refused_at_the_start(db, herald, nats):
    # Given a table without a column that the subjects name, and no event yet
    db.sql("create table t (n int primary key)")

    # then the stream does not begin
    stream = herald(db, "--to", nats.url("x.{new.region}?stream=X"), ready=False)
    assert stream.wait_exit() == 78
    assert "{new.region}" in stream.err and "public.t" in stream.err

    # but does when the output leaves that table out
    db.sql("create table u (n int primary key, region text)")
    stream = herald(db, "--to", nats.url("x.{new.region}?stream=X"), "--tables", "!t")
    db.sql("insert into u values (1, 'eu')")
    wait_until(lambda: nats.count("X") == 1, "the event")
