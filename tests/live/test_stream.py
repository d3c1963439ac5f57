"""First stories: what a table goes through comes out as events, in order, with its values."""
import contextlib
import json

import pytest

import herald as program
from postgres import wait_until


def actions(events):
    return [e["action"] for e in events]


def test_insert_update_delete_truncate_arrive_in_order(db, herald):
    if db.server.version < 110000:
        pytest.skip("truncates are published since PostgreSQL 11")
    # Given a table with a primary key and a stream on its database
    db.sql("create table users (id int primary key, name text, age int)")
    stream = herald(db)

    # when a row is born, changes, changes its key, goes, and the table is emptied
    db.sql("insert into users values (1, 'Tony', 20)")
    db.sql("update users set age = 21 where id = 1")
    db.sql("update users set id = 2 where id = 1")
    db.sql("delete from users where id = 2")
    db.sql("truncate users")

    # then each is an event with the row as it is and the key as it was
    born, aged, moved, gone, emptied = stream.wait_for(5)
    assert actions(stream.events) == ["insert", "update", "update", "delete", "truncate"]
    assert all((e["schema"], e["table"], e["db"]) == ("public", "users", db.name)
               for e in stream.events)
    assert (born["key"], born["new"]) == ({"id": 1}, {"id": 1, "name": "Tony", "age": 20})
    assert (aged["key"], aged["new"]) == ({"id": 1}, {"id": 1, "name": "Tony", "age": 21})
    assert (moved["old"], moved["new"]) == ({"id": 1}, {"id": 2, "name": "Tony", "age": 21})
    assert (gone["key"], gone["old"]) == ({"id": 2}, {"id": 2})
    assert "old" not in born and "old" not in aged
    assert "new" not in gone and "new" not in emptied
    ids = [e["id"] for e in stream.events]
    assert ids == sorted(set(ids))


def test_full_identity_shows_the_old_row_and_what_changed(db, herald):
    # Given a table with full identity
    db.sql("create table users (id int primary key, name text, note text)")
    db.sql("alter table users replica identity full")
    stream = herald(db)

    # when a row changes and goes
    db.sql("insert into users values (1, 'Tony', null)")
    db.sql("update users set name = 'Geezer' where id = 1")
    db.sql("delete from users")

    # then the old row is there with its nulls
    _, changed, gone = stream.wait_for(3)
    assert changed["old"] == {"id": 1, "name": "Tony", "note": None}
    assert changed["new"] == {"id": 1, "name": "Geezer", "note": None}
    assert changed["changed"] == ["name"]
    assert changed["key"] == {"id": 1}
    assert gone["old"] == {"id": 1, "name": "Geezer", "note": None}


def test_case_44_truncate_of_several_tables_is_one_event_each(db, herald):
    if db.server.version < 110000:
        pytest.skip("truncates are published since PostgreSQL 11")
    # Given two tables of which one points to the other
    db.sql("create table a (id int primary key); create table b (a int references a)")
    stream = herald(db)

    # when the first is emptied with all that depend on it
    db.sql("truncate a restart identity cascade")

    # then each table has its event, with the flags
    events = stream.wait_for(2)
    assert sorted(e["table"] for e in events) == ["a", "b"]
    assert actions(events) == ["truncate", "truncate"]
    assert all(e["cascade"] is True and e["restart_identity"] is True for e in events)


def test_two_tables_interleaved_keep_the_order_of_the_transaction(db, herald):
    # Given two tables of different shape
    db.sql("create table a (id int primary key, x text); create table b (y numeric, id int)")
    stream = herald(db)

    # when one session writes to them in turn, in one transaction and in several
    db.transaction("insert into a values (1, 'one')", "insert into b values (1.50, 1)",
                   "insert into a values (2, 'two')", "insert into b values (2.50, 2)")
    db.sql("insert into a values (3, 'three')")
    db.sql("insert into b values (3.50, 3)")

    # then they come out in that order, each with its own columns
    events = stream.wait_for(6)
    assert [(e["table"], e["new"]["id"]) for e in events] == [
        ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert [e["new"] for e in events[:2]] == [{"id": 1, "x": "one"}, {"y": 1.5, "id": 1}]
    assert b'"y":1.50' in stream.lines[1], "digits are as PostgreSQL has them"
    assert len({e["xid"] for e in events[:4]}) == 1
    assert len({e["xid"] for e in events}) == 3


def test_second_transaction_on_a_table_arrives_without_a_new_description(db, herald):
    # Given a table that has already had an event (the server describes it once for a session)
    db.sql("create table t (id int primary key, v text)")
    stream = herald(db)
    db.sql("insert into t values (1, 'first')")
    stream.wait_for(1)

    # when a second transaction changes it
    db.transaction("insert into t values (2, 'second')", "update t set v = 'again' where id = 1")

    # then its events are as complete as the first
    _, second, again = stream.wait_for(3)
    assert second["new"] == {"id": 2, "v": "second"}
    assert again["new"] == {"id": 1, "v": "again"}


def test_rolled_back_work_is_never_seen(db, herald):
    # Given a stream on a table
    db.sql("create table t (id int primary key)")
    stream = herald(db)

    # when a transaction rolls back wholly, and another rolls back to a savepoint
    with contextlib.closing(db.connect(autocommit=False)) as session:
        session.cursor().execute("insert into t values (1)")
        session.rollback()
    db.transaction("insert into t values (2)", "savepoint s", "insert into t values (3)",
                   "rollback to s", "insert into t values (4)")

    # then only what was committed comes out
    stream.wait_for(2)
    assert [e["new"]["id"] for e in stream.stop()] == [2, 4]


def test_case_4_sigterm_leaves_no_repeat_at_restart(db, herald):
    # Given a stream that has printed some events and was ended by SIGTERM
    db.sql("create table t (id int primary key)")
    first = herald(db)
    db.sql("insert into t select generate_series(1, 100)")
    db.sql("insert into t values (101)")
    first.wait_for(101)
    first.stop()

    # when rows are added in its absence and it is started again
    db.sql("insert into t values (102), (103)")
    second = herald(db)
    second.wait_for(2)

    # then it goes on exactly where it was
    assert [e["new"]["id"] for e in second.stop()] == [102, 103]
    assert first.count == 101


def test_what_happened_before_the_first_start_is_not_told(db, herald):
    # Given a table with a row from before pgherald was first run
    db.sql("create table t (id int primary key); insert into t values (1)")

    # when it starts and another row comes
    stream = herald(db)
    db.sql("insert into t values (2)")

    # then only that one is an event
    stream.wait_for(1)
    assert [e["new"]["id"] for e in stream.stop()] == [2]


def test_file_output_appends_whole_lines_over_restarts(db, herald, tmp_path):
    # Given a stream into a file, ended after its first events
    path = tmp_path / "events.json"
    db.sql("create table t (id int primary key, v text)")
    first = herald(db, file=path)
    db.sql("insert into t values (1, 'a'), (2, E'line\\nbreak')")
    first.wait_for(2)
    first.stop()

    # when a second run goes on with the same file
    second = herald(db, file=path)
    db.sql("insert into t values (3, 'ü')")
    second.wait_for(3)
    second.stop()

    # then the file has each event once, one JSON object a line, and nothing else was printed
    events = program.read_events(path)
    assert [e["new"] for e in events] == [
        {"id": 1, "v": "a"}, {"id": 2, "v": "line\nbreak"}, {"id": 3, "v": "ü"}]
    assert path.read_bytes().count(b"\n") == 3
    assert first.lines == [] and second.lines == []


def test_until_now_drains_and_ends(db, herald):
    # Given a slot with events that wait
    db.sql("create table t (id int primary key)")
    herald(db).stop()
    db.sql("insert into t values (1), (2)")

    # when it is asked to go up to now, twice
    first = program.run("stream", db.conninfo, "--slot", db.slot, "--until", "now")
    second = program.run("stream", db.conninfo, "--slot", db.slot, "--until", "now")

    # then the first run prints them and the second nothing; both end well
    assert (first.code, second.code) == (0, 0)
    assert [json.loads(line)["new"]["id"] for line in first.out.splitlines()] == [1, 2]
    assert second.out == ""


def test_slot_is_confirmed_once_the_file_has_the_events(db, herald, tmp_path):
    # Given a stream into a file
    db.sql("create table t (id int primary key)")
    stream = herald(db, file=tmp_path / "events.json")

    # when a row is committed
    db.sql("insert into t values (1)")
    committed = db.wal_lsn()
    stream.wait_for(1)

    # then the slot moves past it while the stream runs on
    wait_until(lambda: db.slot_state()["confirmed"] >= committed, "the slot to move")


def test_a_terminal_shows_readable_lines_and_pipes_json(db, herald):
    # Given a row that waits in the slot
    db.sql("create table t (id int primary key)")
    herald(db).stop()
    db.sql("insert into t values (1)")
    args = ("stream", db.conninfo, "--slot", db.slot, "--until", "now", "--log-level", "error")

    # when it is shown in a terminal, then a person can read it, in colour where that is wanted
    shown = program.in_terminal(*args)
    assert "public.t" in shown and "\033[" in shown and "{" not in shown
    db.sql("insert into t values (2)")
    shown = program.in_terminal(*args, env={"NO_COLOR": "1"})
    assert "public.t" in shown and "\033" not in shown and "{" not in shown

    # and JSON where that is asked for
    db.sql("insert into t values (3)")
    assert json.loads(program.in_terminal(*args, "--format", "native"))["new"] == {"id": 3}


def test_until_a_position_ends_behind_the_transactions_before_it(db, herald):
    # Given three transactions in a slot, and the position between the last two
    db.sql("create table t (id int primary key)")
    herald(db).stop()
    db.sql("insert into t values (1)")
    db.sql("insert into t values (2)")
    lsn, = db.sql("select pg_current_wal_lsn()::text")[0]
    db.sql("insert into t values (3)")

    # when it is streamed to there, then to the end
    until = [program.run("stream", db.conninfo, "--slot", db.slot, "--until", end) for end in (lsn, "now")]

    # then each has its part
    assert [[json.loads(line)["new"]["id"] for line in done.out.splitlines()] for done in until] == [[1, 2], [3]]
    assert [done.code for done in until] == [0, 0]


@pytest.mark.parametrize("way", ["uri", "environment", "service"])
def test_the_server_is_named_as_libpq_takes_it(db, tmp_path, way):
    # Given what libpq knows a server by
    server = db.server
    env = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": "postgres", "PGDATABASE": db.name}
    service = tmp_path / "services"
    service.write_text(f"[shop]\nhost={server.host}\nport={server.port}\nuser=postgres\ndbname={db.name}\n")
    uri = f"postgresql://postgres@/{db.name}?host={server.host}&port={server.port}"
    args, env = {"uri": ([uri], {}), "environment": ([], env),
                 "service": (["service=shop"], {"PGSERVICEFILE": str(service)})}[way]

    # then it is found, by both connections
    done = program.run("stream", *args, "--slot", db.slot, "--until", "now", env=env)
    assert (done.code, f"streaming database {db.name} " in done.err) == (0, True), done.err


def test_logs_can_be_json(db):
    done = program.run("stream", db.conninfo, "--slot", db.slot, "--until", "now", "--log-format", "json")
    said = [json.loads(line) for line in done.err.splitlines()]
    assert done.code == 0 and any("streaming database" in line["msg"] for line in said)
    assert all(line["time"] and line["level"] == "info" for line in said)
