"""file:PATH that rotates: by size, by time and by day, with compression, through crashes."""
import datetime
import gzip
import json
import os
import random
import re
import subprocess
import threading

import delivery
import herald as program
import postgres
from test_output import small_disk  # noqa: F401
from test_restart import Writer, check_whole, make_tables

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", 10))
NUMBERED = re.compile(r"\.(\d{9})(\.gz|\.zst)?$")


def names(folder, part="out"):
    """The output's files in order: closed ones by name, then the one that is written. Of a pair
    that a crash may leave the compressed one counts."""
    found = [n for n in os.listdir(folder) if part in n and not n.endswith((".position", ".tmp"))]
    found = [n for n in found if not {n + ".gz", n + ".zst"} & set(found)]
    closed = sorted(n for n in found if NUMBERED.search(n))
    return closed + sorted(n for n in found if not NUMBERED.search(n))


def content(path):
    if str(path).endswith(".gz"):
        with gzip.open(path) as f:
            return f.read()
    if str(path).endswith(".zst"):
        return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    with open(path, "rb") as f:
        return f.read()


def lines(folder, part="out"):
    """All whole lines of all files, in order. While files are renamed and compressed under way one
    can vanish between listing and opening: then look again."""
    while True:
        try:
            all_of = [(n, content(os.path.join(folder, n))) for n in names(folder, part)]
        except FileNotFoundError:
            continue
        for name, text in all_of[:-1]:
            assert text.endswith(b"\n") or not text, f"{name} is closed and ends in a torn line"
        return [line for _, text in all_of for line in text.split(b"\n")[:-1]]


def events(folder, part="out"):
    return [json.loads(line) for line in lines(folder, part)]


def numbers_of(folder):
    return [int(m.group(1)) for m in map(NUMBERED.search, names(folder)) if m]


def test_a_file_is_closed_before_it_is_too_large(db, herald, tmp_path):
    delivery.make_tables(db)
    stream = herald(db, "--to", f"file:{tmp_path}/out.json?rotate_size=4K")
    delivery.insert(db, 1, 200)
    stream.wait_confirmed(db)
    delivery.check(events(tmp_path), {"a": range(1, 201)})
    sizes = [os.path.getsize(tmp_path / n) for n in names(tmp_path)]
    assert len(sizes) > 3 and max(sizes) <= 4096 and min(sizes[:-1]) > 2048, sizes
    assert numbers_of(tmp_path) == list(range(1, len(sizes)))
    assert names(tmp_path)[0] == "out.json.000000001"


def test_killed_at_random_while_files_are_closed(db, herald, tmp_path):
    make_tables(db)
    writer = Writer(db, seed=3)
    luck = random.Random(11)
    to = f"file:{tmp_path}/out.json?rotate_size=1K&compress_closed=gzip"
    herald(db, "--to", to).stop()
    writer.start()
    for _ in range(ROUNDS):
        stream = herald(db, "--to", to)
        wanted = len(lines(tmp_path)) + luck.randrange(1, 120)
        stream.wait_until(lambda: len(lines(tmp_path)) >= wanted, "some events")
        stream.kill9()
        events(tmp_path)
    writer.stop()
    stream = herald(db, "--to", to)
    stream.wait_confirmed(db)
    stream.stop()
    check_whole(db, events(tmp_path))
    closed = numbers_of(tmp_path)
    assert closed == list(range(1, len(closed) + 1)) and len(closed) > ROUNDS
