"""sqlite:PATH?table=NAME, read with the sqlite3 program."""
import json
import os
import random
import subprocess

import delivery

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


def test_killed_at_random_every_row_is_there_once(db, herald, tmp_path):
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
