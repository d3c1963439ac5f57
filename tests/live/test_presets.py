"""The presets pgwalstreams and wal-listener: their files, and what their consumers see. (PGEvents:
test_amqp.py.)"""
import json
import os
import re

import pytest
import yaml

import herald as program
import kafka_server
import tls
from amqp_server import Rabbit
from nats_server import NatsServer
from postgres import wait_until

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture
def nats():
    server = NatsServer().start()
    yield server
    server.remove()


@pytest.fixture
def users(db):
    """pgwalstreams' sample table and one more."""
    db.sql("create table users (id uuid primary key, created_at timestamptz, name text, n bigint, ok boolean);"
           "create table orders (id int primary key, total numeric)")
    return db


@pytest.fixture
def started():
    """Starts pgherald with a preset's file and waits for its slot: started(db, preset, path, slot)."""
    made = []

    def start(db, preset, path, slot, env=None):
        made.append(program.Herald("stream", "--preset", preset, "-c", path, env=env))
        return made[-1].wait_ready(db, slot)

    yield start
    for one in made:
        one.close()


def pgwalstreams_yaml(db, nats, tables):
    return f"""
listener: {{slotName: myslot_1, refreshConnection: 30s, heartbeatInterval: 10s}}
logger: {{caller: false, level: info, humanReadable: true}}
database:
  host: {db.server.host}
  port: 5432
  name: {db.name}
  user: postgres
  password: pass
  debug: false
  filter:
    tables: {tables}
nats: {{address: "127.0.0.1:{nats.port}", clusterID: test-cluster, clientID: pgwalstreams, topicPrefix: db}}
"""


def subjects(nats, stream="DB"):
    return [m[0] for m in nats.messages(stream)]


def test_pgwalstreams_publishes_what_its_consumers_know(users, nats, started, tmp_path):
    # Given its file, and a JetStream stream over its subjects
    nats.make_stream("DB", "db.>")
    (tmp_path / "config.yaml").write_text(pgwalstreams_yaml(users, nats, "{users: [insert, UPDATE, delete]}"))
    stream = started(users, "pgwalstreams", tmp_path / "config.yaml", f"myslot_1_{users.name}")

    # when rows of a table that is listed are written, and of one that is not
    users.sql("insert into users values ('00000000-0000-0000-0000-000000000001', '2022-04-26 10:00:00+00', 'å', "
              "9007199254740993, true)")
    users.sql("insert into orders values (1)")
    users.sql("update users set name = null")
    users.sql("delete from users")
    stream.wait_confirmed(users, slot=f"myslot_1_{users.name}")

    # then the subjects and bodies are those of pgwalstreams
    assert subjects(nats) == [f"db.public.users.{action}" for action in ("insert", "update", "delete")]
    events = nats.events("DB")
    assert [list(e) for e in events] == [["id", "schema", "table", "action", "data", "commitTime"]] * 3
    assert [e["action"] for e in events] == ["INSERT", "UPDATE", "DELETE"]
    assert all((e["schema"], e["table"]) == ("public", "users") for e in events)
    assert all(UUID.fullmatch(e["id"]) and TIME.fullmatch(e["commitTime"]) for e in events)
    assert events[0]["data"] == {"id": "00000000-0000-0000-0000-000000000001", "name": "å", "ok": True,
                                 "created_at": "2022-04-26T10:00:00+00:00", "n": "9007199254740993"}
    assert events[1]["data"]["name"] is None and events[2]["data"]["id"][-1] == "1"
    assert users.sql("select pubname, puballtables from pg_publication") == [("pgwalstreams", True)]


def test_pgwalstreams_without_a_filter_publishes_nothing(users, nats, started, tmp_path):
    nats.make_stream("DB", "db.>")
    path = tmp_path / "config.yaml"
    path.write_text(pgwalstreams_yaml(users, nats, "{}"))
    stream = started(users, "pgwalstreams", path, f"myslot_1_{users.name}")
    users.sql("insert into orders values (1)")
    stream.wait_confirmed(users, slot=f"myslot_1_{users.name}")
    assert subjects(nats) == []


def test_pgwalstreams_heeds_its_filter_when_the_file_is_rewritten(users, nats, started, tmp_path):
    # Given one table in the filter
    nats.make_stream("DB", "db.>")
    path = tmp_path / "config.yaml"
    slot = f"myslot_1_{users.name}"
    path.write_text(pgwalstreams_yaml(users, nats, "{users: [insert]}"))
    stream = started(users, "pgwalstreams", path, slot)
    users.sql("insert into orders values (1)")
    stream.wait_confirmed(users, slot=slot)
    assert subjects(nats) == []

    # when another is added while it runs, then its rows come
    path.write_text(pgwalstreams_yaml(users, nats, "{users: [insert], orders: [insert, delete]}"))
    stream.wait_log("new settings are in force")
    users.sql("insert into orders values (2); delete from orders where id = 1; update orders set id = 3")
    stream.wait_confirmed(users, slot=slot)
    assert subjects(nats) == ["db.public.orders.insert", "db.public.orders.delete"]

    # when the file is wrong, then the old filter stays
    path.write_text(pgwalstreams_yaml(users, nats, "{users: insert}"))
    stream.wait_log("refused")
    users.sql("delete from orders")
    stream.wait_confirmed(users, slot=slot)
    assert len(subjects(nats)) == 3


def test_pgwalstreams_heeds_its_filter_when_kubernetes_swaps_the_file(users, nats, started, tmp_path):
    # Given a mounted ConfigMap: config.yaml -> ..data/config.yaml, ..data -> a folder
    nats.make_stream("DB", "db.>")
    slot = f"myslot_1_{users.name}"

    def mount(version, tables):
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        (folder / "config.yaml").write_text(pgwalstreams_yaml(users, nats, tables))
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")

    mount(1, "{users: [insert]}")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    stream = started(users, "pgwalstreams", tmp_path / "config.yaml", slot)

    # when it is replaced
    mount(2, "{orders: [insert]}")
    stream.wait_log("new settings are in force")
    users.sql("insert into orders values (1)")

    # then the new filter is in force
    stream.wait_confirmed(users, slot=slot)
    assert subjects(nats) == ["db.public.orders.insert"]


def wal_listener_yaml(db, publisher):
    return f"""
listener:
  slotName: {db.slot}
  refreshConnection: 30s
  heartbeatInterval: 10s
  filter:
    tables:
      users: [insert, update, delete]
      orders: [insert, truncate]
  topicsMap:
    public_users: notifier
logger: {{level: info, fmt: json}}
database: {{host: {db.server.host}, port: 1, name: {db.name}, user: postgres, password: pass}}
publisher:
{publisher}
monitoring: {{sentryDSN: "", promAddr: ":2112"}}
"""


def wal_listener(db, started, tmp_path, publisher):
    """Starts it and writes some rows; the port of the file is overridden."""
    path = tmp_path / "config.yml"
    path.write_text(wal_listener_yaml(db, publisher))
    stream = started(db, "wal-listener", path, db.slot, env={"WAL_DATABASE_PORT": "5432"})
    db.sql("alter table users replica identity full; create schema other; create table other.users (id int)")
    db.sql("insert into users values ('00000000-0000-0000-0000-000000000001', '2022-04-26 10:00:00+00', '<å>', 1, true)")
    db.sql("update users set n = 2")
    db.sql("insert into orders values (1, 1.50)")
    db.sql("insert into other.users values (7)")
    db.sql("truncate orders")
    stream.wait_confirmed(db)


PLACES = ["S.app_notifier", "S.app_notifier", "S.app_public_orders", "S.app_other_users", "S.app_public_orders"]


def check_wal_listener(places, bodies):
    """Each place's events in their order; between those of topicsMap and others there is none."""
    assert sorted(places) == sorted(PLACES)
    events = [json.loads(body) for body in bodies]
    by_place = {p: [e for place, e in zip(places, events) if place == p] for p in PLACES}
    assert all(list(e) == ["id", "schema", "table", "action", "data", "dataOld", "commitTime"] for e in events)
    first, second = by_place["S.app_notifier"]
    assert (first["action"], second["action"]) == ("INSERT", "UPDATE")
    assert first["data"] == {"created_at": "2022-04-26T10:00:00+00:00", "id": "00000000-0000-0000-0000-000000000001",
                             "n": 1, "name": "<å>", "ok": True} and first["dataOld"] == {}
    assert second["data"]["n"] == 2 and second["dataOld"] == first["data"]
    assert [e["action"] for e in by_place["S.app_public_orders"]] == ["INSERT", "TRUNCATE"]
    assert by_place["S.app_public_orders"][0]["data"] == {"id": 1, "total": "1.50"}
    assert by_place["S.app_other_users"][0]["data"] == {"id": 7}
    assert any(b"\\u003c" in body for body in bodies)


def test_wal_listener_publishes_to_nats(users, nats, started, tmp_path):
    # Given its file, when rows are written
    wal_listener(users, started, tmp_path,
                 f"  {{type: nats, address: 'nats://127.0.0.1:{nats.port}', topic: S, topicPrefix: app_}}")

    # then its stream was made, and has subjects and bodies as wal-listener makes them
    assert nats.api("STREAM.INFO.S")["config"]["subjects"] == ["S.*"]
    messages = nats.messages("S")
    check_wal_listener([m[0] for m in messages], [m[2] for m in messages])


def test_wal_listener_publishes_to_rabbitmq(users, started, tmp_path):
    with Rabbit() as rabbit:
        queue = rabbit.bind("S")
        wal_listener(users, started, tmp_path,
                     f"  {{type: rabbitmq, address: '{rabbit.url()}', topic: S, topicPrefix: app_, "
                     "exchangeKind: topic}")
        messages = rabbit.take(queue)
    check_wal_listener([m.key for m in messages], [m.body for m in messages])
    assert {m.properties["content_type"] for m in messages} == {"application/json"}


def test_wal_listener_publishes_to_kafka(users, started, tmp_path):
    cluster = kafka_server.Mock()
    try:
        wal_listener(users, started, tmp_path,
                     f"  {{type: kafka, address: '{cluster.brokers}', topic: S, topicPrefix: app_, messageKeyFrom: id}}")
        messages = [m for topic in sorted(set(PLACES)) for m in cluster.read(topic)]
    finally:
        cluster.close()
    messages.sort(key=lambda m: json.loads(m.body)["commitTime"])  # they are in several partitions
    check_wal_listener([m.topic for m in messages], [m.body.encode() for m in messages])
    assert {m.key for m in messages if m.topic == "S.app_notifier"} == {'"00000000-0000-0000-0000-000000000001"'}


def test_wal_listener_publishes_to_kafka_over_tls(users, started, tmp_path):
    # Given a broker with a certificate of a private authority, and keys in the case of another of its versions
    ca = tls.Authority(tmp_path)
    cert, key = ca.issue("127.0.0.1")
    options = ("-X", "security.protocol=SSL", "-X", f"ssl.ca.location={ca.cert}")
    broker = kafka_server.Kafka(cert=f"{cert}:{key}", options=options)
    try:
        wal_listener(users, started, tmp_path,
                     f"  {{type: kafka, address: '{broker.brokers}', topic: S, topicPrefix: app_, "
                     f"enableTLS: true, caCert: {ca.cert}}}")
        assert [json.loads(m.body)["action"] for m in broker.read("S.app_public_orders")] == ["INSERT", "TRUNCATE"]
    finally:
        broker.close()


def test_wal_listener_maps_topics_of_names_with_underscores(tmp_path):
    # Given a key that is schema_table in two ways, and one that is in none
    path = tmp_path / "config.yml"
    path.write_text("""
listener: {slotName: s, filter: {tables: {users: [insert], b_users: [update]}}, topicsMap: {a_b_users: y, x_y: z}}
database: {host: h, port: 1, name: d, user: u, password: p}
publisher: {type: nats, address: "nats://h", topic: S, topicPrefix: ""}
""")
    shown = program.run("stream", "--preset", "wal-listener", "-c", path, "--print-config")

    # then either table goes there, and nowhere else
    outputs = yaml.safe_load(shown.out)["outputs"]
    assert [(o["address"], o["tables"]) for o in outputs] == [
        ("S.y", ['"a_b"."users":insert']), ("S.y", ['"a"."b_users":update']),
        ("S.{schema}_{table}", ['"users":insert', '"b_users":update', '!"a_b"."users"', '!"a"."b_users"'])]
