"""Large values and large transactions. Numbers are those of the acceptance cases."""
import hashlib
import json
import re
import shutil

import pytest
from postgres import LIMIT, wait_until

MIB = 1 << 20
PATIENCE = 5 * LIMIT


def proc(path, name):
    """The MiB of a line such as "VmHWM:     12345 kB"."""
    with open(path) as f:
        return next(int(line.split()[1]) for line in f if line.startswith(name + ":")) / 1024


def needs(tmp_path, memory, disk):
    """Skips a test for which this machine has too little, in MiB."""
    if proc("/proc/meminfo", "MemAvailable") < memory:
        pytest.skip(f"needs {memory} MiB of memory")
    for folder in ("/tmp", tmp_path):
        if shutil.disk_usage(folder).free < disk * MIB:
            pytest.skip(f"needs {disk} MiB in {folder}")


def peak(stream):
    return proc(f"/proc/{stream.pid}/status", "VmHWM")


def follow_numbers(path):
    """The numbers in a file's lines, without reading it whole."""
    with open(path, "rb") as f:
        for line in f:
            yield int(re.search(rb'"new":\{"n":(\d+)', line)[1])


def test_case_23_a_transaction_of_three_million_rows_needs_no_memory(db, herald, tmp_path):
    # Given a stream that has seen a transaction of 100,000 rows
    needs(tmp_path, 2000, 4000)
    db.sql("create table t (n int, t text)")
    path = tmp_path / "out.json"
    stream = herald(db, file=path)
    db.sql("insert into t select i, 'some text' from generate_series(1, 100000) i")
    stream.wait_confirmed(db)
    before = peak(stream)

    # when there is one of 3,000,000, and a large one that is rolled back
    db.sql("begin; insert into t select i, 'never' from generate_series(1, 500000) i; rollback")
    db.sql("insert into t select i, 'some text' from generate_series(100001, 3100000) i")
    end = db.wal_lsn()
    wait_until(lambda: db.slot_state()["confirmed"] >= end, "the slot to be confirmed", PATIENCE, 0.2)

    # then it has passed through, in order, without being held
    assert peak(stream) < before + 16
    stream.signal(15)
    assert stream.wait_exit() == 0
    assert all(a == b for a, b in zip(follow_numbers(path), range(1, 3100002), strict=False))
    assert sum(1 for _ in follow_numbers(path)) == 3100000


@pytest.mark.parametrize("size", [100, 300])
def test_case_55_a_very_large_value_arrives_intact(db, herald, tmp_path, size):
    # Given values that are larger than any buffer, with small ones around
    needs(tmp_path, 12 * size, 12 * size)
    db.sql("create table t (n int primary key, t text)")
    path = tmp_path / "out.json"
    stream = herald(db, file=path)

    # when one is inserted, and one of its size in an old row
    db.sql(f"insert into t values (1, 'small'), (2, repeat('0123456789abcdef', {size * MIB // 16}))")
    db.sql("update t set n = n + 10")
    db.sql("alter table t replica identity full; delete from t where n = 12")
    db.sql("insert into t values (20, 'small')")
    end = db.wal_lsn()
    wait_until(lambda: db.slot_state()["confirmed"] >= end, "the slot to be confirmed", PATIENCE, 0.2)

    # then all are there
    expected = hashlib.md5(b"0123456789abcdef" * (size * MIB // 16)).digest()
    seen = []
    with open(path, "rb") as f:
        for line in f:
            event = json.loads(line)
            row = event.get("new") or event["old"]
            large = len(row.get("t", "")) > 10 and hashlib.md5(row["t"].encode()).digest()
            seen.append((event["action"], row["n"], large == expected if large else row.get("t")))
    assert seen == [("insert", 1, "small"), ("insert", 2, True), ("update", 11, "small"), ("update", 12, None),
                    ("delete", 12, True), ("insert", 20, "small")]
    stream.signal(15)
    assert stream.wait_exit() == 0


def test_case_55_a_row_that_the_server_cannot_send_is_an_error(db, herald):
    # Given a row whose text is larger than the server's limit of 1 GB
    needs("/tmp", 8000, 4000)
    db.sql("create table t (n int primary key, b bytea)")
    stream = herald(db)
    db.sql("insert into t values (1, 'small')")
    stream.wait_for(1)
    db.sql("insert into t values (2, repeat('a', 600000000)::bytea)")

    # then the stream ends with the server's words, the place, and how to go on
    assert stream.wait_exit(PATIENCE) == 1
    assert "associated LSN" in stream.err
    assert "--from" in stream.err
    assert stream.count == 1

    # and what is behind that place can be had
    db.sql("insert into t values (3, 'small')")
    lsn = re.search(r"--from ([0-9A-F]+/[0-9A-F]+)", stream.err)[1]
    stream = herald(db, "--from", lsn)
    assert [e["new"]["n"] for e in stream.wait_for(1)] == [3]
