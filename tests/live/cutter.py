"""A proxy that cuts connections in their middle."""
import contextlib
import select
import socket
import threading


class Proxy:
    """Passes connections on to a port of 127.0.0.1. cuts are the numbers of bytes from the client
    after which a connection is cut, one for each cut; then nothing is cut any more. While mute, what
    the server says is lost."""

    def __init__(self, target, cuts=()):
        self.target, self.cuts, self.mute = target, list(cuts), False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        passed = 0
        with client, contextlib.suppress(OSError), \
                socket.create_connection(("127.0.0.1", self.target)) as server:
            while True:
                for s in select.select([client, server], [], [])[0]:
                    data = s.recv(4096)
                    if not data:
                        return
                    if s is client and self.cuts and passed + len(data) >= self.cuts[0]:
                        server.sendall(data[:self.cuts.pop(0) - passed])
                        return
                    if s is server and self.mute:
                        continue
                    passed += len(data) if s is client else 0
                    (server if s is client else client).sendall(data)

    def close(self):
        self.listener.close()
