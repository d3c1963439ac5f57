"""http://... and https://...: a receiver in Python."""
import base64
import hashlib
import hmac
import json
import os
import random
import threading
import time

import delivery
import pytest
import tls
from herald import read_events
from postgres import LIMIT, wait_until
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


def test_case_3_killed_at_random_nothing_is_lost(db, receiver, herald):
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


def numbers(events):
    return [e["new"]["n"] for e in events]


def n_of(request):
    """The number of the request's one event."""
    return json.loads(request.body)["new"]["n"]


def test_case_64_the_receiver_is_down_at_start_and_comes_back(db, receiver, herald):
    delivery.make_tables(db)
    hook = receiver()
    hook.stop()
    stream = herald(db, "--to", hook.url(), ready=False)
    stream.wait_log("is down, trying again")
    hook.start()
    stream.wait_log("is back")
    stream.wait_ready(db)
    delivery.insert(db, 1, 10)
    stream.wait_confirmed(db)
    delivery.check(hook.events, {"a": range(1, 11)})


def test_case_64_connections_are_cut_and_the_receiver_goes_away(db, receiver, herald):
    # Given a receiver that cuts every 50th request instead of an answer
    delivery.make_tables(db)
    hook = receiver(answer=lambda request: "cut" if len(hook.requests) % 50 == 49 else None)
    stream = herald(db, "--to", hook.url())
    delivery.insert(db, 1, 300)

    # when it goes away in between, too
    stream.wait_until(lambda: len(hook.taken) > 100, "some events")
    hook.stop()
    delivery.insert(db, 301, 400)
    hook.start()

    # then every event came, in order
    stream.wait_confirmed(db)
    delivery.check(hook.events, {"a": range(1, 401)}, repeats=True)


def test_case_70_busy_answers_are_tried_again_and_not_before_retry_after(db, receiver, herald):
    # Given a receiver that wants each second event later
    delivery.make_tables(db)
    answers = iter([429, 200, 503, 200, 500, 200, 408, 200])
    times = []

    def answer(request):
        times.append(time.monotonic())
        status = next(answers)
        return status, {"Retry-After": "1"} if status in (429, 503) else {}

    hook = receiver(answer=answer)
    stream = herald(db, "--to", hook.url())

    # when events come
    delivery.insert(db, 1, 4)

    # then each is there once, and the receiver had its second of quiet
    stream.wait_confirmed(db)
    delivery.check(hook.events, {"a": range(1, 5)})
    assert times[1] - times[0] >= 1 and times[3] - times[2] >= 1
    assert "HTTP 429" in stream.err  # 200 and then 503 may be one look at the output


def test_case_70_a_refused_event_stops_the_stream(db, receiver, herald):
    delivery.make_tables(db)
    hook = receiver(answer=lambda request: (422, {"body": "n is odd\nin some way"}) if n_of(request) == 5 else None)
    stream = herald(db, "--to", hook.url())
    delivery.insert(db, 1, 9)
    assert stream.wait_exit() == 1
    assert "HTTP 422: n is odd in some way" in stream.err and "public.a" in stream.err
    assert numbers(hook.events) == [1, 2, 3, 4]
    assert len(hook.requests) == 5, "something was posted behind the refused one"


@pytest.mark.parametrize("batch", [1, 8])
def test_case_64_refused_events_are_skipped_or_go_to_the_dead_letters(db, receiver, herald, tmp_path, batch):
    # Given a receiver that takes no array with a multiple of 10 in it
    delivery.make_tables(db)

    def answer(request):
        body = json.loads(request.body)
        events = body if isinstance(body, list) else [body]
        return 413 if any(n % 10 == 0 for n in numbers(events)) else 200

    hook, letters = receiver(answer=answer), tmp_path / "letters.json"
    herald(db, "--to", hook.url(batch=batch)).stop()
    delivery.insert(db, 1, 100)

    # when they come
    stream = herald(db, "--to", hook.url(batch=batch), "--on-refused", "dead-letter",
                    "--dead-letter", f"file:{letters}")
    stream.wait_confirmed(db)

    # then just these are refused
    assert numbers(hook.events) == [n for n in range(1, 101) if n % 10]
    assert [json.loads(e["body"])["new"]["n"] for e in read_events(letters)] == list(range(10, 101, 10))


def test_case_70_redirects_are_not_followed(db, receiver, herald):
    delivery.make_tables(db)
    other = receiver()
    hook = receiver(answer=lambda request: (308, {"Location": other.url()}))
    stream = herald(db, "--to", hook.url())
    delivery.insert(db, 1, 1)
    assert stream.wait_exit() == 1
    assert f"points to {other.url()}" in stream.err and "not followed" in stream.err
    assert not other.requests


def test_case_64_a_wrong_password_is_said_without_it(db, receiver, herald):
    delivery.make_tables(db)
    right = "Basic " + base64.b64encode(b"me:hush@hush").decode()
    hook = receiver(answer=lambda request: 200 if request.headers["authorization"] == right else 401)
    stream = herald(db, "--to", hook.url().replace("//", "//me:hush@wrong@"))
    delivery.insert(db, 1, 1)
    assert stream.wait_exit() == 78
    assert "HTTP 401" in stream.err and "hush" not in stream.err
    stream = herald(db, "--to", hook.url().replace("//", "//me:hush%40hush@"))
    stream.wait_confirmed(db)
    stream.stop()
    hook.answer = lambda request: 200 if request.headers["x-api-key"] == "hush" and \
        request.headers["authorization"] == "Bearer hush hush" else 401
    stream = herald(db, "--log-level", "debug",
                    "--to", hook.url(**{"header.X-Api-Key": "hush", "header.Authorization": "Bearer%20hush%20hush"}))
    delivery.insert(db, 2, 2)
    stream.wait_confirmed(db)
    assert numbers(hook.events) == [1, 2] and "hush" not in stream.err
    assert {r.path for r in hook.requests} == {"/hook"}


def test_what_the_user_has_to_mend_is_said(db, herald):
    for url, words in (("http:///x", "names no host"), ("http://h/?batch=0", "from 1 to 10000"),
                       ("http://h/?secret=whsec_%25", "not base64"), ("http://h/?header.a%20b=c", "no such name"),
                       ("http://h/?header.a=b%0Ac", "control character"),
                       ("http://127.0.0.1:9/?batch=2 --format pretty", "no JSON")):
        to, *args = url.split(" ")
        stream = herald(db, "--to", to, *args, ready=False)
        assert stream.wait_exit() == 78, url
        assert words in stream.err, stream.err


def test_case_70_lanes_keep_each_key_in_order(db, receiver, herald):
    # Given a receiver that is slow at random, and four lanes
    delivery.make_tables(db)
    db.sql("create table c (key int primary key, n int); alter table c replica identity full")
    db.sql("insert into c select k, 0 from generate_series(1, 21) k")
    luck = random.Random(5)
    hook = receiver(answer=lambda request: time.sleep(luck.random() * 0.01))
    stream = herald(db, "--to", hook.url(concurrency=4, batch=3))

    # when 21 keys are updated in turns, and the table is emptied in between
    db.sql("do $$ begin for i in 1..30 loop update c set n = i; commit; end loop; end $$")
    db.sql("truncate c")
    db.sql("insert into c select k, 31 from generate_series(1, 21) k")
    stream.wait_confirmed(db)

    # then several requests were under way, each key's events are in order, and the truncation has
    # all before it before it and all behind it behind
    assert 1 < hook.most_busy <= 4
    found = hook.events
    cut = [e["action"] for e in found].index("truncate")
    assert {e["new"]["n"] for e in found[cut + 1:]} == {31} and cut == 630
    for key in range(1, 22):
        assert [e["new"]["n"] for e in found if e.get("new", {}).get("key") == key] == list(range(1, 32))


def test_case_19_a_row_whose_key_changes_stays_in_order_over_the_lanes(db, receiver, herald):
    # Given a receiver that is slow at random, and four lanes
    db.sql("create table c (key int primary key, n int); alter table c replica identity full")
    luck = random.Random(5)
    hook = receiver(answer=lambda request: time.sleep(luck.random() * 0.01))
    stream = herald(db, "--to", hook.url(concurrency=4))

    # when rows are made, get another key, and go
    db.sql("do $$ begin for i in 1..100 loop insert into c values (i, i); update c set key = i + 1000; "
           "delete from c; commit; end loop; end $$")
    stream.wait_confirmed(db)

    # then what happened to each is posted in that order
    for n in range(1, 101):
        assert [e["action"] for e in hook.events if (e.get("new") or e["old"])["n"] == n] == [
            "insert", "update", "delete"], n


def test_case_3_lanes_killed_at_random_lose_nothing(db, receiver, herald):
    delivery.make_tables(db)
    luck = random.Random(17)
    hook = receiver(answer=lambda request: "cut" if luck.random() < 0.01 else None)
    to = hook.url(concurrency=8)
    herald(db, "--to", to).stop()
    for n in range(ROUNDS):
        stream = herald(db, "--to", to)
        delivery.insert(db, n * 300 + 1, n * 300 + 300)
        goal = n * 300 + luck.randint(1, 300)
        stream.wait_until(lambda: len({e["id"] for e in hook.events}) >= goal, "some events")
        stream.kill9()
    stream = herald(db, "--to", to)
    stream.wait_confirmed(db)
    assert {e["new"]["n"] for e in hook.events} == set(range(1, ROUNDS * 300 + 1))


def test_arrays_and_content_types(db, receiver, herald):
    # Given more than enough events for two full requests while the first ones are not answered
    delivery.make_tables(db)
    several, go = threading.Event(), threading.Event()
    hook = receiver(answer=lambda request: several.set() or not go.wait(LIMIT) and 500 or None)
    stream = herald(db, "--to", hook.url(batch=100))
    delivery.insert(db, 1, 5000)
    assert several.wait(LIMIT)
    go.set()

    # then none holds more than 100, and some that many
    stream.wait_confirmed(db)
    delivery.check(hook.events, {"a": range(1, 5001)})
    sizes = [len(json.loads(r.body)) for r in hook.taken]
    assert max(sizes) == 100
    assert [json.loads(r.body)[0]["id"] for r in hook.taken] == [r.headers["webhook-id"] for r in hook.taken]
    stream.stop()
    hook.requests.clear()
    stream = herald(db, "--to", hook.url(), "--to", hook.url("/many", batch=2), "--format", "cloudevents")
    delivery.insert(db, 5001, 5001)
    stream.wait_confirmed(db)
    types = {r.path: r.headers["content-type"] for r in hook.taken}
    assert types == {"/hook": "application/cloudevents+json", "/many": "application/cloudevents-batch+json"}


def test_case_70_a_receiver_that_is_silent_or_talks_without_end(db, receiver, herald):
    # Given a receiver that does not answer the first request, and has much to say to the second
    delivery.make_tables(db)
    silence = threading.Event()
    hook = receiver(answer=lambda request: silence.wait(30) and None if not silence.is_set()
                    else (200, {"body": "x" * 3_000_000}))
    stream = herald(db, "--to", hook.url(timeout=1))
    delivery.insert(db, 1, 2)

    # when the time is over
    stream.wait_log("timed out")
    silence.set()

    # then it is asked again
    stream.wait_confirmed(db)
    delivery.check(hook.events, {"a": [1, 2]}, repeats=True)


def test_case_70_the_end_does_not_wait_for_a_silent_receiver(db, receiver, herald):
    delivery.make_tables(db)
    silence = threading.Event()
    hook = receiver(answer=lambda request: silence.wait(60) and None)
    stream = herald(db, "--to", hook.url(timeout=60))
    delivery.insert(db, 1, 2)
    wait_until(lambda: hook.busy, "a request")
    stream.stop()
    silence.set()


def test_two_writers_to_one_place_can_be_told_apart(db, receiver, herald):
    delivery.make_tables(db)
    hook = receiver()
    stream = herald(db, "--to", hook.url(), "--to", hook.url(x=1))
    delivery.insert(db, 1, 5)
    stream.wait_confirmed(db)
    by = {}
    for request in hook.taken:
        by.setdefault(request.headers["pgherald-origin"], []).append(n_of(request))
    assert list(by.values()) == [[1, 2, 3, 4, 5]] * 2


def test_case_64_tls_with_a_private_authority(db, receiver, herald, tmp_path):
    delivery.make_tables(db)
    ca, other = tls.Authority(tmp_path), tls.Authority(tmp_path, "other")
    hook = receiver(tls=ca.issue("localhost"))
    for url, words in ((hook.url(host="localhost", ca=other.cert), "certificate"),
                       (hook.url(host="localhost"), "certificate"),
                       (hook.url(ca=ca.cert), "127.0.0.1")):
        stream = herald(db, "--to", url, ready=False)
        assert stream.wait_exit() == 78
        assert words in stream.err
    stream = herald(db, "--to", hook.url(host="localhost", ca=ca.cert))
    delivery.insert(db, 1, 5)
    stream.wait_confirmed(db)
    delivery.check(hook.events, {"a": range(1, 6)})
