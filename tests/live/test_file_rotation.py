"""file:PATH that rotates: by size, by time and by day, with compression, through crashes."""
import datetime
import functools
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

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", 10))
NUMBERED = re.compile(r"\.(\d{9})(\.gz|\.zst)?$")


def names(folder, part="out"):
    """The output's files in order: closed ones by name, then the one that is written. Of a pair
    that a crash may leave the compressed one counts."""
    found = [n for n in os.listdir(folder) if part in n and not n.endswith((".position", ".tmp"))]
    found = [n for n in found if not {n + ".gz", n + ".zst"} & set(found)]
    closed = sorted(n for n in found if NUMBERED.search(n))
    return closed + sorted(n for n in found if not NUMBERED.search(n))


@functools.cache
def closed_content(folder, name):
    """A closed file never changes, but for its ending."""
    for ending in ("", ".gz", ".zst"):
        if os.path.exists(f"{folder}/{name}{ending}"):
            return content(f"{folder}/{name}{ending}")
    raise FileNotFoundError(name)


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
            *closed, current = names(folder, part) or [None]
            if current is None:
                return []
            all_of = [(n, closed_content(folder, re.sub(r"\.(gz|zst)$", "", n))) for n in closed]
            all_of.append((current, content(f"{folder}/{current}")))
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


def kill_at_random(db, herald, tmp_path, to, rows=300, args=()):
    """Kills pgherald in the middle of each round's rows, then lets it finish; all are there once."""
    delivery.make_tables(db)
    luck = random.Random(11)
    herald(db, *args, "--to", to).stop()
    for n in range(ROUNDS):
        stream = herald(db, *args, "--to", to)
        thread = threading.Thread(target=delivery.insert, args=(db, n * rows + 1, n * rows + rows))
        thread.start()
        goal = n * rows + luck.randint(1, rows)
        stream.wait_until(lambda: len(lines(tmp_path)) >= goal, f"{goal} events")
        stream.kill9()
        thread.join()
        events(tmp_path)  # no line of a closed file is torn
    stream = herald(db, *args, "--to", to)
    stream.wait_until(lambda: len(lines(tmp_path)) >= ROUNDS * rows, "the rest")
    stream.wait_confirmed(db)
    stream.stop()
    closed = numbers_of(tmp_path)
    assert closed == list(range(1, len(closed) + 1)) and len(closed) > ROUNDS
    return [e["new"]["n"] for e in events(tmp_path)], list(range(1, ROUNDS * rows + 1))


def test_killed_at_random_while_files_are_closed(db, herald, tmp_path):
    found, wanted = kill_at_random(db, herald, tmp_path, f"file:{tmp_path}/out.json?rotate_size=1K")
    assert found == wanted


def test_killed_at_random_while_files_are_compressed(db, herald, tmp_path):
    found, wanted = kill_at_random(db, herald, tmp_path,
                                   f"file:{tmp_path}/out.json?rotate_size=1K&compress_closed=zstd")
    assert found == wanted


def test_killed_at_random_with_a_format_without_positions(db, herald, tmp_path):
    found, wanted = kill_at_random(db, herald, tmp_path,
                                   f"file:{tmp_path}/out.json?rotate_size=1K&compress_closed=gzip",
                                   args=("--format", "pgevents"))
    assert found == wanted
