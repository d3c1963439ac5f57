"""Kafka for the tests: librdkafka's mock cluster in a process of its own, read with kcat."""
import collections
import json
import os
import subprocess

import herald
import postgres

PROGRAM = os.path.join(os.path.dirname(herald.PROGRAM), "kafka_mock")
PRODUCE, INIT_PRODUCER_ID = 0, 22  # API keys
TOO_LARGE, INVALID_RECORD, AUTHORIZATION = 10, 87, 29  # error codes

Message = collections.namedtuple("Message", "topic partition offset key id body")


class Kafka:
    """A cluster: Kafka(brokers=3). Its data lives as long as the process."""

    def __init__(self, brokers=1):
        self.process = subprocess.Popen([PROGRAM, str(brokers)], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, start_new_session=True)
        self.brokers = self.process.stdout.readline().strip()
        assert self.brokers, "the mock cluster did not start"

    def tell(self, *words):
        """Gives the cluster a command, see kafka_mock.c."""
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer == "ok", f"{words}: {answer}"

    def url(self, template="", **params):
        query = "&".join(f"{k}={v}" for k, v in params.items())
        return f"kafka://{self.brokers}/{template}" + (f"?{query}" if query else "")

    def read(self, topic):
        """What kcat finds in a topic, in the order of each partition."""
        return read(self.brokers, topic)

    def bodies(self, topic):
        return [json.loads(m.body) for m in self.read(topic)]

    def wait(self, topic, n):
        """Waits until the topic has n messages and returns all that there are."""
        return postgres.wait_until(lambda: (lambda got: len(got) >= n and got)(self.read(topic)),
                                   f"{n} messages in {topic}", interval=0.1)

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def read(brokers, topic):
    done = subprocess.run(["kcat", "-C", "-q", "-e", "-J", "-b", brokers, "-t", topic, "-o", "beginning",
                           "-X", "isolation.level=read_committed", "-X", "topic.metadata.refresh.interval.ms=500"],
                          capture_output=True, timeout=postgres.LIMIT)
    assert done.returncode == 0, done.stderr.decode()
    messages = []
    for line in done.stdout.decode().splitlines():
        m = json.loads(line)
        headers = dict(zip(m["headers"][::2], m["headers"][1::2])) if m.get("headers") else {}
        messages.append(Message(m["topic"], m["partition"], m["offset"], m["key"], headers.get("id"),
                                m["payload"]))
    return messages
