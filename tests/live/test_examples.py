"""The programs in examples/, each with what it is for."""
import contextlib
import os
import sqlite3
import subprocess
import sys

import pytest

from amqp_server import Rabbit
from herald import PROGRAM, REPO, Herald, environment
from nats_server import NatsServer
from postgres import free_port, wait_until

EXAMPLES = f"{REPO}/examples"


@pytest.fixture
def run(tmp_path):
    """Starts a program, run(["python3", ...]), and gives the function that reads its output so far."""
    processes = []

    def start(argv):
        out = open(tmp_path / f"out{len(processes)}", "w+b")
        processes.append(subprocess.Popen(argv, cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT,
                                          stdin=subprocess.DEVNULL, start_new_session=True))
        return Program(processes[-1], out)

    yield start
    for process in processes:
        process.kill()
        process.wait()


class Program:
    def __init__(self, process, out):
        self.process, self.out = process, out

    @property
    def text(self):
        return os.pread(self.out.fileno(), 1 << 20, 0).decode()

    def wait(self, word, n=1):
        """Waits until the word is there n times and returns all that was written."""
        def found():
            assert self.process.poll() is None, f"it has ended: {self.text}"
            return self.text.count(word) >= n
        wait_until(found, f"{word!r}")
        return self.text

    def kill(self):
        self.process.kill()
        self.process.wait()


def make_users(db):
    db.sql("create table users (id bigint generated always as identity primary key, name text, email text)")


def sign_up(db, name):
    db.sql("insert into users (name, email) values (%s, %s)", (name, f"{name}@example.com"))


def listens(port):
    import socket
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def test_webhook_receiver_takes_what_is_signed(db, herald, run):
    # Given the receiver, and outputs with its secret and with another one
    make_users(db)
    port = free_port()
    receiver = run([sys.executable, f"{EXAMPLES}/webhook_receiver.py", str(port), "whsec_c2VjcmV0LW9mLW1pbmU="])
    wait_until(lambda: listens(port), "the receiver")
    url = f"http://127.0.0.1:{port}/events?secret="
    stream = herald(db, "--to", f"{url}whsec_c2VjcmV0LW9mLW1pbmU=")

    # when somebody signs up, then it is told
    sign_up(db, "ann")
    text = receiver.wait("insert public.users")
    assert "'name': 'ann'" in text
    stream.wait_confirmed(db)
    stream.stop()

    # and what another secret has signed is not taken
    false = herald(db, "--to", f"{url}whsec_c29tZXRoaW5nIGVsc2U=", ready=False)
    sign_up(db, "eve")
    false.wait_log("401")
    assert "eve" not in receiver.text
    false.kill9()


def test_jetstream_goes_on_where_it_stopped(db, herald, run, tmp_path):
    # Given the consumer, compiled as its head says, and a stream
    subprocess.run(["cc", f"{EXAMPLES}/jetstream.c", "-Wall", "-Werror", "-o", tmp_path / "jetstream", "-lnats"],
                   check=True, timeout=60)
    make_users(db)
    nats = NatsServer().start()
    try:
        stream = herald(db, "--to", nats.url("shop.{table}.{action}?stream=SHOP"))
        argv = [tmp_path / "jetstream", f"nats://127.0.0.1:{nats.port}", "SHOP", "mailer", "shop.users.insert"]
        sign_up(db, "ann")
        stream.wait_confirmed(db)

        # when it runs, then it gets what was before it and what comes
        first = run(argv)
        first.wait("shop.users.insert")
        sign_up(db, "bob")
        text = first.wait("shop.users.insert", 2)
        assert '"ann"' in text.splitlines()[0] and '"bob"' in text.splitlines()[1]
        wait_until(lambda: nats.api("CONSUMER.INFO.SHOP.mailer")["ack_floor"]["consumer_seq"] == 2, "the acks")
        first.kill()

        # when it is started again, then it goes on behind that
        sign_up(db, "cid")
        second = run(argv)
        assert second.wait("shop.users.insert").count("shop.users") == 1 and '"cid"' in second.text
        stream.stop()
    finally:
        nats.remove()


def greeted(folder):
    """How many sign-ups the mailer has written down as done."""
    with contextlib.closing(sqlite3.connect(folder / "welcome_email.db")) as done:
        return done.execute("select count(*) from done").fetchone()[0]


def test_welcome_email_greets_everybody_once(db, run, tmp_path):
    make_users(db)
    with Rabbit() as rabbit:
        # Given the mailer
        argv = ["/usr/bin/python3", f"{EXAMPLES}/welcome_email.py", rabbit.url(), "shop"]
        url = rabbit.url(exchange="shop")
        with contextlib.closing(Herald("stream", db.conninfo, "--slot", db.slot, "--tables", "public.users",
                                       "--to", url)) as stream:
            stream.wait_ready(db)
            mailer = run(argv)
            mailer.wait("waiting for sign-ups")

            # when people sign up, also while it is down
            sign_up(db, "ann")
            assert "To: ann@example.com" in mailer.wait("Welcome, ann")
            wait_until(lambda: greeted(tmp_path) == 1, "it to be written down")
            mailer.kill()
            sign_up(db, "bob")
            stream.wait_confirmed(db)
            mailer = run(argv)

            # then each gets one
            text = mailer.wait("Welcome, bob")
            assert "ann" not in text and text.count("Subject:") == 1
            stream.stop()


@pytest.mark.parametrize("kind", ["postgres", "sqlite", "memory"])
def test_orders_sells_with_a_server_and_with_a_file(request, tmp_path, kind):
    """Given the shop with its two executors; then all that was sold is in its view."""
    url = {"sqlite": f"sqlite:{tmp_path}/shop.db", "memory": "sqlite::memory:"}.get(kind)
    if not url:
        db = request.getfixturevalue("db")
        url = db.conninfo
    done = subprocess.run([f"{os.path.dirname(PROGRAM)}/orders", url], capture_output=True, text=True, timeout=60,
                          env=environment())
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout == "order 1 is at version 2, paid 500, sent; 60 events in the view\n"
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(f"{tmp_path}/shop.db")) as shop:
            assert shop.execute("select state, count(*) from order_view group by 1").fetchall() == [("Sent", 20)]
    elif kind == "postgres":
        assert db.sql("select state, count(*) from order_view group by 1") == [("Sent", 20)]
