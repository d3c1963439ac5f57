"""What any event store must do, through each of its faces (store_faces.py)."""
import contextlib
import threading
import time

import psycopg2
import pytest

import postgres
import store
import store_faces
from postgres import wait_until
from store import event
from store_faces import follow

CONFLICT = "PH001"


@pytest.fixture(params=store_faces.FACES, ids=lambda face: face.__name__.lower())
def face(request, db):
    """A face of a fresh store, and a table for a read model."""
    store.init(db)
    db.sql("create table seen (n serial, name text, id text)")
    with contextlib.closing(request.param(db)) as face:
        yield face


@pytest.fixture
def session(face):
    with contextlib.closing(face.open()) as session:
        yield session


class Order:
    """An aggregate: its state out of its events, and new events at the version it was loaded at."""

    def __init__(self, session, number):
        self.number, self.version, self.total, self.new = number, -1, 0, []
        for version, _, data in session.load(number):
            self.version, self.total = version, self.total + data

    def add(self, amount):
        self.total += amount
        self.new.append(event("Added", data=amount))

    def save(self, session):
        first, self.version, _ = session.append(self.number, self.new, self.version)
        self.new = []
        return first


def remember(name):
    """A handler that writes what it sees into the read model."""
    return lambda session, e: session.sql("insert into seen (name, id) values (%s, %s)", (name, e["id"]))


def seen(db, name):
    return [i for (i,) in db.sql("select id from seen where name = %s order by n", (name,))]


def refused_with_conflict():
    return pytest.raises(psycopg2.Error, match="version")


def in_threads(*works, meanwhile=lambda: None):
    """Runs functions at once, and one here; an error of any is the test's."""
    errors = []

    def run(work):
        try:
            work()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(w,), daemon=True) for w in works]
    for t in threads:
        t.start()
    meanwhile()
    for t in threads:
        t.join(2 * postgres.LIMIT)
    assert not errors, errors
    assert not any(t.is_alive() for t in threads)


def test_store_scenario_save_and_load(session):
    """Given events saved with their versions; then they are loaded in order, with these versions."""
    assert session.append("1", [event("Placed", data=1), event("Paid", data=2)], -1) == (0, 1, False)
    assert session.append("1", event("Sent", data=3), 1) == (2, 2, False)
    assert session.load("1") == [(0, "Placed", 1), (1, "Paid", 2), (2, "Sent", 3)]
    assert session.load("2") == []


def test_store_scenario_the_same_version_twice_fails(session):
    session.append("1", event("First"), -1)
    for expected in -1, 5:
        with refused_with_conflict() as caught:
            session.append("1", event("Second"), expected)
        assert caught.value.pgcode == CONFLICT
    assert [kind for _, kind, _ in session.load("1")] == ["First"]


def test_store_scenario_the_callers_own_transaction(face, session, db):
    """Given events and a read model in one transaction; then both are visible inside and not outside,
    gone on rollback, and there together on commit."""
    with contextlib.closing(face.open()) as other:
        with pytest.raises(ZeroDivisionError), session.transaction():
            session.append("1", event("Placed"), -1)
            session.sql("insert into seen (name, id) values ('orders', '1')")
            assert len(session.load("1")) == 1
            assert other.load("1") == [] and other.read() == [] and seen(db, "orders") == []
            raise ZeroDivisionError
        assert session.load("1") == [] == seen(db, "orders")
        with session.transaction():
            session.append("1", event("Placed"), -1)
            session.sql("insert into seen (name, id) values ('orders', '1')")
        assert len(other.load("1")) == len(other.read()) == len(seen(db, "orders")) == 1


def test_store_scenario_two_aggregates_in_one_transaction(session):
    """Given a transfer between two; when the second one fails, then the first has not happened."""
    for number in "12":
        session.append(number, event("Opened", data=10), -1)
    with session.transaction():
        for number, amount in ("1", -3), ("2", 3):
            order = Order(session, number)
            order.add(amount)
            order.save(session)
    assert [Order(session, n).total for n in "12"] == [7, 13]
    with refused_with_conflict(), session.transaction():
        first = Order(session, "1")
        first.add(-3)
        first.save(session)
        session.append("2", event("Added", data=3), 0)
    assert [Order(session, n).total for n in "12"] == [7, 13]
    assert len(session.read()) == 4


def test_store_scenario_a_stale_aggregate_is_not_saved(face, session):
    """Given an aggregate that two have loaded; then the second save fails, and succeeds when that one
    loads it again and decides anew."""
    session.append("1", event("Opened", data=10), -1)
    with contextlib.closing(face.open()) as other:
        mine, theirs = Order(session, "1"), Order(other, "1")
        mine.add(1)
        theirs.add(5)
        mine.save(session)
        with refused_with_conflict():
            theirs.save(other)
        again = Order(other, "1")
        again.add(5)
        assert again.save(other) == 2
    assert Order(session, "1").total == 16


def test_store_scenario_saving_nothing_changes_nothing(session):
    order = Order(session, "1")
    assert order.save(session) is None and order.version == -1
    session.append("1", event("Opened", data=10), -1)
    order = Order(session, "1")
    assert order.save(session) is None and order.version == 0
    assert len(session.read()) == 1


def test_store_scenario_three_subscriptions_see_all_events_once(face, session, db):
    """Given 1,000 events written by four at once while three subscriptions follow; then each has seen
    each event exactly once."""
    names = ["a", "b", "c"]
    for name in names:
        session.subscribe(name, partitions=2)

    def write(writer):
        with contextlib.closing(face.open()) as mine:
            for n in range(250):
                mine.append(str(n % 10), event("Tick", data=f"{writer}/{n}"))

    def subscribe(name):
        follow(face, name, remember(name), lambda: len(seen_of(face, name)) >= 1000)

    def seen_of(face, name):
        with contextlib.closing(face.db.connect()) as connection:
            return postgres.execute(connection, "select 1 from seen where name = %s", (name,))

    in_threads(*[lambda w=w: write(w) for w in range(4)], *[lambda n=n: subscribe(n) for n in names])
    everything = sorted(e["id"] for e in session.read(max_count=2000))
    assert len(everything) == 1000
    for name in names:
        assert sorted(seen(db, name)) == everything


def test_store_scenario_a_consumer_that_was_down_catches_up(face, session, db):
    """Given a subscriber that stops, and events meanwhile; then it has all of them after its return."""
    session.subscribe("s")
    for n in range(20):
        session.append(str(n % 3), event("Tick", data=n))
    follow(face, "s", remember("s"), lambda: len(seen(db, "s")) == 20)
    for n in range(500):
        session.append(str(n % 3), event("Tick", data=n))
    assert len(seen(db, "s")) == 20
    follow(face, "s", remember("s"), lambda: len(seen(db, "s")) >= 520)
    assert seen(db, "s") == [e["id"] for e in session.read()]


@pytest.mark.parametrize("kind", store_faces.FACES, ids=lambda face: face.__name__.lower())
def test_store_scenario_a_database_that_was_down(new_server, kind):
    """Given a server that stops and starts again under a writer and a subscriber, which try again; then
    every event is there once, and was seen once."""
    server = new_server()
    db = postgres.Database(server)
    store.init(db)
    db.sql("create table seen (n serial, name text, id text)")
    written = []

    def write():
        number = 0
        while number < 60:
            try:
                with contextlib.closing(face.open()) as mine:
                    while number < 60:
                        # The id makes it one event, whatever became of the try before.
                        mine.append("1", event("Tick", id=f"00000000-0000-0000-0000-{number:012}"))
                        number += 1
                        written.append(number)
            except psycopg2.OperationalError:
                time.sleep(0.02)

    def restart():
        wait_until(lambda: len(written) >= 20, "some events")
        server.restart("immediate")

    def count():
        try:
            return db.sql("select count(*) from seen")[0][0]
        except psycopg2.Error:
            return 0

    with contextlib.closing(kind(db)) as face:
        with contextlib.closing(face.open()) as session:
            session.subscribe("s")
        in_threads(write, lambda: follow(face, "s", remember("s"), lambda: count() >= 60), meanwhile=restart)
        with contextlib.closing(face.open()) as session:
            ids = [e["id"] for e in session.read()]
    assert seen(db, "s") == ids and [int(i[-4:]) for i in ids] == list(range(60))


def test_store_scenario_a_malformed_notification_is_ignored(face, session, db):
    """Given notifications that nobody understands, and none for what follows; then nothing comes of
    them, and the events are seen."""
    session.subscribe("s")
    with contextlib.closing(face.open()) as mine:
        mine.wait("s", 0.01)
        for payload in "", "garbage", "{\"position\": -1}", "x" * 7000:
            db.sql("select pg_notify('herald', %s)", (payload,))
            mine.wait("s", 0.01)
        assert mine.step("s", remember("s")) is None
    session.append("1", event("Tick"))
    follow(face, "s", remember("s"), lambda: seen(db, "s") != [])
    assert len(seen(db, "s")) == 1


def test_store_scenario_an_unsubscribed_topic_is_ignored(face, session, db):
    session.subscribe("s", {"topics": ["mail"]})
    for n in range(30):
        session.append("1", event("Tick", topic=["mail", "print", None][n % 3], data=n))
    follow(face, "s", remember("s"), lambda: len(seen(db, "s")) >= 10)
    assert seen(db, "s") == [e["id"] for e in session.read() if e["topic"] == "mail"]
    assert session.step("s", remember("s")) in (None, 0)


def test_store_scenario_purge_by_age(session, db):
    """Given old and new events; then the old ones go, the stream goes on at its version."""
    session.append("1", [event("Old")] * 5)
    db.sql("update herald.entry set time = now() - interval '8 days'")
    session.append("1", [event("New")] * 2)
    session.call("retain", "order", "7 days")
    assert session.call("purge") == [(5,)]
    assert [e["type"] for e in session.read()] == ["New", "New"]
    assert session.append("1", event("New"), 6) == (7, 7, False)
