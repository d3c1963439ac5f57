"""script/bench capture: how fast, how lean and how prompt `pgherald stream` is.

Each round copies the slot of one backlog and drains it by each program in turn; the figures are
medians over the rounds. The ratios count, not the absolute numbers: everything runs on one machine
in one run.
"""
import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "tests", "live"))
from herald import environment  # noqa: E402
from postgres import Postgres  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PROGRAM = os.path.join(ROOT, "build", "pgherald")
TABLE = """create table bench (id bigint primary key, n int, name text, amount numeric, body text,
           at timestamptz, tags text[], doc jsonb)"""
ROWS = """insert into bench select i, i %% 1000, 'customer ' || i, (i %% 100000) / 100.0,
          repeat(md5(i::text), 2)::char(60)::text, '2026-01-01'::timestamptz + i * interval '1 second',
          array['red', 'green', 'tag ' || i %% 50], jsonb_build_object('k', i, 'flag', i %% 2 = 0)
          from generate_series(%s, %s) i"""


def peak_kib(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return next((int(line.split()[1]) for line in f if line.startswith("VmHWM")), 0)
    except OSError:
        return 0


def timed(argv):
    """Runs to the end: seconds, CPU seconds, peak memory in MiB of that process."""
    began = time.monotonic()
    child = subprocess.Popen(argv, env=environment(), stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, cwd="/")
    peak = 0
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        peak = max(peak, peak_kib(child.pid))
        time.sleep(0.02)
    if status:
        sys.exit(f"{' '.join(argv)} failed:\n{child.stderr.read().decode()}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, peak / 1024


def backlog(server, rows):
    """A table of so many inserted rows behind the slot `backlog`; returns its end."""
    def sql(*args):
        return server.sql(*args, dbname="bench")

    sql(TABLE)
    sql("create publication pgherald for all tables")
    sql("select pg_create_logical_replication_slot('backlog', 'pgoutput')")
    for first in range(1, rows + 1, 1000):
        sql(ROWS, (first, min(first + 999, rows)))
    return sql("select pg_current_wal_flush_lsn()")[0][0]


def programs(server, host, end, folder):
    """Name and command of each contestant; {} is the slot."""
    conninfo = server.conninfo("bench", host=host)
    herald = [PROGRAM, "stream", conninfo, "--slot", "{}", "--until", end]
    return {
        "pg_recvlogical": [f"{server.bin}/pg_recvlogical", "-d", conninfo, "-S", "{}",
                           "--start", "-f", "/dev/null", "-o", "proto_version=1",
                           "-o", "publication_names=pgherald", "--endpos", end],
        "pgherald null:": [*herald, "--to", "null:"],
        "pgherald file:": [*herald, "--to", f"file:{folder}/out.json"],
    }


def drain(server, host, end, rows, rounds):
    results = {}
    for turn in range(rounds):
        for name, argv in programs(server, host, end, server.dir).items():
            out = f"{server.dir}/out.json"
            if os.path.exists(out):
                os.unlink(out)
            server.sql(f"select pg_copy_logical_replication_slot('backlog', 'copy{turn}')", dbname="bench")
            figures = timed([a.format(f"copy{turn}") if a == "{}" else a for a in argv])
            results.setdefault(name, []).append(figures)
            server.sql(f"select pg_drop_replication_slot('copy{turn}')", dbname="bench")
            if "file" in name:
                with open(out, "rb") as f:
                    lines = sum(1 for _ in f)
                if lines != rows:
                    sys.exit(f"{lines} lines instead of {rows}")
    base = statistics.median(r[0] for r in results["pg_recvlogical"])
    print(f"\n{rows} rows of 8 columns over {'TCP' if host[0] != '/' else 'a unix socket'}, "
          f"{rounds} rounds, medians")
    print(f"{'':16} {'rows/s':>9} {'ratio':>6} {'CPU s':>6} {'peak MiB':>9}")
    for name, rounds_of in results.items():
        wall, cpu, peak = (statistics.median(column) for column in zip(*rounds_of))
        print(f"{name:16} {rows / wall:9.0f} {base / wall:6.2f} {cpu:6.2f} {peak:9.1f}")


def memory(server, sizes):
    """Peak memory for one transaction of so many rows."""
    print("\none transaction of N rows to a file")
    for rows in sizes:
        server.sql("create table if not exists big (id int, body text)", dbname="bench")
        server.sql("select pg_create_logical_replication_slot('big', 'pgoutput')", dbname="bench")
        server.sql(f"insert into big select i, 'row ' || i from generate_series(1, {rows}) i", dbname="bench")
        end = server.sql("select pg_current_wal_flush_lsn()", dbname="bench")[0][0]
        wall, cpu, peak = timed([PROGRAM, "stream", server.conninfo("bench"), "--slot", "big",
                                 "--until", end, "--tables", "public.big", "--to",
                                 f"file:{server.dir}/big.json"])
        print(f"  {rows:>9} rows: {peak:5.1f} MiB peak, {rows / wall:9.0f} rows/s, {cpu:.2f} CPU s")
        server.sql("select pg_drop_replication_slot('big')", dbname="bench")
        server.sql("truncate big", dbname="bench")
        os.unlink(f"{server.dir}/big.json")


def latency(server, seconds, rate):
    """Commit to line on standard output, at a steady rate of one-row transactions."""
    server.sql("create table tick (at double precision)", dbname="bench")
    child = subprocess.Popen([PROGRAM, "stream", server.conninfo("bench"), "--slot", "ticks",
                              "--tables", "public.tick"], env=environment(), stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
    seen = []

    def read():
        for line in child.stdout:
            now = time.monotonic()
            seen.append(now - committed[json.loads(line)["new"]["at"]])

    committed = {}
    reader = threading.Thread(target=read)
    reader.start()
    with contextlib.closing(server.connect("bench")) as db:
        c = db.cursor()
        while not server.sql("select 1 from pg_replication_slots where slot_name = 'ticks' and active",
                             dbname="bench"):
            time.sleep(0.01)
        began = time.monotonic()
        for i in range(seconds * rate):
            while time.monotonic() < began + i / rate:
                time.sleep(0.0002)
            committed[i] = time.monotonic()  # taken before: the commit itself is counted
            c.execute("insert into tick values (%s)", (i,))
    deadline = time.monotonic() + 10
    while len(seen) < seconds * rate and time.monotonic() < deadline:
        time.sleep(0.01)
    child.terminate()
    child.wait()
    reader.join()
    ms = sorted(s * 1000 for s in seen)
    print(f"\nat {rate} transactions/s, INSERT sent -> line read: {len(ms)} events, "
          f"p50 {ms[len(ms) // 2]:.2f} ms, p99 {ms[len(ms) * 99 // 100]:.2f} ms, max {ms[-1]:.2f} ms")


def codec(rounds):
    """The decoder and the encoder of native JSON alone, on one core, over rows as the server sends them."""
    subprocess.run(["ninja", "-C", os.path.join(ROOT, "build"), "--quiet", "codec"], check=True)
    print("\nin process, without a server", flush=True)
    subprocess.run([os.path.join(ROOT, "build", "codec"), str(rounds)], check=True)


def main():
    p = argparse.ArgumentParser(prog="script/bench capture")
    p.add_argument("--rows", type=int, default=1_000_000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--big", type=int, nargs="*", default=[10_000, 10_000_000])
    p.add_argument("--only", choices=["drain", "memory", "latency", "codec"])
    args = p.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if args.only in (None, "codec"):
        codec(args.rounds)
    if args.only == "codec":
        return
    with Postgres(tcp=True, shared_buffers="512MB", max_wal_size="16GB") as server:
        server.sql("create database bench")
        if args.only in (None, "drain"):
            end = backlog(server, args.rows)
            for host in ("127.0.0.1", server.dir):
                drain(server, host, end, args.rows, args.rounds)
            server.sql("select pg_drop_replication_slot('backlog')", dbname="bench")
        if args.only in (None, "memory"):
            if args.only:
                server.sql("create publication pgherald for all tables", dbname="bench")
            memory(server, args.big)
        if args.only in (None, "latency"):
            latency(server, 10, 100)


if __name__ == "__main__":
    main()
