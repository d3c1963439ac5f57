"""script/bench tables: how fast events get into a table of PostgreSQL and of SQLite.

Each round drains one backlog into each destination. Beside it, the bare way: the same messages in
transactions of the same size, by COPY into a table of the same shape on the same server (psycopg2),
and by prepared inserts (Python's sqlite3). The ratios count.
"""
import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "tests", "live"))
sys.path.insert(0, os.path.dirname(__file__))
import capture  # noqa: E402
from herald import read_lines  # noqa: E402
from postgres import Postgres  # noqa: E402

SHAPE = """(n bigint generated always as identity primary key, writer integer not null, id text collate "C" not null,
           committed_at timestamptz not null, received_at timestamptz not null default now(), event jsonb not null)"""


class Chunk:
    """What copy_expert reads."""

    def __init__(self, text):
        self.text = text

    def read(self, n):
        out, self.text = self.text[:n], self.text[n:]
        return out


def bare_copy(server, chunks):
    texts = []
    for chunk in chunks:
        lines = [line.decode().replace("\\", "\\\\") for line in chunk]
        texts.append("".join(f"1\t{line[7:32]}\t2026-01-01 00:00:00+00\t{line}\n" for line in lines))
    server.sql(f"drop table if exists bare; create table bare {SHAPE}", dbname="target")
    connection = server.connect("target")
    cursor = connection.cursor()
    began = time.monotonic()
    for text in texts:
        cursor.copy_expert("copy bare (writer, id, committed_at, event) from stdin", Chunk(text), size=262144)
    took = time.monotonic() - began
    connection.close()
    return took


def bare_inserts(path, chunks):
    rows = [[(1, line[7:32].decode(), "2026-01-01T00:00:00Z", line.decode()) for line in chunk] for chunk in chunks]
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute("create table bare (n integer primary key autoincrement, writer integer not null, id text not null, "
               "committed_at text not null, received_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ')), "
               "event text not null)")
    began = time.monotonic()
    for some in rows:
        db.execute("begin")
        db.executemany("insert into bare (writer, id, committed_at, event) values (?, ?, ?, ?)", some)
        db.execute("commit")
    took = time.monotonic() - began
    db.close()
    return took


def cut(lines, size):
    chunks, n = [[]], 0
    for line in lines:
        if n >= size or len(chunks[-1]) >= 2048:
            chunks.append([])
            n = 0
        chunks[-1].append(line)
        n += len(line) + 1
    return chunks


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with Postgres(durable=True, tcp=True, shared_buffers="256MB") as server, \
            tempfile.TemporaryDirectory(prefix="pgherald-bench-", dir="/tmp") as folder:
        server.sql("create database bench")
        server.sql("create database target")
        end = capture.backlog(server, args.rows)
        to = {"file": f"file:{folder}/out.json",
              "PostgreSQL": f"postgres://postgres@127.0.0.1:{server.port}/target?table=events",
              "SQLite": f"sqlite:{folder}/out.db?table=events"}
        took = {name: [] for name in [*to, "bare COPY", "bare inserts"]}
        for n in range(args.rounds):
            for name, url in to.items():
                slot = f"s{n}{name.lower()}"
                server.sql("select pg_copy_logical_replication_slot('backlog', %s)", (slot,), dbname="bench")
                seconds, cpu, _ = capture.timed([capture.PROGRAM, "stream", server.conninfo("bench"), "--slot", slot,
                                                 "--until", end, "--to", url])
                took[name].append(seconds)
                print(f"{name:12} {seconds:6.2f} s  {args.rows / seconds:9,.0f}/s  {cpu / args.rows * 1e6:5.2f} CPU s "
                      "a million", flush=True)
            chunks = cut(read_lines(f"{folder}/out.json")[-args.rows:], 256 << 10)
            took["bare COPY"].append(bare_copy(server, chunks))
            took["bare inserts"].append(bare_inserts(f"{folder}/bare{n}.db", chunks))
        median = {name: statistics.median(seconds) for name, seconds in took.items()}
        for name, seconds in median.items():
            print(f"{name:12} {args.rows / seconds:9,.0f} events/s")
        print(f"PostgreSQL is {median['bare COPY'] / median['PostgreSQL']:.2f} x bare COPY, "
              f"SQLite {median['bare inserts'] / median['SQLite']:.2f} x bare inserts")


main()
