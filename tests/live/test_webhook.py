"""http://... and https://...: a receiver in Python."""
import base64
import hashlib
import hmac
import json
import os
import random
import time

import delivery
import pytest
import tls
from webhook_server import Receiver

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", 4))


@pytest.fixture
def receiver():
    """Makes receivers: receiver(answer=..., tls=...)."""
    made = []

    def make(**options):
        made.append(Receiver(**options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_each_event_is_posted_with_its_id(db, receiver, herald):
    delivery.make_tables(db)
    hook = receiver()
    stream = herald(db, "--to", hook.url("/a/b%2Fc", color="red", timeout=5, x="%26"))
    delivery.insert(db, 1, 3)
    stream.wait_until(lambda: len(hook.events) == 3, "3 events")
    assert [e["new"]["n"] for e in hook.events] == [1, 2, 3]
    for request, event in zip(hook.taken, hook.events):
        assert request.path == "/a/b%2Fc?color=red&x=%26"
        assert request.headers["webhook-id"] == event["id"]
        assert request.headers["content-type"] == "application/json"
        assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 300
        assert db.slot in request.headers["pgherald-origin"]
    assert len({r.port for r in hook.taken}) == 1, "the connection was not kept"


@pytest.mark.parametrize("secret, key", [("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                                          base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
                                         ("a%20b", b"a b")])
def test_case_70_requests_are_signed(db, receiver, herald, secret, key):
    delivery.make_tables(db)
    hook = receiver()
    stream = herald(db, "--to", hook.url(secret=secret))
    delivery.insert(db, 1, 2)
    stream.wait_until(lambda: len(hook.events) == 2, "2 events")
    for request in hook.taken:
        text = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
        expected = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
        assert request.headers["webhook-signature"] == f"v1,{expected}"
        assert "secret" not in request.path
    assert secret not in stream.err


def test_killed_at_random_nothing_is_lost(db, receiver, herald):
    delivery.make_tables(db)
    luck = random.Random(13)
    hook = receiver()
    to = hook.url(batch=20)
    herald(db, "--to", to).stop()
    for n in range(ROUNDS):
        stream = herald(db, "--to", to)
        delivery.insert(db, n * 500 + 1, n * 500 + 500)
        goal = n * 500 + luck.randint(1, 500)
        stream.wait_until(lambda: len({e["id"] for e in hook.events}) >= goal, "some events")
        stream.kill9()
    stream = herald(db, "--to", to)
    stream.wait_confirmed(db)
    stream.stop()
    delivery.check(hook.events, {"a": range(1, ROUNDS * 500 + 1)}, repeats=True)
