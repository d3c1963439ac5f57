"""Kafka for the tests, read with kcat: librdkafka's mock cluster, which every machine with the library
has, and Apache Kafka for what the mock lacks; and the one that PGHERALD_TEST_KAFKA names."""
import collections
import json
import os
import subprocess

import pytest

import daemon
import herald
import postgres

FOLDER = os.path.dirname(herald.PROGRAM)
NAMED = os.environ.get("PGHERALD_TEST_KAFKA")
PRODUCE, INIT_PRODUCER_ID = 0, 22  # API keys
NOT_LEADER, TOO_LARGE, AUTHORIZATION, INVALID_RECORD = 6, 10, 29, 87  # error codes
NOT_ENOUGH_REPLICAS, STORAGE = 19, 56

Message = collections.namedtuple("Message", "topic partition offset key id body headers")


class Broker:
    """What all have. `brokers` is what clients are told."""

    positions = "pgherald-positions"
    options = ()  # of kcat

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

    def close(self):
        pass


class Mock(Broker):
    """librdkafka's: Mock(brokers=3). Its data lives as long as the process, and the last 5 MB of each
    partition."""

    def __init__(self, brokers=1):
        self.process = daemon.spawn((f"{FOLDER}/kafka_mock", str(brokers)), text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.brokers = self.process.stdout.readline().strip()
        assert self.brokers, "the mock cluster did not start"

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

    def close(self):
        self.process.kill()
        self.process.wait()


class Kafka(Broker, daemon.Daemon):
    """Apache Kafka, one broker: Kafka(user="PLAIN:me:secret", cert="CERTIFICATE:KEY"). What else is named
    are lines of server.properties, _ for each dot. Its data outlives kill9()."""

    def __init__(self, ready=True, options=(), user="", cert="", version="4.1.1", **settings):
        daemon.Daemon.__init__(self, "kafka")
        self.brokers = f"127.0.0.1:{self.port}"
        self.options = options
        internal, controller = postgres.free_port(), postgres.free_port()
        self.settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INTERNAL",
            "listeners": f"CLIENT://{self.brokers},INTERNAL://127.0.0.1:{internal},"
                         f"CONTROLLER://127.0.0.1:{controller}",
            "listener.security.protocol.map": "INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENT:"
                                              + ("SASL_PLAINTEXT" if user else "SSL" if cert else "PLAINTEXT"),
            "log.dirs": f"{self.dir}/data",
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 1000,  # for so long one that was killed cannot come back
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            **{name.replace("_", "."): value for name, value in settings.items()},
        }
        if cert:
            self.settings["ssl.keystore.type"] = "PEM"
            self.settings["ssl.keystore.key"], self.settings["ssl.keystore.certificate.chain"] = (
                open(path).read().replace("\n", "\\n") for path in reversed(cert.split(":")))
        self.configure(user)
        run = java(version)
        method, name, password = (user or "::").split(":")
        scram = ["--add-scram", f'{method}=[name="{name}",password="{password}"]']
        subprocess.run([*run, "kafka.tools.StorageTool", "format", "-t", "A" * 22,
                        "-c", f"{self.dir}/server.properties", *(scram if "SCRAM" in method else ())],
                       check=True, capture_output=True)
        self.argv = (*run, "kafka.Kafka", f"{self.dir}/server.properties")
        if ready:
            self.start()

    def configure(self, user):
        """What holds from the next start on."""
        method, name, password = (user or "::").split(":")
        if user:
            module = "scram.Scram" if "SCRAM" in method else "plain.Plain"
            self.settings["sasl.enabled.mechanisms"] = method
            self.settings[f"listener.name.client.{method.lower()}.sasl.jaas.config"] = (
                f'org.apache.kafka.common.security.{module}LoginModule required user_{name}="{password}";')
        with open(f"{self.dir}/server.properties", "w") as f:
            f.writelines(f"{key}={value}\n" for key, value in self.settings.items())

    def close(self):
        self.remove()


class Named(Broker):
    """The brokers that PGHERALD_TEST_KAFKA=HOST:PORT names, which must make topics that are missing.
    All topics get a prefix of this object's own."""

    made = 0

    def __init__(self):
        Named.made += 1
        self.brokers = NAMED
        self.prefix = f"pgherald-test-{os.getpid()}-{Named.made}-{postgres.free_port()}-"

    def url(self, template="", user="", **params):
        return super().url(self.prefix + template, user, positions=self.prefix + self.positions, **params)

    def read(self, topic):
        return super().read(self.prefix + topic)


def library():
    """The version of librdkafka: (2, 0, 2)."""
    done = subprocess.run(["kcat", "-V"], text=True, capture_output=True)
    return tuple(int(n) for n in done.stdout.split("librdkafka ")[1].split()[0].split("."))


def java(version):
    """How the programs of a version of Kafka are started."""
    done = subprocess.run([f"{herald.REPO}/script/fetch-kafka", version], text=True, capture_output=True)
    if done.returncode:
        pytest.skip(f"Kafka cannot be fetched: {done.stderr[-300:]}")
    return ("java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{done.stdout.strip()}/*")


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
