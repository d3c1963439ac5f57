"""The event store of libpgherald, driven through a program in C, over PostgreSQL and over SQLite."""
import contextlib
import json
import os
import sqlite3
import subprocess

import herald as program
from store import event

DRIVER = f"{os.path.dirname(program.PROGRAM)}/store_driver"
SEEN = "create table seen (n {} primary key, name text, position bigint, stream text, version bigint)"
PROBLEMS = ["", "conflict", "id in use", "not understood", "not here", "lease lost", "no subscription",
            "deleted", "away", "refused"]


class Refused(Exception):
    """A call that failed: .problem, one of PROBLEMS, .actual and the text."""

    def __init__(self, answer):
        super().__init__(answer["error"])
        self.problem, self.actual = PROBLEMS[answer["problem"]], answer["actual"]


class Library:
    """One store in a process of its own."""

    def __init__(self, url):
        self.process = subprocess.Popen([DRIVER, url], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env=program.environment())

    def send(self, do, **arguments):
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            err = self.process.stderr.read()
            program.check_sanitizers([DRIVER], err)
            raise AssertionError(f"the driver has ended: {err}")
        answer = json.loads(line)
        if "problem" in answer:
            raise Refused(answer)
        return answer

    def call(self, do, **arguments):
        self.send(do, **arguments)
        return self.answer()

    def append(self, stream, events, expected=None, category="order"):
        done = self.call("append", category=category, stream=stream, events=json.dumps(events), expected=expected)
        return done["first"], done["last"], done["duplicate"]

    def read(self, **wanted):
        return [read_event(e) for e in self.call("read", **wanted)["events"]]

    def stream(self, stream, category="order", **more):
        return [read_event(e) for e in self.call("stream", category=category, stream=stream, **more)["events"]]

    def load(self, stream, category="order"):
        done = self.call("load", category=category, stream=stream)
        return done["version"], [read_event(e) for e in done["events"]]

    @contextlib.contextmanager
    def transaction(self):
        self.call("begin")
        try:
            yield
        except BaseException:
            self.call("rollback")
            raise
        self.call("commit")

    def sql(self, text):
        """Runs SQL on the store's own connection."""
        assert "sql" not in (answer := self.call("sql", sql=text)), answer["sql"]

    def follow(self, name="s", **more):
        return self.call("follow", name=name, **more)

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def close(self):
        if self.process.returncode is not None:
            return
        try:
            _, err = self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:  # a test has failed while it was at work
            self.kill()
            return
        program.check_sanitizers([DRIVER], err)
        assert self.process.returncode == 0, err


def read_event(e):
    return {**e, "data": json.loads(e["data"]), "metadata": json.loads(e["metadata"] or "null")}


class Place:
    """Where a store is: opens libraries, runs verbs, and looks at the table seen."""

    def __init__(self, url, query):
        self.url, self.query = url, query
        self.opened = []
        with contextlib.closing(Library(url)) as first:
            first.call("init")

    def open(self):
        self.opened.append(Library(self.url))
        return self.opened[-1]

    def seen(self, name="s"):
        """(position, stream, version) in the order in which they were handled."""
        return self.query(f"select position, stream, version from seen where name = '{name}' order by n")

    def age(self, days):
        """Makes all events so much older."""
        self.query(self.aging.format(days))

    def verb(self, *args, **more):
        done = program.run(*args, self.url, **more)
        assert done.code == 0, done.err
        return done.out

    def close(self):
        for library in self.opened:
            library.close()


class Postgres(Place):
    aging = "update herald.entry set time = time - interval '{} days'"
    lag = "select subscription from herald.lag"

    def __init__(self, db, folder):
        super().__init__(db.conninfo, db.sql)
        db.sql(SEEN.format("serial"))


class Sqlite(Place):
    aging = "update herald_event set time = time - {} * 86400000000"
    lag = "select name from herald_subscription"

    def __init__(self, db, folder):
        self.path = f"{folder}/store.db"
        super().__init__(f"sqlite:{self.path}", self.ask)
        self.ask(SEEN.format("integer"))

    def ask(self, text):
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            return connection.execute(text).fetchall()


PLACES = [Postgres, Sqlite]
__all__ = ["PLACES", "Refused", "event"]
