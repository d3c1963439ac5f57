"""postgres://...?table=NAME: rows in another database."""
import contextlib
import json
import os
import random

import delivery
import postgres
import pytest
import tls
from herald import read_events
from test_output import small_disk  # noqa: F401

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", 4))


@pytest.fixture
def target(new_db):
    """A second database, where events go."""
    return new_db()


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


def test_case_3_killed_at_random_every_row_is_there_once(db, target, herald):
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


@pytest.fixture
def far(new_server):
    """A server of its own for events, reached over TCP; crashes keep what was committed."""
    server = new_server(tcp=True, durable=True)
    server.sql("create database far")
    return server


def far_url(server, port=None, **params):
    return uri("127.0.0.1", port or server.port, "far", table="events", **params)


def far_events(server):
    with contextlib.suppress(postgres.psycopg2.Error):
        return [row[0] for row in server.sql("select event from events order by n", dbname="far")]
    return []


def test_case_64_the_server_is_down_at_start_and_comes_back(db, far, herald):
    delivery.make_tables(db)
    far.stop()
    stream = herald(db, "--to", far_url(far), ready=False)
    stream.wait_log("is down, trying again")
    far.start()
    stream.wait_log("is back")
    stream.wait_ready(db)
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    delivery.check(far_events(far), {"a": range(1, 11)})


def test_case_64_the_server_dies_and_connections_are_cut(db, far, herald, new_proxy):
    # Given a stream through a proxy, in small transactions
    delivery.make_tables(db)
    proxy = new_proxy(far.port)
    stream = herald(db, "--to", far_url(far, proxy.port))

    # when its connections are cut again and again, and the server dies as in a power cut
    for n in range(ROUNDS):
        delivery.insert(db, n * 400 + 1, n * 400 + 400, body="x" * 500)
        stream.wait_until(lambda: len(far_events(far)) > n * 400, "some rows")
        proxy.cut()
    far.kill9()
    delivery.insert(db, ROUNDS * 400 + 1, ROUNDS * 400 + 400)
    far.start()

    # then every row is there once
    stream.wait_confirmed(db)
    delivery.check(far_events(far), {"a": range(1, ROUNDS * 400 + 401)})


def test_what_a_dead_process_left_behind_does_not_come_in_between(db, target, herald):
    # Given a transaction that waits for a lock, when all of it was sent
    delivery.make_tables(db)
    stream = herald(db, "--to", url(target))
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    holder = target.connect(autocommit=False)
    postgres.execute(holder, "select 1 from pgherald_positions for update")
    delivery.insert(db, 11, 20)
    waiting = "select 1 from pg_stat_activity where datname = %s and wait_event_type = 'Lock'"
    stream.wait_until(lambda: target.sql(waiting, (target.name,)), "the transaction to wait")

    # when its process dies, another one sends the same, and the lock goes
    stream.kill9()
    stream = herald(db, "--to", url(target), ready=False)
    stream.wait_until(lambda: len(target.sql(waiting, (target.name,))) > 1, "two to wait")
    holder.rollback()
    holder.close()

    # then one of them counts
    stream.wait_ready(db)
    delivery.insert(db, 21, 30)
    stream.wait_confirmed(db)
    delivery.check(events(target), {"a": range(1, 31)})


def start_odd(db, target, herald, *args):
    """Every tenth row has what jsonb refuses."""
    db.sql("create table a (n int primary key, j json)")
    stream = herald(db, "--to", url(target), *args)
    db.sql("insert into a select n, (case when n % 10 = 0 then '\"\\u0000\"' else '1' end)::json "
           "from generate_series(1, 100) n")
    return stream


GOOD = [n for n in range(1, 101) if n % 10]


def test_a_refused_row_stops_the_stream_behind_what_was_before(db, target, herald):
    stream = start_odd(db, target, herald)
    assert stream.wait_exit() == 1
    assert "was refused" in stream.err and "\\u0000" in stream.err and "public.a" in stream.err
    assert [e["new"]["n"] for e in events(target)] == list(range(1, 10))


def test_case_64_refused_rows_are_skipped_or_go_to_the_dead_letters(db, target, herald, tmp_path):
    letters = tmp_path / "letters.json"
    stream = start_odd(db, target, herald, "--on-refused", "dead-letter", "--dead-letter", f"file:{letters}")
    stream.wait_confirmed(db)
    assert [e["new"]["n"] for e in events(target)] == GOOD
    found = read_events(letters)
    assert [json.loads(e["body"])["new"]["n"] for e in found] == list(range(10, 101, 10))
    assert all("\\u0000" in e["reason"] for e in found)


def test_dead_letters_of_two_outputs_go_into_one_table(db, target, herald):
    db.sql("create table a (n int primary key, j json)")
    letters = url(target, "letters")
    stream = herald(db, "--to", url(target), "--to", url(target, "other"), "--on-refused", "dead-letter",
                    "--dead-letter", letters)
    db.sql("insert into a values (1, '\"\\u0000\"')")
    stream.wait_confirmed(db)
    assert len(events(target, "letters")) == 2


def test_a_table_with_a_constraint_of_the_users(db, target, herald):
    delivery.make_tables(db)
    herald(db, "--to", url(target)).stop()
    target.sql("alter table events add check (event->'new'->>'n' <> '5'), add column mine text default 'x'")
    stream = herald(db, "--to", url(target), "--on-refused", "skip")
    delivery.insert(db, 1, 9)
    stream.wait_confirmed(db)
    assert [e["new"]["n"] for e in events(target)] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert "check constraint" in stream.err


def test_several_writers_share_a_table(db, new_db, target, herald):
    # Given two databases, of which one has two outputs, all into one table
    other = new_db()
    for one in (db, other):
        delivery.make_tables(one)
    argv = [(db, "--to", url(target), "--to", url(target) + "&application_name=second"),
            (other, "--to", url(target))]

    # when both are written, and killed in between
    for n in range(3):
        streams = [herald(*args) for args in argv]
        for one in (db, other):
            delivery.insert(one, n * 100 + 1, n * 100 + 100)
        streams[0].wait_until(lambda: count(target) > n * 300 + 50, "some rows")
        for stream in streams:
            stream.kill9()
    for args in argv:
        herald(*args).wait_confirmed(args[0])

    # then the table has each writer's events once
    writers = target.sql("select writer, count(*), count(distinct id) from events group by writer order by writer")
    assert [w[1:] for w in writers] == [(300, 300)] * 3
    other_rows = target.sql("select distinct event->>'db' from events group by writer, event->>'db'")
    assert sorted(r[0] for r in other_rows) == sorted([db.name, other.name])


def test_writing_into_the_captured_database_does_not_loop(db, herald):
    delivery.make_tables(db)
    stream = herald(db, "--to", url(db), ready=False)
    stream.wait_until(lambda: db.is_streaming() or "captured" in stream.err, "the stream")
    db.sql("insert into a values (1)")
    assert stream.wait_exit() == 78
    assert "itself captured" in stream.err and "!public.pgherald_positions" in stream.err
    assert count(db) == 1

    # and with these left out all is well; another filter is another writer, who begins at the slot
    stream = herald(db, "--to", url(db), "--tables", "!public.events,!public.pgherald_positions")
    delivery.insert(db, 2, 10)
    stream.wait_until(lambda: count(db) >= 11, "11 rows")
    stream.stop()
    assert [e["new"]["n"] for e in events(db)] == [1, *range(1, 11)]


def fails(db, herald, to, *words):
    stream = herald(db, "--to", to, ready=False)
    assert stream.wait_exit() == 78
    for word in words:
        assert word in stream.err, stream.err
    return stream


def test_what_the_user_has_to_mend_is_said(db, far, target, herald):
    delivery.make_tables(db)
    fails(db, herald, "postgres://h/db", "names no table")
    fails(db, herald, "postgres://h/db?table=x&sslmod=require", "sslmod")
    fails(db, herald, uri("127.0.0.1", far.port, "nowhere", table="events"), "nowhere", "does not exist")

    far.sql("create role r login password 'right'; revoke create on schema public from public", dbname="far")
    far.hba("host all all 127.0.0.1/32 scram-sha-256\nlocal all all trust\n")
    far.reload()
    stream = fails(db, herald, f"postgres://r:hush-hush@127.0.0.1:{far.port}/far?table=events",
                   "password authentication failed")
    assert "hush" not in stream.err
    fails(db, herald, f"postgres://r:right@127.0.0.1:{far.port}/far?table=events", "Rights", "permission denied")

    target.sql("create table events (n int)")
    fails(db, herald, url(target), "not one of pgherald's", "committed_at")


def test_case_64_a_password_that_is_changed_while_streaming_ends_the_stream(db, far, herald):
    # Given a role whose password is changed, and whose connections end, before there are more events
    delivery.make_tables(db)
    far.sql("create role r superuser login password 's3cret'", dbname="far")
    far.hba("host all r 127.0.0.1/32 scram-sha-256\nlocal all all trust\nhost all all 127.0.0.1/32 trust\n")
    far.reload()
    to = far_url(far).replace("postgres@", "r:s3cret@")
    stream = herald(db, "--to", to)
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    far.sql("alter role r password '0ther'")
    far.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'r'")
    delivery.insert(db, 4, 6)

    # then that is said, and with the new one nothing is lost or comes twice
    assert stream.wait_exit() == 78
    assert "password authentication failed" in stream.err and "s3cret" not in stream.err
    stream = herald(db, "--to", to.replace("s3cret", "0ther"))
    stream.wait_confirmed(db)
    delivery.check(far_events(far), {"a": range(1, 7)})


def test_only_inserting_is_needed_where_the_tables_are_there(db, far, herald):
    delivery.make_tables(db)
    herald(db, "--to", far_url(far)).stop()
    far.sql("create role r login; grant insert on events to r; "
            "grant select, insert, update on pgherald_positions to r", dbname="far")
    stream = herald(db, "--to", far_url(far).replace("postgres@", "r@"))
    delivery.insert(db, 1, 5)
    stream.wait_confirmed(db)
    delivery.check(far_events(far), {"a": range(1, 6)})


def test_case_64_tls_is_verified_as_libpq_does(db, far, herald, tmp_path):
    delivery.make_tables(db)
    ca, other = tls.Authority(tmp_path), tls.Authority(tmp_path, "other")
    cert, key = ca.issue("localhost", far.owner or None)
    os.chmod(key, 0o600)
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        os.chmod(parent, 0o755)
    far.configure(ssl="on", ssl_cert_file=cert, ssl_key_file=key)
    far.restart()
    far.hba("hostssl all all 127.0.0.1/32 trust\nlocal all all trust\n")
    far.reload()

    def to(host, root):
        return uri(host, far.port, "far", table="events", sslmode="verify-full", sslrootcert=root)

    fails(db, herald, to("localhost", other.cert), "certificate verify failed")
    fails(db, herald, to("127.0.0.1", ca.cert), "does not match")
    stream = herald(db, "--to", to("localhost", ca.cert))
    delivery.insert(db, 1, 5)
    stream.wait_confirmed(db)
    delivery.check(far_events(far), {"a": range(1, 6)})


def test_case_64_a_full_disk_loses_nothing(db, server, target, herald, small_disk):
    # Given a table on a small disk that a neighbour has nearly filled
    delivery.make_tables(db)
    herald(db, "--to", url(target)).stop()
    space = small_disk / "space"
    space.mkdir()
    if server.owner:
        os.chmod(small_disk, 0o755)
        os.chown(space, server.owner["user"], server.owner["group"])
    for parent in small_disk.parents:
        if str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    server.sql(f"create tablespace {target.name} location '{space}'")
    target.sql(f"alter table events set tablespace {target.name}")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 800_000)

    # when events do not fit any more
    stream = herald(db, "--to", url(target))
    delivery.insert(db, 1, 1500)
    stream.wait_log("No space left")

    # then they all come, once, when there is room again
    ballast.unlink()
    stream.wait_confirmed(db)
    delivery.check(events(target), {"a": range(1, 1501)})
    stream.stop()
    target.sql("drop table events")
    server.sql(f"drop tablespace {target.name}")


def test_large_and_empty_values_and_a_text_column(db, target, herald):
    db.sql("create table a (n int primary key, body text)")
    target.sql("create schema mine; create table mine.log (writer int, id text, committed_at timestamptz, event text)")
    stream = herald(db, "--to", url(target, "mine.log"))
    db.sql("insert into a values (1, repeat('x', 20000000)), (2, '')")
    stream.wait_confirmed(db)
    rows = target.sql("select length(event::json->'new'->>'body') from mine.log order by id")
    assert rows == [(20000000,), (0,)]


def test_formats_without_positions_have_no_repeats_either(db, target, herald):
    db.sql("create table a (n int primary key)")
    for first in (1, 501, 1001):
        stream = herald(db, "--to", url(target), "--format", "pgevents")
        db.sql(f"insert into a select generate_series({first}, {first + 499})")
        stream.wait_until(lambda: count(target) >= first + 100, "some rows")
        stream.kill9()
    herald(db, "--to", url(target), "--format", "pgevents").wait_confirmed(db)
    assert [e["new"]["n"] for e in events(target)] == list(range(1, 1501))


def test_a_slot_that_moved_is_noticed(db, target, herald):
    delivery.make_tables(db)
    stream = herald(db, "--to", url(target))
    delivery.insert(db, 1, 3)
    stream.wait_until(lambda: target.sql("select 1 from pgherald_positions where mark_lsn is not null"), "the mark")
    stream.stop()
    delivery.insert(db, 4, 6)
    db.sql("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", (db.slot,))
    stream = herald(db, "--to", url(target), ready=False)
    assert stream.wait_exit() == 76
