"""PostgreSQL servers that a test starts in temporary folders and ends by pid."""
import contextlib
import copy
import ctypes
import glob
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import psycopg2
import pytest

PR_SET_PDEATHSIG = 1
LIMIT = 60  # seconds that any wait may take before it is a failure


def wait_until(condition, what="the condition", limit=LIMIT, interval=0.01):
    """Returns condition()'s value as soon as it is true; fails after `limit` seconds."""
    deadline = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit} s in vain for {what}; last seen: {value!r}")
        time.sleep(interval)


def server_bin():
    """The folder of the server's programs: PGHERALD_TEST_PG_BIN, else the newest that is installed."""
    named = os.environ.get("PGHERALD_TEST_PG_BIN")
    found = [named] if named else glob.glob("/usr/lib/postgresql/*/bin")
    found = [d for d in found if os.access(f"{d}/initdb", os.X_OK)]
    if not found:
        raise RuntimeError(f"no PostgreSQL server found ({named or '/usr/lib/postgresql/*/bin'})")
    return max(found, key=lambda d: [int(n) for n in re.findall(r"\d+", d)])


def server_major():
    """15: before any server runs."""
    said = subprocess.run([f"{server_bin()}/postgres", "-V"], text=True, capture_output=True, check=True)
    return int(re.search(r"\d+", said.stdout).group())


def server_owner():
    """Popen's arguments for a server's processes: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    try:
        owner = pwd.getpwnam("postgres")
    except KeyError:
        owner = pwd.getpwnam("nobody")
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def kill_pids(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Postgres:
    """A cluster of its own. Settings are those of postgresql.conf:

        with Postgres(wal_sender_timeout="2s", tcp=True) as server: ...

    Connections go through a unix socket in the cluster's folder; tcp=True adds a free port on
    127.0.0.1. durable=True keeps fsync on, for tests that crash the server. language="de" makes it
    speak German where lc_messages is no plain C and the translation is installed.
    """

    def __init__(self, tcp=False, durable=False, initdb=(), language="", **settings):
        self.bin = server_bin()
        self.owner = server_owner()
        self.dir = tempfile.mkdtemp(prefix="pgherald-test-", dir="/tmp")
        self.data = f"{self.dir}/data"
        self.log_path = f"{self.dir}/server.log"
        self.port = free_port() if tcp else 5432
        self.process = None
        self.language = language
        self._version = None
        if self.owner:
            os.chown(self.dir, self.owner["user"], self.owner["group"])
        self.make_data(initdb)
        defaults = {
            "listen_addresses": "127.0.0.1" if tcp else "",
            "port": self.port,
            "unix_socket_directories": self.dir,
            "wal_level": "logical",
            "max_wal_senders": 20,
            "max_replication_slots": 20,
            "max_prepared_transactions": 10,
            "shared_buffers": "32MB",
            "dynamic_shared_memory_type": "mmap",  # files in the data folder, which go with it
            "max_wal_size": "4GB",
            "fsync": "on" if durable else "off",
            "autovacuum": "off",
            "log_line_prefix": "%m [%p] ",
            "log_checkpoints": "off",
            "lc_messages": "C",
        }
        self.configure(**{**defaults, **settings})

    def make_data(self, initdb):
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                 "--locale=C", "--no-sync", *initdb)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.remove()

    def run(self, program, *args):
        """Runs one of the server's programs to its end and returns what it printed. Not every build of
        a server that is there for tests has all of them."""
        if not os.access(f"{self.bin}/{program}", os.X_OK):
            pytest.skip(f"there is no {program} in {self.bin}")
        done = subprocess.run([f"{self.bin}/{program}", *args], cwd="/", text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **self.owner)
        assert done.returncode == 0, f"{program} failed:\n{done.stdout}"
        return done.stdout

    def configure(self, **settings):
        """Adds settings; they hold from the next start or, where PostgreSQL allows, reload()."""
        with open(f"{self.data}/postgresql.conf", "a") as f:
            for name, value in settings.items():
                f.write(f"{name} = '{value}'\n")

    def hba(self, text):
        """Replaces pg_hba.conf; reload() puts it in force."""
        with open(f"{self.data}/pg_hba.conf", "w") as f:
            f.write(text)

    # Starting and ending

    def start(self):
        assert not self.process, "the server runs already"
        libc = ctypes.CDLL(None)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [f"{self.bin}/postgres", "-D", self.data], cwd="/", stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "LANGUAGE": self.language},
                # A test run that is killed takes its servers along.
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT), **self.owner)
        wait_until(self._answers, "the server to start")

    def _answers(self):
        assert self.process.poll() is None, f"the server did not start:\n{self.log()[-4000:]}"
        try:
            self.connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self, mode="fast"):
        """Ends the server as pg_ctl does: smart, fast or immediate."""
        self.signal_stop(mode)
        self.wait_stopped()

    def signal_stop(self, mode="fast"):
        self.process.send_signal({"smart": signal.SIGTERM, "fast": signal.SIGINT,
                                  "immediate": signal.SIGQUIT}[mode])

    def wait_stopped(self, limit=LIMIT):
        self.process.wait(limit)
        self.process = None

    def kill9(self):
        """All of the server's processes die at once, as in a power cut."""
        children = self._children()
        self.process.kill()
        kill_pids(children)
        self.wait_stopped()
        wait_until(lambda: not any(running(pid) for pid in children), "the server's processes to end")
        self._remove_shared_memory()

    def _remove_shared_memory(self):
        """What a server that is killed leaves to the machine, which has room for 4,096 of them."""
        with contextlib.suppress(FileNotFoundError, IndexError), open(f"{self.data}/postmaster.pid") as f:
            subprocess.run(["ipcrm", "-m", f.read().splitlines()[6].split()[1]], check=True)

    def _children(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as f:
            return [int(pid) for pid in f.read().split()]

    def restart(self, mode="fast"):
        self.stop(mode)
        self.start()

    def reload(self):
        self.sql("select pg_reload_conf()")

    def remove(self):
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                self.kill9()
        shutil.rmtree(self.dir)

    # Using it

    @property
    def host(self):
        return self.dir

    def conninfo(self, dbname="postgres", **more):
        parts = {"host": self.dir, "port": self.port, "user": "postgres", "dbname": dbname, **more}
        return " ".join(f"{k}={v}" for k, v in parts.items())

    def connect(self, dbname="postgres", autocommit=True, **more):
        connection = psycopg2.connect(self.conninfo(dbname, **more))
        connection.autocommit = autocommit
        return connection

    def sql(self, text, params=None, dbname="postgres"):
        """Runs one text in autocommit on a connection of its own; the last result's rows."""
        with contextlib.closing(self.connect(dbname)) as connection:
            return execute(connection, text, params)

    @property
    def version(self):
        """As server_version_num: 150020."""
        if not self._version:
            with contextlib.closing(self.connect()) as connection:
                self._version = connection.server_version
        return self._version

    def log(self):
        """What the server has written; nothing once it is removed."""
        with contextlib.suppress(FileNotFoundError), open(self.log_path, errors="replace") as f:
            return f.read()
        return ""


class Standby(Postgres):
    """A hot standby of a server, which is stopped for a moment to be copied."""

    def __init__(self, primary, **settings):
        self.primary = primary
        super().__init__(**{"primary_conninfo": primary.conninfo(), "primary_slot_name": "standby",
                            "hot_standby_feedback": "on", **settings})

    def make_data(self, initdb):
        self.primary.sql("select pg_create_physical_replication_slot('standby')")
        self.primary.stop()
        subprocess.run(["cp", "-a", self.primary.data, self.data], check=True)
        self.primary.start()
        with open(f"{self.data}/standby.signal", "w"):
            pass

    def wait_replayed(self):
        """Waits until all that the primary has written is here."""
        end, = self.primary.sql("select pg_current_wal_lsn()")[0]
        wait_until(lambda: self.sql("select pg_last_wal_replay_lsn() >= %s", (end,)) == [(True,)],
                   "the standby to catch up")

    def promote(self):
        self.sql("select pg_promote()")


def execute(connection, text, params=None):
    with connection.cursor() as cursor:
        cursor.execute(text, params)
        return cursor.fetchall() if cursor.description else []


class Database:
    """A fresh database of a server, with a name that is free for a slot too."""

    count = 0

    def __init__(self, server, options=""):
        Database.count += 1
        self.server = server
        self.log_start = len(server.log())
        self.name = self.slot = f"t{Database.count}"
        server.sql(f"create database {self.name} {options}")
        self.connection = None

    @property
    def conninfo(self):
        return self.server.conninfo(self.name)

    def connect(self, autocommit=True, **more):
        return self.server.connect(self.name, autocommit, **more)

    def sql(self, text, params=None):
        """Runs a text in autocommit, always on the same connection; the last result's rows.
        Several statements in one text are one transaction."""
        if not self.connection or self.connection.closed:
            self.connection = self.connect()
        return execute(self.connection, text, params)

    def transaction(self, *statements):
        """Runs the statements as one transaction on a connection of its own."""
        with contextlib.closing(self.connect(autocommit=False)) as connection:
            for statement in statements:
                execute(connection, statement)
            connection.commit()

    def on(self, server):
        """The same database on another server, a standby of this one's."""
        there = copy.copy(self)
        there.server, there.connection, there.log_start = server, None, 0
        return there

    def slot_state(self, slot=None):
        """The slot's row of pg_replication_slots as a dict, or None. LSNs are integers."""
        row = self.sql("select to_jsonb(s) || jsonb_build_object("
                       "'confirmed', confirmed_flush_lsn - '0/0', 'restart', restart_lsn - '0/0') "
                       "from pg_replication_slots s where slot_name = %s", (slot or self.slot,))
        return row[0][0] if row else None

    def is_streaming(self, slot=None):
        """Whether somebody streams from the slot. It is active already while it is being made."""
        return self.sql("select 1 from pg_replication_slots s join pg_stat_replication r on r.pid = s.active_pid "
                        "where s.slot_name = %s and r.state in ('catchup', 'streaming')",
                        (slot or self.slot,)) != []

    def wal_lsn(self):
        """The end of the write-ahead log, as an integer."""
        return int(self.sql("select pg_current_wal_lsn() - '0/0'")[0][0])

    def log(self):
        """What the server has logged since this database was made."""
        return self.server.log()[self.log_start:]

    def drop(self):
        """Removes the database with its slots, whoever still uses them."""
        if self.connection:
            self.connection.close()
        if not self.server.process:
            return
        self.drop_slots()
        self.server.sql(f"drop database {self.name} with (force)" if self.server.version >= 130000
                        else f"drop database {self.name}")

    def drop_slots(self):
        """Removes its slots, whose users may not have ended yet."""
        where = f"from pg_replication_slots where database = '{self.name}'"
        self.server.sql(f"select pg_terminate_backend(active_pid) {where} and active")
        wait_until(lambda: not self.server.sql(f"select {where} and active"), "the slots to be free")
        self.server.sql(f"select pg_drop_replication_slot(slot_name) {where}")


class Via(Database):
    """A database as pgherald shall reach it: as another role, over another address.

        Via(db, user="guarded"), Via(db, host="127.0.0.1", port=proxy.port)
    """

    def __init__(self, db, **more):
        self.__dict__.update(db.__dict__)
        self.more = more

    @property
    def conninfo(self):
        return self.server.conninfo(self.name, **self.more)
