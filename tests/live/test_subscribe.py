"""pgherald subscribe: subscriptions of the event store, delivered to any destination."""
import collections
import json
import os
import random
import signal

import pytest

import delivery
import postgres
import store
from herald import Herald, run
from postgres import wait_until

pytestmark = pytest.mark.skipif(postgres.server_major() < 13, reason="the event store needs PostgreSQL 13")


@pytest.fixture
def shop(db):
    store.init(db)
    here = store.open_store(db)
    yield here
    here.connection.close()


@pytest.fixture
def subscribe(request):
    """Starts pgherald subscribe NAME on a database: subscribe(db, "mailer", "--category", "order")."""
    started = []
    request.node.heralds = started

    def start(db, *args, **options):
        if options.get("file"):
            args = (*args, "--to", f"file:{options['file']}")
        started.append(Herald("subscribe", *args, "--max-sleep", "50", "--config", os.devnull,
                              env={"PGHERALD_CONNECTION": db.conninfo}, **options))
        return started[-1]

    yield start
    for one in started:
        one.close()


def append(db, first, last, streams=3, category="order"):
    """One append for each number, its type, over several streams."""
    db.sql(f"do $$ begin for n in {first}..{last} loop perform herald.append('{category}', (n % {streams})::text, "
           "jsonb_build_object('type', n::text)); commit; end loop; end $$")


def checkpoint(db, name):
    return min(r[0] for r in db.sql("select position from herald.lag where subscription = %s", (name,)))


def check(events, numbers, repeats=False):
    """Each number once and each stream in order; a repeat has the id of the first."""
    ids, last = {}, collections.defaultdict(lambda: -1)
    for e in events:
        n = int(e["type"])
        if n in ids:
            assert repeats, f"{n} came twice"
            assert ids[n] == (e["id"], e["uuid"])
            continue
        ids[n] = (e["id"], e["uuid"])
        assert last[e["stream"]] < n, f"{n} is out of order"
        last[e["stream"]] = n
    assert sorted(ids) == list(numbers)


def test_a_subscription_is_delivered(db, shop, subscribe):
    # given events that are there and a subscription to one category
    append(db, 0, 9)
    append(db, 0, 9, category="other")
    stream = subscribe(db, "mailer", "--category", "order")
    stream.wait_for(10)
    # when more are appended
    append(db, 10, 19)
    # then all come in order, and the store knows
    check(stream.wait_for(20), range(20))
    wait_until(lambda: checkpoint(db, "mailer") >= 30, "the acknowledgement")
    assert stream.events[0]["position"] == 1 and stream.events[0]["id"].endswith("1-00000000")
    # and the next process goes on where it was
    stream.stop()
    append(db, 20, 29)
    check(subscribe(db, "mailer").wait_for(10), range(20, 30))


def test_follow(db, shop, subscribe):
    # given events that are there
    append(db, 0, 9)
    # when the feed is followed from now, and from a position
    now = subscribe(db, "--follow")
    now.wait_log("delivering new events")
    behind = subscribe(db, "--follow", "--start", "5")
    append(db, 10, 19)
    # then each shows what is behind that
    check(now.wait_for(10), range(10, 20))
    check(behind.wait_for(15), range(5, 20))
    assert db.sql("select count(*) from herald.lag") == [(0,)]


def test_the_log_and_the_subscription_say_the_same(db, shop, subscribe, herald):
    # given both ways
    log = herald(db)
    feed = subscribe(db, "all")
    # when events of all kinds are appended
    shop.append("1", [store.event("A", data={"n": 10.20, "é": None}), store.event("B", topic="t")])
    shop.append("2", store.event("C", metadata={"by": "me"}), category="customer")
    append(db, 0, 99)
    # then the events are the same but for the place from which they come
    def plain(events):
        return [{k: v for k, v in e.items() if k not in ("id", "xid", "position")} for e in events]
    assert plain(log.wait_for(103)) == plain(feed.wait_for(103))


def test_wrong_words(db, shop):
    for args, said in (((), "name the subscription"), (("a", "--follow", db.conninfo), "leave out the name"),
                       (("a", "--start", "soon"), "--start")):
        done = run("subscribe", *args)
        assert done.code == 64 and said in done.err, done.err
