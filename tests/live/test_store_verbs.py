"""pgherald store, append and read."""
import contextlib
import json
import subprocess
import threading

import pytest

import postgres
import store
from herald import Herald, run
from pgbouncer_server import PgBouncer
from store import event, open_store


@pytest.fixture
def made(db):
    done = run("store", "init", db.conninfo)
    assert done.code == 0 and "version" in done.out, done.err
    return db


def lines(events):
    return "".join(json.dumps(e) + "\n" for e in events)


def printed(done):
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_store_init_is_made_once_however_often_it_is_called(db):
    """Given six who make the store at once; then all succeed, and one has made it."""
    results = []
    threads = [threading.Thread(target=lambda: results.append(run("store", "init", db.conninfo)))
               for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(postgres.LIMIT)
    assert [r.code for r in results] == [0] * 6, results
    assert sorted("up to date" in r.out for r in results) == [False] + [True] * 5
    assert db.sql("select number from herald.migration order by 1") == [
        (n + 1,) for n in range(len(store.SQL))]


def test_store_init_makes_what_psql_makes(db, made, server, new_db):
    """The program and psql make the same schema, also under another name."""
    other = new_db()
    store.init(other, schema="audit")
    assert run("store", "init", db.conninfo, "--schema", "audit").code == 0
    dumps = [server.run("pg_dump", "-h", server.host, "-U", "postgres", "-n", "audit", d.name)
             for d in (db, other)]
    assert [without_times(d) for d in dumps][0] == without_times(dumps[1])
    assert "herald" not in dumps[0].replace("pgherald", "")


def test_store_init_brings_an_older_store_up_to_date(db):
    """Given a store of the first version, made by psql, with events; then init adds what it lacks, and its
    events can be subscribed to."""
    done = subprocess.run(["psql", "-q1", "-v", "ON_ERROR_STOP=1", "-f", store.SQL[0], db.conninfo],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    open_store(db).append("1", [event("A"), event("B")])
    wrong = run("store", "check", db.conninfo)
    assert wrong.code != 0, wrong
    done = run("store", "init", db.conninfo)
    assert done.code == 0 and f"version {len(store.SQL)}" in done.out, done
    assert run("store", "check", db.conninfo).code == 0
    done = run("subscribe", "s", db.conninfo, "--limit", "2")
    assert [e["type"] for e in map(json.loads, done.out.splitlines())] == ["A", "B"], done


def test_store_verbs_through_a_pooler(db, made):
    """Given PgBouncer in transaction mode, with other clients' sessions behind it; then append, read and
    subscribe work as they do without."""
    db.sql(f"alter database {db.name} set datestyle = 'German'; alter database {db.name} set timezone = 'Asia/Tokyo'")
    with PgBouncer(db.server, pool_size=2) as bouncer:
        conninfo = bouncer.conninfo(db.name)
        events = [event("T", stream=str(n % 7), data=n) for n in range(50)]
        assert run("append", conninfo, "--category", "order", stdin=lines(events)).code == 0
        with contextlib.closing(Herald("subscribe", "s", conninfo, "--max-sleep", "50")) as one:
            one.wait_for(50)
            assert run("append", conninfo, "--category", "order", stdin=lines(events)).code == 0
            assert [e["data"] for e in one.wait_for(100)] == list(range(50)) * 2
            one.stop()
        seen = printed(run("read", conninfo))
        assert [e["data"] for e in seen] == list(range(50)) * 2
        assert [e["time"] for e in seen] == [e["time"] for e in printed(run("read", db.conninfo))]


def without_times(dump):
    return [line for line in dump.splitlines() if not line[:1].isdigit() and "restrict" not in line]


def test_store_init_without_the_right_to_make_roles(db):
    """Given an owner of the database who is no superuser and makes no roles; then the store works."""
    db.sql("drop role if exists plain; create role plain login; drop role if exists herald_writer; "
           f"grant create on database {db.name} to plain")
    try:
        via = postgres.Via(db, user="plain")
        done = run("store", "init", via.conninfo)
        assert done.code == 0, done.err
        assert open_store(db, user="plain").append("1", event()) == (0, 0, False)
        assert len(printed(run("read", via.conninfo))) == 1
        checked = run("store", "check", via.conninfo)
        assert checked.code == 1 and checked.out.count("WRONG") == 1 and "roles" in checked.out
    finally:
        db.sql("drop schema herald cascade; drop owned by plain; drop role plain")


def test_store_check_finds_what_is_wrong(db, made):
    assert "WRONG" not in run("store", "check", made.conninfo).out
    db.sql("alter table herald.stream enable trigger publish_next; alter sequence herald.feed_position cache 5")
    done = run("store", "check", made.conninfo, "--json")
    wrong = [c for c in json.loads(done.out) if not c["ok"]]
    assert done.code == 1 and len(wrong) == 2
    for one in wrong:
        db.sql(one["mend"])
    assert run("store", "check", made.conninfo).code == 0


def test_store_stats_count(db, made):
    open_store(db).append("1", [event(), event()])
    found = json.loads(run("store", "stats", made.conninfo, "--json").out)
    assert (found["streams"], found["events"], found["last_position"], found["horizon"], found["in_flight"]) == (
        1, 2, 2, 2, 0)
    assert "events         2" in run("store", "stats", made.conninfo).out


def test_store_stats_tell_of_subscriptions(made):
    """A subscription that is two events behind, and what is said where there is none."""
    here = open_store(made)
    here.call("subscribe", "mailer")
    here.append("1", [event("A"), event("B")])
    assert ("subscription mailer, partition 0: at 0, 2 behind, 0 parked"
            in run("store", "stats", made.conninfo).out.splitlines())
    lag, = json.loads(run("store", "stats", made.conninfo, "--json").out)["subscriptions"]
    assert (lag["subscription"], lag["behind"], lag["stopped"], lag["owner"]) == ("mailer", 2, False, None)
    # a crash lets the sequence jump, and a checkpoint moves on to there
    made.sql("update herald.checkpoint set position = 34")
    lag, = json.loads(run("store", "stats", made.conninfo, "--json").out)["subscriptions"]
    assert lag["behind"] == 0
    for task in "list", "retry", "drop":
        done = run("parked", task, "mialer", made.conninfo)
        assert done.code == 78 and "there is no subscription mialer" in done.err, done
    assert run("parked", "list", "mailer", made.conninfo) == (0, "", "")


def test_store_that_is_not_there_says_so(db):
    for verb in ("store", "stats"), ("read",), ("append",):
        done = run(*verb, db.conninfo, stdin=lines([event()]))
        assert done.code == 78 and "pgherald store init" in done.err, done.err
    assert run("store", "init", db.conninfo, "--schema", "Bad").code == 78
    assert run("store").code == run("store", "make").code == 64


def test_store_verbs_append_and_read(made):
    """Given lines for several streams; then they are the feed, in their order, whatever the batch."""
    events = [{"stream": str(n // 3 % 5), "type": "T", "data": {"n": n}} for n in range(2500)]
    done = run("append", made.conninfo, "--category", "order", stdin=lines(events))
    assert done.code == 0 and "2500 events appended" in done.err, done.err
    seen = printed(run("read", made.conninfo))
    assert [(e["stream"], e["data"]["n"]) for e in seen] == [(e["stream"], e["data"]["n"]) for e in events]
    assert [e["data"]["n"] for e in printed(run("read", made.conninfo, "--after", seen[9]["position"], "--limit", 3))] == [
        10, 11, 12]
    one = printed(run("read", made.conninfo, "--category", "order", "--stream-id", "1", "--after", 2))
    assert [e["version"] for e in one] == list(range(2, 501))
    again = run("append", made.conninfo, stdin=lines(seen))
    assert again.code == 0 and "2500 were there already" in again.err


def test_store_append_stops_at_the_batch_that_fails(made):
    events = [event(category="order", stream="1") for _ in range(1000)]
    bad = [event(category="order", stream="2", expected=7)]
    done = run("append", made.conninfo, stdin=lines(events + bad + events))
    assert done.code == 1 and "lines 1001 to 2000" in done.err and "order/2" in done.err, done.err
    assert len(printed(run("read", made.conninfo))) == 1000
    done = run("append", made.conninfo, stdin='{"type": "A"\n')
    assert done.code == 78 and "line 1 is no JSON" in done.err


def test_store_read_follows(db, made):
    here = open_store(db)
    here.append("1", event("A"))
    follower = Herald("read", made.conninfo, "--follow", "--types", "A,C")
    try:
        follower.wait_for(1)
        here.append("1", [event("B"), event("C")])
        here.append("2", event("A"), category="it's, odd")
        assert [e["type"] for e in follower.wait_for(3)] == ["A", "C", "A"]
        follower.stop()
    finally:
        follower.close()
