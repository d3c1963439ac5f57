"""RabbitMQ: what arrives, what is refused, and what a broker that goes and comes back gets."""
import json

import pytest

from amqp_server import Rabbit
from delivery import check, insert, make_tables


@pytest.fixture(scope="session")
def rabbit():
    """The broker that most tests share; each has exchanges and queues of its own."""
    with Rabbit() as shared:
        yield shared


@pytest.fixture
def new_rabbit():
    """Makes and starts a broker for one test alone: new_rabbit(max_message_size=1000)."""
    made = []

    def make(**settings):
        made.append(Rabbit(**settings))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.remove()


def arrived(broker, queue):
    return [json.loads(m.body) for m in broker.take(queue)]


def test_an_event_arrives_with_its_key_id_and_properties(db, herald, rabbit):
    # Given a queue that gets everything
    make_tables(db)
    queue = rabbit.bind(db.name)
    stream = herald(db, "--to", rabbit.url(exchange=db.name))

    # when a row is written
    db.sql("insert into a values (1, 'one')")
    stream.wait_confirmed(db)

    # then the queue has its event
    [message] = rabbit.take(queue)
    event = json.loads(message.body)
    assert event["new"] == {"n": 1, "body": "one"}
    assert message.key == "public.a.insert"
    assert message.properties["message_id"] == event["id"]
    assert message.properties["delivery_mode"] == 2
    assert message.properties["content_type"] == "application/json"
    assert message.properties["app_id"] == "pgherald"
    stream.stop()
