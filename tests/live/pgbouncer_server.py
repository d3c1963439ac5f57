"""PgBouncer in front of a server, in a temporary folder: a connection is one's own for a transaction."""
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile

import psycopg2

from postgres import LIMIT, PR_SET_PDEATHSIG, free_port, server_owner, wait_until


class PgBouncer:
    """Pools by transaction, with fewer connections to the server than a test has clients."""

    def __init__(self, server, pool_size=3):
        self.dir = tempfile.mkdtemp(prefix="pgherald-test-bouncer-", dir="/tmp")
        self.port = free_port()
        self.owner = server_owner()  # it refuses to run as root, as the server does
        self.log_path = f"{self.dir}/bouncer.log"
        self.process = None
        if self.owner:
            os.chown(self.dir, self.owner["user"], self.owner["group"])
        with open(f"{self.dir}/bouncer.ini", "w") as f:
            f.write(f"[databases]\n* = host={server.host} port={server.port} user=postgres\n[pgbouncer]\n"
                    f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
                    f"pool_mode = transaction\ndefault_pool_size = {pool_size}\nmax_client_conn = 200\n"
                    "server_login_retry = 0\nserver_round_robin = 1\nadmin_users = postgres\n")

    def __enter__(self):
        libc = ctypes.CDLL(None)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                ["/usr/sbin/pgbouncer", f"{self.dir}/bouncer.ini"], cwd="/", stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), **self.owner)
        wait_until(self._answers, "PgBouncer to start")
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait(LIMIT)
        shutil.rmtree(self.dir)

    def _answers(self):
        assert self.process.poll() is None, f"PgBouncer did not start:\n{self.log()}"
        try:
            self.connect("pgbouncer").close()
        except psycopg2.OperationalError:
            return False
        return True

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def conninfo(self, dbname):
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={dbname}"

    def connect(self, dbname):
        connection = psycopg2.connect(self.conninfo(dbname))
        connection.autocommit = True
        return connection
