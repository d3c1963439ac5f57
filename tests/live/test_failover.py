"""Standbys: streaming from them, and going on from them once they are promoted. Numbers are those
of the acceptance cases."""
import postgres
import pytest
from postgres import Standby, Via, wait_until
from test_restart import Writer, check_whole, make_tables, numbers

SLOT = "select pg_create_logical_replication_slot(%s, 'pgoutput', failover => true)"


@pytest.fixture
def pair(new_server):
    """A database on a primary and on its standby, with a slot for failover on both."""
    primary = new_server()
    if primary.version < 170000:
        pytest.skip("slots fail over since PostgreSQL 17")
    standby = new_server(Standby, primary, sync_replication_slots="off")
    primary.configure(synchronized_standby_slots="standby")
    primary.reload()
    db = postgres.Database(primary)
    make_tables(db)
    db.sql("create publication pgherald for all tables")
    db.sql(SLOT, (db.slot,))
    synchronize(db, standby)
    return db, standby


def synchronize(db, standby):
    """Copies the slot. It has to be ahead of what the standby needs, for which it moves on."""
    def synced():
        db.sql("select pg_log_standby_snapshot()")
        if not db.slot_state()["active"]:
            db.sql("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", (db.slot,))
        standby.wait_replayed()
        standby.sql("select pg_sync_replication_slots()")
        return standby.sql("select 1 from pg_replication_slots where slot_name = %s and synced and not temporary",
                           (db.slot,))
    wait_until(synced, "the slot to be synchronized", interval=0.1)


def either(db, standby):
    """The database as a client knows it that was told of both servers."""
    return Via(db, host=f"{db.server.dir},{standby.dir}")


@pytest.mark.parametrize("restarted", [False, True])
def test_case_15_the_stream_goes_on_from_the_promoted_standby(pair, herald, tmp_path, restarted):
    # Given a stream to a file, under load, that is well ahead of the standby's copy of its slot
    db, standby = pair
    path = tmp_path / "out.json"
    stream = herald(either(db, standby), file=path)
    writer = Writer(db, seed=15)
    writer.start()
    stream.wait_for(500)
    synchronize(db, standby)
    wanted = stream.count + 1000
    stream.wait_for(wanted)

    # when the primary dies
    db.server.kill9()
    writer.stop()
    if restarted:
        stream.kill9()
        stream = herald(either(db, standby), file=path, ready=False)

    # then the stream waits until the standby is promoted
    stream.wait_log("is synchronized from the primary")
    there = db.on(standby)
    standby.promote()
    stream.wait_ready(there)

    # and goes on without loss or repeat
    there.sql("insert into a select max(n) + 1 from a; insert into b select max(n) + 1 from b")
    stream.wait_confirmed(there)
    check_whole(there, stream.stop())


def test_case_15_a_slot_on_a_standby_is_not_waited_for_where_nobody_wants_to(pair, herald):
    db, standby = pair
    stream = herald(db.on(standby), "--no-wait", ready=False)
    assert stream.wait_exit() == 69
    assert "promoted" in stream.err


def test_case_15_a_standby_that_is_away_is_waited_for(pair, herald):
    # Given a stream, and a standby that has to have everything first
    db, standby = pair
    stream = herald(db)
    db.sql("insert into a values (1)")
    stream.wait_for(1)

    # when the standby goes, of which the server warns
    standby.stop()
    db.sql("insert into a values (2)")
    wait_until(lambda: "does not have active_pid" in db.log(), "the warning")

    # then the stream goes on when the standby is back
    standby.start()
    assert numbers(stream.wait_for(2), "a") == [1, 2]
    assert "warn" not in stream.err


@pytest.mark.parametrize("remembers", [False, True])
def test_case_15_a_failover_that_lost_what_was_delivered_is_said(pair, herald, tmp_path, remembers):
    # Given a stream that need not wait for the standby, and a standby that stops replaying
    db, standby = pair
    db.server.configure(synchronized_standby_slots="")
    db.server.reload()
    stream = herald(either(db, standby), file=tmp_path / "out.json" if remembers else None)
    db.sql("insert into a values (1)")
    stream.wait_for(1)
    synchronize(db, standby)
    standby.stop()
    db.sql("insert into a values (2)")
    stream.wait_for(2)
    stream.wait_confirmed(db)

    # when that one takes over, after a while
    db.server.kill9()
    standby.start()
    stream.wait_log("is synchronized from the primary")
    standby.promote()

    # then the stream does not pretend that nothing has happened
    assert stream.wait_exit() == 76
    assert "failover" in stream.err


@pytest.fixture
def read_only(new_server):
    """A database on a primary and on its standby, where it can be streamed from."""
    primary = new_server(bgwriter_delay="10s")  # it would log what the slot waits for
    if primary.version < 160000:
        pytest.skip("standbys can stream since PostgreSQL 16")
    standby = new_server(Standby, primary)
    db = postgres.Database(primary)
    make_tables(db)
    db.sql("create publication pgherald for all tables")
    standby.wait_replayed()
    return db, db.on(standby)


def test_case_16_a_slot_on_a_standby_of_an_idle_primary(read_only, herald):
    # Given a primary that writes nothing: the slot cannot be made
    db, there = read_only
    stream = herald(there, ready=False)

    # then the log says what helps, and it helps
    stream.wait_log("pg_log_standby_snapshot()")
    db.sql("select pg_log_standby_snapshot()")
    stream.wait_ready(there)
    db.sql("insert into a select generate_series(1, 1000)")
    assert numbers(stream.wait_for(1000), "a") == list(range(1, 1001))
    stream.wait_confirmed(there, db.wal_lsn())

    # and the stream goes on when its standby becomes the primary
    there.server.promote()
    there.sql("insert into b values (1)")
    assert numbers(stream.wait_for(1001), "b") == [1]


def test_case_16_making_a_slot_on_a_standby_can_be_interrupted(read_only, herald):
    db, there = read_only
    stream = herald(there, ready=False)
    stream.wait_log("pg_log_standby_snapshot()")
    stream.stop()
    wait_until(lambda: there.slot_state() is None, "the slot that was begun to go")
