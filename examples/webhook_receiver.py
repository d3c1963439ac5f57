#!/usr/bin/env python3
"""Receives webhooks, verifies their signature and drops repeats.

    python3 webhook_receiver.py 8080 whsec_c2VjcmV0LW9mLW1pbmU=
    pgherald stream "dbname=shop" --to "http://localhost:8080/events?secret=whsec_c2VjcmV0LW9mLW1pbmU="

Signatures follow the Standard Webhooks specification: HMAC-SHA256 over "ID.TIMESTAMP.BODY". An event
may come again after a crash, always with the same webhook-id; a receiver keeps the ids it has seen, in
the same transaction as what it does with the event.
"""
import base64
import hashlib
import hmac
import http.server
import json
import sys
import time

TOLERANCE = 300  # seconds that a timestamp may be off


def key_of(secret):
    """A secret that begins with whsec_ is in base64."""
    return base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()


def is_genuine(key, headers, body):
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE:
        return False
    signed = f"{message_id}.{timestamp}.".encode() + body
    wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(wanted, given)
               for given in headers.get("webhook-signature", "").split())


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    key = b""
    seen = set()  # a real receiver keeps these in its database

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if not is_genuine(self.key, self.headers, body):
            return self.answer(401)
        message_id = self.headers["webhook-id"]
        if message_id not in self.seen:
            self.seen.add(message_id)
            event = json.loads(body)
            print(event["action"], f"{event['schema']}.{event['table']}", event.get("new"), flush=True)
        return self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    Receiver.key = key_of(sys.argv[2])
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
