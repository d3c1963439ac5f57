"""Ways to use the event store that pass the same scenarios. A face opens sessions on a database; a
session appends, loads, reads, works in a transaction and does a subscriber's steps."""
import contextlib
import json
import select
import time

import psycopg2

from pgbouncer_server import PgBouncer
from postgres import LIMIT, execute
from store import Store
from store_stress import lost


class Session(Store):
    """One connection, by the SQL functions."""

    def sql(self, text, params=None):
        return execute(self.connection, text, params)

    @contextlib.contextmanager
    def transaction(self):
        """The caller's own: what is done within it stays or goes together."""
        self.sql("begin")
        try:
            yield self
        except BaseException:
            if not self.connection.closed:
                self.sql("rollback")
            raise
        self.sql("commit")

    def load(self, stream, category="order"):
        """What an aggregate is made of: (version, type, data) of each event."""
        return [(version, kind, data) for version, kind, data, *_ in self.call("load", category, stream)]

    def subscribe(self, name, source=None, partitions=1, start="beginning"):
        return self.call("subscribe", name, json.dumps(source or {}), partitions, start, "{}")[0][0]

    def step(self, name, handle, worker="w"):
        """One page of a subscription: handle(session, event) in one transaction with the
        acknowledgement. How many events there were; None: no partition had anything."""
        found = self.call("claim", name, worker, "2 s")
        if not found:
            return None
        partition, token, *_ = found[0]
        events = self._events("select to_jsonb(e) from herald.fetch(%s, %s, %s) e", (name, partition, token))
        if events:
            with self.transaction():
                for e in events:
                    handle(self, e)
                self.call("ack", name, partition, token, events[-1]["position"])
        self.call("release", name, partition, token)
        return len(events)

    def wait(self, name, longest=LIMIT):
        """Sleeps until there may be something to do."""
        time.sleep(min(longest, 0.002))

    def close(self):
        self.connection.close()


class Listener(Session):
    """A session that keeps its connection can be woken."""

    listens = False

    def wait(self, name, longest=LIMIT):
        if not self.listens:
            self.sql("listen herald")
            self.listens = True
        self.until_told(self.call("sleep", name, int(1000 * longest))[0][0] / 1000)

    def until_told(self, pause):
        """Waits for a notification, for so many seconds at most."""
        self.connection.poll()
        if not self.connection.notifies:
            select.select([self.connection], [], [], pause)
            self.connection.poll()
        self.connection.notifies.clear()


class Sql:
    """The SQL functions as psql and any driver call them."""

    def __init__(self, db):
        self.db = db

    def open(self):
        return Listener(self.db.connect())

    def close(self):
        pass


class Bouncer:
    """The same through PgBouncer in transaction mode: by polling alone."""

    def __init__(self, db):
        self.db = db
        self.bouncer = PgBouncer(db.server).__enter__()

    def open(self):
        return Session(self.bouncer.connect(self.db.name))

    def close(self):
        self.bouncer.__exit__()


FACES = [Sql, Bouncer]


def follow(face, name, handle, until, worker="w"):
    """Runs a subscriber until a condition holds, over every loss of the connection."""
    deadline = time.monotonic() + LIMIT
    while not until():
        assert time.monotonic() < deadline, f"{name} was not done within {LIMIT} s"
        try:
            with contextlib.closing(face.open()) as session:
                while not until() and time.monotonic() < deadline:
                    if session.step(name, handle, worker) is None:
                        session.wait(name, 0.2)  # the condition may come about without an event
        except psycopg2.Error as e:
            if not lost(e):
                raise
            time.sleep(0.02)
