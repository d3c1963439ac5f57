"""Output to NATS JetStream, with real servers."""
import pytest

import delivery
from nats_server import NatsServer


@pytest.fixture
def new_nats():
    """Makes and starts a server: new_nats(config="...")."""
    made = []

    def make(start=True, **options):
        made.append(NatsServer(**options))
        return made[-1].start() if start else made[-1]

    yield make
    for one in made:
        one.remove()


@pytest.fixture
def nats(new_nats):
    return new_nats()


def test_events_arrive_with_subject_id_and_body(db, herald, nats):
    # Given a stream of JetStream that does not exist yet
    delivery.make_tables(db)
    stream = herald(db, "--to", nats.url("shop.{schema}.{table}.{action}?stream=SHOP"))

    # when rows are written
    delivery.insert(db, 1, 5)
    db.sql("delete from a where n = 1")
    stream.wait_confirmed(db)

    # then it was made, and they are there
    config = nats.api("STREAM.INFO.SHOP")["config"]
    assert config["subjects"] == ["shop.*.*.*"] and config["storage"] == "file"
    messages = nats.messages("SHOP")
    assert [m[0] for m in messages] == ["shop.public.a.insert"] * 5 + ["shop.public.a.delete"]
    ids = [e["id"] for e in nats.events("SHOP")]
    assert ids == sorted(set(ids))
    for (_, headers, _), one in zip(messages, ids):
        assert f"-{one}\r\n" in headers and "Nats-Msg-Id: " in headers
