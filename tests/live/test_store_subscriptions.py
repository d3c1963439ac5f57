"""Subscriptions and retention of the event store, by its SQL functions."""
import contextlib
import json
import random
import threading
import time

import psycopg2
import pytest

import herald
import postgres
import store
from postgres import execute, wait_until
from store import Store, event, open_store

LOST, UNKNOWN, DELETED = "PH005", "PH006", "PH007"


@pytest.fixture
def orders(db):
    """A store, and a table into which handlers write what they have seen."""
    store.init(db)
    db.sql("create table seen (n serial, position bigint, stream text, version bigint, worker text)")
    with contextlib.closing(db.connect()) as connection:
        yield Store(connection)


@contextlib.contextmanager
def refused(code):
    with pytest.raises(psycopg2.Error) as caught:
        yield caught
    assert caught.value.pgcode == code, str(caught.value)


def subscribe(here, name="s", source=None, partitions=1, start="beginning", **options):
    return here.call("subscribe", name, json.dumps(source or {}), partitions, start, json.dumps(options))[0][0]


def fetch(here, partition, token, count=100, name="s"):
    return here._events("select to_jsonb(e) from herald.fetch(%(name)s, %(partition)s, %(token)s, %(count)s) e",
                        {"name": name, "partition": partition, "token": token, "count": count})


def claim(here, worker="w", lease="30 s", name="s"):
    found = here.call("claim", name, worker, lease)
    return found[0][:2] if found else None


class Worker(threading.Thread):
    """An executor: claims, fetches, handles in one transaction with the acknowledgement, releases."""

    def __init__(self, db, name, stop, count=10, lease="30 s"):
        super().__init__(daemon=True)
        self.db, self.worker, self.stop, self.count, self.lease = db, name, stop, count, lease
        self.error = None
        self.start()

    def run(self):
        try:
            with contextlib.closing(self.db.connect()) as connection:
                while not self.stop.is_set():
                    self.step(Store(connection))
        except Exception as e:
            self.error = e

    def step(self, here):
        found = claim(here, self.worker, self.lease)
        if not found:
            time.sleep(0.002)
            return
        try:
            events = fetch(here, *found, self.count)
            if events:
                handle(here, events, self.worker, found)
            here.call("release", "s", *found)
        except psycopg2.Error as e:
            if e.pgcode != LOST:
                raise
            execute(here.connection, "rollback")


def handle(here, events, worker, found, commit=True):
    execute(here.connection, "begin")
    for e in events:
        execute(here.connection, "insert into seen (position, stream, version, worker) values (%s, %s, %s, %s)",
                (e["position"], e["stream"], e["version"], worker))
    here.call("ack", "s", *found, events[-1]["position"])
    if commit:
        execute(here.connection, "commit")


def work_until(db, names, condition, between=None):
    stop = threading.Event()
    workers = [Worker(db, name, stop) for name in names]
    try:
        if between:
            between()
        wait_until(lambda: any(w.error for w in workers) or condition(), "the workers to be done")
    finally:
        stop.set()
        for w in workers:
            w.join(postgres.LIMIT)
    assert [w.error for w in workers if w.error] == []


def seen_all(db, here):
    return db.sql("select count(*) from seen") == [(len(here.read(max_count=100000)),)]


def check_once_in_order(db, here):
    """Every event was handled once, and those of a stream in their order."""
    events = here.read(max_count=100000)
    rows = db.sql("select position, stream, version from seen order by n")
    assert sorted(p for p, _, _ in rows) == [e["position"] for e in events]
    order = {}
    for _, stream, version in rows:
        assert version == order.get(stream, -1) + 1, f"{stream} at {version}"
        order[stream] = version


def fill(here, n=300, streams=20, seed=1):
    rng = random.Random(seed)
    for _ in range(n):
        here.append(str(rng.randrange(streams)), [event()] * rng.choice((1, 1, 3)))


def test_store_subscription_with_several_executors(db, orders):
    """Given eight partitions, four executors and writers at work; then every event is handled once,
    and those of a stream in order, and all executors had a part in it."""
    subscribe(orders, partitions=8)

    def write():
        writers = [threading.Thread(target=lambda seed=seed: fill(open_store(db), 100, seed=seed)) for seed in range(3)]
        for w in writers:
            w.start()
        for w in writers:
            w.join(postgres.LIMIT)

    work_until(db, "abcd", lambda: seen_all(db, orders), write)
    check_once_in_order(db, orders)
    assert db.sql("select count(distinct worker) from seen") == [(4,)]
    wait = open_store(db)
    for _ in range(8):
        found = claim(wait)
        if not found:
            break
        assert fetch(wait, *found) == []
    assert {row[3] for row in db.sql("select * from herald.lag")} == {0}


@pytest.mark.parametrize("before, after", [(1, 5), (6, 2), (4, 7)])
def test_store_subscription_changes_its_partitions_while_it_works(db, orders, before, after):
    """Given executors at work; when the number of partitions changes; then nothing is lost or repeated."""
    subscribe(orders, partitions=before)
    fill(orders, 150)

    def change():
        wait_until(lambda: db.sql("select count(*) > 20 from seen")[0][0], "the work to begin")
        assert not subscribe(orders, partitions=after)
        fill(orders, 150, seed=2)

    work_until(db, "abc", lambda: seen_all(db, orders) and db.sql("select partitions from herald.subscription") == [(after,)],
               change)
    check_once_in_order(db, orders)
    assert db.sql("select count(*) from herald.checkpoint") == [(after,)]


def test_store_subscription_a_barrier_moves_with_what_was_fetched(db, orders):
    """Given an executor that has fetched beyond the point where the partitions are to change; then what
    it has is not repeated, and the others come as far before they change."""
    subscribe(orders, partitions=2)
    orders.append("1", [event()] * 3)
    orders.append("2", [event()] * 3)
    first, second = claim(orders, "a"), claim(orders, "b")
    ahead = fetch(orders, *first)
    assert len(ahead) == 3
    subscribe(orders, partitions=1)
    assert fetch(orders, *second) == [] and claim(orders, "b") is None
    handle(orders, ahead[:1], "a", first)
    handle(orders, ahead[1:], "a", first)
    assert db.sql("select barrier, partitions from herald.subscription") == [(ahead[-1]["position"], 2)]
    orders.call("release", "s", *first)
    work_until(db, "bc", lambda: db.sql("select barrier, partitions from herald.subscription") == [(None, 1)])
    check_once_in_order(db, orders)


def test_store_subscription_an_acknowledgement_never_goes_back(db, orders):
    """Given events that are acknowledged; when an earlier one is acknowledged again, then that is refused and
    the checkpoint stays, and the last one may be acknowledged twice."""
    subscribe(orders)
    orders.append("1", [event()] * 3)
    mine = claim(orders)
    first, _, last = [e["position"] for e in fetch(orders, *mine)]
    orders.call("ack", "s", *mine, last)
    with refused("PH003") as caught:
        orders.call("ack", "s", *mine, first)
    assert f"position {first} is done already; s is at {last}" in str(caught.value)
    orders.call("ack", "s", *mine, last)
    assert db.sql("select position from herald.checkpoint") == [(last,)] and fetch(orders, *mine) == []


def test_store_a_paused_executor_cannot_overwrite(db, orders):
    """Given an executor that sleeps beyond its lease with its work not committed, and another that has
    taken over; then the first one's acknowledgement is refused, and its work is gone with it."""
    subscribe(orders)
    orders.append("1", [event(), event()])
    slow, fast = open_store(db), open_store(db)
    found = claim(slow, "slow", "1 ms")
    events = fetch(slow, *found)
    taken = wait_until(lambda: claim(fast, "fast"), "the lease to end")
    assert taken == (found[0], found[1] + 1)
    handle(fast, fetch(fast, *taken)[:1], "fast", taken)
    with refused(LOST):
        handle(slow, events, "slow", found)
    execute(slow.connection, "rollback")
    for call in ("fetch", "renew"):
        with refused(LOST):
            slow.call(call, "s", *found)
    slow.call("release", "s", *found)
    assert db.sql("select position, worker from seen") == [(1, "fast")]
    assert [e["position"] for e in fetch(fast, *taken)] == [2]


def test_store_a_fetch_acknowledges_what_is_done(db, orders):
    """Given events that were fetched; then the next fetch acknowledges the first of them and brings what
    is behind, and one whose lease was lost acknowledges nothing."""
    def position():
        return db.sql("select position from herald.checkpoint")[0][0]

    subscribe(orders)
    orders.append("1", [event(), event(), event()])
    partition, token = claim(orders, "slow", "1 ms")
    orders.call("fetch", "s", partition, token)
    behind = orders.call("fetch", "s", partition, token, 100, 1)
    assert [e[0] for e in behind] == [2, 3] and position() == 1
    wait_until(lambda: claim(orders, "fast"), "the lease to end")
    with refused(LOST):
        orders.call("fetch", "s", partition, token, 100, 3)
    assert position() == 1


def test_store_a_lease_that_nobody_took_is_still_good(orders):
    subscribe(orders)
    orders.append("1", event())
    found = claim(orders, "w", "1 ms")
    time.sleep(0.01)
    handle(orders, fetch(orders, *found), "w", found)


def test_store_partitions_are_handed_out_once_and_in_turn(db, orders):
    subscribe(orders, partitions=3)
    fill(orders, 30)
    others = [open_store(db) for _ in range(4)]
    found = [claim(o, str(n)) for n, o in enumerate(others)]
    assert sorted(f[0] for f in found if f) == [0, 1, 2] and found[3] is None
    others[1].call("release", "s", *found[1])
    assert claim(others[3])[0] == found[1][0]


def test_store_idle_polling_takes_no_transaction_ids(db, orders):
    subscribe(orders, source={"categories": ["other"]}, partitions=2)
    fill(orders, 10)
    while (found := claim(orders)) is not None:
        assert fetch(orders, *found) == []
        orders.call("release", "s", *found)
    before = db.sql("select txid_snapshot_xmax(txid_current_snapshot())")
    for _ in range(10):
        assert claim(orders) is None
    assert db.sql("select txid_snapshot_xmax(txid_current_snapshot())") == before


@pytest.mark.parametrize("source, wanted", [
    ({}, "ABCDE"), ({"categories": ["order"]}, "ABC"), ({"topics": ["x"]}, "BD"), ({"types": ["A", "E"]}, "AE"),
    ({"category": "order", "stream": "2"}, "C"), ({"categories": ["order", "other"], "topics": ["x"]}, "BD")])
def test_store_subscription_sources(orders, source, wanted):
    subscribe(orders, source=source)
    orders.append("1", [event("A"), event("B", topic="x")])
    orders.append("2", event("C"))
    orders.append("2", [event("D", topic="x"), event("E")], category="other")
    events = fetch(orders, *claim(orders))
    assert "".join(e["type"] for e in events) == wanted


@pytest.mark.parametrize("analyzed", [False, True])
def test_store_a_page_costs_what_it_holds(db, orders, analyzed):
    """Given a subscription and a reader that are far behind, with statistics and without; then a page looks
    at its own events, however many come after it."""
    batch = [event()] * 1000
    for n in range(10):
        orders.append(str(n), batch)
    subscribe(orders)
    found = claim(orders)
    if analyzed:
        db.sql("analyze")
    with contextlib.closing(db.connect(autocommit=False)) as connection:  # whose counters are at zero
        here = Store(connection)
        for _ in range(8):  # beyond five calls the plan is one for all parameters
            events = fetch(here, *found, 50)
            here.call("ack", "s", *found, events[-1]["position"])
            assert len(here.read(events[-1]["position"], 50)) == 50
        looked = execute(connection, "select relname, seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables "
                         "where relname in ('feed', 'entry', 'stream')")
    assert {name for name, _ in looked} == {"feed", "entry", "stream"}
    assert all((rows or 0) <= 3 * 8 * 100 for _, rows in looked), looked


def test_store_subscription_begins_where_it_is_told(db, orders):
    orders.append("1", [event("A"), event("B")])
    subscribe(orders, "new", start="end")
    subscribe(orders, "some", start="1")
    orders.append("1", event("C"))
    for name, wanted in ("new", "C"), ("some", "BC"):
        assert "".join(e["type"] for e in fetch(orders, *claim(orders, name=name), name=name)) == wanted


def test_store_a_long_way_without_a_wanted_event_is_gone_in_steps(db, orders):
    # given millions of positions between two events
    subscribe(orders)
    orders.append("1", event("A"))
    db.sql("select setval('herald.feed_position', 5000000)")
    orders.append("1", event("B"))
    # when they are fetched and acknowledged
    partition, token = claim(orders)
    page = fetch(orders, partition, token)
    orders.call("ack", "s", partition, token, page[-1]["position"])
    pages = [fetch(orders, partition, token) for _ in range(3)]
    # then each step ends before it takes too long, and the next goes on from there
    assert [len(p) for p in pages] == [0, 0, 1]
    # and pgherald subscribe gets there
    assert orders.call("subscribe", "other")[0][0]
    done = herald.run("subscribe", "other", db.conninfo, "--limit", "2")
    assert done.code == 0 and [json.loads(line)["type"] for line in done.out.splitlines()] == ["A", "B"], done


def test_store_subscribing_again_changes_nothing(db, orders):
    assert subscribe(orders, source={"topics": ["x"]}) is True
    assert subscribe(orders, source={"topics": ["x"]}, max_attempts=9) is False
    assert db.sql("select herald.subscribe('s')") == [(False,)]
    assert db.sql("select max_attempts, source, partitions from herald.subscription") == [(9, {"topics": ["x"]}, 1)]
    with refused(UNKNOWN):
        subscribe(orders, source={"topics": ["y"]})
    for wrong in {"topic": "x"}, {"stream": "x"}, {"category": "x", "stream": "y", "categories": []}:
        with refused("PH003"):
            subscribe(orders, "other", source=wrong)
    with refused(UNKNOWN):
        claim(orders, name="none")
    assert orders.call("unsubscribe", "s") == [(True,)] and orders.call("unsubscribe", "s") == [(False,)]


def fail(here, position, why="it broke"):
    """Claims as soon as that is allowed and fails at the position."""
    found = wait_until(lambda: claim(here), "the next try")
    events = fetch(here, *found)
    before = [e for e in events if e["position"] < position]
    if before:
        here.call("ack", "s", *found, before[-1]["position"])
    return here.call("fail", "s", *found, position, why)[0][0], found


def test_store_a_handler_that_fails_is_tried_again_and_stops(db, orders):
    subscribe(orders, max_attempts=3, backoff="10 ms")
    orders.append("1", [event()] * 3)
    assert [fail(orders, 2)[0] for _ in range(3)] == ["retry", "retry", "stopped"]
    assert claim(orders) is None
    assert db.sql("select position, stopped, attempts, error from herald.lag") == [(1, True, 3, "it broke")]
    assert orders.call("resume", "s") == [(1,)]
    found = claim(orders)
    assert [e["position"] for e in fetch(orders, *found)] == [2, 3]
    with refused(LOST):
        orders.call("fail", "s", found[0], found[1] - 1, 2, "late")


def test_store_backoff_grows(db, orders):
    subscribe(orders, backoff="1 minute")
    orders.append("1", event())
    fail(orders, 1)
    assert claim(orders) is None
    assert db.sql("select retry_at - now() between '50 s' and '61 s' from herald.checkpoint") == [(True,)]
    db.sql("update herald.checkpoint set retry_at = now()")
    fail(orders, 1)
    assert db.sql("select retry_at - now() between '100 s' and '121 s' from herald.checkpoint") == [(True,)]


def parked(db):
    return [p for (p,) in db.sql("select position from herald.parked where not done order by 1")]


def test_store_park_goes_on_with_the_next(db, orders):
    subscribe(orders, on_failure="park", max_attempts=1)
    orders.append("1", [event()] * 3)
    answer, found = fail(orders, 2)
    assert answer == "parked"
    assert [e["position"] for e in fetch(orders, *found)] == [3]
    assert parked(db) == [2] and db.sql("select parked from herald.lag") == [(1,)]
    assert [row[0] for row in orders.call("parked_next", "s")] == [2]
    assert orders.call("parked_done", "s", 2) == [(True,)] and orders.call("parked_done", "s", 2) == [(False,)]
    assert orders.call("parked_next", "s") == []


def test_store_park_stream_keeps_the_order_of_the_stream(db, orders):
    """Given a stream whose second event fails; then its later events are parked behind it while other
    streams go on; and once those are handled the stream goes on with what comes then."""
    subscribe(orders, on_failure="park-stream", max_attempts=1)
    for _ in range(3):
        orders.append("bad", event())  # 1, 3, 5
        orders.append("good", event())  # 2, 4, 6
    answer, found = fail(orders, 3)
    assert answer == "parked"
    events = fetch(orders, *found, 2)
    assert [e["position"] for e in events] == [4] or [e["position"] for e in events] == [4, 6]
    handle(orders, events, "w", found)
    orders.append("bad", event())  # 7
    while events := fetch(orders, *found):
        assert {e["stream"] for e in events} == {"good"}
        handle(orders, events, "w", found)
    assert parked(db) == [3, 5, 7]
    handled = []
    with contextlib.closing(db.connect(autocommit=False)) as one, contextlib.closing(db.connect(autocommit=False)) as two:
        handled += [row[0] for row in Store(one).call("parked_next", "s")]
        assert Store(two).call("parked_next", "s") == []  # the first of the stream is being handled
        Store(one).call("parked_done", "s", 3)
        one.commit()
        while rows := Store(one).call("parked_next", "s"):
            handled.append(rows[0][0])
            Store(one).call("parked_done", "s", rows[0][0])
            one.commit()
    assert handled == [3, 5, 7] and db.sql("select * from herald.parked") == []
    orders.append("bad", event())
    assert [e["position"] for e in fetch(orders, *found)] == [8]


def test_store_what_was_handled_while_parked_is_not_delivered_again(db, orders):
    """Given events that a dead executor's fetch had parked, and that were handled before the next
    executor fetched the same page; then these do not come again."""
    subscribe(orders, on_failure="park-stream", max_attempts=1)
    orders.append("bad", [event()] * 3)  # 1, 2, 3
    orders.append("good", event())  # 4
    _, found = fail(orders, 1)
    assert [e["position"] for e in fetch(orders, *found)] == [4]
    for position in 1, 2, 3:
        assert orders.call("parked_next", "s")[0][0] == position
        orders.call("parked_done", "s", position)
    orders.call("release", "s", *found)
    found = claim(orders)
    events = fetch(orders, *found)
    assert [e["position"] for e in events] == [4]
    handle(orders, events, "w", found)
    assert db.sql("select * from herald.parked") == []


def test_store_a_reader_has_all_it_needs_to_subscribe(db, orders):
    orders.append("1", event())
    db.sql("drop role if exists news; create role news login in role herald_reader; grant insert on seen to news; "
           "grant usage on sequence seen_n_seq to news")
    try:
        with contextlib.closing(db.connect(user="news")) as connection:
            here = Store(connection)
            subscribe(here)
            found = claim(here)
            handle(here, fetch(here, *found), "news", found)
            assert len(execute(connection, "select * from herald.lag")) == 1
            with refused("42501"):
                execute(connection, "update herald.checkpoint set position = 0")
    finally:
        db.sql("drop owned by news; drop role news")


# Retention


def left(orders):
    return [(e["stream"], e["version"]) for e in orders.read()]


def test_store_purge_by_age_up_to_the_slowest_subscription(db, orders):
    orders.append("1", [event()] * 5)
    orders.append("2", event(), category="kept")
    orders.append("1", [event()] * 5)
    db.sql("update herald.entry set time = now() - interval '8 days' where version < 7")
    orders.call("retain", "order", "7 days")
    subscribe(orders, start="3")
    assert orders.call("purge") == [(3,)] and orders.call("purge") == [(0,)]
    assert orders.call("purge", 2, True) == [(2,)] and orders.call("purge", 100, True) == [(2,)]
    assert left(orders) == [("2", 0), ("1", 7), ("1", 8), ("1", 9)]
    assert orders.append("1", event(), 9) == (10, 10, False)
    assert db.sql("select count(*) from herald.entry") == [(5,)]


def test_store_purge_by_count_keeps_the_last_of_each_stream(db, orders):
    for n in range(1, 4):
        orders.append(str(n), [event()] * n)
    orders.call("retain", "order", None, 2)
    assert orders.call("purge") == [(1,)]
    assert left(orders) == [("1", 0), ("2", 0), ("2", 1), ("3", 1), ("3", 2)]
    orders.call("retain", "order")
    orders.append("3", [event()] * 3)
    assert orders.call("purge") == [(0,)]


def test_store_purge_passes_nothing_that_is_still_to_appear(db, orders):
    """Given an old event whose commit is under way; then it is purged once it is there."""
    orders.call("retain", "order", "0 s")
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        Store(connection).append("1", event())
        execute(connection, "set constraints all immediate")
        orders.append("2", event())
        assert orders.call("purge") == [(0,)]
        connection.commit()
    assert orders.call("purge") == [(2,)] and left(orders) == []


def test_store_purge_holds_up_no_append(db, orders):
    """Given a purge that has not committed yet; then appends go on, to the streams whose events it
    removes too, and so do their readers."""
    for n in range(3):
        orders.append(str(n), [event()] * 4)
    orders.call("retain", "order", None, 1)
    with contextlib.closing(db.connect(autocommit=False)) as purging:
        assert Store(purging).call("purge") == [(9,)]
        execute(orders.connection, "set lock_timeout = 1000")  # nothing may wait for the purge
        for n in range(4):
            assert orders.append(str(n), [event(), event()])[0] == (4 if n < 3 else 0)
        assert len(orders.read()) == 20
        purging.commit()
    assert len(orders.read()) == 11
    assert orders.call("purge") == [(7,)] and sorted(left(orders)) == [("0", 5), ("1", 5), ("2", 5), ("3", 1)]


def test_store_purge_keeps_what_is_parked(db, orders):
    """Given an event that was put aside, behind which the subscription has gone on; then it is not purged
    before it was handled, unless forced, and then it is not parked any more either."""
    subscribe(orders, on_failure="park", max_attempts=1)
    orders.append("1", [event()] * 4)
    _, found = fail(orders, 2)
    handle(orders, fetch(orders, *found), "w", found)
    orders.call("retain", "order", "0 s")
    assert orders.call("purge") == [(1,)] and left(orders) == [("1", 1), ("1", 2), ("1", 3)]
    assert [row[0] for row in orders.call("parked_next", "s")] == [2]
    assert orders.call("purge", 1, True) == [(1,)]
    assert parked(db) == [] and orders.call("parked_next", "s") == []
    assert orders.call("purge") == [(2,)]


def test_store_truncate_delete_redact(db, orders):
    orders.append("1", [event(data={"name": "Ann"}, metadata={"ip": "1"})] * 4)
    orders.append("2", event(id="00000000-0000-0000-0000-000000000001", data={"name": "Bob"}))
    orders.call("snapshot_put", "order", "1", 3, '{"name": "Ann"}')
    assert orders.call("truncate", "order", "1", 2) == [(2,)]
    assert left(orders) == [("1", 2), ("1", 3), ("2", 0)]
    assert orders.call("redact", 4) == [(True,)] and orders.call("redact", 99) == [(False,)]
    assert [(e["data"], e["metadata"]) for e in orders.read(max_count=2)] == [({"name": "Ann"}, {"ip": "1"}), ({}, {})]
    assert orders.call("snapshot_get", "order", "1") == []
    assert orders.call("redact", 5, '{"gone": true}') == [(True,)]
    again = event(id="00000000-0000-0000-0000-000000000001", data={"name": "Bob"})
    assert orders.append("2", again) == (0, 0, True)
    assert orders.call("delete", "order", "2") == [(1,)]
    assert left(orders) == [("1", 2), ("1", 3)] and orders.stream("2") == []
    with refused(DELETED):
        orders.append("2", event())
    with refused(DELETED):
        orders.append("2", event(), 0)
    assert db.sql("select count(*) from herald.entry") == [(2,)]


def test_store_snapshots_and_load(orders):
    orders.append("1", [event(data=n) for n in range(5)])
    assert [(v, d) for v, _, d, *_ in orders.call("load", "order", "1")] == [(n, n) for n in range(5)]
    assert orders.call("snapshot_put", "order", "1", 2, '{"sum": 3}') == [(True,)]
    assert orders.call("snapshot_put", "order", "1", 1, '{"sum": 1}') == [(False,)]
    assert orders.call("snapshot_get", "order", "1")[0][:2] == (2, {"sum": 3})
    loaded = orders.call("load", "order", "1")
    assert [(v, kind, d) for v, kind, d, *_ in loaded] == [(2, None, {"sum": 3}), (3, "Placed", 3), (4, "Placed", 4)]
    assert orders.call("load", "order", "none") == [] == orders.call("snapshot_get", "order", "none")
    for version in 5, -1:
        with refused("PH003"):
            orders.call("snapshot_put", "order", "1", version, "{}")
