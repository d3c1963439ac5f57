"""MQTT: Debian's Mosquitto, read with mosquitto_sub."""
import json

import pytest

import delivery
import mqtt_server


@pytest.fixture
def mosquitto():
    """Makes a broker: mosquitto(max_packet_size=5000)."""
    made = []

    def make(**settings):
        made.append(mqtt_server.Mosquitto(**settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def check(messages, expected, **options):
    delivery.check([json.loads(m.body) for m in messages], expected, **options)


def test_events_arrive_with_topic_id_and_body(db, herald, mosquitto):
    # Given a broker with a reader, and a table whose name has MQTT's special characters
    broker = mosquitto()
    reader = broker.subscribe()
    db.sql('create table "a/b+#%$ä" (n int primary key)')
    herald(db, "--to", broker.url())

    # when rows come and go
    db.sql('insert into "a/b+#%$ä" values (1); delete from "a/b+#%$ä"')

    # then they are under topics with these escaped, not retained, with their id
    got = reader.wait(2)
    table = f"{db.name}/public/a%2Fb%2B%23%25%24ä"
    assert [m.topic for m in got] == [f"{table}/insert", f"{table}/delete"]
    assert [m.id for m in got] == [json.loads(m.body)["id"] for m in got]
    assert {m.retain for m in got} == {0}


@pytest.mark.parametrize("qos", (1, 2))
def test_many_events_arrive_once_and_in_order(db, herald, mosquitto, qos):
    broker = mosquitto()
    reader = broker.subscribe()
    delivery.make_tables(db)
    stream = herald(db, "--to", broker.url("all", qos=qos))
    delivery.insert(db, 1, 3000)
    stream.wait_confirmed(db)
    check(reader.wait(3000), {"a": range(1, 3001)})
