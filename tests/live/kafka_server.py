"""Kafka for the tests, read with kcat: librdkafka's mock cluster, which every machine with the library
has, and kfake, a broker in Go, for what the mock lacks; and a real one where there is one."""
import collections
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

import daemon
import herald
import postgres

FOLDER = os.path.dirname(herald.PROGRAM)
REAL = os.environ.get("PGHERALD_TEST_KAFKA")
PRODUCE, INIT_PRODUCER_ID = 0, 22  # API keys
NOT_LEADER, TOO_LARGE, AUTHORIZATION, INVALID_RECORD = 6, 10, 29, 87  # error codes
NOT_ENOUGH_REPLICAS, STORAGE = 19, 56

Message = collections.namedtuple("Message", "topic partition offset key id body headers")


class Broker:
    """What both have. `brokers` is what clients are told."""

    process = None
    positions = "pgherald-positions"
    options = ()  # of kcat

    def spawn(self, *argv):
        self.process = daemon.spawn(argv, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.brokers = self.process.stdout.readline().strip()
        assert self.brokers, f"{argv[0]} did not start"

    def url(self, template="", user="", **params):
        query = "&".join(f"{k}={v}" for k, v in params.items())
        return f"kafka://{user}{self.brokers}/{template}" + (f"?{query}" if query else "")

    def read(self, topic):
        """What kcat finds in a topic, in the order of each partition."""
        return read(self.brokers, topic, *self.options)

    def bodies(self, topic):
        return [json.loads(m.body) for m in self.read(topic)]

    def wait(self, topic, n):
        """Waits until the topic has n messages and returns all that there are."""
        return postgres.wait_until(lambda: (lambda got: len(got) >= n and got)(self.read(topic)),
                                   f"{n} messages in {topic}", interval=0.1)

    def kill9(self):
        self.process.kill()
        self.process.wait()

    def freeze(self, frozen=True):
        self.process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def close(self):
        if self.process and self.process.poll() is None:
            self.kill9()


class Mock(Broker):
    """librdkafka's: Mock(brokers=3). Its data lives as long as the process, and the last 5 MB of each
    partition."""

    def __init__(self, brokers=1):
        self.spawn(f"{FOLDER}/kafka_mock", str(brokers))

    def read(self, topic):
        messages = super().read(topic)
        first = {m.partition: m.offset for m in reversed(messages)}
        assert not any(first.values()), "the mock cluster has forgotten the oldest messages"
        return messages

    def tell(self, *words):
        """Gives the cluster a command, see kafka_mock.c."""
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer == "ok", f"{words}: {answer}"


class Kfake(Broker):
    """The one in Go, see kfake/main.go: Kfake(user="PLAIN:me:secret"). Its data outlives stop(), but
    not kill9(): the list of topics is only written at the end."""

    def __init__(self, ready=True, options=(), **flags):
        self.program = find_kfake()
        self.dir = tempfile.mkdtemp(prefix="pgherald-test-", dir="/tmp")
        self.port = postgres.free_port()
        self.brokers = f"127.0.0.1:{self.port}"
        self.flags = [f"-{name}={value}" for name, value in flags.items()]
        self.options = options
        if ready:
            self.start()

    def start(self):
        self.spawn(self.program, f"-port={self.port}", f"-data={self.dir}/data", *self.flags)
        postgres.wait_until(self._answers, "kfake to start")

    def stop(self):
        self.process.stdin.close()
        self.process.wait(postgres.LIMIT)

    def _answers(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def close(self):
        super().close()
        shutil.rmtree(self.dir, ignore_errors=True)


class Real(Broker):
    """The brokers that PGHERALD_TEST_KAFKA=HOST:PORT names, which must make topics that are missing.
    All topics get a prefix of this object's own."""

    made = 0

    def __init__(self):
        Real.made += 1
        self.brokers = REAL
        self.prefix = f"pgherald-test-{os.getpid()}-{Real.made}-{postgres.free_port()}-"

    def url(self, template="", user="", **params):
        return super().url(self.prefix + template, user, positions=self.prefix + self.positions, **params)

    def read(self, topic):
        return super().read(self.prefix + topic)


def find_kfake():
    if not os.path.exists(f"{herald.REPO}/build-test/kfake"):
        done = subprocess.run([f"{herald.REPO}/script/fetch-kafka"], text=True, capture_output=True)
        if done.returncode:
            pytest.skip(f"kfake cannot be built: {done.stderr[-300:]}")
    return f"{herald.REPO}/build-test/kfake"


def read(brokers, topic, *options):
    done = subprocess.run(["kcat", "-C", "-q", "-e", "-J", "-b", brokers, "-t", topic, "-o", "beginning",
                           "-X", "isolation.level=read_committed", *options],
                          capture_output=True, timeout=postgres.LIMIT)
    if b"Unknown topic" in done.stderr:
        return []
    assert done.returncode == 0, done.stderr.decode()
    messages = []
    for line in done.stdout.decode().splitlines():
        m = json.loads(line)
        headers = dict(zip(m["headers"][::2], m["headers"][1::2])) if m.get("headers") else {}
        messages.append(Message(m["topic"], m["partition"], m["offset"], m["key"], headers.get("id"),
                                m["payload"], headers))
    return messages
