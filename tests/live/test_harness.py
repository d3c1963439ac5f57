"""The harness itself: what the other tests rely on."""
import contextlib

import psycopg2
import pytest

from postgres import Database, Postgres


def test_a_server_survives_a_crash_with_its_committed_rows():
    # Given a durable server with a row
    with Postgres(durable=True) as server:
        server.sql("create table t (id int); insert into t values (1)")

        # when all of its processes are killed and it is started again
        server.kill9()
        with pytest.raises(psycopg2.OperationalError):
            server.sql("select 1")
        server.start()

        # then the row is there
        assert server.sql("select id from t") == [(1,)]


def test_a_killed_server_leaves_no_shared_memory():
    """The machine has room for a few thousand segments: that many servers later none would start."""
    def segments():
        with open("/proc/sysvipc/shm") as f:
            return {line.split()[1] for line in f}

    # Given a server with a segment
    with Postgres() as server:
        with open(f"{server.data}/postmaster.pid") as f:
            segment = f.read().splitlines()[6].split()[1]
        assert segment in segments()
        assert server.sql("show dynamic_shared_memory_type") == [("mmap",)]  # the others go with the folder

    # when it has been killed, which is how tests end theirs, then it is gone
    assert segment not in segments()


def test_a_database_is_dropped_with_the_slot_that_is_in_use(server):
    # Given a database with a slot and a session
    db = Database(server)
    db.sql("select pg_create_logical_replication_slot('%s', 'pgoutput')" % db.slot)
    with contextlib.closing(db.connect()):
        assert db.slot_state()["slot_type"] == "logical"

        # when it is dropped
        db.drop()

    # then both are gone
    assert server.sql("select from pg_database where datname = %s", (db.name,)) == []
    assert server.sql("select from pg_replication_slots where slot_name = %s", (db.slot,)) == []


def test_tcp_and_settings(new_server):
    # Given a server on a TCP port with a setting
    server = new_server(tcp=True, wal_sender_timeout="2s")

    # when a client comes over TCP, then it finds both
    with contextlib.closing(psycopg2.connect(host="127.0.0.1", port=server.port, user="postgres",
                                             dbname="postgres")) as client:
        cursor = client.cursor()
        cursor.execute("show wal_sender_timeout")
        assert cursor.fetchone() == ("2s",)
