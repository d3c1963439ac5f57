"""A relay between a client and a server on loopback: its connections can be cut and watched."""
import contextlib
import socket
import threading


class Proxy:
    """Listens on .port for a server's port. cut_after(n) cuts when the client has sent n bytes more."""

    def __init__(self, port):
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sent = 0  # bytes from clients
        self.cuts = 0
        self.limit = None
        self.watch = None  # called with what clients send
        self.lock = threading.Lock()
        self.sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                with self.lock:
                    self.sockets += [client, server]
                threading.Thread(target=self._relay, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._relay, args=(server, client, False), daemon=True).start()

    def _relay(self, source, target, from_client):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if from_client and (data := self._count(data)) is None:
                    return
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _count(self, data):
        if self.watch:
            self.watch(data)
        with self.lock:
            self.sent += len(data)
            if self.limit is None or self.sent < self.limit:
                return data
            self.limit = None
        self.cut()
        return None

    def cut_after(self, n):
        with self.lock:
            self.limit = self.sent + n

    def cut(self):
        """Ends all connections at once, as a network does that breaks."""
        with self.lock:
            self.cuts += 1
            sockets, self.sockets = self.sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self):
        self.listener.close()
        self.cut()
