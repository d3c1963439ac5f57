"""script/bench store: what the event store costs and how fast it reads.

    script/bench store [--seconds N] [--rounds N] [--events N] [--only PART]

PART is append, woken, bulk, read, catchup, latency, executors, purge or sqlite; --events 1000000 is a long way to catch up.

Appends by herald.append are compared with the same work by hand, in turn, by pgbench on prepared
statements; figures are medians over the rounds. The ratios count, not the absolute numbers:
everything runs on one machine in one run. "Of CPU" is what one core of the server would do alone,
which counts where the machine is busy with other things. By hand there are a row with the stream's version and a
row of the event with the same columns and the same unique keys, and a position drawn when the event
is written, so that readers by position would lose events.
"""
import argparse
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, f"{ROOT}/tests/live")
import postgres  # noqa: E402
import store  # noqa: E402
from herald import environment  # noqa: E402
from store import open_store  # noqa: E402
from store_faces import Sql  # noqa: E402

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build", "pgherald")
STREAMS = 20000
DATA = json.dumps({"customer": "c-1234567890", "amount": 12345, "currency": "EUR", "note": "x" * 120})
BY_HAND = """
create table hand_stream (category text, id text, version bigint, primary key (category, id)) with (fillfactor = 80);
create table hand_event (position bigserial primary key, category text, stream text, version bigint,
    id uuid unique default gen_random_uuid(), type text, topic text, data jsonb, metadata jsonb,
    time timestamptz default clock_timestamp(), unique (category, stream, version));
insert into hand_stream select 'order', 's' || i, -1 from generate_series(1, %(streams)s) i;
"""
UPSERT = ("insert into hand_stream values ('order', 's' || :s, 0) on conflict (category, id) "
          "do update set version = hand_stream.version + 1 returning")
FORMS = {
    "append": "select herald.append('order', 's' || :s, :event);",
    "by hand": f"begin;\n{UPSERT} version \\gset\ninsert into hand_event (category, stream, version, type, data) "
               "values ('order', 's' || :s, :version, 'Placed', :data);\ncommit;",
    "one statement": f"with h as ({UPSERT} id, version) insert into hand_event (category, stream, version, type, data) "
                     "select 'order', id, version, 'Placed', :data from h;",
}


def pgbench_command(server, db, script, clients, seconds):
    return [f"{server.bin}/pgbench", "-h", server.host, "-U", "postgres", "-n", "-M", "prepared", "-c", str(clients),
            "-j", "2", "-T", str(seconds), "-D", f"data={DATA}",
            "-D", f'event={{"type": "Placed", "data": {DATA}}}', "-f", script, db.name]


def pgbench(*args):
    """Transactions a second."""
    done = subprocess.run(pgbench_command(*args), capture_output=True, text=True)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


def percent(values, share):
    values = sorted(values)
    return values[min(int(len(values) * share), len(values) - 1)]


def spread(ratios):
    ratios = sorted(ratios)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"


def bench_append(server, db, args):
    db.sql(BY_HAND % {"streams": STREAMS})
    db.sql(f"select count(herald.append('order', 's' || i, '{{\"type\": \"Made\"}}')) from generate_series(1, {STREAMS}) i")
    db.sql("vacuum analyze")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        for name, text in FORMS.items():
            with open(f"{folder}/{name}.sql", "w") as f:
                f.write(f"\\set s random(1, {STREAMS})\n{text}\n")
        for clients in 8, 32:
            rates = {name: [] for name in FORMS}
            for _ in range(args.rounds):
                for name in random.sample(list(FORMS), len(FORMS)):  # each leaves the next some work of the disk
                    rates[name].append(pgbench(server, db, f"{folder}/{name}.sql", clients, args.seconds))
            best = {name: statistics.median(r) for name, r in rates.items()}
            print(f"append, {clients} clients: {best['append']:,.0f}/s; " + ", ".join(
                f"{spread(a / b for a, b in zip(rates['append'], rates[n]))} x {n} ({best[n]:,.0f}/s)"
                for n in FORMS if n != "append"))


class Meter:
    """Counts what one backend does, by the clock and by its CPU time; also each half."""

    def __init__(self, here):
        self.pid = here.connection.info.backend_pid
        self.total, self.marks = 0, [(0, time.monotonic(), self.cpu())]

    def cpu(self):
        with open(f"/proc/{self.pid}/schedstat") as f:
            return int(f.read().split()[0]) / 1e9

    def add(self, n):
        self.total += n
        self.marks.append((self.total, time.monotonic(), self.cpu()))

    def __str__(self):
        _, begin, begin_cpu = self.marks[0]
        _, end, end_cpu = self.marks[-1]
        return (f"{self.total / (end - begin):,.0f} events/s of {self.total:,} "
                f"({self.total / (end_cpu - begin_cpu):,.0f}/s of CPU)")

    def second_half(self):
        """How fast the second half was, with the first as 1, by CPU time."""
        middle = self.marks[len(self.marks) // 2]
        speeds = [(b[0] - a[0]) / (b[2] - a[2]) for a, b in ((self.marks[0], middle), (middle, self.marks[-1]))]
        return speeds[1] / speeds[0]


@contextlib.contextmanager
def running(*works):
    """Runs functions beside, each with the Event that ends it."""
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(stop,)) for work in works]
    for t in threads:
        t.start()
    try:
        yield
    finally:
        stop.set()
        for t in threads:
            t.join()


def appended_per_second(db, seconds):
    def appended():
        return db.sql("select pg_sequence_last_value('herald.feed_position')")[0][0]
    first, begin = appended(), time.monotonic()
    time.sleep(seconds)
    return (appended() - first) / (time.monotonic() - begin)


def bench_woken(server, db, args):
    """Appends of one pgbench while subscribers come and go, against those just before and after. Each
    begins at the feed's end, so that none has to catch up; nobody at all shows how far to trust it."""
    db.sql(f"select count(herald.append('order', 's' || i, '{{\"type\": \"Made\"}}')) from generate_series(1, {STREAMS}) i")
    db.sql("vacuum analyze")
    subscriptions = {"all": ["--to", "null:"], "something else": ["--category", "other"], None: []}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        with open(f"{folder}/append.sql", "w") as f:
            f.write(f"\\set s random(1, {STREAMS})\n{FORMS['append']}\n")
        with subprocess.Popen(pgbench_command(server, db, f.name, 8, 86400), stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as appends:
            for name, options in subscriptions.items():
                ratios, before = [], appended_per_second(db, args.seconds)
                for i in range(args.rounds):
                    with contextlib.ExitStack() as stack:
                        if name:
                            stack.enter_context(subscribed(db, f"{name} {i}", *options, stdout=subprocess.DEVNULL))
                        beside = appended_per_second(db, args.seconds)
                    after = appended_per_second(db, args.seconds)
                    ratios.append(2 * beside / (before + after))
                    before = after
                error = statistics.stdev(ratios) / len(ratios) ** 0.5
                print(f"append, 8 clients, with {f'a subscription to {name}' if name else 'nobody, to compare'}: "
                      f"{statistics.mean(ratios):.3f} +-{error:.3f}, median {spread(ratios)} x without", flush=True)
            appends.terminate()


def bench_bulk(server, db, args):
    here = open_store(db)
    batch = json.dumps([{"type": "Placed", "data": json.loads(DATA)}] * 1000)
    meter = Meter(here)
    for n in range(args.events // 1000):
        here.call("append", "bulk", str(n % 100), batch, None)
        meter.add(1000)
    print(f"bulk append, 1,000 events a call: {meter}")


def bench_read(server, db, args):
    """The feed in pages, all columns; the data as the text that a driver gets."""
    db.sql("vacuum analyze")
    here, after = open_store(db), 0
    meter = Meter(here)
    with here.connection.cursor() as cursor:
        while True:
            # The rows are counted in the server: the client's language is not what is measured.
            cursor.execute("select count(*), max(position), sum(octet_length(data::text)) from herald.read(%s, %s)",
                           (after, args.page))
            n, last, _ = cursor.fetchone()
            if not n:
                break
            after = last
            meter.add(n)
    print(f"read, pages of {args.page:,}: {meter}; second half {meter.second_half():.2f} x as fast as the first")


def bench_catchup(server, db, args):
    """A subscription that has everything before it, acknowledged page by page."""
    here = Sql(db).open()
    here.subscribe("late")
    partition, token, *_ = here.call("claim", "late", "w")[0]
    meter = Meter(here)
    while True:
        n, last = here.sql("select count(*), max(position) from herald.fetch('late', %s, %s, %s)",
                           (partition, token, args.page))[0]
        if not n:
            break
        here.call("ack", "late", partition, token, last)
        meter.add(n)
    print(f"catch-up of a subscription, pages of {args.page:,}: {meter}; "
          f"second half {meter.second_half():.2f} x as fast as the first")


def foreign_transaction(server, stop):
    """Always a writing transaction of two seconds, in another database."""
    with contextlib.closing(server.connect("postgres", autocommit=False)) as connection:
        while not stop.is_set():
            postgres.execute(connection, "create temporary table if not exists t (n int); insert into t values (1)")
            stop.wait(2)
            connection.commit()


@contextlib.contextmanager
def subscribed(db, name, *options, stdout):
    """pgherald subscribe, from the feed's end on."""
    with subprocess.Popen([PROGRAM, "subscribe", name, db.conninfo, "--start", "end", *options],
                          env=environment(), stdout=stdout, stderr=subprocess.DEVNULL) as program:
        postgres.wait_until(lambda: db.sql("select count(*) from herald.lag where subscription = %s", (name,))[0][0],
                            "the subscription")
        yield program
        program.terminate()


@contextlib.contextmanager
def subscriber(db, name, handle):
    """handle(event) is called as each line comes."""
    with subscribed(db, name, "--category", "lag", stdout=subprocess.PIPE) as program:
        reader = threading.Thread(target=lambda: [handle(json.loads(line)) for line in program.stdout])
        reader.start()
        yield
        program.terminate()
        reader.join()


def bench_latency(server, db, args):
    """200 events/s, from before the call of append until a subscriber has the event."""
    for name, beside in ("", []), (", with a foreign transaction open", [lambda stop: foreign_transaction(server, stop)]):
        times, lags = {}, []

        def handle(event, times=times, lags=lags):
            lags.append(1000 * (time.monotonic() - times[event["data"]]))

        with running(*beside), subscriber(db, f"with {len(beside)} beside", handle):
            here, next_at = open_store(db), time.monotonic()
            for n in range(200 * args.seconds):
                times[n] = time.monotonic()
                here.append("lag", {"type": "Tick", "data": n}, category="lag")
                next_at += 0.005
                time.sleep(max(0, next_at - time.monotonic()))
            postgres.wait_until(lambda lags=lags, times=times: len(lags) == len(times), "the last event")
        print(f"append to subscriber, 200 events/s{name}: p50 {percent(lags, 0.5):.1f} ms, "
              f"p99 {percent(lags, 0.99):.1f} ms")


def bench_executors(server, db, args):
    """Four executors with a handler of 5 ms against one."""
    rates = {}
    for executors in 1, 4:
        name, n = f"work{executors}", 800 if executors == 4 else 200
        with contextlib.closing(Sql(db).open()) as here:
            here.subscribe(name, {"categories": ["work"]}, 16, "end")
            for i in range(n):
                here.append(str(i % 64), {"type": "Do"}, category="work")
        done = []

        def work(stop, name=name, n=n, done=done):
            with contextlib.closing(Sql(db).open()) as mine:
                while len(done) < n:
                    if mine.step(name, lambda session, e: (time.sleep(0.005), done.append(e)), str(stop)) is None:
                        mine.wait(name, 0.01)

        begin = time.monotonic()
        with running(*[work] * executors):
            postgres.wait_until(lambda done=done, n=n: len(done) >= n, "the events to be handled", interval=0.001)
        rates[executors] = n / (time.monotonic() - begin)
    print(f"4 executors, 5 ms each: {rates[4]:,.0f} events/s, {rates[4] / rates[1]:.1f} x one")


def append_singly(db, stop, times):
    """Appends one event after the other, and how long each takes in ms; 2,000, or until it is stopped."""
    with contextlib.closing(open_store(db).connection) as connection:
        here = store.Store(connection)
        while not stop.is_set() if stop else len(times) < 2000:
            begin = time.monotonic()
            here.append(f"s{len(times) % STREAMS}", {"type": "Placed", "data": json.loads(DATA)})
            times.append(1000 * (time.monotonic() - begin))


def show_appends(where, n, p99, longest):
    print(f"{where}: {n:,} appends, one after the other: p99 {p99:.1f} ms, longest {longest:.1f} ms")


def bench_purge(server, db, args):
    """A purge by count of nine tenths of the events, beside appends to the streams that it cuts."""
    each = max(args.events // STREAMS, 2)
    for n in range(each):
        db.sql("select herald.append('order', 's' || i, %s::jsonb) from generate_series(0, %s) i",
               (json.dumps({"type": "Placed", "data": json.loads(DATA)}), STREAMS - 1))
    db.sql("vacuum analyze")
    db.sql("checkpoint")
    alone, beside, batches, removed = [], [], [], 0
    append_singly(db, None, alone)
    with contextlib.closing(open_store(db).connection) as connection:
        here = store.Store(connection)
        here.call("retain", "order", None, max(each // 10, 1))
        with running(lambda stop: append_singly(db, stop, beside)):
            while True:
                begin = time.monotonic()
                n = here.call("purge", 1000)[0][0]
                if n < 10:  # what the appends push out meanwhile
                    break
                batches.append(1000 * (time.monotonic() - begin))
                removed += n
    show_appends("alone", len(alone), percent(alone, 0.99), max(alone))
    show_appends("beside a purge", len(beside), percent(beside, 0.99), max(beside))
    print(f"purge by count: {removed:,} of {each * STREAMS:,} events of {STREAMS:,} streams, "
          f"{removed / sum(batches) * 1000:,.0f}/s; a batch p50 {percent(batches, 0.5):.1f} ms, "
          f"longest {max(batches):.1f} ms")
    numbers = store_sqlite(args.events, "purge")
    for name, line in zip(("alone", "beside a purge"), numbers):
        n, p99, longest = map(float, line.split())
        show_appends(f"SQLite, {name}", int(n), p99, longest)
    print(f"SQLite, purge by count: {int(numbers[2]):,} events/s")


def store_sqlite(*arguments):
    """What the program of this name prints of a store in a new file."""
    subprocess.run(["ninja", "-C", f"{ROOT}/build", "store_sqlite"], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        return subprocess.run([f"{ROOT}/build/store_sqlite", f"{folder}/store.db", *map(str, arguments)],
                              capture_output=True, text=True, check=True).stdout.splitlines()


def bench_sqlite(server, db, args):
    """The store in a SQLite file, through the library."""
    names = "bulk append, 1,000 events a call to one stream", "the same to streams by chance", "read"
    for name, line in zip(names, store_sqlite(args.events)):
        rate, of_cpu = map(int, line.split())
        print(f"SQLite, {name}: {rate:,} events/s ({of_cpu:,}/s of CPU)")


PARTS = {"append": bench_append, "woken": bench_woken, "bulk": bench_bulk, "read": bench_read,
         "catchup": bench_catchup, "latency": bench_latency, "executors": bench_executors,
         "purge": bench_purge, "sqlite": bench_sqlite}
FILLED = "read", "catchup"  # these use the store that the bulk has filled


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=400000)
    parser.add_argument("--page", type=int, default=4000)  # the most that pgherald subscribe fetches
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    parts = [args.only] if args.only else list(PARTS)
    if args.only in FILLED:
        parts.insert(0, "bulk")
    with postgres.Postgres(durable=True, max_connections=100, shared_buffers="256MB", autovacuum="on") as server:
        for part in parts:
            if part not in FILLED:
                db = postgres.Database(server)
                store.init(db)
            PARTS[part](server, db, args)


if __name__ == "__main__":
    main()
