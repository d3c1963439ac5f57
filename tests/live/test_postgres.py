"""postgres://...?table=NAME: rows in another database."""
import contextlib
import os
import random

import delivery
import postgres
import pytest
from proxy import Proxy

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", 4))


@pytest.fixture
def target(server):
    """A second database, where events go."""
    fresh = postgres.Database(server)
    yield fresh
    fresh.drop()


def uri(host, port, dbname, **params):
    query = "&".join(f"{k}={v}" for k, v in params.items())
    return f"postgres://postgres@{host.replace('/', '%2F')}:{port}/{dbname}?{query}"


def url(db, table="events", **params):
    return uri(db.server.host, db.server.port, db.name, table=table, **params)


def events(db, table="events"):
    if not db.sql("select to_regclass(%s)", (f"public.{table}",))[0][0]:
        return []
    return [row[0] for row in db.sql(f"select event from {table} order by n")]


def count(db, table="events"):
    return len(events(db, table))


def test_events_are_rows_and_the_tables_are_made(db, target, herald):
    # Given a database without our tables
    delivery.make_tables(db)
    stream = herald(db, "--to", url(target))

    # when rows are written
    delivery.insert(db, 1, 3)
    db.sql("delete from a where n = 2")
    stream.wait_until(lambda: count(target) == 4, "4 rows")

    # then each event is one, with its id and the time of its commit
    rows = target.sql("select n, id, committed_at = (event->>'time')::timestamptz, event->>'id', "
                      "event->>'action', pg_typeof(event)::text from events order by n")
    assert [r[0] for r in rows] == [1, 2, 3, 4]
    assert all(r[1] == r[3] and r[2] for r in rows), rows
    assert [r[4] for r in rows] == ["insert", "insert", "insert", "delete"]
    assert rows[0][5] == "jsonb"
    position, = target.sql("select position from pgherald_positions")[0]
    assert position == rows[-1][1]


def test_killed_at_random_every_row_is_there_once(db, target, herald):
    # Given a stream into a table
    delivery.make_tables(db)
    luck = random.Random(11)
    herald(db, "--to", url(target)).stop()

    # when pgherald dies again and again while rows come
    for n in range(ROUNDS):
        stream = herald(db, "--to", url(target))
        delivery.insert(db, n * 500 + 1, n * 500 + 500)
        goal = n * 500 + luck.randint(1, 500)
        stream.wait_until(lambda: count(target) >= goal, "some rows")
        stream.kill9()

    # then the next one leaves every row there once and in order
    stream = herald(db, "--to", url(target))
    stream.wait_confirmed(db)
    stream.stop()
    delivery.check(events(target), {"a": range(1, ROUNDS * 500 + 1)})
