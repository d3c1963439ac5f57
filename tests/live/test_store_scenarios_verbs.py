"""What any event store must do (test_store_scenarios.py), by the verbs alone, over PostgreSQL and SQLite."""
import contextlib
import json
import os
import threading

import pytest

import postgres
import store_driver
from herald import Herald, run
from postgres import wait_until
from store import event

pytestmark = pytest.mark.skipif(postgres.server_major() < 13, reason="the event store needs PostgreSQL 13")


@pytest.fixture(params=store_driver.PLACES, ids=lambda place: place.__name__.lower())
def place(request, tmp_path):
    db = request.getfixturevalue("db") if request.param is store_driver.Postgres else None
    with contextlib.closing(request.param(db, tmp_path)) as place:
        yield place


@pytest.fixture
def subscribe(request, place):
    """Starts pgherald subscribe NAME on the place."""
    request.node.heralds = started = []

    def start(name, *args):
        started.append(Herald("subscribe", name, place.url, "--max-sleep", "50", "--config", os.devnull, *args))
        return started[-1]

    yield start
    for one in started:
        one.close()


def append(place, *events):
    """One call, in which each event names its stream: the result of the program."""
    return run("append", place.url, "--category", "order", stdin="".join(json.dumps(e) + "\n" for e in events))


def load(place, stream):
    """The aggregate's version and its sum."""
    events = [json.loads(line) for line in place.verb("load", "--category", "order", "--stream-id", stream).splitlines()]
    return events[-1]["version"] if events else -1, sum(e["data"] for e in events)


def added(stream, n, **more):
    return event("Added", stream=stream, data=n, **more)


def feed(place):
    return [json.loads(line) for line in place.verb("read").splitlines()]


def test_store_verbs_save_and_load(place):
    assert append(place, added("1", 1, expected=-1), added("1", 2)).code == 0
    assert append(place, added("1", 4, expected=1)).code == 0
    assert load(place, "1") == (2, 7) and load(place, "2") == (-1, 0)
    assert [(e["version"], e["data"]) for e in feed(place)] == [(0, 1), (1, 2), (2, 4)]


def test_store_verbs_the_same_version_twice_fails(place):
    append(place, added("1", 1, expected=-1))
    for expected in -1, 5:
        done = append(place, added("1", 2, expected=expected))
        assert done.code == 1 and "it is at version 0" in done.err, done
    assert load(place, "1") == (0, 1)


def test_store_verbs_two_aggregates_in_one_transaction(place):
    """Given a transfer between two in one call; when the second one fails, then the first has not happened."""
    append(place, added("1", 10), added("2", 10))
    assert append(place, added("1", -3, expected=0), added("2", 3, expected=0)).code == 0
    assert append(place, added("1", -3, expected=1), added("2", 3, expected=0)).code == 1
    assert [load(place, n) for n in "12"] == [(1, 7), (1, 13)] and len(feed(place)) == 4


def test_store_verbs_a_stale_aggregate_is_not_saved(place):
    append(place, added("1", 10))
    mine, theirs = load(place, "1")[0], load(place, "1")[0]
    assert append(place, added("1", 1, expected=mine)).code == 0
    assert append(place, added("1", 5, expected=theirs)).code == 1
    assert append(place, added("1", 5, expected=load(place, "1")[0])).code == 0
    assert load(place, "1") == (2, 16)


def test_store_verbs_saving_nothing_changes_nothing(place):
    done = append(place)
    assert done.code == 0 and "0 events appended" in done.err and feed(place) == [], done


def test_store_verbs_three_subscriptions_see_all_events_once(place, subscribe):
    """Given 1,000 events written by four at once while three subscriptions follow; then each has seen
    each event exactly once, and each stream in order."""
    followers = [subscribe(name, "--partitions", "2") for name in "abc"]
    writers = [threading.Thread(target=append, args=(place, *[added(str(n % 10), n) for n in range(250)]))
               for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    everything = sorted(e["id"] for e in feed(place))
    assert len(everything) == 1000
    for follower in followers:
        follower.wait_for(1000)
        events, versions = follower.stop(), {}
        assert sorted(e["uuid"] for e in events) == everything
        for e in events:
            assert e["version"] == versions.get(e["stream"], -1) + 1
            versions[e["stream"]] = e["version"]


def test_store_verbs_a_consumer_that_was_down_catches_up(place, subscribe):
    append(place, *[added(str(n % 3), n) for n in range(20)])
    first = subscribe("s", "--limit", "20")
    assert first.wait_exit() == 0
    append(place, *[added(str(n % 3), n) for n in range(500)])
    second = subscribe("s")
    second.wait_for(500)
    assert [e["uuid"] for e in first.events + second.stop()] == [e["id"] for e in feed(place)]


def test_store_verbs_an_unsubscribed_topic_is_ignored(place, subscribe):
    append(place, *[added("1", n, topic=["mail", "print", None][n % 3]) for n in range(30)])
    follower = subscribe("s", "--topics", "mail")
    follower.wait_for(10)
    append(place, added("1", 31, topic="print"), added("1", 32, topic="mail"))
    follower.wait_for(11)
    assert [e["data"] for e in follower.stop()] == [*range(0, 30, 3), 32]


def test_store_verbs_purge_by_age(place):
    append(place, *[added("1", n) for n in range(5)])
    place.age(8)
    append(place, added("1", 5), added("1", 6))
    place.verb("retain", "--category", "order", "--max-age", "7d")
    place.verb("purge")
    assert [e["data"] for e in feed(place)] == [5, 6]
    assert append(place, added("1", 7, expected=6)).code == 0


def test_store_verbs_purge_again_and_again(place):
    """Given a purge that goes on; then it removes what comes later too, until it is stopped."""
    place.verb("retain", "--category", "order", "--max-count", 1)
    with contextlib.closing(Herald("purge", place.url, "--every", "1s")) as purge:
        for _ in range(2):
            append(place, added("1", 1), added("1", 2))
            wait_until(lambda: len(feed(place)) == 1, "all but one to go")
        purge.stop()


def test_store_verbs_a_malformed_notification_is_ignored(db):
    with contextlib.closing(store_driver.Postgres(db, None)) as place, \
            contextlib.closing(Herald("subscribe", "s", place.url, "--config", os.devnull)) as follower:
        follower.wait_log("delivering subscription")
        for payload in "", "garbage", '{"position": -1}', "x" * 7000:
            db.sql("select pg_notify('herald', %s)", (payload,))
        append(place, added("1", 1))
        assert [e["data"] for e in follower.wait_for(1)] == [1]
        follower.stop()
