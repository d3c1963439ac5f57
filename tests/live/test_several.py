"""Several outputs at once, of which one does not take what it is given."""
import socket

import pytest

import delivery
from nats_server import NatsServer
from postgres import wait_until
from redis_server import RedisServer
from test_restart import resident_kib

ROWS, BODY = 60_000, "x" * 500


@pytest.fixture
def servers():
    """One of NATS and one of Redis."""
    nats, redis = NatsServer().start(), RedisServer(appendfsync="everysec").start()
    yield nats, redis
    nats.remove()
    redis.remove()


@pytest.mark.parametrize("down", ("nats", "redis"))
def test_case_2_one_output_that_is_down_holds_the_others_when_its_window_is_full(db, herald, servers, down):
    # Given two outputs, one of which is frozen
    nats, redis = servers
    delivery.make_tables(db)
    stream = herald(db, "--to", nats.url("?stream=S"), "--to", redis.url("rows"))
    delivery.insert(db, 0, 0)
    stream.wait_confirmed(db)
    frozen = nats if down == "nats" else redis
    count = (lambda: redis.count("rows")) if down == "nats" else (lambda: nats.count("S"))
    frozen.freeze()

    # when much is written
    delivery.insert(db, 1, 1)
    first = db.wal_lsn()
    db.sql(f"insert into a select n, '{BODY}' from generate_series(2, {ROWS}) n")
    stream.wait_log(f"waiting for output {frozen.scheme}:")

    # then the other goes on a while and then waits, in little memory, and the slot stays
    wait_until(lambda: count() > 1000, "the other output to go on")
    assert count() < ROWS // 2
    assert resident_kib(stream.pid) < 400_000  # a sanitizer's own share included
    assert db.slot_state()["confirmed"] < first

    # and when it goes on, all is at both, once, in order
    frozen.freeze(False)
    stream.wait_confirmed(db)
    delivery.check(redis.events("rows"), {"a": range(ROWS + 1)})
    assert nats.count("S") == ROWS + 1


@pytest.mark.parametrize("url", ("nats://{}/x?stream=S", "amqp://{}/x", "kafka://{}/x?transactional=t", "redis://{}/x",
                                 "mqtt://{}/x", "https://{}/x", "postgres://me@{}/x?table=t"))
def test_an_output_that_hangs_while_it_connects_does_not_spoil_the_end(db, herald, url):
    # Given a server that takes connections and says nothing
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stream = herald(db, "--to", url.format(f"127.0.0.1:{silent.getsockname()[1]}"), ready=False)
        silent.settimeout(20)
        with silent.accept()[0]:
            # when the stream is told to end, then it does, without complaint
            stream.stop()
