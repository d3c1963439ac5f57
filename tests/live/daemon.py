"""What the tests' servers have in common: a folder and a port of their own, and an end by pid."""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile

from postgres import LIMIT, PR_SET_PDEATHSIG, free_port, wait_until


def spawn(argv, **options):
    """Starts a process that dies with the tests. Options are Popen's."""
    libc = ctypes.CDLL(None)
    return subprocess.Popen(argv, start_new_session=True,
                            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), **options)


class Daemon:
    """A server on a free port of 127.0.0.1 whose files are in .dir. What is derived from it says in
    `argv` how it is started; owner is Popen's arguments for another user."""

    process = None
    argv = ()

    def __init__(self, scheme, host="127.0.0.1", owner=None):
        self.scheme, self.host, self.owner = scheme, host, owner or {}
        self.dir = tempfile.mkdtemp(prefix=f"pgherald-test-{scheme}-", dir="/tmp")
        self.log_path = f"{self.dir}/server.log"
        self.port = free_port()
        if self.owner:
            os.chmod(self.dir, 0o755)
            os.chown(self.dir, self.owner["user"], self.owner["group"])

    def url(self, path="", user=None, port=None, host=None):
        return f"{self.scheme}://{user + '@' if user else ''}{host or self.host}:{port or self.port}/{path}"

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = spawn(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.owner)
        wait_until(self._ready, f"{self.argv[0]} to start")
        return self

    def __enter__(self):
        return self if self.process else self.start()

    def __exit__(self, *exc):
        self.remove()

    def _ready(self):
        assert self.process.poll() is None, f"{self.argv[0]} did not start:\n{self.log()[-4000:]}"
        return self.answers()

    def answers(self):
        """Whether it can be used."""
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        self._end(signal.SIGTERM)

    def kill9(self):
        self._end(signal.SIGKILL)

    def _end(self, number):
        self.process.send_signal(number)
        self.process.wait(LIMIT)
        self.process = None

    def freeze(self, frozen=True):
        """Stops it in its tracks, or lets it go on."""
        self.process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def remove(self):
        if self.process:
            self.kill9()
        shutil.rmtree(self.dir)

    def log(self):
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, errors="replace") as f:
            return f.read()
