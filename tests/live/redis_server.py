"""Redis servers that a test starts in temporary folders; read with redis-cli."""
import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile

from postgres import LIMIT, PR_SET_PDEATHSIG, free_port, wait_until


class RedisServer:
    """A redis-server that writes each command to disk before it replies. Settings are those of
    redis.conf; tls=(ca, cert, key) makes its port one of TLS."""

    def __init__(self, password=None, tls=None, host="127.0.0.1", **settings):
        self.dir = tempfile.mkdtemp(prefix="pgherald-test-redis-", dir="/tmp")
        self.port = free_port()
        self.host, self.password, self.tls = host, password, tls
        self.scheme = "rediss" if tls else "redis"
        self.log_path = f"{self.dir}/server.log"
        self.process = None
        settings = {"bind": "127.0.0.1", "port": 0 if tls else self.port, "dir": self.dir,
                    "unixsocket": f"{self.dir}/socket", "appendonly": "yes", "appendfsync": "always",
                    "save": '""', **settings}
        if tls:
            settings.update({"tls-port": self.port, "tls-ca-cert-file": tls[0], "tls-cert-file": tls[1],
                             "tls-key-file": tls[2], "tls-auth-clients": "no"})
        if password:
            settings["requirepass"] = password
        with open(f"{self.dir}/redis.conf", "w") as f:
            f.writelines(f"{name} {value}\n" for name, value in settings.items())

    def url(self, path="", user=None, port=None, host=None):
        return f"{self.scheme}://{user + '@' if user else ''}{host or self.host}:{port or self.port}/{path}"

    # Starting and ending

    def start(self):
        libc = ctypes.CDLL(None)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", f"{self.dir}/redis.conf"], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        wait_until(self._ready, "redis-server to start")
        return self

    def _ready(self):
        assert self.process.poll() is None, f"redis-server did not start:\n{self.log()}"
        return self.raw("ping").strip() == "PONG"

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(LIMIT)
        self.process = None

    def kill9(self):
        self.stop(signal.SIGKILL)

    def remove(self):
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.kill9()
        shutil.rmtree(self.dir)

    def log(self):
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, errors="replace") as f:
            return f.read()

    # Using it

    def raw(self, *words, db=0):
        auth = {"REDISCLI_AUTH": self.password} if self.password else {}
        return subprocess.run(["redis-cli", "-s", f"{self.dir}/socket", "-n", str(db), *map(str, words)],
                              env={**os.environ, **auth}, capture_output=True, text=True,
                              timeout=LIMIT).stdout

    def cli(self, *words, db=0):
        """What redis-cli answers to a command."""
        return json.loads(self.raw("--json", *words, db=db))

    def count(self, *streams):
        return sum(self.cli("xlen", name) for name in streams)

    def entries(self, stream, db=0):
        """[(id, {field: value}) ...]"""
        found = self.cli("xrange", stream, "-", "+", db=db)
        return [(entry, dict(zip(fields[::2], fields[1::2]))) for entry, fields in found]

    def events(self, *streams, field="event"):
        return [json.loads(fields[field]) for name in streams for _, fields in self.entries(name)]
