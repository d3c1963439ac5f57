"""`pgherald replay`: what an output had refused is sent again as it was."""
import datetime
import json

import pytest

import delivery
import herald as program
import kafka_server
from nats_server import NatsServer
from postgres import free_port
from redis_server import RedisServer
from test_amqp import rabbit, unpack  # noqa: F401
from test_sqlite import ask
from webhook_server import Receiver

LETTER = {"id": "0000000001D8CD38-00000001", "time": "2026-11-21T17:20:15.881590Z", "output": "x",
          "table": "public.a", "reason": "too large", "address": "shop.a", "key": '{"id":1}', "body": '{"n":1}'}


@pytest.fixture
def letters(tmp_path):
    """Writes a file of letters, letters({"id": ...}, ...), and returns its path."""
    def write(*changes):
        path = tmp_path / "letters.json"
        path.write_text("".join(json.dumps({**LETTER, **change}) + "\n" for change in changes or ({},)))
        return path
    return write


def replay(path, url, *args):
    return program.run("replay", path, "--to", url, *args)


def test_refused_messages_come_again_with_all_that_they_had(db, herald, rabbit, tmp_path):  # noqa: F811
    # Given compressed messages of which half were refused
    delivery.make_tables(db)
    queue, path = rabbit.bind(db.name, "public.a.*"), tmp_path / "refused.json"
    url = rabbit.url(exchange=db.name, compress="brotli")
    stream = herald(db, "--on-refused", "dead-letter", "--dead-letter", f"file:{path}", "--to", url)
    for table in "ab":
        delivery.insert(db, 1, 3, table=table, body="å" * 300)
    stream.wait_confirmed(db)
    stream.stop()
    taken = rabbit.take(queue)

    # when they have a place and are sent again
    rabbit.bind(db.name, "public.b.*")
    done = replay(path, url)
    assert done.code == 0 and "3 events sent again" in done.err

    # then they are like those that were taken
    again = rabbit.take(queue)
    events = [json.loads(unpack(m.body, "br")) for m in again]
    delivery.check(events, {"b": range(1, 4)})
    assert {m.key for m in again} == {"public.b.insert"}
    assert [m.properties["message_id"] for m in again] == [e["id"] for e in events]
    for message, event in zip(again, events):
        assert message.properties.keys() == taken[0].properties.keys()
        assert message.properties["content_encoding"] == "br"
        stamp = message.properties["timestamp"]
        seconds = stamp.timestamp() if isinstance(stamp, datetime.datetime) else stamp
        assert int(seconds) == int(datetime.datetime.fromisoformat(event["time"]).timestamp())


def test_rows_that_come_again_have_the_time_of_their_commit(db, herald, tmp_path):
    # Given a table that refused a row
    delivery.make_tables(db)
    path, url = tmp_path / "refused.json", f"sqlite:{tmp_path}/x.db?table=events"
    herald(db, "--to", url).stop()
    ask(f"{tmp_path}/x.db", "create trigger t before insert on events when new.event like '%\"n\":2,%' "
                            "begin select raise(abort, 'not this one'); end")
    stream = herald(db, "--on-refused", "dead-letter", "--dead-letter", f"file:{path}", "--to", url)
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    stream.stop()

    # when it takes it, then it is as the others are
    ask(f"{tmp_path}/x.db", "drop trigger t")
    assert replay(path, url).code == 0
    rows = ask(f"{tmp_path}/x.db", "select id = event ->> 'id' same, committed_at = event ->> 'time' at, "
                                   "event -> 'new' ->> 'n' n from events order by n")
    assert rows == [{"same": 1, "at": 1, "n": n} for n in (1, 2, 3)]


def test_a_message_without_a_body_comes_again_without_one(letters):
    cluster = kafka_server.Mock()
    try:
        assert replay(letters({"body": None}), cluster.url()).code == 0
        message, = cluster.read("shop.a")
        assert message.key == LETTER["key"] and message.body is None and message.id == LETTER["id"]
    finally:
        cluster.close()


def test_a_stream_that_is_made_takes_all_that_the_template_can_make(letters):
    with NatsServer() as server:
        assert replay(letters(), server.url("shop.{table}?stream=SHOP")).code == 0
        assert server.api("STREAM.INFO.SHOP")["config"]["subjects"] == ["shop.*"]
        assert [m[0] for m in server.messages("SHOP")] == ["shop.a"]


def test_a_destination_that_is_away_is_said_and_waited_for(letters):
    hook = Receiver()
    url = hook.url()
    hook.stop()
    one = program.Herald("replay", letters(), "--to", url)
    try:
        one.wait_log("is down, trying again")
        hook.start()
        assert one.wait_exit() == 0 and "is back" in one.err
        assert [json.loads(r.body) for r in hook.taken] == [{"n": 1}]
    finally:
        one.close()
        hook.stop()


def test_dead_letters_whose_place_is_away_are_said_and_waited_for(db, herald):
    # Given a receiver that refuses, and another one for the dead letters, which is away
    hook, dead = Receiver(answer=lambda request: 422), Receiver()
    try:
        dead.stop()
        delivery.make_tables(db)
        stream = herald(db, "--to", hook.url(), "--on-refused", "dead-letter", "--dead-letter", dead.url())
        before = db.wal_lsn()
        delivery.insert(db, 1, 1)

        # when there is one, then the slot does not pass it before that is back
        stream.wait_log("the place for dead letters")
        stream.wait_log("it goes to the dead letters")
        assert db.slot_state()["confirmed"] <= before
        dead.start()
        stream.wait_confirmed(db)
        letter, = (json.loads(r.body) for r in dead.taken)
        assert json.loads(letter["body"])["new"]["n"] == 1
        stream.stop()
    finally:
        hook.stop()
        dead.stop()


def test_what_is_refused_again_stops_or_is_skipped(letters):
    hook = Receiver(answer=lambda request: 422 if json.loads(request.body)["n"] == 2 else 200)
    path = letters({}, {"body": '{"n":2}'}, {"body": '{"n":3}'})
    try:
        done = replay(path, hook.url())
        assert done.code == 1 and "1 events sent again" in done.err and "HTTP 422" in done.err
        assert replay(path, hook.url(), "--on-refused", "skip").code == 0
        assert [json.loads(r.body)["n"] for r in hook.taken] == [1, 1, 3]
    finally:
        hook.stop()


def test_the_stream_of_a_redis_output_is_left_alone(db, herald, letters):
    with RedisServer() as server:
        delivery.make_tables(db)
        stream = herald(db, "--to", server.url("shop.a"))
        delivery.insert(db, 1, 1)
        stream.wait_confirmed(db)
        done = replay(letters(), server.url())
        assert done.code == 78 and "shop.a is written by the output" in done.err
        assert replay(letters(), server.url("?address=again")).code == 0
        delivery.insert(db, 2, 2)
        stream.wait_confirmed(db)
        delivery.check(server.events("shop.a"), {"a": [1, 2]})
        assert server.count("again") == 1
        stream.stop()


def test_what_the_user_has_to_mend_is_said(letters, rabbit, tmp_path):  # noqa: F811
    url, broker = f"http://127.0.0.1:{free_port()}/", rabbit.url(exchange="x", mandatory="false")
    packed = {"encoding": "br", "body_base64": "AAAA", "body": 0}
    for changes, to, words in (([{}], f"{url}?on_refused=dead-letter&dead_letter=file:x", "stop or skip"),
                               ([{}], "gopher:x", "gopher"),
                               ([packed], f"file:{tmp_path}/x", "could not tell"),
                               ([packed, {"encoding": "gzip"}], broker, "line 2: it is compressed otherwise"),
                               ([{"id": 7}], url, 'line 1: it has no \\"id\\"'),
                               ([{"body": None}], url, 'line 1: it has no \\"body\\"')):
        done = replay(letters(*changes), to)
        assert done.code == 78 and words in done.err, (to, done)
    done = replay(tmp_path / "none", url)
    assert done.code == 78 and "cannot open" in done.err
