"""The event store in a test's database."""
import glob
import json
import os
import re

from herald import REPO

SQL = sorted(glob.glob(f"{REPO}/src/store/sql/*.sql"))
STRESS_SETTINGS = {"restart_after_crash": "on", "autovacuum": "on"}


def init(db, schema="herald", id_type="text"):
    """Makes the store as a user of psql would: the files as they are, one transaction each."""
    for path in SQL:
        with open(path) as f:
            text = re.sub(r"\bherald", schema, f.read())
        db.sql(f"set pgherald.stream_id_type = '{id_type}'; {text}")


def event(kind="Placed", **more):
    return {"type": kind, **more}


class Store:
    """Calls of the store's functions on one connection."""

    def __init__(self, connection, schema="herald"):
        self.connection = connection
        self.schema = schema

    def call(self, function, *args):
        """The rows of one function, as tuples."""
        marks = ", ".join(["%s"] * len(args))
        with self.connection.cursor() as cursor:
            cursor.execute(f"select * from {self.schema}.{function}({marks})", args)
            return cursor.fetchall()

    def append(self, stream, events, expected=None, category="order"):
        return self.call("append", category, stream, json.dumps(events), expected)[0]

    def read(self, after=0, max_count=1000, **more):
        """The feed's events as dicts."""
        return self._events(f"select to_jsonb(e) from {self.schema}.read(%(after)s, %(max_count)s, "
                            "categories => %(categories)s, topics => %(topics)s, types => %(types)s) e",
                            {"after": after, "max_count": max_count, "categories": None,
                             "topics": None, "types": None, **more})

    def stream(self, stream, category="order", **more):
        """The stream's events as dicts."""
        names = "".join(f", {name} => %({name})s" for name in more)
        return self._events(f"select to_jsonb(e) from {self.schema}.read_stream(%(category)s, %(stream)s"
                            f"{names}) e", {"category": category, "stream": stream, **more})

    def _events(self, query, params):
        with self.connection.cursor() as cursor:
            cursor.execute(query, params)
            return [row[0] for row in cursor.fetchall()]


def open_store(db, autocommit=True, **more):
    return Store(db.connect(autocommit, **more))


def read_all(db, page=1000):
    """Every event of the feed, by pages."""
    here, events = open_store(db), []
    try:
        while True:
            more = here.read(events[-1]["position"] if events else 0, page)
            if not more:
                return events
            events += more
    finally:
        here.connection.close()


def seconds(default):
    """How long the stress runs: PGHERALD_STRESS_SECONDS, or the default."""
    return float(os.environ.get("PGHERALD_STRESS_SECONDS", default))
