"""A RabbitMQ broker that the tests start in a temporary folder and end by pid, and a client of it."""
import collections
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile

import amqp

from daemon import spawn
from postgres import free_port, kill_pids, running, wait_until

Message = collections.namedtuple("Message", "key body properties headers redelivered")


def owner():
    """Popen's arguments: the package's user where there is one, as RabbitMQ wants no root."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("rabbitmq")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def program(name):
    folder = next(f"/usr/lib/rabbitmq/lib/{d}/sbin" for d in sorted(os.listdir("/usr/lib/rabbitmq/lib")))
    return f"{folder}/{name}"


class Rabbit:
    """A broker of its own: Rabbit(max_message_size=100000). tls is (ca, certificate, key)."""

    made = 0

    def __init__(self, tls=None, **settings):
        Rabbit.made += 1
        self.owner = owner()
        self.dir = tempfile.mkdtemp(prefix="pgherald-rabbit-", dir="/tmp")
        self.port, self.epmd_port, self.dist_port = free_port(), free_port(), free_port()
        self.tls_port = free_port() if tls else None
        self.node = f"t{os.getpid()}x{Rabbit.made}@localhost"
        self.process = self.epmd = None
        self.settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "disk_free_limit.absolute": "10MB",
            "vm_memory_high_watermark.absolute": "1GB",
            "log.file.level": "info",
            "heartbeat": "60",
            **settings,
        }
        if tls:
            self.settings = {
                "listeners.ssl.1": f"127.0.0.1:{self.tls_port}",
                "ssl_options.cacertfile": tls[0],
                "ssl_options.certfile": tls[1],
                "ssl_options.keyfile": tls[2],
                "ssl_options.verify": "verify_none",
                **self.settings,
            }
        with open(f"{self.dir}/rabbitmq.conf", "w") as f:
            f.writelines(f"{k} = {v}\n" for k, v in self.settings.items())
        with open(f"{self.dir}/enabled_plugins", "w") as f:
            f.write("[].\n")
        for path in ("", "/rabbitmq.conf", "/enabled_plugins"):
            if self.owner:
                os.chown(self.dir + path, self.owner["user"], self.owner["group"])

    @property
    def env(self):
        return {
            "PATH": os.environ["PATH"], "HOME": self.dir, "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
            "RABBITMQ_MNESIA_BASE": f"{self.dir}/mnesia",
            "RABBITMQ_LOG_BASE": f"{self.dir}/log",
            "RABBITMQ_CONFIG_FILE": f"{self.dir}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.dir}/enabled_plugins",
            "RUNNING_UNDER_SYSTEMD": "1",  # so that the script becomes Erlang itself
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exc):
        self.remove()

    def _popen(self, argv, log):
        with open(f"{self.dir}/{log}", "ab") as out:
            return spawn(argv, cwd=self.dir, env=self.env, stdout=out, stderr=out,
                         stdin=subprocess.DEVNULL, **self.owner)

    # Starting and ending

    def start(self):
        assert not self.process, "the broker runs already"
        if not self.epmd:
            self.epmd = self._popen(["epmd"], "epmd.log")
        self.process = self._popen([program("rabbitmq-server")], "server.log")
        wait_until(self._answers, "the broker to start", interval=0.1)

    def _answers(self):
        assert self.process.poll() is None, f"the broker did not start:\n{self.log()[-4000:]}"
        try:
            self.connect().close()
        except (OSError, amqp.exceptions.AMQPError):
            return False
        return True

    def _group(self):
        """All processes of the broker's session: the shell, Erlang and its helpers."""
        pids = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as f:
                if int(f.read().rpartition(")")[2].split()[3]) == self.process.pid:
                    pids.append(int(pid))
        return pids

    def stop(self):
        """An end in peace: what was declared is there again after start()."""
        pids = self._group()
        self.process.terminate()
        self._wait_gone(pids)

    def settle(self):
        """What was declared outlives kill9: out of its log alone RabbitMQ 3.10 loses one binding of 40."""
        self.ctl("eval", "mnesia:dump_log().")

    def kill9(self):
        """All of the broker's processes die at once, as in a power cut."""
        pids = self._group()
        kill_pids(pids)
        self._wait_gone(pids)

    def _wait_gone(self, pids):
        self.process.wait()
        wait_until(lambda: not any(running(pid) for pid in pids), "the broker's processes to end")
        self.process = None

    def restart(self):
        self.kill9()
        self.start()

    def freeze(self, frozen=True):
        """Stops all its processes in their tracks, or lets them go on."""
        for pid in self._group():
            os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def remove(self):
        if self.process:
            self.freeze(False)
            self.kill9()
        if self.epmd:
            self.epmd.kill()
            self.epmd.wait()
        shutil.rmtree(self.dir)

    # Using it

    def ctl(self, *args):
        done = subprocess.run([program("rabbitmqctl"), "-n", self.node, *args], env=self.env, text=True,
                              cwd=self.dir, capture_output=True, timeout=60, **self.owner)
        assert done.returncode == 0, f"rabbitmqctl {args[0]}: {done.stdout}{done.stderr}"
        return done.stdout

    def log(self):
        text = ""
        for folder, _, names in os.walk(self.dir):
            for name in names:
                if name.endswith(".log"):
                    with contextlib.suppress(FileNotFoundError), open(f"{folder}/{name}", errors="replace") as f:
                        text += f.read()
        return text

    def url(self, vhost="/", user="guest:guest", scheme="amqp", host="127.0.0.1", port=None, **params):
        query = "&".join(f"{k}={v}" for k, v in params.items())
        port = port or (self.tls_port if scheme == "amqps" else self.port)
        name = vhost.replace("/", "%2F")
        return f"{scheme}://{user}@{host}:{port}/{name}" + (f"?{query}" if query else "")

    def connect(self, vhost="/"):
        connection = amqp.Connection(f"127.0.0.1:{self.port}", virtual_host=vhost, heartbeat=0,
                                     connect_timeout=5, read_timeout=30, write_timeout=30)
        connection.connect()
        return connection

    @contextlib.contextmanager
    def channel(self, vhost="/"):
        connection = self.connect(vhost)
        try:
            yield connection.channel()
        finally:
            with contextlib.suppress(OSError, amqp.exceptions.AMQPError):
                connection.close()

    def bind(self, exchange, key="#", queue="", type="topic", durable=True, arguments=None, vhost="/"):
        """Makes the exchange and a durable queue that gets what the keys match; returns its name."""
        with self.channel(vhost) as channel:
            channel.exchange_declare(exchange, type, durable=durable, auto_delete=False)
            name = channel.queue_declare(queue or f"{exchange}.all", durable=True, exclusive=False,
                                         auto_delete=False, arguments=arguments or {}).queue
            channel.queue_bind(name, exchange, key)
        return name

    def count(self, queue, vhost="/"):
        """How many messages wait in the queue."""
        with self.channel(vhost) as channel:
            return channel.queue_declare(queue, passive=True).message_count

    def take(self, queue, n=None, vhost="/"):
        """Takes n messages, or all that there are, off the queue."""
        taken = []
        with self.channel(vhost) as channel:
            n = n or channel.queue_declare(queue, passive=True).message_count
            while len(taken) < n:
                got = channel.basic_get(queue, no_ack=True)
                assert got, f"{queue} has {len(taken)} messages, {n} were expected"
                taken.append(as_message(got))
        return taken


def as_message(got):
    body = got.body.encode() if isinstance(got.body, str) else bytes(got.body)
    headers = dict(got.properties.get("application_headers") or {})
    properties = {k: v for k, v in got.properties.items() if k != "application_headers"}
    info = got.delivery_info
    return Message(info["routing_key"], body, properties, headers, info.get("redelivered"))
