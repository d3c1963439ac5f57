"""Kafka: librdkafka's mock cluster, read with kcat."""
import json

import pytest

import delivery
import kafka_server


@pytest.fixture
def kafka():
    """Makes a cluster: kafka(brokers=3)."""
    made = []

    def make(**options):
        made.append(kafka_server.Kafka(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def check(messages, expected, **options):
    delivery.check([json.loads(m.body) for m in messages], expected, **options)


def test_events_arrive_with_topic_key_id_and_body(db, herald, kafka):
    # Given a broker and a table whose name Kafka does not allow
    broker = kafka()
    db.sql('create table "Größe.1" (a int, b text, c text, primary key (a, b))')
    herald(db, "--to", broker.url())

    # when rows come, change and go
    db.sql("""insert into "Größe.1" values (1, 'x', 'y'); update "Größe.1" set c = 'z';
              delete from "Größe.1" """)

    # then they are in the table's topic, the forbidden bytes escaped, under their key
    got = broker.wait(f"{db.name}.public.Gr-C3-B6-C3-9Fe-2E1", 3)
    assert [json.loads(m.body)["action"] for m in got] == ["insert", "update", "delete"]
    assert {m.key for m in got} == {'{"a":1,"b":"x"}'}
    assert [m.id for m in got] == [json.loads(m.body)["id"] for m in got]


def test_many_events_arrive_once_and_in_order(db, herald, kafka):
    broker = kafka(brokers=3)
    broker.tell("topic", "all", 1)
    delivery.make_tables(db)
    stream = herald(db, "--to", broker.url("all"))
    delivery.insert(db, 1, 3000)
    delivery.insert(db, 1, 1000, "b")
    stream.wait_confirmed(db)
    check(broker.read("all"), {"a": range(1, 3001), "b": range(1, 1001)})
