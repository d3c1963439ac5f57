"""Slots and publications that go, are taken or come back under a stream. Numbers are those of the
acceptance cases."""
import time

import postgres
import pytest
from postgres import Via, wait_until


@pytest.fixture
def table(db):
    db.sql("create table t (n int primary key, t text)")
    return db


@pytest.fixture
def role(table):
    """A superuser of this database, as its own role."""
    name = f"role_{table.name}"
    table.sql(f"create role {name} superuser login")
    yield name
    table.sql(f"drop owned by {name}; drop role {name}")


def make_slot(db):
    db.sql("select pg_create_logical_replication_slot(%s, 'pgoutput')", (db.slot,))


def insert(db, *numbers):
    for n in numbers:
        db.sql("insert into t values (%s)", (n,))


def numbers(events):
    return [e["new"]["n"] for e in events]


def streamed(db, herald, path, *some):
    """A file that holds the events of these rows, from a stream that has ended."""
    stream = herald(db, file=path)
    insert(db, *some)
    stream.wait_for(len(some))
    stream.wait_confirmed(db)
    stream.stop()


def lose_connection_and(db, act):
    """Ends the stream's connection and acts before it can come back."""
    def free():
        db.sql("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s and active",
               (db.slot,))
        try:
            act()
        except postgres.psycopg2.errors.ObjectInUse:
            return False
        return True
    wait_until(free, "the slot to be free")


def test_case_9_a_slot_that_went_while_stopped_is_not_made_anew_in_silence(table, herald, tmp_path):
    # Given a file that holds events, and a slot that is dropped behind it
    path = tmp_path / "out.json"
    streamed(table, herald, path, 1, 2)
    table.drop_slots()
    insert(table, 3)

    # then streaming is refused, and no slot is made
    refused = herald(table, file=path, ready=False)
    assert refused.wait_exit() == 76
    assert "does not exist" in refused.err and "--from now" in refused.err
    assert table.slot_state() is None

    # until somebody says that the gap is accepted
    stream = herald(table, "--from", "now", file=path)
    insert(table, 4)
    assert numbers(stream.wait_for(3)) == [1, 2, 4]


@pytest.mark.parametrize("output_format", ["native", "pgevents"])
def test_case_9_a_slot_made_anew_while_stopped(table, herald, tmp_path, output_format):
    # Given a file that holds events, whose slot somebody drops and makes anew after further changes
    path = tmp_path / "out.json"
    args = ("--format", output_format)
    first = herald(table, *args, file=path)
    insert(table, 1)
    first.wait_for(1)
    first.wait_confirmed(table)
    first.stop()
    table.drop_slots()
    insert(table, 2)
    make_slot(table)

    # then streaming is refused, and says from where it would go on
    refused = herald(table, *args, file=path, ready=False)
    assert refused.wait_exit() == 76
    assert "recreated the slot" in refused.err and str(path) in refused.err
    at = refused.err.rpartition("--from ")[2].strip().rstrip('"')

    # until somebody says that the gap is accepted, and then for good
    stream = herald(table, *args, "--from", at, file=path)
    insert(table, 3)
    assert numbers(stream.wait_for(2)) == [1, 3]
    stream.stop()
    again = herald(table, *args, file=path)
    insert(table, 4)
    assert numbers(again.wait_for(3)) == [1, 3, 4]


def test_case_9_a_slot_that_only_keepalives_moved_is_gone_on_with(table, herald, tmp_path):
    # Given a stream that is killed after a long silence of its own table
    path = tmp_path / "out.json"
    stream = herald(table, "--tables", "public.t", file=path)
    insert(table, 1)
    stream.wait_for(1)
    table.sql("create table other (n int); insert into other select generate_series(1, 1000)")
    stream.wait_confirmed(table)
    stream.kill9()

    # then the slot stands beyond the last event, and that is no gap
    insert(table, 2)
    again = herald(table, "--tables", "public.t", file=path)
    assert numbers(again.wait_for(2)) == [1, 2]


def test_an_output_of_another_server_is_refused(table, new_server, herald, tmp_path):
    # Given a file of one server's events
    path = tmp_path / "out.json"
    streamed(table, herald, path, 1)

    # when another server's database comes with the same slot name
    other = postgres.Database(new_server())
    other.slot = table.slot
    other.sql("create table t (n int primary key, t text)")
    make_slot(other)

    # then its events do not get into the same file
    refused = herald(other, file=path, ready=False)
    assert refused.wait_exit() == 76
    assert "another server" in refused.err and str(path) in refused.err


def test_case_9_a_slot_that_went_while_streaming(table, herald):
    # Given a stream whose slot is dropped and made again while the connection is cut
    stream = herald(table)
    insert(table, 1)
    stream.wait_for(1)
    stream.wait_confirmed(table)
    lose_connection_and(table, lambda: (table.drop_slots(), insert(table, 2), make_slot(table)))

    # then it is noticed: the new slot stands beyond what was delivered
    assert stream.wait_exit() == 76
    assert table.slot in stream.err


@pytest.fixture
def small(new_server):
    """A database whose server keeps hardly any WAL for slots."""
    db = postgres.Database(new_server(max_slot_wal_keep_size="1MB", min_wal_size="32MB",
                                      max_wal_size="32MB"))
    db.sql("create table t (n int primary key, t text)")
    return db


def write_until_lost(db):
    def lost():
        db.sql("select pg_switch_wal()")
        db.sql("checkpoint")
        return db.slot_state()["wal_status"] == "lost"
    db.sql("insert into t select n, repeat('x', 1000) from generate_series(100, 5000) n")
    wait_until(lost, "the slot to be lost")


def test_case_10_a_lost_slot_is_a_clear_error(small, herald, tmp_path):
    # Given a slot that fell too far behind while nobody read it
    path = tmp_path / "out.json"
    streamed(small, herald, path, 1)
    write_until_lost(small)

    # then the stream ends at once, with the reason and the way out
    refused = herald(small, file=path, ready=False)
    assert refused.wait_exit() == 76
    assert "is lost" in refused.err and "pgherald drop" in refused.err
    assert refused.err.count("\n") == 1


def test_case_10_a_slot_that_was_idle_for_too_long(new_server, herald, tmp_path):
    # Given a server that gives up on slots that nobody reads for 1 s
    server = new_server()
    if server.version < 180000:
        pytest.skip("slots time out since PostgreSQL 18")
    db = postgres.Database(server)
    db.sql("create table t (n int primary key)")
    path = tmp_path / "out.json"
    streamed(db, herald, path, 1)
    server.configure(idle_replication_slot_timeout="1s")
    server.reload()
    wait_until(lambda: db.sql("checkpoint") == [] and db.slot_state()["invalidation_reason"], "the slot to be lost",
               interval=0.2)

    # then the stream ends at once, with the reason
    refused = herald(db, file=path, ready=False)
    assert refused.wait_exit() == 76
    assert "idle_timeout" in refused.err and "pgherald drop" in refused.err
    assert refused.err.count("\n") == 1


def test_case_10_a_slot_that_is_lost_under_a_stream(small, herald):
    # Given a stream whose output nobody reads
    stream = herald(small, read=False)
    small.sql("insert into t select -n, repeat('x', 1000) from generate_series(1, 20000) n")

    # when the server gives up on its slot
    write_until_lost(small)

    # then it ends with that error once its output moves, and does not try for ever
    stream.drain()
    assert stream.wait_exit() == 76
    assert "is lost" in stream.err
    assert stream.err.count("\n") <= 6


def test_case_11_a_slot_in_use_is_waited_for_without_spinning(table, herald):
    # Given a stream, and one that stands by
    first = herald(table)
    second = herald(table, ready=False)
    second.wait_log("waiting as a standby")
    assert f"in use by pid {table.slot_state()['active_pid']}" in second.err

    # when time passes, that costs next to nothing and is said once
    cpu = cpu_ticks(second.pid)
    time.sleep(2)
    assert cpu_ticks(second.pid) - cpu < 50, "half a second of work in two seconds of waiting"
    assert second.err.count("\n") == 1

    # then it takes over where the first stopped
    insert(table, 1)
    first.wait_for(1)
    first.stop()
    insert(table, 2)
    assert numbers(second.wait_for(1)) == [2]


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_case_11_no_wait_ends_at_once(table, herald):
    herald(table)
    second = herald(table, "--no-wait", ready=False)
    assert second.wait_exit() == 69
    assert f"in use by pid {table.slot_state()['active_pid']}" in second.err


def test_case_21_updates_without_identity_fail_at_the_source(db, herald):
    # Given a stream of a table without identity, which says so
    db.sql("create table bare (n int)")
    stream = herald(db)
    stream.wait_log("without replica identity")
    assert "public.bare" in stream.err
    db.sql("insert into bare values (1)")
    stream.wait_for(1)

    # then PostgreSQL refuses updates and deletes, and the stream goes on
    for statement in ("update bare set n = 2", "delete from bare"):
        with pytest.raises(postgres.psycopg2.Error, match="replica identity"):
            db.sql(statement)
    db.sql("alter table bare replica identity full")
    db.sql("update bare set n = 2")
    events = stream.wait_for(2)
    assert [(e["action"], e["new"]["n"]) for e in events] == [("insert", 1), ("update", 2)]


def test_case_40_a_publication_dropped_while_streaming_is_an_error(table, herald):
    # Given a stream
    stream = herald(table)
    insert(table, 1)
    stream.wait_for(1)

    # when its publication is dropped and rows are written that it can never have
    table.sql("drop publication pgherald")
    insert(table, 2)

    # then it ends with an error instead of going on without them
    assert stream.wait_exit() == 76
    assert "pgherald" in stream.err and "--from now" in stream.err
    assert numbers(stream.events) == [1]


def test_case_40_the_servers_warning_is_heard_whatever_the_role_has_set(table, role, herald):
    # Given a role that does not want to see warnings
    table.sql(f"alter role {role} set client_min_messages = error")
    stream = herald(Via(table, user=role))
    insert(table, 1)
    stream.wait_for(1)

    # when the publication is away for a moment, which PostgreSQL 18 only warns of
    table.sql("drop publication pgherald")
    insert(table, 2)
    table.sql("create publication pgherald for all tables")
    insert(table, 3)

    # then it is an error all the same
    assert stream.wait_exit() == 76
    assert numbers(stream.events) == [1]


def test_case_40_a_publication_dropped_and_made_again_while_stopped(table, herald, tmp_path):
    # Given a slot whose publication was not there while rows were written
    path = tmp_path / "out.json"
    streamed(table, herald, path, 1)
    table.sql("drop publication pgherald")
    insert(table, 2)
    table.sql("create publication pgherald for all tables")
    insert(table, 3)

    # then there is no way to have row 2, and the stream says so
    stream = herald(table, file=path, ready=False)
    assert stream.wait_exit() == 76
    assert "--from now" in stream.err
    assert numbers(stream.events) == [1]

    # and how to go on without it works
    insert(table, 4)
    stream = herald(table, "--from", "now", file=path)
    insert(table, 5)
    assert numbers(stream.wait_for(2)) == [1, 5]


def test_a_missing_publication_is_not_made_under_a_slot_that_exists(table, herald):
    herald(table).stop()
    table.sql("drop publication pgherald")
    insert(table, 1)
    stream = herald(table, ready=False)
    assert stream.wait_exit() == 76


def test_a_wrong_password_ends_at_once_and_stays_secret(new_server, herald):
    db = postgres.Database(new_server())
    db.sql("create role guarded superuser login password 'right'")
    db.server.hba("local all postgres trust\nlocal all all scram-sha-256\n")
    db.server.sql("select pg_reload_conf()")
    for log_format in ("logfmt", "json"):
        stream = herald(Via(db, user="guarded", password="5ecret"), "--log-level", "debug",
                        "--log-format", log_format, ready=False)
        assert stream.wait_exit() == 78
        assert "password authentication failed" in stream.err
        assert "5ecret" not in stream.err


# Making a slot


def test_making_the_slot_says_whom_it_waits_for(table, herald):
    # Given a prepared transaction that nobody ends
    table.sql("begin; insert into t values (1); prepare transaction 'forgotten'")

    # then the log names it
    stream = herald(table, ready=False)
    stream.wait_log("prepared transaction 'forgotten'")

    # and streaming begins behind it
    table.sql("rollback prepared 'forgotten'")
    stream.wait_ready(table)
    insert(table, 2)
    assert numbers(stream.wait_for(1)) == [2]


def test_waiting_for_the_slot_can_be_interrupted(table, herald):
    table.sql("begin; insert into t values (1); prepare transaction 'forgotten'")
    try:
        stream = herald(table, ready=False)
        stream.wait_log("creating the slot waits")
        stream.stop()
        wait_until(lambda: table.slot_state() is None, "the slot that was begun to go")
    finally:
        table.sql("rollback prepared 'forgotten'")


def check_refused(db, herald, words):
    stream = herald(db, ready=False)
    assert stream.wait_exit() == 78
    assert words in stream.err
    assert all(line.startswith("time=") for line in stream.err.splitlines()), stream.err


def test_no_free_slot(new_server, herald):
    db = postgres.Database(new_server(max_replication_slots=1))
    db.sql("select pg_create_physical_replication_slot('other')")
    check_refused(db, herald, "max_replication_slots")


def test_wal_level_is_too_low(new_server, herald):
    check_refused(postgres.Database(new_server(wal_level="replica")), herald, "ALTER SYSTEM SET wal_level")


def test_a_standby_before_16_cannot_stream(new_server, herald):
    server = new_server()
    if server.version >= 160000:
        pytest.skip("standbys can since PostgreSQL 16")
    db = postgres.Database(server)
    db.sql("create publication pgherald for all tables")
    server.stop()
    with open(f"{server.data}/standby.signal", "w"):
        pass
    server.start()
    check_refused(db, herald, "connect to the primary")


# Roles


def test_a_role_that_has_too_many_connections_is_waited_for(table, role, herald):
    # Given a role that is no superuser and may not connect just now
    table.sql(f"create publication pgherald for all tables;"
              f"alter role {role} nosuperuser replication connection limit 0")
    stream = herald(Via(table, user=role), ready=False)
    stream.wait_log("too many connections")

    # then the stream begins as soon as it may
    table.sql(f"alter role {role} connection limit -1")
    stream.wait_ready(table)
    insert(table, 1)
    assert numbers(stream.wait_for(1)) == [1]


def test_a_role_whose_settings_would_be_in_the_way(table, role, herald):
    settings = {"default_transaction_read_only": "on", "statement_timeout": "100ms", "lock_timeout": "1ms",
                "idle_in_transaction_session_timeout": "100ms", "search_path": "nowhere"}
    if table.server.version >= 140000:
        settings["idle_session_timeout"] = "100ms"
    if table.server.version >= 170000:
        settings["transaction_timeout"] = "100ms"
    for name, value in settings.items():
        table.sql(f"alter role {role} set {name} = '{value}'")
    stream = herald(Via(table, user=role))
    sender = table.slot_state()["active_pid"]
    table.sql("select pg_sleep(0.5)")
    table.sql("insert into t select generate_series(1, 20000)")
    stream.wait_for(20000)
    assert table.slot_state()["active_pid"] == sender
    assert "level=warn" not in stream.err


def test_a_file_that_was_removed_begins_anew(table, herald, tmp_path):
    # Given a file output that has come to its end, and its slot
    path = tmp_path / "out.json"
    streamed(table, herald, path, 1)

    # when somebody starts over: no slot, no file, but what is beside it was forgotten
    path.unlink()
    table.drop_slots()
    insert(table, 2)
    make_slot(table)

    # then there is nothing to refuse
    stream = herald(table, file=path)
    insert(table, 3)
    assert numbers(stream.wait_for(1)) == [3]
