"""An HTTP server that remembers what was posted and answers as a test wants."""
import collections
import http.server
import json
import socket
import ssl
import struct
import threading

Request = collections.namedtuple("Request", "path headers body port status")


class Receiver:
    """Listens on 127.0.0.1. answer(request) gives a status, or (status, headers), or "cut" to reset
    the connection instead of an answer; None is 200. What has got a 2xx is taken."""

    def __init__(self, answer=None, tls=None, client_ca=None):
        self.answer = answer or (lambda request: None)
        self.tls, self.client_ca = tls, client_ca
        self.requests = []
        self.lock = threading.Lock()
        self.busy = self.most_busy = 0
        self.connections = []
        self.port = 0
        self.server = None
        self.start()

    def start(self):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                receiver.handle(self)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request, client_address):
                pass  # clients come and go

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def handle(self, handler):
        body = handler.rfile.read(int(handler.headers["content-length"]))
        with self.lock:
            self.busy += 1
            self.most_busy = max(self.busy, self.most_busy)
            if handler.connection not in self.connections:
                self.connections.append(handler.connection)
        request = Request(handler.path, handler.headers, body, handler.client_address[1], None)
        answer = self.answer(request) or 200
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        with self.lock:
            self.busy -= 1
            self.requests.append(request._replace(status=status))
        if status == "cut":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        text = headers.pop("body", "").encode()
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)

    def stop(self):
        """Nobody listens any more, and all connections are cut."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.connections = []

    def url(self, path="/hook", host="127.0.0.1", **params):
        query = "&".join(f"{k}={v}" for k, v in params.items())
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{host}:{self.port}{path}" + ("?" + query if query else "")

    @property
    def taken(self):
        with self.lock:
            return [r for r in self.requests if isinstance(r.status, int) and r.status // 100 == 2]

    @property
    def events(self):
        """The events of all requests that were taken, arrays unpacked."""
        found = []
        for request in self.taken:
            body = json.loads(request.body)
            found += body if isinstance(body, list) else [body]
        return found
