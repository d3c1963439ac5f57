"""What survives: crashes, restarts, cut connections, blocked outputs. Numbers are those of the
acceptance cases."""
import array
import fcntl
import io
import json
import random
import signal
import termios
import threading

import postgres
from postgres import wait_until


class Writer(threading.Thread):
    """Inserts numbered rows into tables a and b until stopped; outlives a server that goes away."""

    def __init__(self, db, seed=1):
        super().__init__(daemon=True)
        self.db, self.random = db, random.Random(seed)
        self.committed = {"a": [], "b": []}
        self.n = 0
        self.stopping = threading.Event()

    def run(self):
        connection = None
        while not self.stopping.is_set():
            rows = self.random.choice((1, 1, 3, 40))
            table = self.random.choice("ab")
            numbers = list(range(self.n + 1, self.n + rows + 1))
            try:
                if not connection or connection.closed:
                    connection = self.db.connect()
                postgres.execute(connection, f"insert into {table} select unnest(%s::int[])", (numbers,))
                self.committed[table] += numbers
            except postgres.psycopg2.Error:
                connection = None
            self.n += rows

    def stop(self):
        self.stopping.set()
        self.join(postgres.LIMIT)


def make_tables(db):
    db.sql("create table a (n int primary key); create table b (n int primary key)")


def numbers(events, table):
    return [e["new"]["n"] for e in events if e["table"] == table]


def rows(db, table):
    return [n for (n,) in db.sql(f"select n from {table} order by n")]


def check_whole(db, events):
    """Every row once, in order: both tables' numbers only grow."""
    for table in "ab":
        assert numbers(events, table) == rows(db, table), f"table {table}"


def test_case_1_an_idle_slot_moves_past_what_is_of_no_interest(db, new_db, herald):
    # Given a stream of one silent table
    db.sql("create table quiet (n int); create table noise (n int, t text)")
    stream = herald(db, "--tables", "public.quiet")

    # when much is written elsewhere, there and in another database, then the slot follows
    other = new_db()
    other.sql("create table noise (n int, t text)")
    for one in (db, other):
        one.sql("insert into noise select i, repeat('x', 500) from generate_series(1, 20000) i")
        stream.wait_confirmed(db, db.wal_lsn())

    # and there is no event
    assert stream.count == 0


def test_case_2_a_pending_event_holds_the_slot(db, herald):
    # Given a stream whose output nobody reads
    db.sql("create table t (n int, t text)")
    stream = herald(db, read=False)
    before = db.slot_state()["confirmed"]
    db.sql("insert into t select i, repeat('x', 1000) from generate_series(1, 1000) i")
    first_commit = db.wal_lsn()

    # when a lot more is written, here and elsewhere
    db.sql("create table other (n int)")
    db.sql("insert into other select generate_series(1, 10000)")
    db.sql("select pg_sleep(1.2)")

    # then the slot stays behind the commit whose events were not taken
    assert before <= db.slot_state()["confirmed"] < first_commit

    # and moves on once they are
    stream.drain()
    stream.wait_confirmed(db)


def test_case_3_killed_at_random_a_file_has_every_row_once(db, herald, tmp_path):
    # Given a writer that never stops
    make_tables(db)
    writer = Writer(db)
    luck = random.Random(7)
    path = tmp_path / "out.json"
    herald(db, file=path).stop()
    writer.start()

    # when pgherald is killed again and again
    for _ in range(24):
        stream = herald(db, file=path)
        wanted = stream.count + luck.randrange(1, 500)
        stream.wait_until(lambda: stream.count >= wanted, "some events")
        stream.kill9()
    writer.stop()

    # then the last run completes the file: nothing lost, repeated, torn or out of order
    stream = herald(db, file=path)
    stream.wait_confirmed(db)
    check_whole(db, stream.stop())


def test_case_3_killed_at_random_repeats_carry_the_same_id(db, herald):
    # Given a writer, and a stream to standard output that is killed again and again
    make_tables(db)
    herald(db).stop()
    writer = Writer(db)
    writer.start()
    lines = []
    for _ in range(14):
        stream = herald(db)
        stream.wait_for(300)
        stream.kill9()
        lines += stream.lines
    writer.stop()
    stream = herald(db)
    stream.wait_confirmed(db)
    stream.stop()
    lines += stream.lines

    # then the same id is always the same event, and all rows are there
    by_id = {}
    for line in lines:
        event = json.loads(line)
        assert by_id.setdefault(event["id"], event) == event
    check_whole(db, [by_id[key] for key in sorted(by_id)])


def test_case_4_a_clean_end_leaves_no_repeats(db, herald):
    make_tables(db)
    stream = herald(db)
    db.sql("insert into a select generate_series(1, 1000)")
    stream.wait_for(1000)
    stream.stop()
    again = herald(db)
    db.sql("insert into b values (1)")
    assert [e["table"] for e in again.wait_for(1)] == ["b"]


def test_case_4_until_now_drains_and_leaves_the_slot_behind_it(db, herald):
    make_tables(db)
    herald(db).stop()
    db.sql("insert into a select generate_series(1, 500)")
    end = db.wal_lsn()
    run = herald(db, "--until", "now", ready=False)
    assert run.wait_exit() == 0
    assert run.count == 500
    assert db.slot_state()["confirmed"] >= end


def test_case_6_copy_and_multi_row_inserts_survive_a_crash_half_way(db, herald, tmp_path):
    make_tables(db)
    path = tmp_path / "out.json"
    herald(db, file=path).stop()
    db.sql("insert into a select generate_series(1, 20000)")
    with db.connect().cursor() as c:
        c.copy_from(io.StringIO("".join(f"{i}\n" for i in range(1, 20001))), "b")
    stream = herald(db, file=path, ready=False)
    stream.wait_for(5000)
    stream.kill9()
    stream = herald(db, file=path)
    stream.wait_confirmed(db)
    check_whole(db, stream.stop())


def test_case_7_changes_behind_a_transactional_message_survive_a_crash(db, herald, tmp_path):
    make_tables(db)
    path = tmp_path / "out.json"
    herald(db, file=path).stop()
    db.transaction("select pg_logical_emit_message(true, 'p', 'begin')",
                   "insert into a select generate_series(1, 20000)",
                   "select pg_logical_emit_message(true, 'p', 'end')")
    stream = herald(db, file=path, ready=False)
    stream.wait_for(1000)
    stream.kill9()
    stream = herald(db, file=path)
    stream.wait_confirmed(db)
    events = stream.stop()
    assert [e["action"] for e in events] == ["message"] + ["insert"] * 20000 + ["message"]
    assert [e["content"] for e in (events[0], events[-1])] == ["begin", "end"]


def test_case_8_many_small_and_empty_transactions(db, herald):
    make_tables(db)
    stream = herald(db)
    for n in range(1, 201):
        db.sql(f"begin; insert into a values ({n}); commit")
        db.sql("begin; select txid_current(); commit")
    stream.wait_for(200)
    stream.wait_confirmed(db)
    assert numbers(stream.events, "a") == list(range(1, 201))


def unread(pipe):
    """Bytes that wait in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def resident_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def test_case_12_a_blocked_output_costs_neither_connection_nor_memory(new_server, herald):
    # Given a server that gives up on silent receivers after 2 s, and an output nobody reads
    server = new_server(wal_sender_timeout="2s")
    db = postgres.Database(server)
    db.sql("create table t (n int, t text)")
    stream = herald(db, read=False)
    sender = db.slot_state()["active_pid"]
    db.sql("insert into t select i, repeat('x', 1000) from generate_series(1, 50000) i")

    # when three times that passes
    db.sql("select pg_sleep(6.5)")

    # then it is the same connection, and little memory
    assert db.slot_state()["active_pid"] == sender
    assert resident_kib(stream.pid) < 400_000  # a sanitizer's own share included
    assert "waiting for output stdout:" in stream.err

    # and all events come once somebody reads, over that same connection
    stream.drain()
    stream.wait_for(50000)
    assert [e["new"]["n"] for e in stream.events] == list(range(1, 50001))
    assert "trying again" not in stream.err


def test_case_13_the_server_can_stop_while_we_are_connected(new_server, herald):
    server = new_server()
    db = postgres.Database(server)
    make_tables(db)
    stream = herald(db)
    db.sql("insert into a values (1)")
    stream.wait_for(1)

    server.stop("fast")
    stream.wait_log("trying again")
    server.start()
    db.connection = None
    db.sql("insert into a values (2)")

    assert numbers(stream.wait_for(2), "a") == [1, 2]
    assert stream.err.count("trying again") == 1


def test_case_14_terminated_connections_are_mended_without_loss_or_repeat(db, herald):
    make_tables(db)
    stream = herald(db)
    writer = Writer(db, seed=3)
    writer.start()
    for turn in range(8):
        wanted = stream.count + 200
        stream.wait_until(lambda: stream.count >= wanted, "some events")
        db.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgherald'"
               " and datname = current_database()")
    writer.stop()
    stream.wait_confirmed(db)
    check_whole(db, stream.stop())


def test_crashes_of_the_server_lose_nothing(new_server, herald, tmp_path):
    # Given a durable server, a writer and a stream to a file
    server = new_server(durable=True)
    db = postgres.Database(server)
    make_tables(db)
    path = tmp_path / "out.json"
    stream = herald(db, file=path)
    writer = Writer(db, seed=5)
    writer.start()

    # when the server is killed again and again
    for _ in range(12):
        wanted = stream.count + 150
        stream.wait_until(lambda: stream.count >= wanted, "some events")
        server.kill9()
        server.start()
    writer.stop()
    db.connection = None

    # then the same process has gone on each time
    stream.wait_confirmed(db)
    check_whole(db, stream.stop())


def test_a_standby_takes_over(db, herald):
    # Given two processes for one slot
    make_tables(db)
    first = herald(db)
    second = herald(db, ready=False)
    second.wait_log("waiting as a standby")
    assert str(db.slot_state()["active_pid"]) in second.err
    db.sql("insert into a values (1)")
    first.wait_for(1)

    # when the first ends
    first.stop()

    # then the second goes on where it stopped
    db.sql("insert into a values (2)")
    assert numbers(second.wait_for(1), "a") == [2]


def test_no_wait_ends_at_once_when_the_slot_is_in_use(db, herald):
    make_tables(db)
    herald(db)
    second = herald(db, "--no-wait", ready=False)
    assert second.wait_exit() == 69
    assert str(db.slot_state()["active_pid"]) in second.err


def test_a_second_signal_ends_at_once(db, herald):
    db.sql("create table t (t text)")
    stream = herald(db, read=False)
    db.sql("insert into t select repeat('x', 1000) from generate_series(1, 20000)")
    wait_until(lambda: unread(stream.process.stdout) > 60000, "a full pipe")
    wait_until(lambda: stream.process.poll() is not None or stream.signal(signal.SIGTERM), "the end")
    assert stream.process.returncode == 128 + signal.SIGTERM
