"""Counting what arrived: numbered rows in, events out."""
import collections
import contextlib
import threading

import postgres

TABLES = ("a", "b")


def make_tables(db):
    """Two tables of numbered rows with a body."""
    for table in TABLES:
        db.sql(f"create table {table} (n int primary key, body text)")


def insert(db, first, last, table="a", body=""):
    """One row, and one transaction, for each number from first to last."""
    db.sql(f"do $$ begin for n in {first}..{last} loop insert into {table} values (n, '{body}'); commit; "
           "end loop; end $$" if db.server.version >= 110000 else
           f"insert into {table} select n, '{body}' from generate_series({first}, {last}) n")


def insert_in_background(db, last):
    """Rows 1 to last of a (even) and b (odd), each in a transaction of its own; the thread."""
    def run():
        with contextlib.closing(db.connect()) as connection:
            for n in range(1, last + 1):
                postgres.execute(connection, f"insert into {'ab'[n % 2]} values ({n})")
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def check_both(events, last, **options):
    """All that insert_in_background() has written."""
    check(events, {"a": range(2, last + 1, 2), "b": range(1, last + 1, 2)}, **options)


def check(events, expected, repeats=False):
    """The native events hold each number of each table: expected is {"a": range(1, 101)}. In commit
    order, but for repeats where these are allowed; a repeat has the id of the first."""
    seen = collections.defaultdict(dict)
    order = collections.defaultdict(list)
    for e in events:
        table, n = e["table"], e["new"]["n"]
        if n in seen[table]:
            assert repeats, f"{table} {n} came twice"
            assert seen[table][n] == e["id"], f"{table} {n} came again under another id"
        else:
            order[table].append(n)
        seen[table][n] = e["id"]
    for table, numbers in expected.items():
        lost = sorted(set(numbers) - set(order[table]))
        assert not lost, f"{len(lost)} of {table} were lost: {lost[:20]}"
        assert order[table] == sorted(order[table]), f"{table} is out of order"
        assert order[table] == list(numbers), f"{table} has more than was written"
