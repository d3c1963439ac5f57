#!/usr/bin/python3
"""The stress of the store's order: many writers, one reader, and what the reader has missed.

    tests/live/store_stress.py [--seconds 60] [--naive] [--no-kills]

Twelve writers over 36 streams and two on hot ones; they wait inside their transactions, one
transaction in six is rolled back, a third writes another table first. Besides: a transaction of two
seconds is always open in another database, one appender holds its transaction for 800 ms, and
backends are killed with -9, which restarts the whole server. The truth is what the tables hold at
the end. --naive reads "position > last" without the horizon, which must lose events.
"""
import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time

import psycopg2

import postgres
import store

FORK = multiprocessing.get_context("fork")
Result = collections.namedtuple("Result", "events missed breaks repeated p50 p99 most kills")
NAIVE = "select * from herald.event where position > %s order by position limit %s"
STREAMS = {"all": [f"{i:02}" for i in range(36)], "hot": ["hot0", "hot1"], "hol": ["long0", "long1"]}


def lost(error):
    """Whether it is the connection that failed: the server has no code for it, or it shuts down."""
    return not error.pgcode or error.pgcode.startswith("57P")


def patiently(conninfo, work, stop):
    """Runs work(connection) until it returns; the server may restart at any time."""
    while not stop.is_set():
        connection = None
        try:
            connection = psycopg2.connect(conninfo)
            return work(connection)
        except psycopg2.Error as e:
            if not lost(e):
                raise
            time.sleep(0.02)
        finally:
            if connection:
                connection.close()


def transaction(connection, rng, name, number, hold, immediate):
    """One transaction of a writer; returns when its commit began, or None if it was rolled back."""
    streams = STREAMS.get(name[:3], STREAMS["all"])
    with connection.cursor() as cursor:
        if rng.random() < 1 / 3:
            cursor.execute("insert into business values (%s)", (number,))
        if immediate and rng.random() < 0.5:
            cursor.execute("set constraints all immediate")
        for stream in sorted(rng.sample(streams, rng.choice((1, 1, 2)))):  # sorted: no deadlocks
            events = [{"type": "Tick", "data": {"by": name, "n": number}}] * rng.choice((1, 1, 3))
            events = events[0] if len(events) == 1 else events  # append has a way of its own for one
            cursor.execute("select herald.append('stress', %s, %s)", (stream, json.dumps(events)))
            if not hold and rng.random() < 0.3:
                time.sleep(rng.random() * 0.01)
        if hold:
            time.sleep(hold)
        if rng.random() < 1 / 6:
            connection.rollback()
            return None
        begun = time.time()
        connection.commit()
        return begun


def write(conninfo, stop, name, hold, immediate, answers):
    """Appends until it is stopped; answers with {n: when its commit began}."""
    rng = random.Random(name)
    commits = {}
    number = 0

    def session(connection):
        nonlocal number
        while not stop.is_set():
            number += 1
            commits[number] = transaction(connection, rng, name, number, hold, immediate)

    patiently(conninfo, session, stop)
    answers.put((name, commits))


def stay_open(conninfo, stop):
    """Always a writing transaction of two seconds, in a database of its own."""
    def session(connection):
        while not stop.is_set():
            with connection.cursor() as cursor:
                cursor.execute("insert into business values (1)")
            stop.wait(2)
            connection.commit()

    patiently(conninfo, session, stop)


class Reader:
    """Follows the feed and checks what it sees."""

    def __init__(self, conninfo, query):
        self.conninfo, self.query = conninfo, query
        self.after = 0
        self.seen = {}
        self.next = collections.Counter()
        self.breaks = self.repeated = 0
        self.connection = None

    def page(self):
        """Reads one page; whether it had anything."""
        if not self.connection:
            self.connection = psycopg2.connect(self.conninfo)
            self.connection.autocommit = True
        with self.connection.cursor() as cursor:
            cursor.execute(self.query, (self.after, 1000))
            rows = cursor.fetchall()
        now = time.time()
        for position, _, stream, version, _, _, data, *_ in rows:
            self.repeated += position in self.seen
            self.seen[position] = (data["by"], data["n"], now)
            self.breaks += version != self.next[stream]
            self.next[stream] = version + 1
            self.after = position
        return bool(rows)

    def follow(self, until):
        while not until():
            try:
                if not self.page():
                    time.sleep(0.001)
            except psycopg2.Error as e:
                if not lost(e):
                    raise
                self.connection = None
                time.sleep(0.02)


def kill_a_backend(server, rng):
    """One of the writers' backends dies as if the kernel had taken it: all others end, too."""
    with contextlib.suppress(psycopg2.Error):
        pids = [pid for (pid,) in server.sql("select pid from pg_stat_activity where datname = 'stress' "
                                             "and state like '%transaction%'")]
        if pids:
            os.kill(rng.choice(pids), signal.SIGKILL)
            return 1
    return 0


def percentile(values, share):
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def measure(server, seconds=10.0, naive=False, kills=2, immediate=False):
    """Runs the stress on a server of its own; a Result."""
    db = postgres.Database(server)
    server.sql(f"alter database {db.name} rename to stress")
    server.sql("create database elsewhere")
    server.sql("create table business (n int)", dbname="elsewhere")
    db.name = "stress"
    store.init(db)
    db.sql("create table business (n int)")
    db.connection.close()

    stop, answers = FORK.Event(), FORK.Queue()
    names = [(f"writer{i}", 0) for i in range(12)] + [("hot0", 0), ("hot1", 0), ("holder", 0.8)]
    workers = [FORK.Process(target=write, args=(db.conninfo, stop, name, hold, immediate, answers))
               for name, hold in names]
    workers.append(FORK.Process(target=stay_open, args=(server.conninfo("elsewhere"), stop)))
    for worker in workers:
        worker.start()

    reader = Reader(db.conninfo, NAIVE if naive else "select * from herald.read(%s, %s)")
    rng, begin, killed = random.Random(1), time.monotonic(), 0
    for i in range(kills + 1):
        part = begin + seconds * (i + 1) / (kills + 1)
        reader.follow(lambda end=part: time.monotonic() > end)
        if i < kills:
            killed += kill_a_backend(server, rng)
    stop.set()
    ended = []
    deadline = time.monotonic() + postgres.LIMIT

    def all_ended():
        while not answers.empty():
            ended.append(answers.get())
        return len(ended) == len(names) or time.monotonic() > deadline

    reader.follow(all_ended)
    commits = dict(ended)
    assert len(commits) == len(names), "a writer failed"
    for worker in workers:
        worker.join(postgres.LIMIT)
    truth = postgres.wait_until(lambda: all_positions(db), "the server to answer")
    deadline = time.monotonic() + 10
    reader.follow(lambda: reader.after >= max(truth) or time.monotonic() > deadline)

    settled = min(t for of in commits.values() for t in of.values() if t) + 1  # all have connected
    lags = sorted(now - commits[by][n] for by, n, now in reader.seen.values()
                  if by != "holder" and (commits[by].get(n) or 0) > settled)
    return Result(len(truth), len(truth - reader.seen.keys()), reader.breaks, reader.repeated,
                  *(1000 * percentile(lags, share) for share in (0.5, 0.99, 1)), killed)


def all_positions(db):
    """Of all committed events: each must have one."""
    try:
        rows = db.sql("select f.position from herald.entry e left join herald.feed f on f.event = e.id")
    except psycopg2.Error:
        return None
    positions = {position for (position,) in rows}
    assert None not in positions and len(positions) == len(rows), "an event without a position"
    return positions


def describe(result):
    return ("{events} events, missed {missed}, stream-order breaks {breaks}, repeated {repeated}, "
            "commit to read: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {most:.0f} ms, "
            "{kills} kills").format(**result._asdict())


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--seconds", type=float, default=60)
    args.add_argument("--naive", action="store_true")
    args.add_argument("--no-kills", action="store_true")
    args = args.parse_args()
    with postgres.Postgres(max_connections=50, **store.STRESS_SETTINGS) as server:
        result = measure(server, args.seconds, args.naive, 0 if args.no_kills else int(args.seconds / 5),
                         immediate=args.naive)
    print(describe(result))
    sys.exit(bool(result.missed or result.breaks or result.repeated))


if __name__ == "__main__":
    main()
