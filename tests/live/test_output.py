"""Outputs and settings: torn and foreign files, full disks, reloads, limits, refusals."""
import json
import os
import signal
import subprocess

import pytest

import herald as program
from test_restart import Writer, check_whole, make_tables, numbers, rows


def test_a_torn_last_line_is_cut_and_written_again(db, herald, tmp_path):
    # Given a file whose last line was cut in the middle, as by a power cut
    make_tables(db)
    path = tmp_path / "out.json"
    stream = herald(db, file=path)
    db.sql("insert into a select generate_series(1, 10)")
    stream.wait_for(10)
    stream.kill9()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])

    # when a new process goes on
    stream = herald(db, file=path)
    stream.wait_for(10)

    # then the file is as if nothing had happened
    assert path.read_bytes() == whole


def test_formats_without_positions_have_no_repeats_in_a_file_either(db, herald, tmp_path):
    make_tables(db)
    path = tmp_path / "out.json"
    for first in (1, 1001, 2001):
        stream = herald(db, "--format", "pgevents", file=path)
        db.sql(f"insert into a select generate_series({first}, {first + 999})")
        stream.wait_for(first + 400)
        stream.kill9()
    stream = herald(db, "--format", "pgevents", file=path)
    stream.wait_confirmed(db)
    stream.stop()
    with open(path) as f:
        assert [json.loads(line)["new"]["n"] for line in f] == list(range(1, 3001))


def test_a_file_of_another_kind_is_left_alone(db, herald, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    stream = herald(db, file=path, ready=False)
    assert stream.wait_exit() == 78
    assert "notes.txt" in stream.err and "not an event" in stream.err
    assert path.read_text() == "my notes\n"


def test_case_64_a_path_that_cannot_be_written_says_so(db, herald, tmp_path):
    stream = herald(db, "--to", f"file:{tmp_path}/no/such/folder/out.json", ready=False)
    assert stream.wait_exit() == 78
    assert "no/such/folder/out.json" in stream.err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path],
                      capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield path
    subprocess.run(["umount", path], check=True)


def test_case_64_a_full_disk_loses_nothing(db, herald, small_disk):
    # Given a disk that a neighbour has nearly filled
    make_tables(db)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 900_000)
    path = small_disk / "out.json"
    stream = herald(db, file=path)

    # when events do not fit any more
    db.sql("insert into a select generate_series(1, 2000)")
    stream.wait_log("No space left")
    for line in path.read_bytes().split(b"\n")[:-1]:
        json.loads(line)

    # then they all come, once, when there is room again
    ballast.unlink()
    stream.wait_log("is back")
    stream.wait_confirmed(db)
    assert numbers(stream.stop(), "a") == list(range(1, 2001))


def write_config(path, *outputs, **settings):
    path.write_text(json.dumps({**settings, "outputs": list(outputs)}))  # JSON is YAML


def test_settings_change_under_load_without_loss_or_repeat(db, herald, tmp_path):
    # Given a stream of both tables to one file, under load
    make_tables(db)
    config, both, only_b = tmp_path / "c.yaml", tmp_path / "both.json", tmp_path / "b.json"
    write_config(config, {"to": f"file:{both}"})
    stream = herald(db, "-c", str(config))
    writer = Writer(db, seed=9)
    writer.start()
    stream.wait_until(lambda: len(program.read_lines(both)) > 500, "events")

    # when the file is changed so that b goes to a second file as well
    fresh = tmp_path / "c.new"
    write_config(fresh, {"to": f"file:{both}"}, {"to": f"file:{only_b}", "tables": ["public.b"]})
    fresh.rename(config)
    stream.wait_log("new settings are in force")
    stream.wait_until(lambda: len(program.read_lines(only_b)) > 100, "events in the new file")

    # and then changed to nonsense, which is refused
    config.write_text("outputs:\n- to: file:x\n  fromat: native\n")
    stream.wait_log("refused")
    assert "c.yaml:3" in stream.err and "fromat" in stream.err
    writer.stop()
    stream.wait_confirmed(db)
    stream.stop()

    # then the first file has every row once, the second each of b from some point on
    check_whole(db, program.read_events(both))
    seen = numbers(program.read_events(only_b), "b")
    assert seen == rows(db, "b")[-len(seen):]


def test_a_mounted_config_map_is_followed(db, herald, tmp_path):
    # Given a configuration as Kubernetes mounts it: a link to ..data, which is a link to a folder
    make_tables(db)
    out = tmp_path / "out.json"
    mount = tmp_path / "conf"
    for version, tables in (("1", ["public.a"]), ("2", ["public.b"])):
        (mount / f"..{version}").mkdir(parents=True)
        write_config(mount / f"..{version}" / "c.yaml", {"to": f"file:{out}", "tables": tables})
    (mount / "..data").symlink_to("..1")
    (mount / "c.yaml").symlink_to("..data/c.yaml")
    db.sql("create publication pgherald for all tables")
    stream = herald(db, "-c", str(mount / "c.yaml"))

    # when the link is swapped
    (mount / "..tmp").symlink_to("..2")
    (mount / "..tmp").rename(mount / "..data")
    stream.wait_log("new settings are in force")

    # then the new filter holds
    db.sql("insert into a values (1); insert into b values (2)")
    stream.wait_until(lambda: program.read_events(out), "an event")
    assert [e["table"] for e in program.read_events(out)] == ["b"]


def test_hangup_reads_the_settings_again(db, herald, tmp_path):
    make_tables(db)
    config, out = tmp_path / "c.yaml", tmp_path / "out.json"
    write_config(config, {"to": f"file:{out}"})
    stream = herald(db, "-c", str(config))
    stream.signal(signal.SIGHUP)
    stream.wait_log("new settings are in force")
    db.sql("insert into a values (1)")
    stream.wait_until(lambda: program.read_events(out), "an event")


def test_limit_ends_behind_so_many_events(db, herald):
    make_tables(db)
    stream = herald(db, "--limit", "3")
    for n in (1, 2, 3, 4):
        db.sql(f"insert into a values ({n})")
    assert stream.wait_exit() == 0
    assert numbers(stream.events, "a") == [1, 2, 3]
    assert numbers(herald(db).wait_for(1), "a") == [4]


def test_from_now_leaves_out_what_was_before(db, herald):
    make_tables(db)
    herald(db).stop()
    db.sql("insert into a values (1)")
    stream = herald(db, "--from", "now")
    db.sql("insert into a values (2)")
    assert numbers(stream.wait_for(1), "a") == [2]


def test_a_position_that_cannot_be_had_is_refused(db, herald):
    # Given a slot, and a position beyond all that the server has written
    make_tables(db)
    herald(db).stop()
    before = db.slot_state()["confirmed"]
    db.sql("insert into a values (1)")

    # then it is refused, and the slot stays where it is
    stream = herald(db, "--from", "FFFF/0", ready=False)
    assert stream.wait_exit() == 78
    assert "beyond the end" in stream.err and db.slot_state()["confirmed"] == before
    assert numbers(herald(db).wait_for(1), "a") == [1]

    # and so is one behind which there is no slot to begin
    stream = herald(db, "--slot", "another", "--from", f"{before >> 32:X}/{before & 0xFFFFFFFF:X}", ready=False)
    assert stream.wait_exit() == 78
    assert "does not exist" in stream.err and db.slot_state("another") is None


def test_a_temporary_slot_goes_with_the_process(db, herald):
    make_tables(db)
    stream = herald(db, "--temporary")
    db.sql("insert into a values (1)")
    stream.wait_for(1)
    stream.stop()
    assert db.slot_state() is None


@pytest.mark.parametrize("in_use", [True, False])
def test_who_just_looks_takes_nothing_from_others(db, herald, in_use):
    # Given a slot that somebody streams from, or will again
    make_tables(db)
    stream = herald(db)
    if not in_use:
        stream.stop()
    db.sql("insert into a values (1)")

    # when somebody else wants to look around with it, then that is refused
    look = herald(db, "--temporary", ready=False)
    assert look.wait_exit() == 78
    assert "--slot" in look.err and look.count == 0

    # and nothing is missing
    stream = stream if in_use else herald(db)
    assert numbers(stream.wait_for(1), "a") == [1]


def test_case_9_a_slot_that_vanished_is_a_gap_and_is_said(db, herald, tmp_path):
    # Given a file that holds events of a slot
    make_tables(db)
    path = tmp_path / "out.json"
    stream = herald(db, file=path)
    db.sql("insert into a values (1)")
    stream.wait_for(1)
    stream.stop()

    # when the slot is dropped behind its back
    db.drop_slots()

    # then a new start is refused until the gap is accepted
    stream = herald(db, file=path, ready=False)
    assert stream.wait_exit() == 76
    assert "--from now" in stream.err and db.slot_state() is None
    stream = herald(db, "--from", "now", file=path)
    db.sql("insert into a values (2)")
    assert numbers(stream.wait_for(2), "a") == [1, 2]


def test_case_10_a_lost_slot_ends_the_process_with_its_own_code(new_server, herald):
    import postgres
    server = new_server(max_slot_wal_keep_size="1MB", max_wal_size="32MB", min_wal_size="32MB")
    db = postgres.Database(server)
    make_tables(db)
    herald(db).stop()
    for _ in range(4):
        db.sql("insert into a select generate_series(1, 1000) on conflict do nothing; select pg_switch_wal()")
        db.sql("checkpoint")
    stream = herald(db, ready=False)
    assert stream.wait_exit() == 76
    assert "lost" in stream.err and "max_slot_wal_keep_size" in stream.err


def test_case_40_a_publication_that_goes_is_noticed(db, herald):
    make_tables(db)
    stream = herald(db)
    db.sql("drop publication pgherald")
    db.sql("insert into a values (1)")
    assert stream.wait_exit() == 76
    assert "--from now" in stream.err


def test_no_create_creates_nothing(db, herald):
    make_tables(db)
    stream = herald(db, "--no-create", ready=False)
    assert stream.wait_exit() == 78
    assert "CREATE PUBLICATION" in stream.err
    assert db.slot_state() is None and db.sql("select 1 from pg_publication") == []


@pytest.mark.parametrize("conninfo", (
    "postgresql://me:top/secret@localhost/x", "postgresql://me:t%zzop-secret@localhost/x",
    "postgresql://me:top@secret@localhost/x", "password=top secret", "host=localhost port=secret"))
def test_a_connection_string_that_cannot_be_read_ends_at_once_and_shows_no_part_of_a_password(conninfo):
    result = program.run("stream", conninfo)
    assert result.code == 78 and "the connection string cannot be read" in result.err
    assert "top" not in result.err and "secret" not in result.err


def test_a_wrong_password_is_said_without_the_password(new_server):
    server = new_server(tcp=True)
    server.sql("create role r login replication password 'right'")
    server.hba("host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n"
               "local all all trust\n")
    server.reload()
    done = program.run("stream", f"postgres://r:hush-hush@127.0.0.1:{server.port}/postgres")
    assert done.code == 78
    assert "password authentication failed" in done.err and "hush" not in done.err
    shown = program.run("stream", f"postgres://r:hush-hush@127.0.0.1:{server.port}/postgres", "--print-config")
    assert shown.code == 0 and "hush" not in shown.out


def test_usage_errors_name_the_thing(db):
    done = program.run("stream", db.conninfo, "--tabels", "a")
    assert done.code == 64 and "--tables" in done.err
    done = program.run("stream", db.conninfo, "--to", "gopher:x")
    assert done.code in (64, 78) and "gopher" in done.err
    assert program.run("strem").code == 64
