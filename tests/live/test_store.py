"""The event store's SQL functions, as any driver calls them: streams, versions, order, rights."""
import contextlib
import json
import threading
import uuid

import psycopg2
import pytest

import postgres
import store
import store_stress
from postgres import wait_until
from store import Store, event, open_store, read_all

CONFLICT, ID_IN_USE, NOT_UNDERSTOOD, NOT_HERE, DELETED = "PH001", "PH002", "PH003", "PH004", "PH007"
ISOLATION = ["read committed", "repeatable read", "serializable"]


@pytest.fixture
def orders(db):
    """A fresh database with a store, and one connection to it."""
    store.init(db)
    with contextlib.closing(db.connect()) as connection:
        yield Store(connection)


@contextlib.contextmanager
def refused(code):
    with pytest.raises(psycopg2.Error) as caught:
        yield caught
    assert caught.value.pgcode == code, str(caught.value)


def versions(events):
    return [e["version"] for e in events]


def positions(events):
    return [e["position"] for e in events]


# Append and the version


def test_store_appends_one_event_after_the_other(orders):
    assert orders.append("1", event("Placed", data={"total": 5}), -1) == (0, 0, False)
    assert orders.append("1", [event("Paid"), event("Sent", topic="mail", metadata={"by": "me"})], 0) == (1, 2, False)
    assert orders.append("1", event("Closed")) == (3, 3, False)
    assert orders.call("stream_version", "order", "1") == [(3,)]
    placed, paid, sent, closed = orders.stream("1")
    assert versions([placed, paid, sent, closed]) == [0, 1, 2, 3]
    assert (placed["type"], placed["data"], placed["metadata"], placed["topic"]) == ("Placed", {"total": 5}, {}, None)
    assert (sent["topic"], sent["metadata"], sent["category"], sent["stream"]) == ("mail", {"by": "me"}, "order", "1")
    assert uuid.UUID(paid["id"]) and paid["data"] == {} and closed["time"]


def test_store_keeps_the_same_id_in_two_categories_apart(orders):
    orders.append("1", event(), -1)
    assert orders.append("1", event(), -1, category="invoice") == (0, 0, False)
    assert versions(orders.stream("1")) == [0]


def test_store_null_data_stays_null(orders):
    orders.append("1", [event(data=None), event(data=[1, "a"]), event(data="text")])
    assert [e["data"] for e in orders.stream("1")] == [None, [1, "a"], "text"]


def test_store_appending_nothing_changes_nothing(orders):
    assert orders.append("1", [], -1) == (None, -1, False)
    orders.append("1", event())
    assert orders.append("1", [], 0) == (None, 0, False)
    with refused(CONFLICT):
        orders.append("1", [], 3)
    assert len(orders.read()) == 1


@pytest.mark.parametrize("expected, actual", [(-1, 1), (0, 1), (2, 1)])
def test_store_conflict_names_both_versions(orders, expected, actual):
    orders.append("1", [event(), event()])
    with refused(CONFLICT) as caught:
        orders.append("1", event(), expected)
    assert json.loads(caught.value.diag.message_detail) == {"expected": expected, "actual": actual}
    assert str(actual) in caught.value.diag.message_primary
    assert len(orders.read()) == 2


def test_store_conflict_with_a_stream_that_is_not_there(orders):
    with refused(CONFLICT) as caught:
        orders.append("1", event(), 0)
    assert json.loads(caught.value.diag.message_detail) == {"expected": 0, "actual": -1}


@pytest.mark.parametrize("events", [
    5, "x", None, [5], {}, {"type": ""}, {"data": 1}, {"type": "A", "Topic": "x"}, [event(), {"type": None}]])
def test_store_refuses_what_is_no_event(orders, events):
    with refused(NOT_UNDERSTOOD):
        orders.append("1", events)
    with refused(NOT_UNDERSTOOD):
        orders.append("", event())
    assert orders.read() == []


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("events", [event(), [event(), event()]], ids=["one", "two"])
def test_store_exactly_one_of_16_racers_wins_every_version(db, orders, isolation, events):
    """Given 16 connections that all append with the same expected version; then one wins each round,
    from the stream's birth on, and the others know why they did not."""
    size = len(events) if isinstance(events, list) else 1
    rounds, racers = 8, 16
    barrier = threading.Barrier(racers)
    wins, losses = [], []

    def race():
        with contextlib.closing(db.connect(autocommit=False)) as connection:
            here = Store(connection)
            connection.set_session(isolation_level=isolation)
            for n in range(rounds):
                barrier.wait(postgres.LIMIT)
                try:
                    here.append("1", events, n * size - 1)
                    connection.commit()
                    wins.append(n)
                except psycopg2.Error as e:
                    losses.append(e.pgcode)
                    connection.rollback()

    threads = [threading.Thread(target=race) for _ in range(racers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(postgres.LIMIT)
    assert sorted(wins) == list(range(rounds))
    assert len(losses) == rounds * (racers - 1) and set(losses) <= {CONFLICT, "40001"}
    assert versions(orders.stream("1")) == list(range(rounds * size))
    assert versions(read_all(db)) == list(range(rounds * size))


# Ids


def ids(n):
    return [str(uuid.uuid4()) for _ in range(n)]


@pytest.mark.parametrize("expected", [None, -1])
def test_store_the_same_append_again_succeeds_and_says_so(orders, expected):
    a, b = ids(2)
    events = [event("A", id=a, data={"x": 1}), event("B", id=b)]
    assert orders.append("1", events, expected) == (0, 1, False)
    assert orders.append("1", events, expected) == (0, 1, True)
    orders.append("1", event("C"))
    assert orders.append("1", events, expected) == (0, 1, True)
    assert orders.append("1", event("B", id=b)) == (1, 1, True)
    assert versions(orders.read()) == [0, 1, 2]


def test_store_two_who_append_the_same_at_once_have_one_event(db, orders):
    """Given a first attempt whose transaction is still open; when the retry comes; then it waits,
    and is told that it is a duplicate."""
    one = event("A", id=ids(1)[0])
    orders.append("1", event())
    with contextlib.closing(db.connect(autocommit=False)) as first:
        Store(first).append("1", one)
        answer = []
        retry = threading.Thread(target=lambda: answer.append(open_store(db).append("1", one)))
        retry.start()
        wait_until(lambda: db.sql("select 1 from pg_stat_activity where wait_event_type = 'Lock' "
                                  "and datname = current_database()"), "the retry to wait")
        first.commit()
        retry.join(postgres.LIMIT)
    assert answer == [(1, 1, True)]
    assert versions(orders.read()) == [0, 1]


@pytest.mark.parametrize("stream, change", [("2", {}), ("new", {}), ("1", {"type": "Other"}), ("1", {"data": {"x": 2}})])
def test_store_another_event_under_a_used_id_is_an_error(orders, stream, change):
    one = event("A", id=ids(1)[0], data={"x": 1})
    orders.append("1", one)
    orders.append("2", event())
    for events in ({**one, **change}, [event("Z"), {**one, **change}]):
        with refused(ID_IN_USE) as caught:
            orders.append(stream, events)
        assert one["id"] in str(caught.value) and "order/1" in str(caught.value)
    assert len(orders.read()) == 2


def test_store_half_of_a_repeated_append_is_an_error(orders):
    a, b, c = ids(3)
    orders.append("1", [event(id=a), event(id=b)])
    for wrong in ([event(id=b), event(id=a)], [event(id=b), event(id=c)]):
        with refused(ID_IN_USE):
            orders.append("1", wrong)
    with refused(ID_IN_USE):
        orders.append("1", [event(id=a), event(id=b)], 1)  # another place
    with refused("23505"):
        orders.append("1", [event(id=c), event(id=c)])


# The caller's own transaction


def test_store_own_events_are_seen_before_the_commit_and_gone_after_a_rollback(db, orders):
    orders.append("1", event("Old"))
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        here = Store(connection)
        here.append("1", event("New"))
        here.append("2", [event("A"), event("B")])
        assert [(e["type"], e["position"] is None) for e in here.stream("1")] == [("Old", False), ("New", True)]
        assert [e["type"] for e in orders.stream("1")] == ["Old"]
        connection.rollback()
        assert [e["type"] for e in here.stream("1")] == ["Old"] and here.stream("2") == []
    assert [e["type"] for e in orders.read()] == ["Old"]


def test_store_several_streams_in_one_transaction(db, orders):
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        here = Store(connection)
        for stream in "1", "2", "1":
            here.append(stream, [event(), event()])
        connection.commit()
    assert [(e["stream"], e["version"]) for e in orders.read()] == [
        ("1", 0), ("1", 1), ("2", 0), ("2", 1), ("1", 2), ("1", 3)]


def test_store_rolled_back_savepoint(db, orders):
    """Given appends before, inside and after a savepoint that is rolled back; then the version goes
    on where it was, and each event that remains has one position."""
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        here = Store(connection)
        here.append("1", event("A"))
        postgres.execute(connection, "savepoint s; set constraints all immediate")
        assert here.append("1", event("B"), 0) == (1, 1, False)
        assert here.append("2", event("C"), -1) == (0, 0, False)
        postgres.execute(connection, "rollback to s; set constraints all deferred")
        assert here.append("1", event("D"), 0) == (1, 1, False)
        postgres.execute(connection, "set constraints all immediate")
        connection.commit()
    assert [e["type"] for e in orders.read()] == ["A", "D"]
    orders.append("1", event("E"), 1)
    assert [e["type"] for e in read_all(db)] == ["A", "D", "E"]


@pytest.mark.parametrize("setting", ["set constraints all immediate", "set session_replication_role = replica"])
def test_store_every_event_has_its_position_under(db, orders, setting):
    """Settings that make deferred triggers run early, or not at all, change nothing."""
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        here = Store(connection)
        postgres.execute(connection, setting)
        for stream in "1", "2":
            here.append(stream, event(), -1)
            here.append(stream, [event(id=ids(1)[0]), event()])
        here.append("3", [event(), event()], -1)
        connection.commit()
    assert len(orders.read()) == 8


@pytest.mark.parametrize("first, held", [("0", 1), ("old", 2)])
def test_store_few_marks_for_a_transaction(db, orders, first, held):
    """Given appends to 200 streams in one transaction; then it holds one mark, or one for what it wrote
    first and one for the rest, which stay until the end, and a savepoint that is rolled back takes its
    own mark along only."""
    orders.append("old", event())
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        here = Store(connection)
        postgres.execute(connection, "set constraints all immediate")
        here.append(first, event())
        for n in range(1, 200):
            here.append(str(n), event())
        assert len(marks(db)) == held
        postgres.execute(connection, "savepoint s")
        here.append("more", event())
        postgres.execute(connection, "rollback to s")
        assert len(marks(db)) == held
        assert positions(orders.read()) == [1]
        connection.commit()
    assert marks(db) == [] and len(orders.read()) == 201


def marks(db):
    return db.sql("select objid from pg_locks where locktype = 'advisory'")


# The feed


def test_store_an_open_transaction_holds_up_nobody(db, orders):
    """Given a transaction that has appended and stays open; then later commits are read at once, and
    its own event after them."""
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        Store(connection).append("1", event("First"))
        orders.append("2", event("Second"))
        assert [e["type"] for e in orders.read()] == ["Second"]
        connection.commit()
    assert [e["type"] for e in orders.read()] == ["Second", "First"]


@pytest.mark.parametrize("end", ["commit prepared 'later'", "rollback prepared 'later'"])
def test_store_prepared_transactions_are_in_flight(db, orders, end):
    """Given a prepared transaction that has positions already; then what came later waits for it."""
    with contextlib.closing(db.connect()) as connection:
        postgres.execute(connection, "begin")
        Store(connection).append("1", event("Prepared"))
        postgres.execute(connection, "prepare transaction 'later'")
    orders.append("2", event("Later"))
    assert orders.read() == []
    db.sql(end)
    assert [e["type"] for e in orders.read()] == ["Prepared", "Later"][end.startswith("rollback"):]


def test_store_a_prepared_transaction_is_in_flight_after_a_restart(new_server):
    server = new_server(durable=True)
    db = postgres.Database(server)
    store.init(db)
    with contextlib.closing(db.connect()) as connection:
        postgres.execute(connection, "begin")
        Store(connection).append("1", event("Prepared"))
        postgres.execute(connection, "prepare transaction 'later'")
    db.connection.close()
    server.kill9()
    server.start()
    orders = open_store(db)
    orders.append("2", event("Later"))
    assert orders.read() == []
    db.sql("commit prepared 'later'")
    assert [e["type"] for e in orders.read()] == ["Prepared", "Later"]


def test_store_another_store_in_flight_holds_up_nobody(db, orders):
    """Given a second store in the database with a transaction in flight whose mark is lower."""
    store.init(db, schema="audit")
    for n in range(5):
        orders.append(str(n), event())
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        postgres.execute(connection, "set constraints all immediate")
        Store(connection, "audit").append("1", event())
        assert len(marks(db)) == 1
        assert len(orders.read()) == 5
        connection.rollback()


@pytest.mark.parametrize("page", [1, 2, 3, 7])
def test_store_pages_lose_nothing(db, orders, page):
    """Given transactions of several events; then pages of any size together are the whole feed."""
    for n in range(6):
        orders.append(str(n % 2), [event(data=n)] * (n % 3 + 1))
    everything = orders.read()
    assert len(everything) == 12 and positions(everything) == sorted(positions(everything))
    assert read_all(db, page) == everything


def test_store_reads_what_was_asked_for(orders):
    orders.append("1", [event("A", topic="x"), event("B", topic="y"), event("C")])
    orders.append("1", [event("A", topic="y")], category="invoice")
    assert [e["category"] for e in orders.read(categories=["invoice"])] == ["invoice"]
    assert [e["type"] for e in orders.read(topics=["y"])] == ["B", "A"]
    assert [e["type"] for e in orders.read(types=["A", "C"])] == ["A", "C", "A"]
    assert [e["type"] for e in orders.read(types=["A"], categories=["order"], topics=["x"])] == ["A"]
    assert orders.read(max_count=2, types=["A"])[1]["category"] == "invoice"


def test_store_reads_a_part_of_a_stream(orders):
    orders.append("1", [event(data=n) for n in range(10)])
    assert versions(orders.stream("1", from_version=3, to_version=5)) == [3, 4, 5]
    assert versions(orders.stream("1", from_version=3, max_count=2)) == [3, 4]
    assert versions(orders.stream("1", backward=True, max_count=2)) == [9, 8]
    assert versions(orders.stream("1", backward=True, to_version=5, from_version=4)) == [5, 4]
    assert orders.stream("none") == []
    seen = db_view(orders)
    assert seen == orders.stream("1")


def db_view(orders):
    with orders.connection.cursor() as cursor:
        cursor.execute("select to_jsonb(e) from herald.event e order by position")
        return [row[0] for row in cursor.fetchall()]


@pytest.mark.parametrize("isolation", ISOLATION[1:])
def test_store_the_feed_is_not_read_with_one_snapshot(db, orders, isolation):
    orders.append("1", event())
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        connection.set_session(isolation_level=isolation)
        assert len(Store(connection).stream("1")) == 1
        with refused(NOT_HERE) as caught:
            Store(connection).read()
        assert "READ COMMITTED" in caught.value.diag.message_hint


def test_store_reading_takes_no_transaction_ids(db, orders):
    orders.append("1", event())
    before = db.sql("select txid_snapshot_xmax(txid_current_snapshot())")
    for _ in range(20):
        orders.read()
        orders.stream("1")
    assert db.sql("select txid_snapshot_xmax(txid_current_snapshot())") == before


# What a stranger can do: make others wait


@pytest.mark.parametrize("forged", ["999999999", "-5", "0x1", "no number", "", "mine"])
def test_store_a_forged_mark_hides_no_appender(db, orders, forged):
    """Given an appender that has set the setting by which the trigger remembers its mark; then readers
    wait for its commit as for any other's."""
    orders.append("1", event())
    with contextlib.closing(db.connect(autocommit=False)) as connection:
        name = f"pgherald.mark_{db.sql('select herald.mark_tag()')[0][0]}"
        postgres.execute(connection, "select set_config(%s, case %s when 'mine' then pg_current_xact_id()::text "
                         "else %s end, false)", (name, forged, forged))
        postgres.execute(connection, "set constraints all immediate")
        Store(connection).append("1", event())
        orders.append("2", event())
        assert positions(orders.read()) == [1]
        connection.commit()
    assert positions(orders.read()) == [1, 2, 3]


@pytest.mark.parametrize("lock", ["pg_advisory_lock_shared", "pg_advisory_lock"])
def test_store_a_strangers_lock_makes_readers_wait_and_loses_nothing(db, orders, lock):
    """Given somebody with a lock that looks like a mark; then what comes after it waits, and is there
    when it goes."""
    orders.append("1", event())
    with contextlib.closing(db.connect()) as stranger:
        postgres.execute(stranger, f"select {lock}(herald.mark_tag() << 48 | 1)")
        assert positions(orders.read()) == [1]
        db.sql("select nextval('herald.feed_position')")  # or an appender would take the same key, and there were no gap
        orders.append("1", [event(), event()])
        assert orders.read(1) == []
    wait_until(lambda: len(orders.read(1)) == 2, "the stranger's lock to go")


# Rights, names, versions


def test_store_roles_can_do_their_work_and_nothing_else(db, orders):
    db.sql("drop role if exists shop, news; create role shop login in role herald_writer; "
           "create role news login in role herald_reader")
    try:
        with contextlib.closing(db.connect(user="shop")) as shop, contextlib.closing(db.connect(user="news")) as news:
            assert Store(shop).append("1", event(id=ids(1)[0])) == (0, 0, False)
            assert Store(shop).append("1", event(), 0) == (1, 1, False)
            assert len(Store(shop).stream("1")) == 2
            assert len(Store(news).read()) == 2
            assert len(postgres.execute(news, "select * from herald.event")) == 2
            for connection, forbidden in (
                    (news, "select * from herald.append('order', '1', '{\"type\": \"A\"}')"),
                    (news, "select * from herald.entry"), (shop, "select herald.horizon()"),
                    (shop, "delete from herald.entry"), (shop, "select * from herald.read()"),
                    (shop, "delete from herald.feed"),
                    (shop, "update herald.stream set version = 9"),
                    (shop, "select setval('herald.feed_position', 1)"),
                    (shop, "call herald.allow('shop', 'read')")):
                with refused("42501"):
                    postgres.execute(connection, forbidden)
    finally:
        db.sql("drop role shop, news")


TRAPS = [("bigint", "=", "bigint", "boolean"), ("text", "=", "text", "boolean"), ("text", "<>", "text", "boolean"),
         ("jsonb", "=", "jsonb", "boolean"), ("jsonb", "-", "text[]", "jsonb"), ("jsonb", "->", "text", "jsonb"),
         ("jsonb", "->>", "text", "text"), ("bigint", "+", "bigint", "bigint"), ("bigint", "+", "integer", "bigint"),
         ("bigint", "<<", "integer", "bigint"), ("bigint", "|", "bigint", "bigint"), ("text", "||", "bigint", "text"),
         ("text", "||", "text", "text"), ("bigint", "<=", "bigint", "boolean"), ("bigint", ">", "bigint", "boolean"),
         ("text", "||", "anynonarray", "text"), ("bigint", ">", "integer", "boolean"), ("text", "~", "text", "boolean"), ("uuid", "=", "uuid", "boolean")]
TRAP_FUNCTIONS = ["jsonb_typeof(jsonb) returns text", "gen_random_uuid() returns uuid", "nextval(regclass) returns bigint",
                  "pg_sequence_last_value(regclass) returns bigint", "pg_advisory_xact_lock_shared(bigint) returns text",
                  "set_config(text, text, boolean) returns text", "current_setting(text, boolean) returns text",
                  "pg_current_xact_id() returns xid8", "hashtext(text) returns integer"]


@pytest.mark.parametrize("isolated", [False, True], ids=["new session", "session that has appended"])
def test_store_a_callers_search_path_is_not_used(db, orders, isolated):
    """Given a caller whose own schema has functions and operators with the names of PostgreSQL's, put
    before these; then the functions that run with the owner's rights call none of them."""
    trap = "language plpgsql as 'begin raise exception ''trapped''; end'"
    db.sql("create schema trap; create table trap.text (n int)")
    for n, (left, operator, right, result) in enumerate(TRAPS):
        db.sql(f"create function trap.f{n}({left}, {right}) returns {result} {trap}; "
               f"create operator trap.{operator} (leftarg = {left}, rightarg = {right}, function = trap.f{n})")
    for function in TRAP_FUNCTIONS:
        db.sql(f"create function trap.{function} {trap}")
    with contextlib.closing(db.connect()) as connection:
        here = Store(connection)
        if isolated:
            here.append("0", [event(), event()])
        postgres.execute(connection, "set search_path = trap, pg_catalog")
        for events in event(), event(), [event(id=ids(1)[0]), event()], event(id=ids(1)[0]):
            postgres.execute(connection, "select herald.append('order'::pg_catalog.text, '1'::pg_catalog.text, "
                             "%s::pg_catalog.jsonb)", (json.dumps(events),))
        postgres.execute(connection, "select * from herald.read_stream('order', '1')")
        postgres.execute(connection, "select * from herald.read()")
    assert versions(orders.stream("1")) == list(range(5))


def test_store_with_ids_that_are_uuids(db):
    store.init(db, id_type="uuid")
    orders, one = open_store(db), ids(1)[0]
    assert orders.append(one, event(), -1) == (0, 0, False)
    assert orders.append(one.upper(), event(), 0) == (1, 1, False)
    assert {e["stream"] for e in orders.stream(one) + orders.read()} == {one}
    with refused("22P02"):
        orders.append("no uuid", event())


def test_store_in_another_schema(db):
    store.init(db, schema="audit")
    orders = Store(db.connect(), "audit")
    orders.append("1", [event(), event()])
    assert versions(orders.read()) == [0, 1]
    assert db.sql("select to_regnamespace('herald')") == [(None,)]


def test_store_dump_and_restore_keep_positions(db, orders, server, new_db):
    """Given a store that is dumped and restored into another database; then the feed is the same, a
    reader's position goes on, and new events come after it."""
    orders.append("gone", [event()] * 3)
    for n in range(5):
        orders.append(str(n), [event(), event()])
    db.sql("delete from herald.feed where position <= 3; delete from herald.entry where stream_number = 1")
    before = orders.read()
    copy = new_db()
    dump = f"{server.dir}/store.dump"
    server.run("pg_dump", "-h", server.host, "-U", "postgres", "-Fc", "-f", dump, db.name)
    server.run("pg_restore", "-h", server.host, "-U", "postgres", "-d", copy.name, dump)
    there = open_store(copy)
    assert there.read() == before and positions(before)[0] == 4
    there.append("1", event("New"), 1)
    assert [e["type"] for e in there.read(positions(before)[-1])] == ["New"]
    there.connection.close()


# Order under stress


@pytest.mark.parametrize("immediate", [False, True], ids=["at commit", "long before"])
def test_store_nothing_is_lost_or_out_of_order_under_stress(new_server, immediate):
    """Positions are drawn just before commit; or long before, so that what only a mark keeps in order
    would get lost."""
    server = new_server(max_connections=50, **store.STRESS_SETTINGS)
    result = store_stress.measure(server, store.seconds(10), immediate=immediate)
    print(store_stress.describe(result))
    assert (result.missed, result.breaks, result.repeated) == (0, 0, 0)
    assert result.events > 100 and result.kills > 0


def test_store_the_stress_finds_what_the_naive_rule_loses(new_server):
    """The same stress without the horizon must be red, or it proves nothing."""
    server = new_server(max_connections=50, **store.STRESS_SETTINGS)
    result = store_stress.measure(server, 5, naive=True, kills=0, immediate=True)
    assert result.missed > 0
