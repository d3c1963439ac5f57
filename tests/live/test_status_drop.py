"""What is there, how far behind it is, and how it goes away."""
import json
import os
import pty

import postgres
import pytest
from herald import PROGRAM, environment, run
from postgres import wait_until


def status(db, *args):
    done = run("status", db.conninfo, "--json", *args)
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def slot(db, name=None):
    return next(s for s in status(db)["slots"] if s["slot"] == (name or db.slot))


def make_slot(db, name=None):
    db.sql("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name or db.slot,))


def publications(db):
    return [name for (name,) in db.sql("select pubname from pg_publication order by 1")]


# status


def test_nothing_is_there(new_server):
    server = new_server()
    done = run("status", server.conninfo())
    assert done.code == 0
    assert "no slot" in done.out and "no publication" in done.out
    done = run("status", server.conninfo(), "--json")
    assert json.loads(done.out) == {"slots": [], "publications": []}


def test_status_of_a_slot_that_nobody_reads(db):
    # Given a slot, and rows that it has not delivered
    make_slot(db)
    db.sql("create table t (t text)")
    assert slot(db)["state"] == "idle"
    before = slot(db)["behind_bytes"]
    db.sql("insert into t select repeat('x', 1000) from generate_series(1, 1000)")

    # then it says how far behind it is, and that nobody is there
    found = slot(db)
    assert found["behind_bytes"] - before >= 1_000_000
    assert found["kept_bytes"] >= found["behind_bytes"]
    assert found["database"] == db.name
    assert found["wal"] in ("reserved", "extended") or db.server.version < 130000
    assert (found["pid"], found["application"], found["client"], found["lag_seconds"]) == (None,) * 4
    assert (found["idle_seconds"] is not None) == (db.server.version >= 170000)


def test_status_of_a_stream(db, herald):
    db.sql("create table t (n int)")
    stream = herald(db)
    db.sql("insert into t select generate_series(1, 100)")
    stream.wait_confirmed(db)
    found = slot(db)
    assert found["state"] == "streaming"
    assert found["pid"] == db.slot_state()["active_pid"]
    assert (found["application"], found["client"]) == ("pgherald", "local")
    assert found["behind_bytes"] < 100_000
    if db.server.version >= 120000:
        wait_until(lambda: slot(db)["heard_seconds"] is not None, "the stream's first words")


def test_status_says_how_much_wal_is_left(new_server, herald):
    server = new_server(max_slot_wal_keep_size="100MB")
    db = postgres.Database(server)
    make_slot(db)
    assert 0 < slot(db)["safe_bytes"] < 200_000_000


def test_status_marks_what_was_named_and_what_pgherald_made(db, herald):
    # Given what pgherald made, and what others did
    db.sql("create table t (n int); create publication other for table t with (publish = 'insert')")
    herald(db).stop()
    make_slot(db, f"{db.slot}_b")

    # then JSON tells them apart
    found = status(db, "--slot", db.slot, "--publication", "pgherald")
    ours = [s for s in found["slots"] if s["database"] == db.name]
    assert [(s["slot"], s["selected"]) for s in ours] == [(db.slot, True), (f"{db.slot}_b", False)]
    assert [(p["publication"], p["selected"], p["made_by"], p["tables"]) for p in found["publications"]] == \
        [("other", False, None, "1"), ("pgherald", True, "pgherald", "all")]
    assert found["publications"][0]["actions"] == "insert"

    # and a star does for people
    lines = run("status", db.conninfo, "--slot", db.slot).out.splitlines()
    assert lines[0].split()[:4] == ["SLOT", "DATABASE", "STATE", "BEHIND"]
    rows = [line.split() for line in lines]
    assert next(r for r in rows if db.slot in r)[0] == "*"
    assert next(r for r in rows if f"{db.slot}_b" in r)[0] == f"{db.slot}_b"
    assert not any(line.endswith(" ") for line in lines)


def test_status_of_names_that_are_no_ascii(db):
    db.sql('create publication "Größe, ""quer""" for all tables; create publication abc')
    assert 'Größe, "quer"' in [p["publication"] for p in status(db)["publications"]]
    lines = [line for line in run("status", db.conninfo).out.splitlines() if "all" in line or "abc" in line]
    assert lines[0].index("all") == lines[1].index("0  ")


def test_status_without_a_server(db):
    done = run("status", f"host={db.server.dir} port=1")
    assert done.code == 1 and done.out == "" and done.err.startswith("pgherald: ")


# drop


def drop(db, *args, **how):
    return run("drop", db.conninfo, "--slot", db.slot, *args, **how)


@pytest.fixture
def made(db, herald):
    """A database in which pgherald has made its slot and publication."""
    db.sql("create table t (n int)")
    herald(db).stop()
    assert db.slot_state() and publications(db) == ["pgherald"]
    return db


def test_drop_removes_what_pgherald_made(made):
    done = drop(made, "--yes")
    assert done.code == 0
    assert f"slot {made.slot} will be removed" in done.out
    assert "publication pgherald will be removed" in done.out
    assert made.slot_state() is None and publications(made) == []


def test_drop_again_has_nothing_to_do(made):
    drop(made, "--yes")
    for args in ((), ("--yes",)):
        done = drop(made, *args)
        assert (done.code, done.err) == (0, "")
        assert "nothing to remove" in done.out


def test_drop_without_a_terminal_needs_yes(made):
    done = drop(made, stdin="y\n")
    assert done.code == 64
    assert "--yes" in done.err
    assert made.slot_state() and publications(made) == ["pgherald"]


def answer(db, text):
    """Runs drop in a terminal and answers its question: exit code and what was shown."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(PROGRAM, [PROGRAM, "drop", db.conninfo, "--slot", db.slot], environment())
    out = b""
    try:
        while block := os.read(fd, 65536):
            out += block
            if out.endswith(b"[y/N] "):
                os.write(fd, text)
    except OSError:  # a terminal ends with an error
        pass
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


@pytest.mark.parametrize("text", [b"n\n", b"\n", b"\x04"])
def test_drop_asks_and_takes_no_for_an_answer(made, text):
    code, out = answer(made, text)
    assert code == 0 and "nothing was removed" in out
    assert made.slot_state() and publications(made) == ["pgherald"]


def test_drop_asks_and_goes_on_with_a_yes(made):
    code, out = answer(made, b"y\n")
    assert code == 0 and out.rstrip().endswith("done")
    assert made.slot_state() is None


def test_drop_leaves_a_publication_that_others_made(db):
    db.sql("create publication pgherald for all tables")
    make_slot(db)
    done = drop(db, "--yes")
    assert done.code == 0 and "pgherald did not make it" in done.out
    assert db.slot_state() is None and publications(db) == ["pgherald"]


def test_drop_leaves_a_publication_that_another_slot_may_need(made):
    # Given a second slot, which may be streaming the same publication
    make_slot(made, f"{made.slot}_b")
    done = drop(made, "--yes")
    assert done.code == 0 and f"slot {made.slot}_b" in done.out
    assert made.slot_state() is None and publications(made) == ["pgherald"]

    # and with the last slot it goes too
    assert drop(made, "--slot", f"{made.slot}_b", "--yes").code == 0
    assert publications(made) == []


def test_drop_refuses_a_slot_that_is_in_use(made, herald):
    herald(made)
    done = drop(made, "--yes")
    assert done.code == 69
    assert str(made.slot_state()["active_pid"]) in done.err
    assert made.slot_state() and publications(made) == ["pgherald"]


def test_drop_refuses_slots_that_are_not_for_it(db, new_db):
    db.sql("select pg_create_logical_replication_slot(%s, 'test_decoding')", (db.slot,))
    assert drop(db, "--yes").code == 78
    assert db.slot_state()

    other = new_db()
    make_slot(other)
    done = run("drop", db.conninfo, "--slot", other.slot, "--yes")
    assert done.code == 78 and other.name in done.err
    assert other.slot_state()


def test_streaming_begins_anew_after_a_drop(db, herald):
    make_slot(db)
    drop(db, "--yes")
    db.sql("create table t (n int)")
    stream = herald(db)
    db.sql("insert into t values (1)")
    assert len(stream.wait_for(1)) == 1
