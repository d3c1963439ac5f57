"""Mosquitto for the tests, read with mosquitto_sub."""
import collections
import json
import subprocess
import threading

import postgres
from daemon import Daemon

Message = collections.namedtuple("Message", "topic retain id body")


class Mosquitto(Daemon):
    """A broker of its own: Mosquitto(max_packet_size=5000). Settings are those of its file; its
    sessions and what is queued for them outlive stop()."""

    def __init__(self, tls=None, **settings):
        super().__init__("mqtt", owner=postgres.server_owner())
        self.tls = tls
        self.argv = ["mosquitto", "-c", f"{self.dir}/conf"]
        self.subscribers = []
        self.configure(**settings)
        self.start()

    def configure(self, **settings):
        lines = {"allow_anonymous": "true", "persistence": "true", "persistence_location": f"{self.dir}/",
                 "max_queued_messages": 100000, **settings}
        with open(f"{self.dir}/conf", "w") as f:
            f.write(f"listener {self.port} 127.0.0.1\n"
                    + "".join(f"log_type {t}\n" for t in ("error", "warning", "notice", "subscribe")))
            for name, value in {**(self.tls or {}), **lines}.items():
                f.write(f"{name} {value}\n")

    def stop(self):
        """A signal that comes while it starts may be lost."""
        self.process.terminate()
        postgres.wait_until(self._stopped, "mosquitto to stop")

    def _stopped(self):
        try:
            return self.process.wait(1) is not None
        except subprocess.TimeoutExpired:
            self.process.terminate()
            return False

    def url(self, template="", scheme="mqtt", user="", port=None, **params):
        query = "&".join(f"{k}={v}" for k, v in params.items())
        return f"{scheme}://{user}127.0.0.1:{port or self.port}/{template}" + (f"?{query}" if query else "")

    def subscribe(self, topic="#", *args):
        """Reads from now on, with a session that outlives the broker."""
        reader = Subscriber(self.port, topic, *args)
        self.subscribers.append(reader)
        postgres.wait_until(lambda: f": {reader.name} 1 {topic}" in self.log(), "the subscription")
        return reader

    def remove(self):
        for one in self.subscribers:
            one.close()
        super().remove()


class Subscriber:
    """mosquitto_sub with a session, and what it has received. With QoS 1: of 2.0.11, a reader with
    QoS 2 stops behind the first 20 messages, whoever has sent them."""

    count = 0

    def __init__(self, port, topic, *args):
        Subscriber.count += 1
        self.messages = []
        self.name = f"reader{Subscriber.count}"
        self.process = subprocess.Popen(
            ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-V", "5", "-q", "1", "-c", "-x", "1000",
             "-i", self.name, "-t", topic, "-F", "%j", *args],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            m = json.loads(line)
            properties = m.get("properties", {}).get("user-properties", {})
            self.messages.append(Message(m["topic"], m["retain"], properties.get("id"), m["payload"]))

    def wait_for(self, condition):
        postgres.wait_until(condition, "messages")
        return list(self.messages)

    def wait(self, n):
        return self.wait_for(lambda: len(self.messages) >= n)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.thread.join()
