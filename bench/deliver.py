"""script/bench deliver: what outputs reach beside publishers that do nothing but publish.

Fed: pgherald's pipeline is given captured bytes in its own process (bench/deliver.c), so PostgreSQL does
not share the cores. End to end: `pgherald stream` drains a backlog of PostgreSQL over TCP. Either is
compared with a bare publisher (bench/bare.c) of the same client library, body size, guarantee and window.
Every run has a fresh broker, and the two take turns. The ratio is what counts: the median of the rounds' ratios, with the
least and the greatest, which tell how quiet the machine was. Latency: from COMMIT being sent to PostgreSQL
until a subscriber of NATS has the event.
"""
import argparse
import contextlib
import multiprocessing
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, os.path.join(ROOT, "tests", "live"))
os.environ["PGHERALD_BIN"] = f"{ROOT}/build/pgherald"
from herald import environment  # noqa: E402
from postgres import Postgres, free_port, wait_until  # noqa: E402

BODY = 256  # bytes of a native event of the bench


class Broker:
    """A server on a free port, whose process is started by command(port, folder)."""

    def __init__(self, command):
        self.command = command

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="pgherald-bench-")
        self.port = free_port()
        self.process = subprocess.Popen(self.command(self.port, self.dir), cwd=self.dir,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers, "the broker to start")
        return self

    def _answers(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir)


def nats():
    return Broker(lambda port, folder: ["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js",
                                        "-sd", folder])


def redis():
    return Broker(lambda port, folder: ["redis-server", "--port", str(port), "--bind", "127.0.0.1",
                                        "--save", "", "--appendonly", "no", "--dir", folder])


def mosquitto():
    def command(port, folder):
        with open(f"{folder}/mosquitto.conf", "w") as f:
            f.write(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 1000\n")
        return ["mosquitto", "-c", f"{folder}/mosquitto.conf"]
    return Broker(command)


@contextlib.contextmanager
def rabbitmq():
    from amqp_server import Rabbit
    with Rabbit() as broker:
        broker.bind("bench", queue="bench")
        yield broker


@contextlib.contextmanager
def kafka():
    from kafka_server import Mock as Kafka
    broker = Kafka()
    broker.host, broker.port = broker.brokers.split(",")[0].split(":")
    try:
        yield broker
    finally:
        broker.close()


def serve_http(listener):
    """Answers 204 to every POST; enough of HTTP for clients that send a content-length."""
    import asyncio

    class Answer(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.data = transport, b""

        def data_received(self, data):
            self.data += data
            while (end := self.data.find(b"\r\n\r\n")) >= 0:
                head = self.data[:end].lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                if len(self.data) < end + 4 + length:
                    return
                self.data = self.data[end + 4 + length:]
                self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def run():
        server = await asyncio.get_running_loop().create_server(Answer, sock=listener)
        await server.serve_forever()
    asyncio.run(run())


@contextlib.contextmanager
def webhook():
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.Process(target=serve_http, args=(listener,), daemon=True)
    process.start()
    broker = argparse.Namespace(port=listener.getsockname()[1])
    try:
        yield broker
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def postgres():
    with Postgres() as server:
        server.sql("create database target")
        yield argparse.Namespace(host=server.conninfo("target"), port=5432, dir=server.dir.replace("/", "%2F"))


# name: broker, URL, window, messages of the fed run, goals of the fed run and end to end.
# The window is max_in_flight where that is reached (an output has 32 batches of 64 KiB); PostgreSQL's is a
# transaction, which is a batch.
DESTINATIONS = {
    "nats": (nats, "nats://127.0.0.1:{port}/bench.{{schema}}.{{table}}.{{action}}?stream=BENCH",
             4096, 200_000, 0.90, 0.60),
    "amqp": (rabbitmq, "amqp://guest:guest@127.0.0.1:{port}/%2F?exchange=bench",
             2000, 50_000, 0.95, 0.90),
    "redis": (redis, "redis://127.0.0.1:{port}/bench", 1000, 500_000, 0.85, 0.50),
    "kafka": (kafka, "kafka://127.0.0.1:{port}/bench", 8600, 500_000, 0.85, None),
    "mqtt": (mosquitto, "mqtt://127.0.0.1:{port}/bench/{{table}}", 1000, 100_000, 0.90, None),
    "webhook": (webhook, "http://127.0.0.1:{port}/", 1, 20_000, 0.90, None),
    "postgres": (postgres, "postgres://postgres@{dir}/target?table=events", 256, 200_000, None, 0.50),
}
HEADING = (f"{'':11} {'bare/s':>9} {'pgherald/s':>11} {'ratio':>6} {'(range)':>12} {'goal':>5} "
           f"{'CPU s a million: bare':>23} {'pgherald':>9}")


def run(argv):
    """(messages/s, CPU seconds) that a program of the bench prints."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, env=environment())
    if done.returncode:
        sys.exit(f"{' '.join(map(str, argv))} failed:\n{done.stderr}")
    rate, cpu = done.stdout.split()
    return float(rate), float(cpu)


def url_of(template, broker):
    return template.format(port=broker.port, dir=getattr(broker, "dir", ""))


def bare(name, broker, n, window):
    return run([f"{ROOT}/build/bare", name, getattr(broker, "host", "127.0.0.1"), broker.port, n, BODY,
                window])


def fed(names, rounds, scale):
    print(f"\nfed from captured bytes, {rounds} rounds, medians\n{HEADING}")
    for name in names:
        make, url, window, n, goal, _ = DESTINATIONS[name]
        n = int(n * scale)
        pairs = []
        for _ in range(rounds):
            with make() as broker:
                before = bare(name, broker, n, window)
            with make() as broker:
                pairs.append((before, run([f"{ROOT}/build/deliver", n, f"to={url_of(url, broker)}"])))
        report(name, pairs, goal, n)


def report(name, pairs, goal, n):
    """pairs: of each round, what `run` says of the bare publisher and of pgherald."""
    (bare_rate, bare_cpu), (rate, cpu) = (
        [statistics.median(column) for column in zip(*who)] for who in zip(*pairs))
    ratios = sorted(ours[0] / before[0] for before, ours in pairs)
    print(f"{name:11} {bare_rate:9.0f} {rate:11.0f} {statistics.median(ratios):6.2f} "
          f"{f'({ratios[0]:.2f}-{ratios[-1]:.2f})':>12} {goal or '':>5} "
          f"{bare_cpu / n * 1e6:23.2f} {cpu / n * 1e6:9.2f}", flush=True)


def end_to_end(names, rounds, rows):
    print(f"\nend to end from a backlog of {rows} rows in PostgreSQL on the same cores, {rounds} rounds, "
          f"medians\n{HEADING}")
    with Postgres(tcp=True, shared_buffers="512MB", max_wal_size="16GB") as server:
        server.sql("create table bench (id bigint primary key, name text, amount numeric, at timestamptz)")
        server.sql("create publication pgherald for all tables")
        server.sql("select pg_create_logical_replication_slot('backlog', 'pgoutput')")
        for first in range(1, rows + 1, 1000):
            server.sql("insert into bench select i, 'customer ' || i, i + 0.25, now() "
                       f"from generate_series({first}, {min(first + 999, rows)}) i")
        end = server.sql("select pg_current_wal_flush_lsn()")[0][0]
        for name in names:
            make, url, window, _, _, goal = DESTINATIONS[name]
            if not goal:
                continue
            pairs = []
            for _ in range(rounds):
                with make() as broker:
                    before = bare(name, broker, rows, window)
                server.sql("select pg_copy_logical_replication_slot('backlog', 'copy')")
                with make() as broker:
                    pairs.append((before, drain(server, url_of(url, broker), end, rows)))
                server.sql("select pg_drop_replication_slot('copy')")
            report(name, pairs, goal, rows)


def drain(server, url, end, rows):
    began = time.monotonic()
    child = subprocess.Popen([f"{ROOT}/build/pgherald", "stream", server.conninfo(host="127.0.0.1"),
                              "--slot", "copy", "--until", end, "--to", url], env=environment(), stderr=subprocess.PIPE)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{url} failed:\n{child.stderr.read().decode()}")
    return rows / (time.monotonic() - began), usage.ru_utime + usage.ru_stime


def subscribe(port, n, ready, out):
    """Tells on `out` when each of the events 1..n was received: {id: seconds}. Speaks NATS's protocol."""
    seen, data = {}, b""
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nSUB bench.> 1\r\nPING\r\n')
        while len(seen) < n:
            data += s.recv(1 << 16)
            now = time.monotonic()
            if b"PING\r\n" in data:
                s.sendall(b"PONG\r\n")
            if b"PONG\r\n" in data:
                ready.set()
            whole = data.rfind(b"\r\n") + 2
            for event in re.finditer(rb'"new":\{"id":(\d+)', data[:whole]):
                seen[int(event[1])] = now
            data = data[whole:]
    out.put(seen)


def commit_steadily(conninfo, n, rate, out):
    """Commits n transactions of one row at this rate; tells on `out` when each COMMIT was sent."""
    import psycopg2
    sent = {}
    with contextlib.closing(psycopg2.connect(conninfo)) as db, db.cursor() as c:
        began = time.monotonic()
        for i in range(1, n + 1):
            c.execute("insert into tick values (%s, 'customer')", (i,))
            time.sleep(max(0, began + i / rate - time.monotonic()))
            sent[i] = time.monotonic()
            db.commit()
    out.put((sent, n / (time.monotonic() - began)))


def latency(seconds, rate):
    n = seconds * rate
    ready, seen, sent = multiprocessing.Event(), multiprocessing.Queue(), multiprocessing.Queue()
    with Postgres() as server, nats() as broker:
        server.sql("create table tick (id bigint, name text)")
        url = url_of(DESTINATIONS["nats"][1], broker)
        program = subprocess.Popen([f"{ROOT}/build/pgherald", "stream", server.conninfo(), "--slot", "ticks",
                                    "--to", url], env=environment(), stderr=subprocess.DEVNULL)
        reader = multiprocessing.Process(target=subscribe, args=(broker.port, n, ready, seen), daemon=True)
        reader.start()
        wait_until(ready.is_set, "the subscriber")
        wait_until(lambda: server.sql("select 1 from pg_replication_slots where slot_name = 'ticks' and active"),
                   "the slot")
        multiprocessing.Process(target=commit_steadily, args=(server.conninfo(), n, rate, sent),
                                daemon=True).start()
        (sent, reached), seen = sent.get(timeout=20 * seconds), seen.get(timeout=60)
        program.terminate()
        program.wait()
    ms = sorted((seen[i] - sent[i]) * 1000 for i in sent)
    print(f"\nCOMMIT sent -> received from NATS, {n} transactions at {reached:.0f}/s: p50 {ms[n // 2]:.2f} ms "
          f"(goal 1.5), p99 {ms[n * 99 // 100]:.2f} ms (goal 6), most {ms[-1]:.2f} ms")


def main():
    p = argparse.ArgumentParser(prog="script/bench deliver")
    p.add_argument("names", nargs="*", default=list(DESTINATIONS), metavar="DESTINATION")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--scale", type=float, default=1.0, help="of the fed runs' number of messages")
    p.add_argument("--rows", type=int, default=1_000_000, help="of the backlog")
    p.add_argument("--only", choices=["fed", "end-to-end", "latency"])
    args = p.parse_args()
    subprocess.run(["ninja", "-C", f"{ROOT}/build", "bare", "deliver"], check=True, stdout=subprocess.DEVNULL)
    if args.only in (None, "fed"):
        fed(args.names, args.rounds, args.scale)
    if args.only in (None, "end-to-end"):
        end_to_end(args.names, args.rounds, args.rows)
    if args.only in (None, "latency") and "nats" in args.names:
        latency(10, 1000)


main()
