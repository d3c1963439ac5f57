"""script/bench store: what the event store costs and how fast it reads.

    script/bench store [--seconds N] [--rounds N] [--events N] [--only append|bulk|read|latency|executors]

Appends by herald.append are compared with the same work by hand, in turn, by pgbench on prepared
statements; figures are medians over the rounds. The ratios count, not the absolute numbers:
everything runs on one machine in one run. By hand there are a row with the stream's version and a
row of the event with the same columns and the same unique keys, and a position drawn when the event
is written, so that readers by position would lose events.
"""
import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "tests", "live"))
import postgres  # noqa: E402
import store  # noqa: E402
from store import Store, open_store  # noqa: E402

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
    "append": f"select last_version from herald.append('order', 's' || :s, '{{\"type\": \"Placed\", \"data\": {DATA}}}');",
    "by hand": f"begin;\n{UPSERT} version \\gset\ninsert into hand_event (category, stream, version, type, data) "
               f"values ('order', 's' || :s, :version, 'Placed', '{DATA}');\ncommit;",
    "one statement": f"with h as ({UPSERT} id, version) insert into hand_event (category, stream, version, type, data) "
                     f"select 'order', id, version, 'Placed', '{DATA}' from h;",
}


def pgbench(server, db, script, clients, seconds):
    done = subprocess.run([f"{server.bin}/pgbench", "-h", server.host, "-U", "postgres", "-n", "-M", "prepared", "-c",
                           str(clients), "-j", "2", "-T", str(seconds), "-f", script, db.name],
                          capture_output=True, text=True)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


def percent(values, share):
    values = sorted(values)
    return values[min(int(len(values) * share), len(values) - 1)]


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
                for name in FORMS:
                    rates[name].append(pgbench(server, db, f"{folder}/{name}.sql", clients, args.seconds))
            best = {name: statistics.median(r) for name, r in rates.items()}
            ratio = {n: statistics.median(a / b for a, b in zip(rates["append"], rates[n])) for n in FORMS}
            print(f"append, {clients} clients: {best['append']:,.0f}/s; {ratio['by hand']:.2f} x by hand "
                  f"({best['by hand']:,.0f}/s), {ratio['one statement']:.2f} x one statement "
                  f"({best['one statement']:,.0f}/s)")


def bench_bulk(server, db, args):
    here = open_store(db)
    batch = json.dumps([{"type": "Placed", "data": json.loads(DATA)}] * 1000)
    begin = time.monotonic()
    for n in range(args.events // 1000):
        here.call("append", "bulk", str(n % 100), batch, None)
    took = time.monotonic() - begin
    print(f"bulk append, 1,000 events a call: {args.events / took:,.0f} events/s")


def bench_read(server, db, args):
    """Pages of 1000, as a driver gets them, all columns as text."""
    db.sql("vacuum analyze")
    here, after, marks = open_store(db), 0, [time.monotonic()]
    total = n = 0
    with here.connection.cursor() as cursor:
        while True:
            # The rows are counted in the server: the client's language is not what is measured.
            cursor.execute("select count(*), max(position), sum(length(data::text)) from herald.read(%s, %s)",
                           (after, args.page))
            n, last, _ = cursor.fetchone()
            if not n:
                break
            total, after = total + n, last
            marks.append(time.monotonic())
    half = len(marks) // 2
    print(f"read, pages of {args.page:,}: {total / (marks[-1] - marks[0]):,.0f} events/s of {total:,}; second half "
          f"{(marks[half] - marks[0]) / half / ((marks[-1] - marks[half]) / (len(marks) - 1 - half)):.2f} x as fast as the first")


def bench_latency(server, db, args):
    """Append to seen, 200 events/s, a reader that polls every millisecond."""
    stop, times, lags = threading.Event(), {}, []
    reader = open_store(db)
    after = reader.call("horizon")[0][0]

    def write():
        here, n = open_store(db), 0
        next_at = time.monotonic()
        while not stop.is_set():
            times[n] = time.monotonic()
            here.append("lag", {"type": "Tick", "data": n}, category="lag")
            n += 1
            next_at += 0.005
            time.sleep(max(0, next_at - time.monotonic()))

    writer = threading.Thread(target=write)
    writer.start()
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        for position, *_, data, _, _, _ in reader.call("read", after):
            lags.append(1000 * (time.monotonic() - times[data]))
            after = position
        time.sleep(0.001)
    stop.set()
    writer.join()
    print(f"append to seen, 200 events/s, polled: p50 {percent(lags, 0.5):.1f} ms, p99 {percent(lags, 0.99):.1f} ms")


def bench_executors(server, db, args):
    """Four executors with a handler of 5 ms against one."""
    rates = {}
    for executors in 1, 4:
        name, n = f"work{executors}", 800 if executors == 4 else 200
        here = open_store(db)
        here.call("subscribe", name, '{"categories": ["work"]}', 16, "end", "{}")
        for i in range(n):
            here.append(str(i % 64), {"type": "Do"}, category="work")
        done, lock = [], threading.Lock()

        def work(worker, name=name, n=n, done=done, lock=lock):
            mine = Store(db.connect())
            while len(done) < n:
                found = mine.call("claim", name, worker, "30 s")
                if not found:
                    time.sleep(0.001)
                    continue
                partition, token, _ = found[0]
                while events := mine.call("fetch", name, partition, token, 20):
                    for _ in events:
                        time.sleep(0.005)
                    mine.call("ack", name, partition, token, events[-1][0])
                    with lock:
                        done.extend(events)
                mine.call("release", name, partition, token)
            mine.connection.close()

        threads = [threading.Thread(target=work, args=(str(i),)) for i in range(executors)]
        begin = time.monotonic()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        rates[executors] = n / (time.monotonic() - begin)
    print(f"4 executors, 5 ms each: {rates[4]:,.0f} events/s, {rates[4] / rates[1]:.1f} x one")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=400000)
    parser.add_argument("--page", type=int, default=1000)
    parser.add_argument("--only", choices=["append", "bulk", "read", "latency", "executors"])
    args = parser.parse_args()
    parts = {"append": [bench_append], "bulk": [bench_bulk], "read": [bench_bulk, bench_read], "latency": [bench_latency],
             "executors": [bench_executors]}.get(
                 args.only, [bench_append, bench_bulk, bench_read, bench_latency, bench_executors])
    with postgres.Postgres(durable=True, max_connections=100, shared_buffers="256MB", autovacuum="on") as server:
        for part in parts:
            if part is not bench_read:
                db = postgres.Database(server)
                store.init(db)
            with contextlib.closing(db.connect()):
                part(server, db, args)


if __name__ == "__main__":
    main()
