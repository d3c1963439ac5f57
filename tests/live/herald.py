"""The pgherald program under test, as a process whose events can be waited for."""
import collections
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import threading
import time

from postgres import LIMIT

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.abspath(os.environ.get("PGHERALD_BIN", f"{REPO}/build-test/pgherald"))
SANITIZER = re.compile(r"ERROR: \w+Sanitizer|runtime error:")

Result = collections.namedtuple("Result", "code out err")


def environment(extra=None):
    """The caller's environment without what would set pgherald or libpq up."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    env.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
    return {**env, **(extra or {})}


def check_sanitizers(argv, err):
    assert not SANITIZER.search(err), f"{' '.join(argv)}: a sanitizer found a fault:\n{err[-8000:]}"


def run(*args, env=None, stdin=None, limit=LIMIT):
    """Runs `pgherald ARGS` to its end: a Result of exit code, standard output and standard error."""
    argv = [PROGRAM, *map(str, args)]
    done = subprocess.run(argv, input=stdin, text=True, capture_output=True, timeout=limit,
                          env=environment(env))
    check_sanitizers(argv, done.stderr)
    return Result(done.returncode, done.stdout, done.stderr)


def in_terminal(*args, env=None):
    """What the program prints in a terminal."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(PROGRAM, [PROGRAM, *args], environment(env))
    out = b""
    with contextlib.suppress(OSError):  # a terminal ends with an error
        while block := os.read(fd, 65536):
            out += block
    os.close(fd)
    os.waitpid(pid, 0)
    return out.decode()


def read_lines(path):
    """The lines of a file output. A last one without its newline is still being written."""
    try:
        with open(path, "rb") as f:
            return f.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def read_events(path):
    return [json.loads(line) for line in read_lines(path)]


class Herald:
    """A running pgherald. Events are read from standard output, or, with file=PATH, from there.

    read=False leaves standard output unread until drain() is called: a blocked output.
    """

    def __init__(self, *args, env=None, file=None, read=True):
        self.argv = [PROGRAM, *map(str, args)]
        self.file = file
        self.lines = []
        self.err = ""
        self.changed = threading.Condition()
        self.process = subprocess.Popen(self.argv, env=environment(env), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        start_new_session=True)
        self.readers = []
        self.draining = False
        self._read(self.process.stderr, self._take_err)
        if read:
            self.drain()

    def _read(self, pipe, take):
        def loop():
            for line in pipe:
                with self.changed:
                    take(line)
                    self.changed.notify_all()
            with self.changed:
                self.changed.notify_all()
        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        self.readers.append(thread)

    def _take_err(self, line):
        self.err += line.decode(errors="replace")

    def drain(self):
        """Starts to read standard output."""
        self.draining = True
        self._read(self.process.stdout, self._take_line)

    def _take_line(self, line):
        if line.endswith(b"\n"):  # the torn last line of a killed process is no event
            self.lines.append(line)

    @property
    def pid(self):
        return self.process.pid

    @property
    def events(self):
        """All events so far."""
        return [json.loads(line) for line in self._all_lines()]

    @property
    def count(self):
        return len(self._all_lines())

    def _all_lines(self):
        return read_lines(self.file) if self.file else list(self.lines)

    def describe(self):
        code = self.process.poll()
        state = "running" if code is None else f"ended with {code}"
        return (f"$ {' '.join(self.argv)}\n({state}, {self.count} events)\n"
                f"--- its standard error:\n{self.err[-8000:]}")

    # Waiting

    def wait_until(self, condition, what="the condition", limit=LIMIT):
        """Waits for condition() while the program runs; its end is a failure."""
        deadline = time.monotonic() + limit
        with self.changed:
            while not condition():
                ended = self.process.poll() is not None and not any(t.is_alive() for t in self.readers)
                if ended and not condition():
                    raise AssertionError(f"ended before {what}\n{self.describe()}")
                if time.monotonic() > deadline:
                    raise AssertionError(f"waited {limit} s in vain for {what}\n{self.describe()}")
                self.changed.wait(0.01 if self.file else 0.05)

    def wait_for(self, n, limit=LIMIT):
        """Waits until there are n events and returns all that there are."""
        self.wait_until(lambda: self.count >= n, f"{n} events", limit)
        return self.events

    def wait_log(self, text, limit=LIMIT):
        """Waits until standard error contains the text."""
        self.wait_until(lambda: text in self.err, f"{text!r} on standard error", limit)

    def wait_ready(self, db, slot=None):
        """Waits until the stream has begun: what is committed from here on is an event."""
        self.wait_until(lambda: db.is_streaming(slot), "the stream to begin")
        return self

    def wait_confirmed(self, db, lsn=None, slot=None):
        """Waits until the slot's confirmed position has reached lsn (default: the log's end now)."""
        lsn = lsn or db.wal_lsn()
        self.wait_until(lambda: db.slot_state(slot)["confirmed"] >= lsn, "the slot to be confirmed")

    # Ending

    def wait_exit(self, limit=LIMIT):
        """Waits for the program's own end and returns its exit code."""
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit} s\n{self.describe()}") from None
        for thread in self.readers:
            thread.join(limit)
        check_sanitizers(self.argv, self.err)
        return self.process.returncode

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        """SIGTERM must end it with exit code 0; returns all events."""
        self.signal(signal.SIGTERM)
        code = self.wait_exit()
        assert code == 0, f"SIGTERM ended it with {code}\n{self.describe()}"
        return self.events

    def kill9(self):
        """Dies as in a power cut; returns the events that had come out."""
        self.process.kill()
        self.wait_exit()
        return self.events

    def close(self):
        """At the end of a test: one that still runs has to end well."""
        try:
            if self.process.poll() is None:
                if not self.draining:
                    self.drain()
                self.stop()
            else:
                self.wait_exit()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
