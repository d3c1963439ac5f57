"""Servers that want a certificate of the client: cert= and cert_key=."""
import contextlib
import os

import pytest

import amqp_server
import delivery
import tls
from amqp_server import Rabbit
from mqtt_server import Mosquitto
from nats_server import NatsServer
from redis_server import RedisServer
from webhook_server import Receiver


# Each is the URL of a server for localhost, up to the parameters of TLS.


@contextlib.contextmanager
def nats(ca, cert, key):
    server = NatsServer(scheme="tls", host="localhost", tls=ca, config=(
        f'tls {{ cert_file: "{cert}", key_file: "{key}", ca_file: "{ca}", verify: true }}'))
    with server:
        yield server.url("?stream=S&")


@contextlib.contextmanager
def redis(ca, cert, key):
    with RedisServer(tls=(ca, cert, key), host="localhost") as server:
        server.raw("config", "set", "tls-auth-clients", "yes")
        yield server.url("rows?")


@contextlib.contextmanager
def mqtt(ca, cert, key):
    server = Mosquitto(tls={"certfile": cert, "keyfile": key, "cafile": ca, "require_certificate": "true"})
    try:
        yield server.url("all", scheme="mqtts").replace("127.0.0.1", "localhost") + "?"
    finally:
        server.remove()


@contextlib.contextmanager
def amqp(ca, cert, key):
    with Rabbit(tls=(ca, cert, key), **{"ssl_options.verify": "verify_peer",
                                        "ssl_options.fail_if_no_peer_cert": "true"}) as server:
        server.bind("x")
        yield server.url(scheme="amqps", host="localhost", exchange="x") + "&"


@contextlib.contextmanager
def webhook(ca, cert, key):
    server = Receiver(tls=(cert, key), client_ca=ca)
    try:
        yield f"https://localhost:{server.port}/?"
    finally:
        server.stop()


@pytest.mark.parametrize("broker", (nats, redis, mqtt, amqp, webhook), ids=lambda s: s.__name__)
def test_case_64_a_client_shows_its_certificate_where_one_is_wanted(db, herald, tmp_path, broker):
    # Given a server that wants a certificate of its authority
    ca, other = tls.Authority(tmp_path), tls.Authority(tmp_path, "other")
    owner = amqp_server.owner() if broker is amqp else {}
    cert, key = ca.issue("localhost", owner=owner)
    os.chmod(key, 0o644)
    mine, mine_key = ca.issue("me.example")
    delivery.make_tables(db)
    with broker(ca.cert, cert, key) as url:
        # when it is shown one, then it lets in
        stream = herald(db, "--to", f"{url}ca={ca.cert}&cert={mine}&cert_key={mine_key}")
        delivery.insert(db, 1, 10)
        stream.wait_confirmed(db)
        stream.stop()

        # and not without
        before = db.wal_lsn()
        delivery.insert(db, 11, 11)
        wrong, wrong_key = other.issue("me.example")
        for shown in ("", f"&cert={wrong}&cert_key={wrong_key}"):
            stream = herald(db, "--to", f"{url}ca={ca.cert}{shown}", ready=False)
            stream.wait_log(url.partition(":")[0])
            stream.kill9()
            assert "level=error" in stream.err or "is down, trying again" in stream.err
        assert db.slot_state()["confirmed"] <= before
