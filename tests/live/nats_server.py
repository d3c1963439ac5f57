"""NATS servers that a test starts in temporary folders, and a small client of NATS's protocol."""
import base64
import json
import signal
import socket
import ssl

from daemon import Daemon
from postgres import LIMIT


class Client:
    """Speaks NATS over a socket: enough to make, read and watch streams."""

    def __init__(self, port, tls=None, limit=LIMIT, **connect):
        self.socket = socket.create_connection(("127.0.0.1", port), limit)
        self.file = self.socket.makefile("rb")
        info = self.file.readline()
        assert info.startswith(b"INFO ")
        if tls:
            self.socket = ssl.create_default_context(cafile=tls).wrap_socket(
                self.socket, server_hostname="localhost")
            self.file = self.socket.makefile("rb")
        if "sign" in connect:  # what signs the server's challenge
            connect["sig"] = connect.pop("sign")(json.loads(info[5:])["nonce"])
        options = {"verbose": False, "headers": True, "no_responders": True, **connect}
        self._write(f"CONNECT {json.dumps(options)}\r\nSUB inbox.* 1\r\nPING\r\n")
        line = self.file.readline()
        assert line == b"PONG\r\n", line
        self.calls = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.file.close()
        self.socket.close()

    def _write(self, text):
        self.socket.sendall(text if isinstance(text, bytes) else text.encode())

    def subscribe(self, subject):
        """What is published there from now on comes from next_message()."""
        self._write(f"SUB {subject} 2\r\nPING\r\n")
        assert self.file.readline() == b"PONG\r\n"

    def publish(self, subject, body=b"", reply=""):
        self._write(f"PUB {subject} {reply} {len(body)}\r\n".encode() + body + b"\r\n")

    def next_message(self):
        """(subject, headers as text, body) of the next message."""
        while True:
            words = self.file.readline().split()
            assert words, "the server closed the connection"
            if words[0] == b"PING":
                self._write("PONG\r\n")
            if words[0] in (b"MSG", b"HMSG"):
                break
        data = self.file.read(int(words[-1]) + 2)[:-2]
        head = int(words[-2]) if words[0] == b"HMSG" else 0
        return words[1].decode(), data[:head].decode(), data[head:]

    def request(self, subject, payload=None):
        """The answer of the JetStream API, as a dict."""
        self.calls += 1
        body = b"" if payload is None else json.dumps(payload).encode()
        self.publish(f"$JS.API.{subject}", body, f"inbox.{self.calls}")
        while True:
            to, _, answer = self.next_message()
            if to == f"inbox.{self.calls}":
                return json.loads(answer)


class NatsServer(Daemon):
    """A nats-server with JetStream, or without. More lines of configuration go in `config`."""

    def __init__(self, config="", jetstream=True, scheme="nats", host="127.0.0.1", user=None, tls=None):
        super().__init__(scheme, host)
        self.user, self.tls = user, tls
        self.argv = ["nats-server", "-c", f"{self.dir}/server.conf"]
        self.jetstream = jetstream
        self.configure(config)

    def configure(self, config):
        with open(f"{self.dir}/server.conf", "w") as f:
            f.write(f'listen: "127.0.0.1:{self.port}"\n{config}\n')
            if self.jetstream:
                f.write(f'jetstream {{ store_dir: "{self.dir}/js", max_mem: 100MB, max_file: 1GB }}\n')

    def answers(self):
        return self.log().count("Server is ready") > 0 and super().answers()

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    # Using it

    def client(self, limit=LIMIT):
        return Client(self.port, tls=self.tls, limit=limit, **(self.user or {}))

    def api(self, subject, payload=None, limit=LIMIT):
        """TimeoutError when there is no answer within `limit` seconds, as without a leader."""
        with self.client(limit) as client:
            return client.request(subject, payload)

    def make_stream(self, name, *subjects, **more):
        answer = self.api(f"STREAM.CREATE.{name}", {
            "name": name, "subjects": subjects, "storage": "file", "retention": "limits",
            "num_replicas": 1, **more})
        assert "error" not in answer, answer

    def edit_stream(self, name, **changes):
        config = {**self.api(f"STREAM.INFO.{name}")["config"], **changes}
        answer = self.api(f"STREAM.UPDATE.{name}", config)
        assert "error" not in answer, answer

    def count(self, name):
        """How many messages the stream has."""
        return self.api(f"STREAM.INFO.{name}").get("state", {}).get("messages", 0)

    def messages(self, name):
        """All messages of the stream: (subject, headers as text, body)."""
        with self.client() as client:
            state = client.request(f"STREAM.INFO.{name}")["state"]
            found = []
            for seq in range(state["first_seq"], state["last_seq"] + 1):
                m = client.request(f"STREAM.MSG.GET.{name}", {"seq": seq}).get("message")
                if m:
                    found.append((m["subject"], base64.b64decode(m.get("hdrs", "")).decode(),
                                  base64.b64decode(m.get("data", ""))))
            return found

    def events(self, name):
        """The bodies of all messages, read as JSON."""
        return [json.loads(body) for _, _, body in self.messages(name)]
