"""Redis servers that a test starts in temporary folders; read with redis-cli."""
import json
import os
import subprocess

from daemon import Daemon
from postgres import LIMIT


class RedisServer(Daemon):
    """A redis-server that writes each command to disk before it replies. Settings are those of
    redis.conf; tls=(ca, cert, key) makes its port one of TLS."""

    def __init__(self, password=None, tls=None, host="127.0.0.1", **settings):
        super().__init__("rediss" if tls else "redis", host)
        self.password, self.tls = password, tls
        self.argv = ["redis-server", f"{self.dir}/redis.conf"]
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

    def answers(self):
        return self.raw("ping").strip() == "PONG"

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
