"""How those who wait for events are woken: by one notification a sleep, and never too late."""
import contextlib
import json
import threading
import time

import psycopg2
import pytest

import postgres
import store
from herald import run
from postgres import execute
from store import Store, event, open_store
from store_faces import Listener

LONG = 60000  # ms: nobody is to wake by it


@pytest.fixture
def orders(db):
    store.init(db)
    with contextlib.closing(db.connect()) as connection:
        yield Store(connection)


@pytest.fixture
def sleeper(db, orders):
    """A session that listens on the store's channel."""
    with contextlib.closing(db.connect()) as connection:
        execute(connection, "listen herald")
        yield Listener(connection)


def told(sleeper):
    """The payloads of the notifications that were sent until now."""
    sleeper.sql("select 1")
    found = [n.payload for n in sleeper.connection.notifies]
    sleeper.connection.notifies.clear()
    return found


def pause(here, name=None):
    """For how long the caller may sleep, in milliseconds; it is on record as sleeping."""
    return here.call("sleep", name, LONG)[0][0]


def subscribe(here, partitions=1, **options):
    here.call("subscribe", "s", "{}", partitions, "beginning", json.dumps(options))


def test_store_wakeup_is_sent_once_a_sleep(db, orders, sleeper):
    """Given a sleeper and many appends before it comes to look; then it is told once, with nothing to
    read in it, and not again until it sleeps again."""
    orders.append("1", event())
    assert told(sleeper) == []
    for _ in range(2):
        assert pause(sleeper) == pause(open_store(db)) == LONG
        for n in range(20):
            orders.append(str(n % 3), [event(), event()])
        assert told(sleeper) == [""]
    orders.append("1", event())
    assert told(sleeper) == []


def test_store_wakeup_is_sent_by_a_statement_with_parameters(db, orders, sleeper):
    """Such a statement commits when its text is forgotten already."""
    assert pause(sleeper) == LONG
    done = run("append", db.conninfo, "--category", "order", stdin='{"stream": "1", "type": "Made"}\n')
    assert done.code == 0
    assert told(sleeper) == [""]
    assert pause(sleeper) == LONG


def test_store_wakeup_reaches_all_who_sleep(db, orders, sleeper):
    with contextlib.closing(db.connect()) as connection:
        other = Listener(connection)
        other.sql("listen herald")
        assert pause(sleeper) == pause(other) == LONG
        orders.append("1", event())
        assert told(sleeper) == told(other) == [""]


def test_store_wakeup_who_sleeps_while_somebody_publishes_looks_again_soon(db, orders, sleeper):
    """Given an appender that has looked for sleepers before there was one, and commits after; then the
    sleeper is told to look again, and finds the event."""
    subscribe(orders)
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        appender = Store(connection)
        execute(connection, "set constraints all immediate")
        appender.append("1", event())
        assert sleeper.read() == []
        assert pause(sleeper) <= 1 and pause(sleeper, "s") <= 1
        connection.commit()
    assert told(sleeper) == [] and len(sleeper.read()) == 1
    assert pause(sleeper) == LONG


def test_store_wakeup_of_a_transaction_that_is_open_comes_with_its_commit(db, orders, sleeper):
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        Store(connection).append("1", event())
        assert pause(sleeper) == LONG  # it has not looked yet
        connection.commit()
    assert told(sleeper) == [""] and len(sleeper.read()) == 1


def test_store_wakeup_does_not_keep_a_transaction_from_being_prepared(db, orders, sleeper):
    """Given a sleeper; then an append can be prepared, which no notification can, and the next append
    wakes the sleeper."""
    pause(sleeper)
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        Store(connection).append("1", event())
        execute(connection, "Prepare /* later */\n Transaction 'later'")
    db.sql("commit prepared 'later'")
    assert told(sleeper) == [] and len(sleeper.read()) == 1
    orders.append("1", event("PrepareTransaction"))
    assert told(sleeper) == [""]


def test_store_wakeup_idle_polling_takes_no_transaction_ids(db, orders, sleeper):
    """Given a store where nothing happens; then sleeping, reading and claiming leave no trace of it."""
    subscribe(orders, partitions=2)
    orders.append("1", event())
    while found := orders.call("claim", "s", "w"):
        partition, token, *_ = found[0]
        events = orders.call("fetch", "s", partition, token)
        if events:
            orders.call("ack", "s", partition, token, events[-1][0])
        orders.call("release", "s", partition, token)
    pause(sleeper)
    before = db.sql("select txid_snapshot_xmax(txid_current_snapshot())")
    for _ in range(10):
        assert pause(sleeper) == pause(sleeper, "s") == LONG
        assert sleeper.read(1) == [] == sleeper.call("claim", "s", "w")
    assert db.sql("select txid_snapshot_xmax(txid_current_snapshot())") == before


def test_store_wakeup_no_sleep_is_longer_than_what_a_partition_waits_for(db, orders, sleeper):
    """Given partitions of which one is held, one has failed and one has stopped; then an executor sleeps
    until the first of them may be had, and not at all while one may be had now."""
    subscribe(orders, backoff="5 s", max_attempts=2)
    assert pause(sleeper, "s") == LONG
    orders.append("1", event())
    assert pause(sleeper, "s") == 0
    token = orders.call("claim", "s", "w", "20 s")[0][1]
    assert 15000 < pause(sleeper, "s") <= 20000
    orders.call("fail", "s", 0, token, 1, "it broke")
    assert 0 < pause(sleeper, "s") <= 5000
    db.sql("update herald.checkpoint set retry_at = now()")
    token = orders.call("claim", "s", "w", "20 s")[0][1]
    assert orders.call("fail", "s", 0, token, 1, "it broke") == [("stopped",)]
    assert pause(sleeper, "s") == LONG
    orders.call("resume", "s")
    assert told(sleeper) != [] and pause(sleeper, "s") == 0


def test_store_wakeup_of_the_others_when_a_partition_is_given_back(orders, sleeper):
    """Given an executor that gives its partition back with work left; then one that sleeps is told, and
    not when there is nothing left."""
    subscribe(orders)
    orders.append("1", [event(), event()])
    for done, wakes in (1, [""]), (2, []):
        token = orders.call("claim", "s", "w")[0][1]
        pause(sleeper, "s")
        orders.call("ack", "s", 0, token, done)
        orders.call("release", "s", 0, token)
        assert told(sleeper) == wakes


def test_store_wakeup_nobody_sleeps_through_an_event(db, orders, sleeper):
    """Given writers at work, some rolled back, and a reader that sleeps a minute unless it is woken;
    then it has all events without ever sleeping to the end."""
    rounds, writers = 60, 3
    turn = threading.Semaphore(0)

    def write(number):
        with contextlib.closing(db.connect(autocommit=False)) as connection:
            here = Store(connection)
            for n in range(rounds):
                turn.acquire()
                here.append(f"{number}/{n % 4}", event(data=n))
                (connection.rollback if n % 6 == 5 else connection.commit)()

    threads = [threading.Thread(target=write, args=(n,), daemon=True) for n in range(writers)]
    for t in threads:
        t.start()
    seen, expected = [], writers * rounds * 5 // 6
    deadline = time.monotonic() + postgres.LIMIT
    while len(seen) < expected:
        turn.release(2)  # while this one looks and goes to sleep
        slept = pause(sleeper)
        events = sleeper.read(seen[-1] if seen else 0)
        seen += [e["position"] for e in events]
        if not events and len(seen) < expected:
            turn.release(1)
            sleeper.until_told(slept / 1000)
        assert time.monotonic() < deadline, f"{len(seen)} of {expected} events"
    for t in threads:
        t.join(postgres.LIMIT)
    assert seen == sorted(set(seen)) and len(seen) == expected


def test_store_wakeup_is_for_readers(db, orders):
    db.sql("drop role if exists news; create role news login in role herald_reader")
    try:
        with contextlib.closing(db.connect(user="news")) as connection:
            assert pause(Store(connection)) == LONG
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                execute(connection, "select herald.wake()")
    finally:
        db.sql("drop role news")
