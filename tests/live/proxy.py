"""A TCP proxy between pgherald and a server that does what networks do: cut, fall silent, split."""
import random
import re
import socket
import struct
import threading

PIECES = (1, 7)  # bytes, least and most
PROTOCOL_3 = 196608


def reset(connection):
    """Closes with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Link:
    """One client's connection: two threads, one for each direction."""

    def __init__(self, proxy, client):
        self.proxy = proxy
        self.sent = bytearray()  # what the client has sent
        self.cut = self.ended = self.stalled = False
        self.random = random.Random(len(proxy.links))
        self.client = client
        self.server = socket.create_connection(("127.0.0.1", proxy.server_port))
        for end in (self.client, self.server):
            end.settimeout(0.02)  # how often a direction looks at what is wanted
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.threads = [threading.Thread(target=self._pump, args=ends, daemon=True)
                        for ends in ((self.client, self.server), (self.server, self.client))]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()
        for end in (self.client, self.server):
            reset(end) if self.cut else end.close()

    def _pump(self, source, target):
        while not self.cut and not self.ended:
            try:
                data = source.recv(65536)
                if source is self.client:
                    self.sent += data
                while (self.stalled or self.proxy.still) and not self.cut:
                    threading.Event().wait(0.02)
                if not data:
                    self.ended = True
                elif source is self.client:
                    data, is_cut = self.proxy.until_cut(data)
                    self._send(target, data)
                    if is_cut:
                        self.proxy.cut()
                elif not self.proxy.mute:
                    self._send(target, data)
            except TimeoutError:
                pass
            except OSError:
                self.ended = True

    def _send(self, target, data):
        while data and not self.cut and not self.ended:
            piece = self.random.randint(*PIECES) if self.proxy.split else len(data)
            try:
                data = data[target.send(data[:piece]):]
            except TimeoutError:
                pass

    # What the client has said

    def messages(self):
        """The client's messages behind the startup packet, as (type, body)."""
        data, at, started = bytes(self.sent), 0, False
        while at + 8 <= len(data):
            kind = data[at:at + 1] if started else b""
            length, = struct.unpack_from("!I", data, at + len(kind))
            body = data[at + len(kind) + 4:at + len(kind) + length]
            if len(body) < length - 4:
                return
            if started:
                yield kind.decode(), body
            else:
                started = body[:4] == struct.pack("!I", PROTOCOL_3)
            at += len(kind) + length

    def start_lsn(self):
        """Where START_REPLICATION asked the stream to begin; None when there was none."""
        for kind, body in self.messages():
            found = kind == "Q" and re.match(rb"START_REPLICATION .* LOGICAL (\w+)/(\w+) ", body)
            if found:
                return int(found[1], 16) << 32 | int(found[2], 16)
        return None

    def statuses(self):
        """The flushed LSN of each standby status."""
        return [struct.unpack_from("!QQQ", body, 1)[1] for kind, body in self.messages()
                if kind == "d" and body[:1] == b"r"]


class Proxy:
    """Listens on a free port, conninfo `host=127.0.0.1 port=PORT`, and passes on to a server's.

    split=True sends everything on in pieces of 1 to 7 bytes, refusing=True cuts new links at once.
    cuts: behind so many bytes from clients all links are cut; one number for each cut, each counted
    from the cut before. While mute is True, what the server says is lost; while still is, nothing is
    passed on and nothing closed.
    """

    def __init__(self, server_port, split=False, cuts=()):
        self.server_port = server_port
        self.split, self.cuts, self.mute, self.still = split, list(cuts), False, False
        self.passed = 0  # bytes from clients since the last cut
        self.lock = threading.Lock()
        self.refusing = False
        self.refused = 0
        self.links = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.refusing:
                self.refused += 1
                reset(client)
                continue
            try:
                self.links.append(Link(self, client))
            except OSError:  # the server is away
                reset(client)

    def replications(self):
        """The links over which a stream was begun, in order."""
        return [link for link in self.links if link.start_lsn() is not None]

    def cut_after(self, n):
        """Cuts all links when clients have sent n bytes more."""
        with self.lock:
            self.passed, self.cuts = 0, [n]

    def until_cut(self, data):
        """What is passed on of the data from a client, and whether all links are cut behind it."""
        with self.lock:
            self.passed += len(data)
            if not self.cuts or self.passed < self.cuts[0]:
                return data, False
            data = data[:len(data) - (self.passed - self.cuts.pop(0))]
            self.passed = 0
            return data, True

    def cut(self):
        """Resets all connections, on both sides."""
        for link in self.links:
            link.cut = True

    def stall(self, links=None):
        """Passes nothing on any more, and closes nothing; new connections are well."""
        for link in links or self.links:
            link.stalled = True

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
