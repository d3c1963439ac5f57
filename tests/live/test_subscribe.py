"""pgherald subscribe: subscriptions of the event store, delivered to any destination."""
import collections
import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import threading

import pytest

import postgres
import store
from herald import Herald, read_events, run
from nats_server import NatsServer
from postgres import Database, Via, wait_until
from webhook_server import Receiver

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
    """How far the slowest partition is; -1: there is no such subscription yet."""
    return db.sql("select coalesce(min(position), -1) from herald.lag where subscription = %s", (name,))[0][0]


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


def check_order(events):
    """New ones of a stream in order; what has been seen may come again."""
    last, seen = collections.defaultdict(lambda: -1), set()
    for e in events:
        if e["uuid"] not in seen:
            assert last[e["stream"]] < e["version"], f"{e} is out of order"
            last[e["stream"]] = e["version"]
        seen.add(e["uuid"])


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


def test_a_reader_needs_no_more_rights(db, shop, subscribe):
    # given a role that is only a member of herald_reader
    db.sql(f"create role plain_{db.name} login in role herald_reader")
    reader = Via(db, user=f"plain_{db.name}")
    append(db, 0, 9)
    # when it delivers a subscription and follows the feed
    stream, now = subscribe(reader, "s"), subscribe(reader, "--follow")
    now.wait_log("delivering new events")
    append(db, 10, 19)
    # then it can
    check(stream.wait_for(20), range(20))
    check(now.wait_for(10), range(10, 20))
    stream.stop()
    now.stop()
    # and look at what was parked
    assert run("parked", "list", "s", reader.conninfo) == (0, "", "")
    db.sql(f"drop role plain_{db.name}")


class Sqlite:
    """A store in a file, with its verbs instead of a connection."""

    def __init__(self, path):
        self.path, self.conninfo = path, f"sqlite:{path}"
        assert run("store", "init", self.conninfo).code == 0

    def append(self, first, last, category="order"):
        lines = (json.dumps({"category": category, "stream": str(n % 3), "type": str(n)}) + "\n"
                 for n in range(first, last + 1))
        done = run("append", self.conninfo, stdin="".join(lines))
        assert done.code == 0, done.err

    def sql(self, text, params=()):
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(text, params).fetchall()

    def checkpoint(self, name):
        return self.sql("select min(position) from herald_checkpoint where subscription = ?", (name,))[0][0]


def test_a_store_in_sqlite(tmp_path, subscribe):
    # given a store in a file, with events
    shop = Sqlite(tmp_path / "shop.db")
    shop.append(0, 9)
    # when a subscription to one category is delivered, and the feed is followed
    stream, now = subscribe(shop, "mailer", "--category", "order"), subscribe(shop, "--follow")
    now.wait_log("delivering new events of database shop.db")
    shop.append(10, 14, category="other")
    shop.append(10, 19)
    # then both say what is wanted, and the store knows
    check(stream.wait_for(20), range(20))
    assert len(now.wait_for(15)) == 15
    stream.wait_until(lambda: (shop.checkpoint("mailer") or 0) >= 25, "the acknowledgement")
    # and the next process goes on where it was
    stream.stop()
    shop.append(20, 29)
    check(subscribe(shop, "mailer").wait_for(10), range(20, 30))


def test_a_store_in_sqlite_and_killed_processes(tmp_path, subscribe):
    # given a store in a file that is appended to, and a process that is killed again and again
    shop, out = Sqlite(tmp_path / "shop.db"), tmp_path / "out.json"
    for n in range(8):
        shop.append(n * 50, n * 50 + 49)
        stream = subscribe(shop, "s", "--lease", "1", file=out)
        stream.wait_until(lambda n=n: len(read_events(out)) > n * 50 + random.randrange(50), "some events")
        stream.kill9()
    # when one may finish
    stream = subscribe(shop, "s", file=out)
    stream.wait_until(lambda: shop.checkpoint("s") >= 400, "the end")
    # then all are there, once and in order
    check(read_events(out), range(400))


def test_a_store_in_sqlite_parks_what_is_refused(tmp_path, subscribe):
    # given a receiver that refuses one event
    shop = Sqlite(tmp_path / "shop.db")
    hook = Receiver(answer=lambda request: 400 if json.loads(request.body)["type"] == "5" else None)
    # when it is delivered with the policy to park
    stream = subscribe(shop, "s", "--on-failure", "park", "--attempts", "1", "--to", hook.url())
    shop.append(0, 9)
    # then the others come, and that one is on the list
    stream.wait_until(lambda: (shop.checkpoint("s") or 0) >= 10, "the end")
    assert sorted({int(e["type"]) for e in hook.events}) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    listed = run("parked", "list", "s", shop.conninfo)
    assert [json.loads(line)["type"] for line in listed.out.splitlines()] == ["5"], listed
    # and comes when it is asked for
    hook.answer = lambda request: None
    assert subscribe(shop, "s", "--parked", "--to", hook.url()).wait_exit() == 0
    assert hook.events[-1]["type"] == "5"
    assert run("parked", "list", "s", shop.conninfo).out == ""
    hook.stop()


def test_wrong_words(db, shop, tmp_path):
    for args, said in (((), "name the subscription"), (("a", "--follow", db.conninfo), "leave out the name"),
                       (("a", "--start", "soon"), "--start"), (("--follow", "--parked"), "--parked needs")):
        done = run("subscribe", *args)
        assert done.code == 64 and said in done.err, done.err
    done = run("subscribe", "none", db.conninfo, "--parked")
    assert done.code == 78 and "there is no subscription none" in done.err, done.err
    append(db, 0, 0)
    assert db.sql("select herald.subscribe('s')") == [(True,)]
    done = run("subscribe", "s", db.conninfo, "--parked", "--to", f"file:{tmp_path}/events")
    assert done.code == 78 and "another place" in done.err, done.err
    done = run("subscribe", "a", "sqlite:shop.db")
    assert done.code == 78 and "run pgherald store init" in done.err, done.err


# Crashes

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", 4))


class Place:
    """A destination as a test sees it: a URL, and the events that have arrived."""

    def __init__(self, url, events, exact):
        self.url, self.events, self.exact = url, events, exact


@pytest.fixture(params=["file", "nats", "webhook"])
def place(request, tmp_path):
    if request.param == "file":
        yield Place(f"file:{tmp_path}/out", lambda: read_events(tmp_path / "out"), True)
    elif request.param == "nats":
        server = NatsServer().start()
        server.make_stream("SHOP", "shop.>")
        yield Place(server.url("shop.{category}.{stream}?stream=SHOP"), lambda: server.events("SHOP"), True)
        server.remove()
    else:
        hook = Receiver()
        yield Place(hook.url(), lambda: hook.events, False)
        hook.stop()


@pytest.mark.parametrize("way", ["log", "subscription"])
def test_killed_at_random_nothing_is_lost(db, shop, herald, subscribe, place, way):
    # given a stream of events from the log or a subscription, that is killed at random moments
    luck, each = random.Random(7), 150

    def start():
        return herald(db, "--to", place.url) if way == "log" else subscribe(db, "s", "--to", place.url, "--lease", "1")

    running = start()
    for n in range(ROUNDS):
        writer = threading.Thread(target=write, args=(db, n * each, n * each + each - 1))
        writer.start()
        seen = n * each // 2 + luck.randrange(each // 2)
        wait_until(lambda: len(place.events()) >= seen, "events to arrive")
        running.kill9()
        running = start()
        writer.join()
    # when it comes to the end
    total = range(ROUNDS * each)
    wait_until(lambda: len({e["uuid"] for e in place.events()}) >= len(total), "all events")
    running.stop()
    # then each is there, in the order of its stream; none twice where the destination knows
    check(place.events(), total, repeats=not place.exact)


def write(db, first, last):
    with contextlib.closing(db.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"do $$ begin for n in {first}..{last} loop perform herald.append('order', (n % 3)::text, "
                       "jsonb_build_object('type', n::text)); commit; end loop; end $$")


def test_processes_share_the_partitions(db, shop, subscribe, tmp_path):
    # given four processes on four partitions, each with a receiver of its own
    hooks = [Receiver() for _ in range(4)]
    streams = [subscribe(db, "s", "--partitions", "4", "--to", h.url(), "--lease", "2") for h in hooks]
    # when many streams are appended to, and one process is killed
    append(db, 0, 299, streams=40)
    wait_until(lambda: sum(len(h.events) for h in hooks) >= 100, "events to arrive")
    streams[0].kill9()
    append(db, 300, 599, streams=40)
    # then the others take over, nothing is lost, and each stream is in order wherever it went
    def events():
        return [e for h in hooks for e in h.events]
    wait_until(lambda: len({e["type"] for e in events()}) == 600, "all events")
    for h in hooks:
        check_order(h.events)
    arrived = collections.defaultdict(set)
    for e in events():
        arrived[e["type"]].add((e["id"], e["uuid"]))
    assert all(len(ids) == 1 for ids in arrived.values())
    for h in hooks:
        h.stop()


def test_a_lease_that_is_lost(db, shop, subscribe):
    # given a process that holds a partition, and a destination that takes nothing
    gate = threading.Event()
    hook = Receiver(answer=lambda request: None if gate.is_set() else 503)
    stream = subscribe(db, "s", "--to", hook.url())
    append(db, 0, 9)
    wait_until(lambda: hook.requests, "a first try")
    # when another takes the partition, and gives it back undone
    token, = db.sql("update herald.checkpoint set lease_until = now() - interval '1 s'; "
                    "select token from herald.claim('s', 'thief')")[0]
    gate.set()
    stream.wait_log("the lease of partition 0 of s was lost")
    db.sql("select herald.release('s', 0, %s)", (token,))
    # then it begins anew, and everything arrives
    wait_until(lambda: checkpoint(db, "s") >= 10, "the acknowledgement")
    check(hook.events, range(10), repeats=True)
    hook.stop()


def test_the_lease_is_renewed_while_a_destination_is_slow(db, shop, subscribe):
    # given a destination that takes nothing for longer than the lease
    gate = threading.Event()
    hook = Receiver(answer=lambda request: None if gate.is_set() else 503)
    stream = subscribe(db, "s", "--to", hook.url(), "--lease", "1")
    append(db, 0, 9)
    until = db.sql("select clock_timestamp() + interval '3 s'")[0][0]
    wait_until(lambda: db.sql("select min(lease_until) > %s from herald.lag", (until,)) == [(True,)], "renewals")
    # when it takes again
    gate.set()
    # then nobody had it meanwhile
    wait_until(lambda: checkpoint(db, "s") >= 10, "the acknowledgement")
    assert "lost" not in stream.err
    check(hook.events, range(10))
    hook.stop()


def test_a_standby_takes_over(db, shop, subscribe):
    # given two processes on one partition
    one, two = Receiver(), Receiver()
    first = subscribe(db, "s", "--to", one.url(), "--lease", "1")
    append(db, 0, 9)
    wait_until(lambda: len(one.events) == 10, "10 events")
    # when the one that works is stopped by force, with the lease in its hand
    second = subscribe(db, "s", "--to", two.url(), "--lease", "1")
    first.kill9()
    append(db, 10, 19)
    # then the other goes on
    wait_until(lambda: len({e["type"] for e in one.events + two.events}) == 20, "all events")
    check(one.events + two.events, range(20), repeats=True)
    second.stop()
    one.stop()
    two.stop()


def test_a_stop_does_not_wait_for_a_connection():
    # given pgherald that waits for a server's first words
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = Herald("subscribe", "s", f"host=127.0.0.1 port={listener.getsockname()[1]} connect_timeout=600")
        caller, _ = listener.accept()
        # when it is told to stop, then it does
        one.stop()
        caller.close()


def test_a_stop_does_not_wait_for_a_server_that_fell_silent(new_server, new_proxy, subscribe):
    # given a subscription at work, whose server does not answer any more
    db = Database(new_server(tcp=True))
    store.init(db)
    door = new_proxy(db.server.port)
    stream = subscribe(Via(db, host="127.0.0.1", port=door.port), "s")
    append(db, 0, 4)
    check(stream.wait_for(5), range(5))
    asked = sum(len(link.sent) for link in door.links)
    door.stall(door.links)
    append(db, 5, 9)
    stream.wait_until(lambda: sum(len(link.sent) for link in door.links) > asked, "a question")
    # when it is told to stop, then it does not wait for an answer as long as it else would, 30 s
    stream.signal(signal.SIGTERM)
    assert stream.wait_exit(limit=25) == 0


@pytest.mark.parametrize("policy", ["stop", "park", "park-stream"])
def test_an_event_that_is_refused(db, shop, subscribe, policy):
    # given a destination that refuses one event of a stream
    def answer(request):
        return 400 if json.loads(request.body)["type"] == "4" else None
    hook = Receiver(answer=answer)
    append(db, 0, 19)
    stream = subscribe(db, "s", "--to", hook.url(), "--on-failure", policy, "--attempts", "1")
    # when it comes to that event
    if policy == "stop":
        # then it ends and says so, and all before are acknowledged
        assert stream.wait_exit() == 1
        assert "0000000000000005-00000000" in stream.err and "400" in stream.err
        assert checkpoint(db, "s") == 4
        # and another start tries again
        hook.answer = lambda request: None
        subscribe(db, "s", "--to", hook.url()).wait_log("try again")
        expected = set(range(20))
    else:
        # then it is parked, with those behind it where the policy says so
        expected = set(range(20)) - ({4} if policy == "park" else set(range(4, 20, 3)))
    wait_until(lambda: checkpoint(db, "s") >= 20, "the end")
    assert {int(e["type"]) for e in hook.events} == expected
    parked = db.sql("select array_agg(position - 1 order by position) from herald.parked where not done")[0][0]
    assert set(parked or ()) == set(range(20)) - expected
    stream.close()
    # and while it is refused it stays parked, and comes when it is not
    if parked:
        again = subscribe(db, "s", "--parked", "--to", hook.url())
        assert again.wait_exit() == 1 and "400" in again.err
        hook.answer = lambda request: None
        again = subscribe(db, "s", "--parked", "--to", hook.url())
        assert again.wait_exit() == 0, again.err
        assert [int(e["type"]) for e in hook.events[-len(parked):]] == parked
        assert db.sql("select count(*) from herald.parked where not done") == [(0,)]
    hook.stop()


def test_a_parked_event_comes_to_where_later_ones_are(db, shop, subscribe, tmp_path):
    # given an event that was parked, and a destination that remembers how far it is and is past it
    to = f"sqlite:{tmp_path}/out.db?table=got"
    append(db, 0, 5)
    assert db.sql("select herald.subscribe('s')") == [(True,)]
    db.sql("insert into herald.parked (subscription, position, stream_number, blocks) values ('s', 3, 1, false)")
    assert subscribe(db, "s", "--limit", "5", "--to", to).wait_exit() == 0
    # when the parked ones are asked for
    assert subscribe(db, "s", "--parked", "--to", to).wait_exit() == 0
    # then it is there, behind the others, and off the list
    with contextlib.closing(sqlite3.connect(tmp_path / "out.db")) as out:
        got = [json.loads(event)["type"] for event, in out.execute("select event from got order by rowid")]
    assert got == ["0", "1", "3", "4", "5", "2"]
    assert db.sql("select count(*) from herald.parked where not done") == [(0,)]


def test_a_server_that_is_away(new_server, subscribe):
    # given a server that crashes in the middle
    own = new_server(durable=True)
    db = Database(own)
    store.init(db)
    hook = Receiver()
    stream = subscribe(db, "s", "--to", hook.url())
    append(db, 0, 49)
    wait_until(lambda: len(hook.events) >= 10, "events")
    own.kill9()
    stream.wait_log("trying again")
    own.start()
    db.connection = None
    append(db, 50, 99)
    # then it comes back and nothing is lost
    wait_until(lambda: len({e["type"] for e in hook.events}) == 100, "all events")
    check(hook.events, range(100), repeats=True)
    stream.stop()
    hook.stop()


def test_one_order_for_files(db, shop, subscribe, tmp_path):
    # given a subscription with two partitions and a file
    append(db, 0, 9, streams=10)
    stream = subscribe(db, "s", "--partitions", "2", file=tmp_path / "out")
    # then it says that this cannot be
    assert stream.wait_exit() == 78
    assert "one order" in stream.err


def test_a_file_that_holds_other_events(db, shop, herald, subscribe, tmp_path):
    # given a file with events out of the log
    log = herald(db, file=tmp_path / "out")
    append(db, 0, 9)
    log.wait_for(10)
    log.wait_confirmed(db)
    log.stop()
    # when a subscription is to go there
    stream = subscribe(db, "s", file=tmp_path / "out")
    # then it is refused, because its events would be taken for ones that are there already
    assert stream.wait_exit() != 0
    assert "not of this store's feed" in stream.err


def test_large_events_in_small_pages(db, shop, subscribe):
    # given 300 events of half a megabyte
    db.sql("do $$ begin for n in 0..299 loop perform herald.append('order', '1', jsonb_build_object("
           "'type', n::text, 'data', jsonb_build_object('x', (select string_agg(md5(random()::text), '') "
           "from generate_series(1, 16000))))); commit; end loop; end $$")
    # when they are delivered
    stream = subscribe(db, "s", "--to", "null:")
    wait_until(lambda: checkpoint(db, "s") >= 300, "the end")
    # then they were never in memory all at once
    with open(f"/proc/{stream.pid}/status") as f:
        peak = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
    assert peak < 130 * 1024 * (3 if "build-test" in stream.argv[0] else 1), f"{peak} KiB"


def test_events_that_fill_a_page_alone(db, shop, subscribe):
    # given a few events of eight megabytes among small ones
    for n in range(12):
        shop.append("1", store.event(str(n), data={"x": "y" * (8 << 20) if n % 3 == 1 else ""}))
    # then each of them comes
    stream = subscribe(db, "s", "--to", "null:")
    stream.wait_until(lambda: checkpoint(db, "s") >= 12, "the end")


def test_turns_of_one_process(db, shop, subscribe):
    # given one process on four partitions
    hook = Receiver()
    subscribe(db, "s", "--partitions", "4", "--to", hook.url())
    # when events come on all of them, again and again
    for n in range(3):
        append(db, n * 40, n * 40 + 39, streams=20)
        wait_until(lambda n=n: len(hook.events) >= (n + 1) * 40, "the events")
    # then each comes once, though it works on one partition at a time
    check(hook.events, range(120))
    hook.stop()


def test_another_source_is_refused(db, shop, subscribe):
    append(db, 0, 2)
    subscribe(db, "s", "--category", "order").wait_for(3)
    other = subscribe(db, "s", "--category", "customer")
    assert other.wait_exit() == 1 and "another source" in other.err
