"""sqlite:PATH?table=NAME, read with the sqlite3 program."""
import json
import os
import random
import sqlite3
import subprocess

import delivery
from test_output import small_disk  # noqa: F401

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", 4))


def ask(path, sql):
    """The rows of a statement, as dicts."""
    done = subprocess.run(["sqlite3", "-json", "-cmd", ".timeout 10000", path, sql], text=True,
                          capture_output=True)
    if "no such table" in done.stderr or "unable to open" in done.stderr:
        return []
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "[]")


def events(path, table="events"):
    if not os.path.exists(path):
        return []
    return [json.loads(row["event"]) for row in ask(path, f"select event from {table} order by n")]


def count(path, table="events"):
    rows = os.path.exists(path) and ask(path, f"select count(*) c from {table}")
    return rows[0]["c"] if rows else 0


def test_events_are_rows_and_the_file_is_made(db, herald, tmp_path):
    delivery.make_tables(db)
    path = tmp_path / "out.db"
    stream = herald(db, "--to", f"sqlite:{path}?table=events")
    delivery.insert(db, 1, 3)
    db.sql("delete from a where n = 2")
    stream.wait_until(lambda: count(path) == 4, "4 rows")
    rows = ask(path, "select n, id, json_extract(event, '$.id') eid, committed_at = json_extract(event, '$.time') t, "
                     "json_extract(event, '$.action') action from events order by n")
    assert [r["n"] for r in rows] == [1, 2, 3, 4]
    assert all(r["id"] == r["eid"] and r["t"] for r in rows), rows
    assert [r["action"] for r in rows] == ["insert", "insert", "insert", "delete"]
    assert ask(path, "pragma journal_mode")[0]["journal_mode"] == "wal"


def test_case_3_killed_at_random_every_row_is_there_once(db, herald, tmp_path):
    delivery.make_tables(db)
    luck = random.Random(12)
    path = tmp_path / "out.db"
    to = f"sqlite:{path}?table=events"
    herald(db, "--to", to).stop()
    for n in range(ROUNDS):
        stream = herald(db, "--to", to)
        delivery.insert(db, n * 500 + 1, n * 500 + 500)
        goal = n * 500 + luck.randint(1, 500)
        stream.wait_until(lambda: count(path) >= goal, "some rows")
        stream.kill9()
    stream = herald(db, "--to", to)
    stream.wait_confirmed(db)
    stream.stop()
    delivery.check(events(path), {"a": range(1, ROUNDS * 500 + 1)})


def to(path, table="events"):
    return f"sqlite:{path}?table={table}"


def test_case_64_a_locked_file_is_waited_for(db, herald, tmp_path):
    # Given somebody who holds the file
    delivery.make_tables(db)
    path = tmp_path / "out.db"
    stream = herald(db, "--to", to(path))
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin immediate")

    # when events come
    delivery.insert(db, 11, 20)
    stream.wait_log("is locked")

    # then they are there, once, when he is done
    holder.execute("rollback")
    holder.close()
    stream.wait_confirmed(db)
    delivery.check(events(path), {"a": range(1, 21)})


def test_case_64_a_full_disk_loses_nothing(db, herald, small_disk):
    delivery.make_tables(db)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 850_000)  # what is left is less than the rows need, however they are committed
    path = small_disk / "out.db"
    stream = herald(db, "--to", to(path))
    delivery.insert(db, 1, 600)
    stream.wait_log("is full")
    ballast.unlink()
    stream.wait_log("is back")
    stream.wait_confirmed(db)
    stream.stop()
    delivery.check(events(path), {"a": range(1, 601)})


def test_case_64_refused_rows_stop_are_skipped_or_go_to_the_dead_letters(db, herald, tmp_path):
    delivery.make_tables(db)
    path, letters = tmp_path / "out.db", tmp_path / "letters.db"
    herald(db, "--to", to(path)).stop()
    ask(path, "create trigger t before insert on events when new.event like '%\"n\":5,%' or new.event like '%\"n\":9,%' "
              "begin select raise(abort, 'not this one'); end")
    delivery.insert(db, 1, 9)
    stream = herald(db, "--to", to(path), ready=False)
    assert stream.wait_exit() == 1
    assert "not this one" in stream.err and "public.a" in stream.err
    assert [e["new"]["n"] for e in events(path)] == [1, 2, 3, 4]

    stream = herald(db, "--to", to(path), "--on-refused", "dead-letter", "--dead-letter", to(letters))
    stream.wait_confirmed(db)
    stream.stop()
    assert [e["new"]["n"] for e in events(path)] == [1, 2, 3, 4, 6, 7, 8]
    assert [json.loads(e["body"])["new"]["n"] for e in events(letters)] == [5, 9]


def test_several_writers_share_a_table(db, new_db, herald, tmp_path):
    other = new_db()
    path = tmp_path / "out.db"
    for one in (db, other):
        delivery.make_tables(one)
    argv = [(db, "--to", to(path), "--to", f"sqlite:{tmp_path}/./out.db?table=events"), (other, "--to", to(path))]
    for n in range(3):
        streams = [herald(*args) for args in argv]
        for one in (db, other):
            delivery.insert(one, n * 100 + 1, n * 100 + 100)
        streams[0].wait_until(lambda: count(path) > n * 300 + 50, "some rows")
        for stream in streams:
            stream.kill9()
    for args in argv:
        stream = herald(*args)
        stream.wait_confirmed(args[0])
        stream.stop()
    found = ask(path, "select count(*) c, count(distinct id) d from events group by writer")
    assert found == [{"c": 300, "d": 300}] * 3


def test_what_the_user_has_to_mend_is_said(db, herald, tmp_path):
    delivery.make_tables(db)
    notes = tmp_path / "notes.txt"
    notes.write_text("these are my notes, and no database\n" * 100)
    odd = tmp_path / "odd.db"
    ask(odd, "create table events (x)")
    for url, words in ((f"sqlite:{tmp_path}/no/such.db?table=events", "no/such.db"),
                       (to(notes), "not a database"), (to(odd), "no column named"),
                       ("sqlite::memory:?table=x", "names no file"), ("sqlite:x.db", "names no table"),
                       ("sqlite:x.db?table=x&mode=ro", "has no parameter \\\"mode\\\"")):
        stream = herald(db, "--to", url, ready=False)
        assert stream.wait_exit() == 78, url
        assert words in stream.err, stream.err
    assert notes.read_text().startswith("these are my notes")


def test_a_name_with_quotes_and_a_large_value(db, herald, tmp_path):
    delivery.make_tables(db)
    path = tmp_path / "out.db"
    stream = herald(db, "--to", f"sqlite:{path}?table=my%22%25table")
    db.sql("insert into a values (1, repeat('x', 20000000))")
    stream.wait_confirmed(db)
    assert ask(path, 'select length(event) > 20000000 big from "my""%table"') == [{"big": 1}]


def test_formats_without_positions_have_no_repeats_either(db, herald, tmp_path):
    db.sql("create table a (n int primary key)")
    path = tmp_path / "out.db"
    for first in (1, 501, 1001):
        stream = herald(db, "--to", to(path), "--format", "pgevents")
        db.sql(f"insert into a select generate_series({first}, {first + 499})")
        stream.wait_until(lambda: count(path) >= first + 100, "some rows")
        stream.kill9()
    stream = herald(db, "--to", to(path), "--format", "pgevents")
    stream.wait_confirmed(db)
    stream.stop()
    assert [e["new"]["n"] for e in events(path)] == list(range(1, 1501))


def test_a_slot_that_moved_is_noticed(db, herald, tmp_path):
    delivery.make_tables(db)
    path = tmp_path / "out.db"
    stream = herald(db, "--to", to(path))
    delivery.insert(db, 1, 3)
    stream.wait_until(lambda: os.path.exists(path) and
                      ask(path, "select 1 from pgherald_positions where mark_lsn is not null"), "the mark")
    stream.stop()
    delivery.insert(db, 4, 6)
    db.sql("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", (db.slot,))
    stream = herald(db, "--to", to(path), ready=False)
    assert stream.wait_exit() == 76
