"""Output to Redis streams, with real servers."""
import contextlib
import json
import os
import random

import pytest

import delivery
import tls
from postgres import free_port, wait_until
from proxy import Proxy
from redis_server import RedisServer

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", "4"))


@pytest.fixture
def new_redis():
    """Makes and starts a server: new_redis(maxmemory="2mb")."""
    made = []

    def make(start=True, **options):
        made.append(RedisServer(**options))
        return made[-1].start() if start else made[-1]

    yield make
    for one in made:
        one.remove()


@pytest.fixture
def redis(new_redis):
    return new_redis()


def start_rows(db, herald, redis, *args, path="rows", **more):
    delivery.make_tables(db)
    return herald(db, "--to", redis.url(path), *args, **more)


def test_events_arrive_with_stream_id_and_body(db, herald, redis):
    stream = start_rows(db, herald, redis, path="")
    delivery.insert(db, 1, 3)
    db.sql("insert into b select generate_series(1, 2000)")
    db.sql('create table "odd:na.me" (n int); insert into "odd:na.me" values (1)')
    stream.wait_confirmed(db)

    # A stream for each table; the entry's id is the position
    entries = redis.entries(f"{db.name}.public.a")
    assert [json.loads(fields["event"])["new"]["n"] for _, fields in entries] == [1, 2, 3]
    for entry, fields in entries:
        lsn, ordinal = json.loads(fields["event"])["id"].split("-")
        assert entry == f"{int(lsn, 16)}-{int(ordinal, 16)}"
    delivery.check(redis.events(f"{db.name}.public.b"), {"b": range(1, 2001)})
    assert redis.count(f"{db.name}.public.odd%3Ana%2Eme") == 1


@pytest.mark.parametrize("path, number, name", [("3/rows", 3, "rows"), ("3", 3, "{db}.public.a"),
                                                ("0/7", 0, "7"), ("x/3", 0, "x/3")])
def test_a_number_at_the_beginning_of_the_path_is_the_database(db, herald, redis, path, number, name):
    stream = start_rows(db, herald, redis, path=path)
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    assert len(redis.entries(name.replace("{db}", db.name), db=number)) == 3


def test_case_69_streams_are_trimmed_and_fields_named(db, herald, redis):
    stream = start_rows(db, herald, redis, path="rows?maxlen=100&field=body")
    db.sql("insert into a select generate_series(1, 5000)")
    stream.wait_confirmed(db)
    events = redis.events("rows", field="body")
    assert 100 <= len(events) < 1000
    assert [e["new"]["n"] for e in events] == list(range(5001 - len(events), 5001))


def test_case_64_a_server_that_is_down_at_the_start_is_waited_for(db, herald, new_redis):
    redis = new_redis(start=False)
    stream = start_rows(db, herald, redis, ready=False)
    stream.wait_log("is down")
    redis.start()
    stream.wait_ready(db)
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    delivery.check(redis.events("rows"), {"a": range(1, 4)})


def test_case_64_a_server_killed_and_started_again_loses_and_repeats_nothing(db, herald, redis):
    stream = start_rows(db, herald, redis)
    writer = delivery.insert_in_background(db, 3000)
    for least in (200, 1200):
        wait_until(lambda: redis.count("rows") >= least, "entries")
        redis.kill9()
        stream.wait_log("is down")
        redis.start()
    writer.join()
    stream.wait_confirmed(db)
    delivery.check_both(redis.events("rows"), 3000)


def test_an_idle_connection_that_ends_is_noticed(db, herald, redis):
    stream = start_rows(db, herald, redis)
    redis.kill9()
    stream.wait_log("is down")
    redis.start()
    stream.wait_log("is back")


def test_an_output_counts_what_it_does(db, herald, redis):
    # Given events over two connections, one of which is refused
    redis.raw("set", "word", "x")
    stream = start_rows(db, herald, redis, "--on-refused", "skip", "--log-level", "debug", path="{new.body}")
    delivery.insert(db, 1, 10, body="rows")
    stream.wait_confirmed(db)
    redis.raw("client", "kill", "type", "normal")
    stream.wait_log("is back")
    delivery.insert(db, 11, 11, body="word")
    delivery.insert(db, 12, 20, body="rows")
    stream.wait_confirmed(db)
    stream.stop()

    # then the end tells of it
    assert "has ended: 20 messages taken, 20 sent, 1 refused, 2 connections" in stream.err


def test_case_3_killed_at_random_nothing_is_lost_or_comes_twice(db, herald, redis):
    luck = random.Random(1)
    start_rows(db, herald, redis).stop()
    last = 1000 * ROUNDS
    writer = delivery.insert_in_background(db, last)
    for _ in range(ROUNDS):
        stream = herald(db, "--to", redis.url("rows"))
        wanted = redis.count("rows") + luck.randrange(1, 800)
        wait_until(lambda: redis.count("rows") >= min(wanted, last), "entries")
        stream.kill9()
    writer.join()
    stream = herald(db, "--to", redis.url("rows"))
    stream.wait_confirmed(db)
    delivery.check_both(redis.events("rows"), last)


def test_case_69_entries_that_were_consumed_and_deleted_do_not_come_again(db, herald, redis, new_proxy):
    # Given a connection that lets no reply through any more
    proxy = new_proxy(redis.port)
    delivery.make_tables(db)
    stream = herald(db, "--to", redis.url("rows?timeout=1", port=proxy.port))
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    proxy.mute = True
    delivery.insert(db, 4, 4)
    wait_until(lambda: redis.count("rows") == 4, "the entry")

    # when a consumer deletes what it got
    redis.raw("xtrim", "rows", "maxlen", "0")
    stream.wait_log("no answer within 1 s")
    proxy.mute = False

    # then the repeat is known as one
    delivery.insert(db, 5, 5)
    stream.wait_confirmed(db)
    delivery.check(redis.events("rows"), {"a": (5,)})


def test_case_64_a_connection_cut_in_the_middle_of_a_batch(db, herald, redis, new_proxy):
    proxy = new_proxy(redis.port, cuts=[40_000, 70_001, 100_002, 5_003, 200_004])
    delivery.make_tables(db)
    stream = herald(db, "--to", redis.url("rows", port=proxy.port))
    db.sql("insert into a select n, repeat('x', 100) from generate_series(1, 3000) n")
    stream.wait_confirmed(db)
    delivery.check(redis.events("rows"), {"a": range(1, 3001)})
    assert not proxy.cuts


EXEC = b"*1\r\n$4\r\nEXEC\r\n"


class Meddler(Proxy):
    """Once it is armed, it lets the next EXEC get lost with its connection, or makes a DISCARD of it."""

    armed = None

    def until_cut(self, data):
        before, found, after = data.partition(EXEC)
        if not found or not self.armed:
            return data, False
        how, self.armed = self.armed, None
        return (before, True) if how == "cut" else (before + b"*1\r\n$7\r\nDISCARD\r\n" + after, False)


@pytest.mark.parametrize("how", ("cut", "discarded"))
def test_case_64_a_transaction_that_redis_did_not_make_is_neither_taken_nor_overtaken(db, herald, redis, how):
    # Given an output that has a stream of its own
    delivery.make_tables(db)
    with contextlib.closing(Meddler(redis.port)) as proxy:
        stream = herald(db, "--to", redis.url("rows", port=proxy.port))
        delivery.insert(db, 1, 3)
        stream.wait_confirmed(db)

        # when of many transactions to Redis the first one is not made
        proxy.armed = how
        db.sql("insert into a select n, repeat('x', 5000) from generate_series(4, 500) n")
        stream.wait_confirmed(db)

        # then all is there once, in order
        assert proxy.armed is None
        delivery.check(redis.events("rows"), {"a": range(1, 501)})
        stream.stop()


def test_case_69_full_memory_is_waited_for_and_keeps_the_order(db, herald, redis):
    # Given a server without room, and rows of different sizes
    stream = start_rows(db, herald, redis)
    redis.raw("config", "set", "maxmemory", "3mb")
    db.sql("insert into a select n, repeat('x', case when n % 7 = 0 then 3000 else 1 end) "
           "from generate_series(1, 5000) n")
    stream.wait_log("OOM")

    # when there is room for a moment, again and again
    for megabytes in range(4, 12):
        redis.raw("config", "set", "maxmemory", f"{megabytes}mb")
        redis.raw("config", "set", "maxmemory", "1mb")
    redis.raw("config", "set", "maxmemory", "0")

    # then all is there once, in order
    stream.wait_confirmed(db)
    delivery.check(redis.events("rows"), {"a": range(1, 5001)})


@pytest.fixture
def small_redis(new_redis):
    """Takes no string larger than a megabyte."""
    return new_redis(**{"proto-max-bulk-len": "1mb"})


def test_case_64_too_large_messages_stop_the_stream(db, herald, small_redis):
    stream = start_rows(db, herald, small_redis)
    delivery.insert(db, 1, 3)
    db.sql("insert into a values (4, repeat('x', 2000000))")
    assert stream.wait_exit() == 1
    assert "proto-max-bulk-len" in stream.err and "public.a" in stream.err
    delivery.check(small_redis.events("rows"), {"a": (1, 2, 3)})


def test_case_64_too_large_messages_can_be_skipped(db, herald, small_redis):
    stream = start_rows(db, herald, small_redis, "--on-refused", "skip")
    db.sql("insert into a select n, repeat('x', case n when 3 then 2000000 else 1 end) "
           "from generate_series(1, 5) n")
    stream.wait_confirmed(db)
    delivery.check(small_redis.events("rows"), {"a": (1, 2, 4, 5)})


def test_case_64_refused_messages_can_go_to_a_stream_of_dead_letters(db, herald, redis, tmp_path):
    # Given an address that is a key of another kind
    delivery.make_tables(db)
    redis.raw("set", "rows.a", "something")
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"outputs": [{
        "to": redis.url("rows.{table}"), "on_refused": "dead-letter", "dead_letter": redis.url("dead")}]}))
    stream = herald(db, "-c", str(config))
    delivery.insert(db, 1, 3)
    delivery.insert(db, 4, 5, table="b")
    stream.wait_confirmed(db)
    delivery.check(redis.events("rows.b"), {"b": (4, 5)})
    letters = redis.events("dead")
    delivery.check([json.loads(one["body"]) for one in letters], {"a": (1, 2, 3)})
    assert "not a stream" in letters[0]["reason"]


# Several writers


def refused(herald, db, url, *args):
    stream = herald(db, "--to", url, *args, ready=False)
    assert stream.wait_exit() == 78, stream.describe()
    return stream.err


def test_a_second_writer_of_a_stream_is_refused_while_the_first_is_there(db, herald, redis):
    # Given an output to a stream
    first = start_rows(db, herald, redis)
    delivery.insert(db, 1, 3)
    first.wait_confirmed(db)

    # when another one wants to write there
    second = herald(db, "--to", redis.url("rows"), "--slot", f"{db.slot}_2", ready=False)
    second.wait_ready(db, f"{db.slot}_2")
    delivery.insert(db, 4, 4)

    # then it is told so, and nothing is lost of the first
    assert second.wait_exit() == 78
    assert "the Redis stream rows is written by another output" in second.err
    first.wait_confirmed(db)
    delivery.check(redis.events("rows"), {"a": range(1, 5)})


def test_a_second_writer_may_take_over_but_loses_nothing_silently(db, herald, redis):
    # Given two slots of which one is behind
    delivery.make_tables(db)
    herald(db, "--to", redis.url("rows"), "--slot", f"{db.slot}_2", ready=False).wait_ready(
        db, f"{db.slot}_2")
    second = f"{db.slot}_2"
    behind = herald(db, "--to", redis.url("rows"), "--tables", "public.b")
    behind.stop()
    delivery.insert(db, 1, 3, table="b")

    # when one has written the later events, and is gone
    ahead = herald(db, "--to", redis.url("ahead"), "--slot", f"{second}x", ready=False)
    ahead.wait_ready(db, f"{second}x")
    delivery.insert(db, 4, 6)
    ahead.wait_confirmed(db, slot=f"{second}x")
    ahead.stop()

    # then the other, whose events are not there and cannot be added, says so
    err = refused(herald, db, redis.url("ahead"), "--tables", "public.b")
    assert "higher ids" in err and "RENAME" in err


@pytest.mark.parametrize("away", (False, True))
@pytest.mark.parametrize("field", ("event", "other"))
def test_case_69_an_id_that_others_gave_costs_no_event(db, herald, redis, away, field):
    # Given an output to a stream
    stream = start_rows(db, herald, redis)
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    written = json.dumps(redis.events("rows")[0])
    if away:
        stream.stop()

    # when somebody else adds an entry, under an id of now, and then there is an event
    redis.raw("xadd", "rows", "*", field, written)
    before = db.wal_lsn()
    if away:
        stream = herald(db, "--to", redis.url("rows"), ready=False)
    delivery.insert(db, 4, 2000)

    # then that cannot be added, which is said, and the slot does not pass it
    assert stream.wait_exit() == 78
    assert "rows has higher ids than" in stream.err
    assert db.slot_state()["confirmed"] <= before

    # and with the stream out of the way all comes
    redis.raw("rename", "rows", "old")
    stream = herald(db, "--to", redis.url("rows"))
    stream.wait_confirmed(db)
    delivery.check(redis.events("rows"), {"a": range(4, 2001)})


def test_dead_letters_do_not_go_into_the_stream_of_an_output(db, herald, redis):
    # Given a stream that an output writes, and another output with its dead letters there
    stream = start_rows(db, herald, redis)
    delivery.insert(db, 1, 1)
    stream.wait_confirmed(db)
    redis.raw("set", "word", "x")
    second = herald(db, "--slot", f"{db.slot}_2", "--to", redis.url("word"), "--on-refused", "dead-letter",
                    "--dead-letter", redis.url("rows"), ready=False)
    second.wait_ready(db, f"{db.slot}_2")

    # when it has one, then it ends and says why
    delivery.insert(db, 2, 2)
    assert second.wait_exit() == 78
    assert "the Redis stream rows is written by the output" in second.err
    stream.wait_confirmed(db)
    delivery.check(redis.events("rows"), {"a": range(1, 3)})


def test_an_output_with_other_settings_takes_its_stream_over(db, herald, redis):
    # Given an output that was killed
    first = start_rows(db, herald, redis)
    delivery.insert(db, 1, 500)
    wait_until(lambda: redis.count("rows") > 100, "entries")
    first.kill9()

    # when it is started with other tables, and so is another output
    second = herald(db, "--to", redis.url("rows"), "--tables", "public.*")
    delivery.insert(db, 501, 600)
    second.wait_confirmed(db)

    # then it goes on
    delivery.check(redis.events("rows"), {"a": range(1, 601)})


# Setups that are wrong


def test_case_64_passwords_let_in_or_not_and_are_never_shown(db, herald, new_redis):
    redis = new_redis(password="s3cret-pw")
    err = refused(herald, db, redis.url("rows", user=":wr0ng-pw"))
    assert "user or password are wrong" in err and "wr0ng-pw" not in err
    assert "wants a password" in refused(herald, db, redis.url("rows"))
    delivery.make_tables(db)
    stream = herald(db, "--to", redis.url("rows", user="default:s3cret-pw"))
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    stream.stop()
    assert "s3cret-pw" not in stream.err
    delivery.check(redis.events("rows"), {"a": range(1, 4)})


def test_case_64_a_password_that_is_changed_while_streaming_ends_the_stream(db, herald, redis):
    # Given a user whose password is changed, and whose connections end
    delivery.make_tables(db)
    redis.raw("acl", "setuser", "app", "on", ">s3cret-one", "~*", "+@all")
    stream = herald(db, "--to", redis.url("rows", user="app:s3cret-one"))
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    redis.raw("acl", "setuser", "app", "resetpass", ">s3cret-two")
    redis.raw("client", "kill", "user", "app")

    # then that is said, and with the new one nothing is lost or comes twice
    assert stream.wait_exit() == 78
    assert "user or password are wrong" in stream.err and "s3cret" not in stream.err
    delivery.insert(db, 4, 6)
    stream = herald(db, "--to", redis.url("rows", user="app:s3cret-two"))
    stream.wait_confirmed(db)
    delivery.check(redis.events("rows"), {"a": range(1, 7)})


def test_a_user_who_may_not_add_is_told(db, herald, redis):
    redis.raw("acl", "setuser", "weak", "on", ">w3ak-pw", "~*", "+@all", "-xadd")
    stream = start_rows(db, herald, redis, ready=False)
    stream.wait_ready(db).stop()
    stream = herald(db, "--to", redis.url("rows", user="weak:w3ak-pw"))
    delivery.insert(db, 1, 1)
    assert stream.wait_exit() == 78
    assert "may not do what is needed" in stream.err and "w3ak-pw" not in stream.err


def test_a_database_that_is_missing_is_an_error(db, herald, redis):
    assert "no such database" in refused(herald, db, redis.url("99/rows"))


def test_case_69_a_cluster_of_several_nodes_is_refused(db, herald, new_redis):
    # Given two nodes, one of which has only the slot of the stream rows.b
    one, two = (new_redis(**{"cluster-enabled": "yes", "cluster-port": free_port()}) for _ in range(2))
    slot = int(one.raw("cluster", "keyslot", "rows.b"))
    assert slot != int(one.raw("cluster", "keyslot", "pgherald:writers"))
    one.raw("cluster", "addslotsrange", 0, slot - 1, slot + 1, 16383)
    two.raw("cluster", "addslots", slot)
    two.raw("cluster", "meet", "127.0.0.1", one.port, one.raw("config", "get", "cluster-port").split()[1])
    for node in (one, two):
        wait_until(lambda: "cluster_state:ok" in node.raw("cluster", "info"), "the cluster")  # noqa: B023
    delivery.make_tables(db)
    stream = herald(db, "--to", one.url("rows.{table}"))

    # when an event is for the other node
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    before = db.wal_lsn()
    delivery.insert(db, 1, 1, table="b")

    # then it is said, and the event is not lost
    assert stream.wait_exit() == 78
    assert "another node of its cluster" in stream.err
    assert db.slot_state()["confirmed"] <= before
    delivery.check(one.events("rows.a"), {"a": range(1, 4)})


def test_case_64_tls_is_verified(db, herald, new_redis, tmp_path):
    right, wrong = tls.Authority(tmp_path), tls.Authority(tmp_path, "other")
    redis = new_redis(tls=(right.cert, *right.issue("localhost")), host="localhost")
    by_ip = new_redis(tls=(right.cert, *right.issue("127.0.0.1")))
    delivery.make_tables(db)
    for wrong_url in (redis.url(f"rows?ca={wrong.cert}"), redis.url("rows")):
        assert "not trusted" in refused(herald, db, wrong_url)
    err = refused(herald, db, redis.url(f"rows?ca={right.cert}", host="127.0.0.1"))
    assert "IP address mismatch" in err
    for one in (redis, by_ip):
        stream = herald(db, "--to", one.url(f"rows?ca={right.cert}"))
        first = 1 if one is redis else 3001
        db.sql(f"insert into a select n, repeat('x', 500) from generate_series({first}, {first + 2999}) n")
        stream.wait_confirmed(db)
        delivery.check(one.events("rows"), {"a": range(first, first + 3000)})
        stream.stop()
