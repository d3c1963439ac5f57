"""The event store behaves alike in PostgreSQL and in SQLite, through libpgherald and through the verbs."""
import contextlib
import json
import socket
import threading
import uuid

import pytest

import postgres
import store_driver
from herald import run
from postgres import wait_until
from store_driver import Refused, event
from test_output import small_disk  # noqa: F401


@pytest.fixture(params=store_driver.PLACES, ids=lambda place: place.__name__.lower())
def place(request, tmp_path):
    """A fresh store in PostgreSQL or SQLite, with a table for a read model."""
    db = request.getfixturevalue("db") if request.param is store_driver.Postgres else None
    with contextlib.closing(request.param(db, tmp_path)) as place:
        yield place


@pytest.fixture
def orders(place):
    return place.open()


@contextlib.contextmanager
def refused(problem):
    with pytest.raises(Refused) as caught:
        yield caught
    assert caught.value.problem == problem, str(caught.value)


def ids(n, first=0):
    return [f"00000000-0000-4000-8000-{i:012}" for i in range(first, first + n)]


def types(events):
    return [e["type"] for e in events]


# Saving and loading


def test_behaviour_save_and_load(orders):
    """Given events saved with their versions; then they are loaded in order, with these versions."""
    assert orders.append("1", [event("Placed", data={"a": [1, None, "ü\""]}), event("Paid")], -1) == (0, 1, False)
    assert orders.append("1", event("Sent", topic="mail", metadata={"by": "me"}), 1) == (2, 2, False)
    version, events = orders.load("1")
    assert version == 2 and [(e["version"], e["type"]) for e in events] == [(0, "Placed"), (1, "Paid"), (2, "Sent")]
    assert events[0]["data"] == {"a": [1, None, "ü\""]} and events[1]["data"] == {}
    placed, paid, sent = orders.stream("1")
    assert (sent["topic"], sent["metadata"], sent["category"], sent["stream"]) == ("mail", {"by": "me"}, "order", "1")
    assert paid["topic"] is None and paid["metadata"] == {} and len(paid["id"]) == 36
    assert placed["position"] < paid["position"] < sent["position"]
    assert orders.load("2") == (-1, [])


def test_behaviour_ids_that_are_made_begin_with_the_time(orders):
    """Given events without ids, by each way to append; then each has its own UUID of version 7, of its own time."""
    orders.append("1", [event() for _ in range(100)])
    orders.append("1", [event(), event()])
    orders.append("1", event())
    made = [uuid.UUID(e["id"]) for e in orders.stream("1")]
    assert len(set(made)) == 103
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}
    for one, e in zip(made, orders.stream("1")):
        assert abs((one.int >> 80) // 1000 - e["time"] // 1000000) < 3600  # the right unit, from the right year


def test_behaviour_numbers_and_texts_stay_exact(orders):
    """Given numbers that no double holds; then they come back digit for digit."""
    data = '{"n": 12345678901234567890.123456789, "big": 9007199254740993, "z": 1.10, "s": "\\u00e9\\t\\ud83d\\ude00"}'
    orders.call("append", category="order", stream="1", events=f'{{"type": "A\\u0042", "data": {data}}}')
    raw = orders.call("read")["events"][0]
    assert raw["type"] == "AB" and "\n" not in raw["data"]
    for digits in "12345678901234567890.123456789", "9007199254740993", "1.10":
        assert digits in raw["data"]
    assert json.loads(raw["data"])["s"] == "é\t😀"


@pytest.mark.parametrize("expected, actual", [(-1, 1), (0, 1), (2, 1)])
def test_behaviour_the_same_version_twice_fails(orders, expected, actual):
    orders.append("1", [event(), event()])
    with refused("conflict") as caught:
        orders.append("1", event(), expected)
    assert caught.value.actual == actual and "order/1" in str(caught.value)
    with refused("conflict") as caught:
        orders.append("none", event(), 0)
    assert caught.value.actual == -1
    assert len(orders.read()) == 2


def test_behaviour_an_empty_save_changes_nothing(orders):
    assert orders.append("1", []) == (-1, -1, False)
    orders.append("1", event())
    assert orders.append("1", [], 0) == (-1, 0, False)
    with refused("conflict"):
        orders.append("1", [], 3)
    assert len(orders.read()) == 1


@pytest.mark.parametrize("events", ['5', '"x"', 'null', '[5]', '{}', '{"type": ""}', '{"data": 1}', '{"type": null}',
                                    '{"type": "A", "Topic": "x"}', '[{"type": "A"}, {}]', '{"type": "A"', '',
                                    r'{"type": "A", "data": "\u0000"}', r'{"type": "A", "data": "\ud83d x"}',
                                    r'{"type": "A", "data": {"\ude00": 1}}'])
def test_behaviour_what_is_no_event_is_refused(orders, events):
    with refused("not understood"):
        orders.call("append", category="order", stream="1", events=events)
    for category, stream in ("", "1"), ("order", ""):
        with refused("not understood"):
            orders.append(stream, event(), category=category)
    assert orders.read() == []


def test_behaviour_characters_may_be_escaped(orders):
    orders.call("append", category="order", stream="1", events=r'{"type": "A", "data": "\ud83d\ude00 \\u0000"}')
    assert orders.read()[0]["data"] == "\U0001f600 \\u0000"


def test_behaviour_one_of_many_racers_wins_every_version(place, orders):
    """Given eight processes that append with the same expected version; then one wins each round."""
    racers, rounds = [place.open() for _ in range(8)], 5
    for n in range(rounds):
        for racer in racers:
            racer.send("append", category="order", stream="1", events=json.dumps(event()), expected=n - 1)
        won = 0
        for racer in racers:
            try:
                racer.answer()
                won += 1
            except Refused as e:
                assert e.problem == "conflict" and e.actual == n
        assert won == 1
    assert [e["version"] for e in orders.stream("1")] == list(range(rounds))


# Ids


def test_behaviour_the_same_append_again_succeeds_and_says_so(orders):
    a, b = ids(2)
    events = [event("A", id=a, data={"x": 1}), event("B", id=b.upper())]
    assert orders.append("1", events, -1) == (0, 1, False)
    assert orders.append("1", events, -1) == (0, 1, True)
    orders.append("1", event("C"))
    assert orders.append("1", events) == (0, 1, True)
    assert orders.append("1", event("B", id=b)) == (1, 1, True)
    assert types(orders.read()) == ["A", "B", "C"]


def test_behaviour_another_event_under_a_used_id_is_an_error(orders):
    a, b, c = ids(3)
    orders.append("1", [event("A", id=a, data={"x": 1}), event("B", id=b)])
    for stream, events in (("2", event("A", id=a, data={"x": 1})), ("1", event("Other", id=a)),
                           ("1", event("A", id=a, data={"x": 2})), ("1", [event("B", id=b), event("A", id=a)]),
                           ("1", [event("C", id=c), event("C", id=c)])):
        with refused("id in use"):
            orders.append(stream, events)
    with refused("id in use"):
        orders.append("1", [event("A", id=a, data={"x": 1}), event("B", id=b)], 1)  # another place
    with refused("not understood"):
        orders.append("1", event(id="no uuid"))
    assert types(orders.read()) == ["A", "B"]


def test_behaviour_an_event_without_an_id_is_no_duplicate_of_another(orders):
    """Given a repeated append in which an event without an id differs; then it is refused, not dropped."""
    a = event("A", id=ids(1)[0])
    orders.append("1", [a, event("B")])
    assert orders.append("1", [a, event("B")]) == (0, 1, True)
    for events in [a, event("C")], [event("Z"), a], [a, event("B"), event("C")]:
        with refused("id in use"):
            orders.append("1", events)
    assert types(orders.read()) == ["A", "B"]


# The caller's own transaction


def test_behaviour_events_and_read_model_together(place, orders):
    """Given an append and a row in one transaction; then both are visible inside only, gone on
    rollback, and there together on commit."""
    other = place.open()
    with pytest.raises(ZeroDivisionError), orders.transaction():
        orders.append("1", event("Placed"), -1)
        orders.sql("insert into seen (name) values ('model')")
        assert len(orders.stream("1")) == 1 and orders.load("1")[0] == 0
        assert other.read() == [] == other.stream("1") and place.seen("model") == []
        raise ZeroDivisionError
    assert orders.read() == [] and place.seen("model") == []
    with orders.transaction():
        orders.append("1", event("Placed"), -1)
        orders.sql("insert into seen (name) values ('model')")
    assert types(other.read()) == ["Placed"] and len(place.seen("model")) == 1


def test_behaviour_two_aggregates_in_one_transaction(orders):
    """Given a transfer between two; when the second append fails, then the first has not happened."""
    for stream in "12":
        orders.append(stream, event("Opened"), -1)
    with orders.transaction():
        orders.append("1", event("Taken"), 0)
        orders.append("2", event("Given"), 0)
    with refused("conflict"), orders.transaction():
        orders.append("1", event("Taken"), 1)
        orders.append("2", event("Given"), 0)
    assert [e["version"] for e in orders.read()] == [0, 0, 1, 1]


def test_behaviour_a_failed_call_leaves_nothing_but_rollback(orders):
    with orders.transaction():
        orders.append("1", event("A"))
    with refused("refused"):
        orders.call("commit")
    orders.call("begin")
    with refused("refused"):
        orders.call("begin")
    orders.call("rollback")
    assert len(orders.read()) == 1


# Aggregates


def test_behaviour_save_decides_again_after_a_conflict(orders):
    """Given somebody who appends between load and append; then the decision is made anew on his event."""
    orders.append("1", event("Added", data=10), -1)
    done = orders.call("save", category="order", stream="1", add=5, interloper='{"type": "Added", "data": 100}')
    assert done["total"] == 110 and done["folded"] == 3
    assert [e["data"] for e in orders.stream("1")] == [10, 100, 5]
    assert orders.call("save", category="order", stream="1")["total"] == 115
    assert len(orders.read()) == 3


def test_behaviour_load_begins_at_the_snapshot(orders):
    orders.append("1", [event("Added", data=n) for n in range(5)])
    snapshot = {"category": "order", "stream": "1"}
    orders.call("snapshot", **snapshot, version=2, state=' 3 ')
    orders.call("snapshot", **snapshot, version=1, state="1")  # a later one is there
    version, events = orders.load("1")
    assert version == 4 and [(e["version"], e["type"], e["data"]) for e in events] == [
        (2, None, 3), (3, "Added", 3), (4, "Added", 4)]
    assert orders.call("save", **snapshot, add=1)["total"] == 10
    for wrong in 9, -1:
        with refused("not understood"):
            orders.call("snapshot", **snapshot, version=wrong, state="1")


# The feed


def test_behaviour_pages_lose_nothing(orders):
    """Given more events than a page holds; then reading on from any position gives all that follow."""
    orders.call("append_many", events=json.dumps(
        [{"category": "order", "stream": str(n % 7), "type": "T", "data": n} for n in range(2500)]))
    everything = orders.read()
    assert [e["data"] for e in everything] == list(range(2500))
    assert [e["data"] for e in orders.read(after=everything[999]["position"], limit=1200)] == list(range(1000, 2200))
    assert len(orders.stream("1")) == 357 and orders.stream("1", **{"from": 300})[0]["version"] == 300


def test_behaviour_reads_what_was_asked_for(orders):
    orders.append("1", [event("A", topic="x"), event("B", topic="y"), event("C")])
    orders.append("1", event("A", topic="y"), category="invoice")
    assert types(orders.read(categories="order")) == ["A", "B", "C"]
    assert types(orders.read(topics="y,z")) == ["B", "A"]
    assert types(orders.read(types="A,C", categories="invoice,order")) == ["A", "C", "A"]
    assert orders.read(categories="ord") == []


# Subscriptions


def test_behaviour_three_subscriptions_see_each_event_once(place, orders):
    """Given events written by two at once while three subscriptions follow, one of them with two
    executors; then each subscription has handled each event once, and each stream in order."""
    names, total = ["a", "b", "c", "c"], 300
    followers = [place.open() for _ in names]
    for follower, name in zip(followers, names):
        follower.send("follow", name=name, set={"partitions": "4", "batch": "10"}, until=total if name != "c" else 10000)
    writers = [place.open() for _ in range(2)]
    for n in range(total // 2):
        for writer in writers:
            writer.append(str(n % 10), event("Tick", data=n))
    wait_until(lambda: all(len(place.seen(name)) >= total for name in "abc"), "all to be handled")
    positions = [e["position"] for e in orders.read()]
    assert len(positions) == total
    for name in "abc":
        check_once_in_order(place.seen(name), positions)
    for follower in followers[:2]:
        assert follower.answer()["done"] == 1
    for follower in followers[2:]:
        follower.kill()


def check_once_in_order(seen, positions):
    assert sorted(p for p, _, _ in seen) == positions
    order = {}
    for _, stream, version in seen:
        assert version == order.get(stream, -1) + 1, f"{stream} at {version}"
        order[stream] = version


def test_behaviour_a_consumer_that_was_down_catches_up(place, orders):
    """Given a subscriber that stops, and events meanwhile; then it has all of them after its return."""
    for n in range(20):
        orders.append(str(n % 3), event())
    worker = place.open()
    assert worker.follow(until=20)["done"] == 1
    for n in range(30):
        orders.append(str(n % 3), [event()] * 10)
    assert len(place.seen()) == 20
    assert worker.follow(until=300)["done"] == 1
    check_once_in_order(place.seen(), [e["position"] for e in orders.read()])


def test_behaviour_a_killed_executor_loses_and_repeats_nothing(place, orders):
    """Given an executor that is killed at its work, and another that takes over after its lease; then
    what is in the read model is there once."""
    for n in range(100):
        orders.append(str(n % 5), event())
    victim = place.open()
    victim.send("follow", name="s", set={"lease": "300", "batch": "3"}, until=10000)
    wait_until(lambda: len(place.seen()) >= 20, "it to be at work")
    victim.kill()
    for _ in range(100):
        orders.append("6", event())
    heir = place.open()
    heir.send("follow", name="s", set={"lease": "300"}, until=10000)
    wait_until(lambda: len(place.seen()) >= 200, "the heir to be done")
    check_once_in_order(place.seen(), [e["position"] for e in orders.read()])
    heir.kill()


@pytest.mark.parametrize("wanted, seen", [({"topics": "mail"}, "1"), ({"categories": "invoice"}, "3"),
                                          ({"category": "order", "stream": "2"}, "2"), ({"types": "Odd"}, "3")])
def test_behaviour_what_is_not_subscribed_is_ignored(place, orders, wanted, seen):
    orders.append("1", event(topic="mail"))
    orders.append("2", event(topic="print"))
    orders.append("3", event("Odd"), category="invoice")
    place.open().follow(set=wanted, until=1)
    assert [stream for _, stream, _ in place.seen()] == [seen]
    assert place.open().follow(set={"topics": "other"}, until=1)["done"] == -1  # another source


def test_behaviour_starts_where_it_is_told(place, orders):
    orders.append("1", [event(), event()])
    worker = place.open()
    worker.follow("some", set={"start": "1"}, until=1)
    worker.send("follow", name="new", set={"start": "end"}, until=1)
    wait_until(lambda: "new" in str(place.query(place.lag)), "the subscription to be made")
    orders.append("1", event())
    worker.answer()
    assert [v for _, _, v in place.seen("some")] == [1] and [v for _, _, v in place.seen("new")] == [2]


FAILING = {"max-attempts": "2", "backoff": "1"}


def test_behaviour_retry_until_it_works(place, orders):
    """Given a handler that fails once in the middle of a batch; then all is handled once, in order."""
    for n in range(6):
        orders.append("bad" if n == 3 else "good", event())
    place.open().follow(set={"max-attempts": "9", "backoff": "1"}, bad="bad", failures=2, quiet_steps=30)
    assert sorted(p for p, _, _ in place.seen()) == [p for p, _, _ in place.seen()] and len(place.seen()) == 6


def test_behaviour_stop_and_resume(place, orders):
    for stream in "good", "bad", "good":
        orders.append(stream, event())
    worker = place.open()
    done = worker.follow(set=FAILING, bad="bad", quiet_steps=20)
    assert "it is bad" in done["said"] and [s for _, s, _ in place.seen()] == ["good"]
    worker.call("resume", name="s")
    worker.follow(until=2)
    assert [s for _, s, _ in place.seen()] == ["good", "bad", "good"]


def test_behaviour_park_goes_on_with_the_next(place, orders):
    for stream in "bad", "bad", "good":
        orders.append(stream, event())
    worker = place.open()
    worker.follow(set={**FAILING, "on-failure": "park"}, bad="bad", failures=2, quiet_steps=20)
    assert [(s, v) for _, s, v in place.seen()] == [("bad", 1), ("good", 0)]
    rows = [json.loads(line) for line in place.verb("parked", "list", "s").splitlines()]
    assert [(r["stream"], r["version"], r["attempts"], r["error"]) for r in rows] == [("bad", 0, 2, "it is bad")]
    assert worker.call("retry_parked", name="s", until=100)["retried"] == 1
    assert place.seen()[-1][1:] == ("bad", 0) and place.verb("parked", "list", "s") == ""


def test_behaviour_the_library_says_how_far_a_subscription_is(place, orders):
    """Given a subscription that parked an event and then saw no more; then it is behind by what came since."""
    def lag(name="s"):
        answer = orders.call("lag", name=name)
        return answer["behind"], answer["parked"], answer["stopped"]

    orders.append("bad", event())
    orders.append("good", event())
    place.open().follow(set={**FAILING, "on-failure": "park"}, bad="bad", failures=2, quiet_steps=20)
    assert lag() == (0, 1, 0)
    orders.append("good", [event(), event()])
    assert lag() == (2, 1, 0) and lag("none") == (0, 0, 0)


def test_behaviour_park_stream_keeps_the_order_of_the_stream(place, orders):
    """Given a stream whose first event fails; then its later events wait behind it while others go on,
    and are handled in order once somebody retries them."""
    for _ in range(3):
        orders.append("bad", event())
        orders.append("good", event())
    worker = place.open()
    worker.follow(set={**FAILING, "on-failure": "park-stream", "batch": "2"}, bad="bad", quiet_steps=20)
    assert [s for _, s, _ in place.seen()] == ["good"] * 3
    assert worker.call("retry_parked", name="s", bad="bad", until=100)["failed"]
    assert worker.call("retry_parked", name="s", until=100)["retried"] == 3
    orders.append("bad", event())
    worker.follow(until=1)
    assert [(s, v) for _, s, v in place.seen()][3:] == [("bad", n) for n in range(4)]


def test_behaviour_parked_events_by_the_verb(place, orders):
    orders.append("bad", [event("A"), event("B"), event("C")])
    place.open().follow(set={**FAILING, "on-failure": "park-stream"}, bad="bad", quiet_steps=20)
    first = json.loads(place.verb("parked", "list", "s").splitlines()[0])
    place.verb("parked", "drop", "s", "--position", first["position"])
    assert types(json.loads(line) for line in place.verb("parked", "retry", "s").splitlines()) == ["B", "C"]
    assert place.verb("parked", "list", "s") == ""


def test_behaviour_partitions_change_while_it_works(place, orders):
    """Given executors at work; when the number of partitions changes; then nothing is lost or repeated."""
    for n in range(200):
        orders.append(str(n % 9), event())
    workers = [place.open() for _ in range(3)]
    workers[0].send("follow", name="s", set={"partitions": "4", "batch": "5"}, quiet_steps=60)
    wait_until(lambda: len(place.seen()) >= 20, "the work to begin")
    for worker in workers[1:]:
        worker.send("follow", name="s", set={"partitions": "3", "batch": "5"}, quiet_steps=60)
    for n in range(100):
        orders.append(str(n % 9), event())
    for worker in workers:
        worker.answer()
    check_once_in_order(place.seen(), [e["position"] for e in orders.read()])


# Events that go


def test_behaviour_purge_by_age_up_to_the_slowest_subscription(place, orders):
    orders.append("1", [event("Old")] * 5)
    orders.append("kept", event("Old"), category="other")
    place.age(8)
    orders.append("1", [event("New")] * 2)
    orders.call("retain", category="order", age=7 * 86400)
    place.open().follow(set={"batch": "1", "categories": "order"}, until=3)
    assert orders.call("purge")["removed"] == 3
    assert orders.call("purge")["removed"] == 0
    assert orders.call("purge", force=True)["removed"] == 2
    assert [(e["stream"], e["version"]) for e in orders.read()] == [("kept", 0), ("1", 5), ("1", 6)]
    assert orders.append("1", event("New"), 6) == (7, 7, False)


def test_behaviour_purge_by_count_with_the_verbs(place, orders):
    for n in range(1, 4):
        orders.append(str(n), [event()] * n)
    place.verb("retain", "--category", "order", "--max-count", 2)
    place.verb("purge")
    assert [(e["stream"], e["version"]) for e in orders.read()] == [
        ("1", 0), ("2", 0), ("2", 1), ("3", 1), ("3", 2)]
    place.verb("retain", "--category", "order")
    orders.append("3", [event()] * 3)
    assert orders.call("purge")["removed"] == 0


def left(orders):
    return [(e["stream"], e["version"]) for e in orders.read()]


def test_behaviour_purge_by_count_goes_on_where_it_was(place, orders):
    """Given streams that grow between purges, and a subscription that is behind; then what is beyond the count
    goes as soon as it may, and again when the count is lowered, whatever the batch."""
    for _ in range(4):
        for stream in "123":
            orders.append(stream, event())
    orders.append("4", event(), category="other")
    orders.call("retain", category="order", count=2)
    place.open().follow(set={"batch": "1"}, until=5)
    assert [orders.call("purge", max=2)["removed"] for _ in range(4)] == [2, 2, 1, 0]
    assert left(orders)[:2] == [("3", 1), ("1", 2)]
    place.open().follow(until=8)
    assert orders.call("purge")["removed"] == 1
    orders.append("1", [event()] * 3)
    orders.append("4", event())
    place.open().follow(until=4)
    assert orders.call("purge")["removed"] == 3
    assert left(orders) == [("2", 2), ("3", 2), ("2", 3), ("3", 3), ("4", 0), ("1", 5), ("1", 6), ("4", 0)]
    orders.call("retain", category="order", count=1)
    assert [orders.call("purge", max=2)["removed"] for _ in range(3)] == [2, 1, 0]
    assert sorted(left(orders)) == [("1", 6), ("2", 3), ("3", 3), ("4", 0), ("4", 0)]


def test_behaviour_purge_keeps_what_is_parked(place, orders):
    """Given an event that was put aside, behind which the subscription has gone on; then it is not purged
    before it was handled, unless forced, and then it is not parked any more either."""
    orders.append("good", event())
    orders.append("bad", [event()] * 2)
    worker = place.open()
    worker.follow(set={**FAILING, "on-failure": "park", "batch": "1"}, bad="bad", failures=2, quiet_steps=20)
    assert [(s, v) for _, s, v in place.seen()] == [("good", 0), ("bad", 1)]
    place.age(8)
    orders.call("retain", category="order", age=86400, count=1)
    assert orders.call("purge")["removed"] == 1 and left(orders) == [("bad", 0), ("bad", 1)]
    assert orders.call("purge", force=True, max=1)["removed"] == 1 and left(orders) == [("bad", 1)]
    assert place.verb("parked", "list", "s") == ""
    assert orders.call("purge")["removed"] == 1 and left(orders) == []


def test_behaviour_a_parked_stream_goes_on_when_what_blocks_it_is_cut_off(place, orders):
    """Given a stream that waits behind a parked event; when that one is truncated; then the others can be
    retried, and the stream goes on."""
    orders.append("bad", [event()] * 3)
    worker = place.open()
    worker.follow(set={**FAILING, "on-failure": "park-stream"}, bad="bad", quiet_steps=20)
    orders.call("truncate", category="order", stream="bad", before=1)
    assert worker.call("retry_parked", name="s", until=100)["retried"] == 2
    orders.append("bad", event())
    worker.follow(until=1)
    assert [v for _, _, v in place.seen()] == [1, 2, 3]


def test_behaviour_an_aggregate_whose_events_are_gone_goes_on(place, orders):
    """Given a stream whose events were all purged, and one of which a snapshot is left; then both can be
    saved at the version that they have."""
    orders.append("1", [event("Added", data=5)] * 3)
    orders.append("2", [event("Added", data=1)] * 4)
    orders.call("snapshot", category="order", stream="2", version=1, state="2")
    place.age(8)
    orders.call("retain", category="order", age=86400)
    assert orders.call("purge")["removed"] == 7
    assert orders.load("1") == (2, []) and orders.load("2")[0] == 3
    assert orders.call("save", category="order", stream="1", add=7)["total"] == 0
    assert orders.call("save", category="order", stream="2", add=7)["total"] == 2
    assert left(orders) == [("1", 3), ("2", 4)]


def test_behaviour_positions_are_never_used_again(place, orders):
    """Given a store whose last events were purged; then new ones come behind them all the same."""
    orders.append("1", [event()] * 3)
    last = orders.read()[-1]["position"]
    orders.call("truncate", category="order", stream="1", before=3)
    assert orders.read() == []
    orders.append("1", event(), 2)
    assert orders.read()[0]["position"] > last


def test_behaviour_truncate_delete_redact(orders):
    one = event("A", id=ids(1)[0], data={"name": "Bob"}, metadata={"ip": "1"})
    orders.append("1", [event(data={"name": "Ann"})] * 4)
    orders.append("2", one)
    orders.call("snapshot", category="order", stream="1", version=3, state='{"name": "Ann"}')
    orders.call("truncate", category="order", stream="1", before=2)
    orders.call("redact", position=orders.read()[-1]["position"], data='{"gone": true}')
    orders.call("redact", position=orders.read()[1]["position"], data="{}")
    assert [(e["stream"], e["version"], e["data"]) for e in orders.read()] == [
        ("1", 2, {"name": "Ann"}), ("1", 3, {}), ("2", 0, {"gone": True})]
    assert orders.read()[-1]["metadata"] == {}
    assert types(orders.load("1")[1]) == ["Placed", "Placed"]  # the snapshot is gone
    assert orders.append("2", one) == (0, 0, True)
    orders.call("delete", category="order", stream="2")
    assert orders.stream("2") == [] and len(orders.read()) == 2
    for expected in None, -1, 0:
        with refused("deleted"):
            orders.append("2", event(), expected)


# The verbs


def test_behaviour_the_verbs_truncate_delete_redact_drop(place, orders):
    orders.append("1", [event(data={"name": "Ann"}) for _ in range(4)])
    orders.append("2", event())
    place.open().follow(until=5)
    stream = ("--category", "order", "--stream-id")
    assert place.verb("store", "truncate", *stream, "1", "--before", 2) == "2 events were removed.\n"
    assert place.verb("store", "delete", *stream, "2") == "1 events were removed.\n"
    first, second = orders.read()
    place.verb("store", "redact", "--position", first["position"])
    assert [e["data"] for e in orders.read()] == [{}, {"name": "Ann"}]
    with refused("deleted"):
        orders.append("2", event())
    for wrong, code, said in ((("truncate", *stream, "1"), 64, "--before"), (("delete", *stream[:2]), 64, "--stream-id"),
                              (("redact",), 64, "--position"), (("redact", "--position", 99), 1, "position 99")):
        done = run("store", wrong[0], place.url, *wrong[1:])
        assert done.code == code and said in done.err, done
    # a subscription that nobody needs keeps a purge from its work no more
    orders.call("retain", category="order", count=1)
    orders.append("1", [event()] * 2)
    assert orders.call("purge")["removed"] == 2
    place.verb("subscribe", "s", "--drop")
    assert orders.call("purge")["removed"] == 1
    done = run("subscribe", "s", place.url, "--drop")
    assert done.code == 78 and "there is no subscription s" in done.err, done
    assert place.open().call("drop", name="s")["failed"] is False


def test_behaviour_errors_say_what_is_wrong_and_no_more(place, orders):
    orders.append("1", event())
    done = run("append", place.url, "--category", "order", stdin='{"stream": "1", "type": "A", "expected": 7}\n')
    assert done.code == 1 and "was not appended: stream order/1 must be at version 7, but it is at version 0" in done.err
    assert "ERROR" not in done.err and "actual" not in done.err
    place.open().follow(until=1)
    done = run("subscribe", "s", place.url, "--category", "other")
    assert done.code == 1 and 'msg="subscription s has another source' in done.err and "--drop" in done.err, done.err


def test_behaviour_a_stream_is_read_between_two_versions_and_backward(place, orders):
    orders.append("1", [event(data=n) for n in range(2500)])

    def versions(**more):
        return [e["version"] for e in orders.stream("1", **more)]

    def printed(*args):
        lines = place.verb("read", "--category", "order", "--stream-id", "1", *args).splitlines()
        return [json.loads(line)["version"] for line in lines]

    assert versions(**{"from": 3, "to": 5}) == [3, 4, 5] == printed("--after", 3, "--before", 6)
    assert versions(backward=1) == list(range(2499, -1, -1)) == printed("--backward")
    assert versions(backward=1, **{"from": 990, "to": 2100}) == list(range(2100, 989, -1))
    assert printed("--backward", "--before", 5, "--limit", 2) == [4, 3]
    for wrong in ("--backward",), ("--before", 3), ("--category", "order", "--stream-id", "1", "--follow", "--backward"):
        assert run("read", place.url, *wrong).code == 64


def test_behaviour_the_verb_stores_a_snapshot(place, orders):
    orders.append("1", [event()] * 3)
    stream = ("--category", "order", "--stream-id", "1")
    done = run("store", "snapshot", place.url, *stream, "--before", 2, stdin='{"total": 2}\n')
    assert done.code == 0, done
    version, found = orders.load("1")
    assert version == 2 and [(e["version"], e["data"]) for e in found] == [(1, {"total": 2}), (2, {})]
    for wrong, text, code, said in (((*stream, "--before", 1), "{}", 1, "later version"), (stream, "{}", 64, "--before"),
                                    ((*stream, "--before", 3), "{", 1, "JSON"),
                                    ((*stream, "--before", 3), "{}\0{}", 1, "JSON"), (("--before", 3), "{}", 64, "--stream-id")):
        done = run("store", "snapshot", place.url, *wrong, stdin=text)
        assert done.code == code and said.lower() in done.err.lower(), done


def test_behaviour_the_verbs_append_read_load(place, orders):
    lines = [{"stream": str(n % 3), "type": "T", "data": {"n": n}, "id": ids(1, n)[0]} for n in range(30)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert run("append", place.url, "--category", "order", stdin=text).code == 0
    printed = [json.loads(line) for line in place.verb("read").splitlines()]
    assert [(e["stream"], e["data"]["n"]) for e in printed] == [(e["stream"], e["data"]["n"]) for e in lines]
    again = run("append", place.url, stdin="".join(json.dumps(e) + "\n" for e in printed))
    assert again.code == 0 and "30 were there already" in again.err
    orders.call("snapshot", category="order", stream="1", version=7, state='{"sum": 1}')
    loaded = [json.loads(line) for line in place.verb("load", "--category", "order", "--stream-id", "1").splitlines()]
    assert [(e["version"], e["type"], e["position"]) for e in loaded] == [(7, None, None), (8, "T", None), (9, "T", None)]
    assert "WRONG" not in place.verb("store", "check")
    assert json.loads(place.verb("store", "stats", "--json"))["events"] == 30


def test_behaviour_a_store_that_is_not_there_says_so(db, tmp_path):
    for url in db.conninfo, f"sqlite:{tmp_path}/none.db":
        done = run("read", url)
        assert done.code == 78 and "pgherald store init" in done.err
        with contextlib.closing(store_driver.Library(url)) as library:
            with refused("refused"):
                library.append("1", event())
            library.call("init")
            assert library.append("1", event()) == (0, 0, False)
    assert run("purge", db.conninfo, "--every", "5x").code == 64
    assert run("retain", db.conninfo).code == run("load", db.conninfo).code == run("parked", "list").code == 64


# Where they differ


def test_behaviour_a_server_that_was_down(new_server):
    """Given a server that stops and starts again under a writer and a subscriber; then every event is
    there once and was handled once, and the library has connected again."""
    server = new_server()
    db = postgres.Database(server)
    with contextlib.closing(store_driver.Postgres(db, None)) as place:
        writer, worker = place.open(), place.open()
        worker.send("follow", name="s", until=10000)
        written = []

        def write():
            for n in range(60):
                wait_until(lambda n=n: appended(writer, n), "the writer to get through")
                written.append(n)

        thread = threading.Thread(target=write)
        thread.start()
        wait_until(lambda: len(written) >= 20, "some events")
        server.restart("immediate")
        thread.join(postgres.LIMIT)
        assert len(written) == 60
        db.connection.close()
        wait_until(lambda: len(place.seen()) >= 60, "all to be handled")
        check_once_in_order(place.seen(), [e["position"] for e in writer.read()])
        worker.kill()


def test_behaviour_a_server_that_is_away_at_first(new_server, new_proxy):
    """Given a server that cannot be reached when a subscriber begins; when it can, then the subscriber
    makes its subscription and goes to work."""
    db = postgres.Database(new_server(tcp=True))
    door = new_proxy(db.server.port)
    door.refusing = True
    away = postgres.Via(db, host="127.0.0.1", port=door.port).conninfo
    with contextlib.closing(store_driver.Postgres(db, None)) as place, contextlib.closing(store_driver.Library(away)) as worker:
        place.open().append("1", event())
        worker.send("follow", name="s", until=1)
        wait_until(lambda: door.refused >= 2, "some tries")
        door.refusing = False
        wait_until(lambda: len(place.seen()) == 1, "the event to be handled")


def test_behaviour_steps_do_not_wait_for_a_connection():
    """Given a server that never answers; then steps that shall not wait do not, and neither does the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"host=127.0.0.1 port={listener.getsockname()[1]} connect_timeout=600"
        with contextlib.closing(store_driver.Library(url)) as worker:
            done = worker.call("follow", name="s", quiet_steps=5, timeout=0)
            assert (done["calls"], done["done"]) == (0, 0)
            caller, _ = listener.accept()
            caller.close()


def appended(writer, n):
    try:
        writer.append("1", event(id=ids(1, n)[0]))
        return True
    except Refused as e:
        assert e.problem == "away", str(e)
        return False


def test_behaviour_a_malformed_notification_is_ignored(db):
    with contextlib.closing(store_driver.Postgres(db, None)) as place:
        orders, worker = place.open(), place.open()
        worker.send("follow", name="s", set={"max-sleep": "20"}, until=1)
        for payload in "", "garbage", '{"position": -1}', "x" * 7000:
            db.sql("select pg_notify('herald', %s)", (payload,))
        orders.append("1", event())
        assert worker.answer()["calls"] == 1 and len(place.seen()) == 1


def test_behaviour_deallocate_all_on_the_librarys_connection(db):
    """Given statements that are prepared; when the application says DEALLOCATE ALL, then the next call works
    as before. Within a transaction, which that undoes, it says to try again."""
    with contextlib.closing(store_driver.Postgres(db, None)) as place:
        for n, session in enumerate((place.open(), place.open())):
            session.append(str(n), event("A"))
            with contextlib.ExitStack() as stack:
                if n:
                    stack.enter_context(refused("away"))
                    stack.enter_context(session.transaction())
                session.sql("deallocate all")
                session.append(str(n), event("B"))
            session.append(str(n), event("C"))
        assert types(place.open().read()) == ["A", "B", "C", "A", "C"]


def test_behaviour_a_full_disk_is_named_and_nothing_is_lost(small_disk):
    """Given a store in a file on a disk that fills up; then the append that has no room says so and has not
    happened, and succeeds once there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 400_000)
    with contextlib.closing(store_driver.Sqlite(None, small_disk)) as place:
        orders, n = place.open(), 0
        with pytest.raises(Refused) as caught:
            while n < 100:
                orders.append("1", event(data=f"{n}" + "x" * 10000), n - 1)
                n += 1
        assert caught.value.problem == "away" and "is its disk full" in str(caught.value), str(caught.value)
        ballast.unlink()
        assert orders.append("1", event(data=f"{n}"), n - 1) == (n, n, False)
        assert [e["data"].rstrip("x") for e in orders.read()] == [f"{i}" for i in range(n + 1)]


def test_behaviour_sqlite_in_memory_is_shared_in_the_process():
    """Given a save whose interloper is another store of the process; then both are one store."""
    with contextlib.closing(store_driver.Library("sqlite::memory:")) as memory:
        memory.call("init")
        memory.sql(store_driver.SEEN.format("integer"))
        memory.append("1", event("Added", data=1))
        done = memory.call("save", category="order", stream="1", add=5, interloper='{"type": "Added", "data": 2}')
        assert done["total"] == 3
        assert memory.follow(until=3)["done"] == 1
        assert [e["data"] for e in memory.read()] == [1, 2, 5]
