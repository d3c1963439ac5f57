"""Networks: bytes in any pieces, connections that are cut or fall silent, and what is said first.
Numbers are those of the acceptance cases."""
import signal
import socket

import postgres
import proxy as proxy_module
import pytest
from herald import Herald
from postgres import wait_until
from test_restart import Writer, check_whole, make_tables, numbers


@pytest.fixture
def far(new_server, request):
    """A database behind a proxy, on a server that gives up on silent clients after 2 s."""
    server = new_server(tcp=True, wal_sender_timeout="2s")
    made = []

    def make(**options):
        made.append(proxy_module.Proxy(server.port, **options))
        db = postgres.Via(postgres.Database(server), host="127.0.0.1", port=made[-1].port)
        make_tables(db)
        return db, made[-1]

    yield make
    for one in made:
        one.close()


def check_first_status(link, confirmed):
    wait_until(link.statuses, "a status")
    statuses = link.statuses()
    assert statuses[0] >= link.start_lsn() >= confirmed > 0
    assert statuses == sorted(statuses)


def test_case_5_the_slot_is_never_told_of_a_place_before_its_own(far, herald):
    # Given the very first stream
    db, proxy = far()
    stream = herald(db)
    link, = proxy.replications()
    check_first_status(link, 1)
    db.sql("insert into a select generate_series(1, 100)")
    stream.wait_for(100)
    stream.wait_confirmed(db)
    stream.stop()

    # when it begins again: after a good end, with a backlog, and after a crash
    for n in (1, 2, 3):
        db.sql(f"insert into b values ({n})")
        confirmed = db.slot_state()["confirmed"]
        stream = herald(db)
        check_first_status(proxy.replications()[-1], confirmed)
        stream.wait_for(1)
        stream.kill9() if n == 2 else stream.stop()

    # then all that it ever told was there to be told
    assert len(proxy.replications()) == 4


def test_case_14_bytes_may_come_in_any_pieces(far, herald, tmp_path):
    db, proxy = far(split=True)
    stream = herald(db, file=tmp_path / "out.json")
    db.sql("insert into a select generate_series(1, 2000)")
    db.transaction("insert into b select generate_series(1, 500)", "update b set n = n + 1000",
                   "truncate b")
    db.sql("insert into b values (1)")
    stream.wait_for(2000 + 500 + 500 + 1 + 1)
    stream.wait_confirmed(db)
    events = stream.stop()
    assert numbers(events[:2000], "a") == list(range(1, 2001))
    assert numbers(events[2500:3000], "b") == list(range(1001, 1501))
    assert [e["action"] for e in events[3000:]] == ["truncate", "insert"]


def test_case_14_cut_connections_are_mended_without_loss_or_repeat(far, herald, tmp_path):
    # Given a stream to a file, under load
    db, proxy = far()
    stream = herald(db, file=tmp_path / "out.json")
    writer = Writer(db, seed=13)
    writer.start()

    # when its connections are cut again and again
    for cuts in range(1, 16):
        wanted = stream.count + 100
        stream.wait_until(lambda: stream.count >= wanted, "some events")
        proxy.cut()
        stream.wait_until(lambda: len(proxy.replications()) > cuts, "a new stream")
    writer.stop()

    # then nothing is lost, repeated or out of order
    stream.wait_confirmed(db)
    check_whole(db, stream.stop())


def test_case_14_a_cut_in_the_middle_of_a_transaction(far, herald, tmp_path):
    db, proxy = far()
    stream = herald(db, file=tmp_path / "out.json")
    db.sql("insert into a select generate_series(1, 60000)")
    stream.wait_for(1000)
    proxy.cut()
    stream.wait_for(60000)
    stream.wait_confirmed(db)
    check_whole(db, stream.stop())


def test_case_14_a_connection_that_falls_silent_is_given_up(far, herald):
    # Given a stream
    db, proxy = far()
    stream = herald(db)
    db.sql("insert into a values (1)")
    stream.wait_for(1)
    stream.wait_confirmed(db)

    # when nothing passes any more, in no direction, and nobody says so
    proxy.stall()
    db.sql("insert into a values (2)")

    # then it is noticed, and the stream goes on over another connection
    assert numbers(stream.wait_for(2), "a") == [1, 2]
    assert "silent" in stream.err
    assert len(proxy.replications()) == 2


def test_case_14_a_silent_server_answers_when_it_is_asked(far, herald):
    # Given a stream without anything to stream for longer than silence is taken for
    db, proxy = far()
    stream = herald(db)
    db.sql("select pg_sleep(6)")

    # then it is the same connection still
    db.sql("insert into a values (1)")
    stream.wait_for(1)
    assert len(proxy.links) == 2 and "warn" not in stream.err


def test_case_14_a_catalog_query_without_an_answer_is_given_up(far, herald):
    # Given a stream whose second connection, for the catalog, has fallen silent
    db, proxy = far()
    stream = herald(db)
    proxy.stall([link for link in proxy.links if link not in proxy.replications()])

    # when a table that it does not know has an event
    db.sql("insert into a values (1)")

    # then it does not wait for ever
    stream.wait_log("no answer")
    assert numbers(stream.wait_for(1), "a") == [1]


def test_case_14_there_is_no_storm_of_connections(far, herald):
    # Given a stream whose server cuts every connection at once
    db, proxy = far()
    stream = herald(db)
    proxy.refusing = True
    proxy.cut()
    wait_until(lambda: proxy.refused >= 2, "attempts")

    # when some time passes
    db.sql("select pg_sleep(3)")

    # then attempts have become rare, and end with the trouble; it was said once
    assert proxy.refused < 10
    proxy.refusing = False
    db.sql("insert into a values (1)")
    stream.wait_for(1)
    assert stream.err.count("trying again") == 1


@pytest.fixture
def black_hole():
    """The conninfo of a server that lets everybody in and says nothing, for as long as one likes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"host=127.0.0.1 port={listener.getsockname()[1]} connect_timeout=600", listener


def test_a_stop_does_not_wait_for_the_first_connection(black_hole):
    # Given pgherald that waits for a server's first words
    conninfo, listener = black_hole
    stream = Herald("stream", conninfo, "--log-level", "debug")
    caller, _ = listener.accept()

    # when it is told to stop, then it does
    stream.stop()
    caller.close()


def test_a_host_that_does_not_answer_is_passed_over(far, herald, black_hole):
    # Given two hosts, the first of which says nothing
    db, proxy = far()
    _, listener = black_hole
    ports = f"{listener.getsockname()[1]},{proxy.port}"
    both = postgres.Via(db, host="127.0.0.1,127.0.0.1", port=ports, connect_timeout=2)

    # then the second is streamed from
    stream = herald(both)
    db.sql("insert into a values (1)")
    stream.wait_for(1)


def test_a_stop_does_not_wait_for_another_connection(far, herald):
    # Given a stream whose network was cut, and is a black hole now
    db, proxy = far()
    stream = herald(postgres.Via(db, host="127.0.0.1", port=proxy.port, connect_timeout=600))
    db.sql("insert into a values (1)")
    stream.wait_for(1)
    links = len(proxy.links)
    proxy.still = True
    proxy.cut()
    stream.wait_until(lambda: len(proxy.links) > links, "another connection")

    # when it is told to stop, then it does; what came meanwhile is there the next time
    db.sql("insert into a values (2)")
    assert numbers(stream.stop(), "a") == [1]
    proxy.still = False
    assert numbers(herald(db).wait_for(1), "a")[-1] == 2


def test_a_stop_does_not_wait_for_the_catalog(far, herald):
    # Given a stream whose connection for the catalog has fallen silent, which asks it for a table
    db, proxy = far()
    stream = herald(db)
    stream.wait_confirmed(db)
    catalog, = [link for link in proxy.links if link not in proxy.replications()]
    asked = len(catalog.sent)
    proxy.stall([catalog])
    db.sql("insert into a values (1)")
    stream.wait_until(lambda: len(catalog.sent) > asked, "a question")

    # when it is told to stop, then it does not wait for an answer as long as it else would, 30 s
    stream.signal(signal.SIGTERM)
    assert stream.wait_exit(limit=25) == 0

    # and the event is there the next time
    assert numbers(herald(db).wait_for(1), "a") == [1]
