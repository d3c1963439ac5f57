"""file:PATH that rotates: by size, by time and by day, with compression, through crashes."""
import functools
import gzip
import json
import os
import random
import re
import subprocess
import threading

import pytest

import delivery
import herald as program
from test_output import small_disk  # noqa: F401

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", 10))
LINES_OF_3 = {"native": 700, "pgevents": 900}
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


def test_case_3_killed_at_random_while_files_are_closed(db, herald, tmp_path):
    found, wanted = kill_at_random(db, herald, tmp_path, f"file:{tmp_path}/out.json?rotate_size=1K")
    assert found == wanted


def test_case_3_killed_at_random_while_files_are_compressed(db, herald, tmp_path):
    found, wanted = kill_at_random(db, herald, tmp_path,
                                   f"file:{tmp_path}/out.json?rotate_size=1K&compress_closed=zstd")
    assert found == wanted


def test_case_3_killed_at_random_with_a_format_without_positions(db, herald, tmp_path):
    found, wanted = kill_at_random(db, herald, tmp_path,
                                   f"file:{tmp_path}/out.json?rotate_size=1K&compress_closed=gzip",
                                   args=("--format", "pgevents"))
    assert found == wanted


@pytest.fixture(scope="module")
def crash_at(tmp_path_factory):
    """The environment in which the program dies before its n-th change of a file."""
    library = tmp_path_factory.mktemp("shim") / "crash_at.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", library,
                    f"{program.REPO}/tests/live/crash_at.c", "-ldl"], check=True)
    asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    return lambda n: {"LD_PRELOAD": str(library), "CRASH_AT": str(n), "ASAN_OPTIONS": asan}


@pytest.mark.parametrize("format", ["native", "pgevents"])
def test_died_at_each_moment_of_a_rotation(db, herald, tmp_path, crash_at, format):
    # Given files of three events each, and rows in their second and further lives
    delivery.make_tables(db)
    to = f"file:{tmp_path}/out.json?rotate_size={LINES_OF_3[format]}&compress_closed=gzip"
    args = ("--format", format, "--to", to)
    herald(db, *args).stop()
    wanted, died = [], 0

    # when the program dies right before its first change of a file, its second, its third ...
    for n in range(1, 3 * ROUNDS + 1):
        stream = herald(db, *args, env=crash_at(n), ready=False)
        db.sql(f"insert into a select generate_series({n * 10}, {n * 10 + 8})")
        wanted += range(n * 10, n * 10 + 9)
        end = db.wal_lsn()
        try:
            stream.wait_until(lambda: (db.slot_state()["confirmed"] or 0) >= end, "the end")
            stream.stop()
        except AssertionError:
            died += 1
            assert stream.process.wait() == -9, stream.describe()

    # then a last one completes the files: nothing is lost, repeated, torn or out of order
    stream = herald(db, *args)
    stream.wait_confirmed(db)
    stream.stop()
    assert [e["new"]["n"] for e in events(tmp_path)] == wanted
    assert died > ROUNDS
    closed = numbers_of(tmp_path)
    assert closed == list(range(1, len(closed) + 1))


def closed_and_compressed(folder, ending):
    found = [n for n in names(folder)]
    return len(found) > 1 and all(n.endswith(ending) for n in found[:-1])


@pytest.mark.parametrize("method, ending", [("gzip", ".gz"), ("zstd", ".zst")])
def test_closed_files_are_compressed(db, herald, tmp_path, method, ending):
    delivery.make_tables(db)
    stream = herald(db, "--to", f"file:{tmp_path}/out.json?rotate_size=20K&compress_closed={method}")
    delivery.insert(db, 1, 300)
    stream.wait_confirmed(db)
    stream.wait_until(lambda: closed_and_compressed(tmp_path, ending), "compressed files")
    delivery.check(events(tmp_path), {"a": range(1, 301)})
    subprocess.run([{"gzip": "gzip", "zstd": "zstd"}[method], "-tq", tmp_path / names(tmp_path)[0]], check=True)


def test_what_a_crash_left_of_compression_is_completed(db, herald, tmp_path):
    # Given closed files, of which one has both forms, and one is half compressed
    delivery.make_tables(db)
    path = tmp_path / "out.json"
    stream = herald(db, "--to", f"file:{path}?rotate_size=4K")
    delivery.insert(db, 1, 100)
    stream.wait_confirmed(db)
    stream.stop()
    (tmp_path / "out.json.000000002.gz.tmp").write_bytes(b"half")
    subprocess.run(["gzip", "-nk", tmp_path / "out.json.000000001"], check=True)
    theirs = tmp_path / "out.json.000000003.gz"
    theirs.write_bytes(gzip.compress(b"somebody's"))

    # when compression is on
    stream = herald(db, "--to", f"file:{path}?rotate_size=4K&compress_closed=gzip")
    rest = lambda: sorted(n for n in os.listdir(tmp_path) if not n.endswith((".gz", ".position")))  # noqa: E731
    stream.wait_until(lambda: rest() == ["out.json", "out.json.000000003"], "compression")

    # then nothing of ours is lost, and nothing of theirs
    assert gzip.decompress(theirs.read_bytes()) == b"somebody's"
    theirs.unlink()
    delivery.check(events(tmp_path), {"a": range(1, 101)})


def test_files_end_when_their_time_is_over(db, herald, tmp_path):
    # Given a stream whose files are of one second each
    delivery.make_tables(db)
    stream = herald(db, "--to", f"file:{tmp_path}/out.json?rotate_seconds=1")

    # when there is an event, and then silence
    delivery.insert(db, 1, 1)
    stream.wait_until(lambda: numbers_of(tmp_path) == [1], "a closed file")

    # then the next one follows it in another file, and silence makes no further files
    delivery.insert(db, 2, 2)
    stream.wait_until(lambda: numbers_of(tmp_path) == [1, 2], "another")
    delivery.check(events(tmp_path), {"a": range(1, 3)})
    assert os.path.getsize(tmp_path / "out.json") == 0

    # and a new process knows what the last one wrote
    stream.kill9()
    stream = herald(db, "--to", f"file:{tmp_path}/out.json?rotate_seconds=1")
    delivery.insert(db, 3, 3)
    stream.wait_until(lambda: numbers_of(tmp_path) == [1, 2, 3], "a third")
    delivery.check(events(tmp_path), {"a": range(1, 4)})


def test_an_empty_file_after_a_rotation_forgets_nothing(db, herald, tmp_path):
    # Given events that are in closed files only, of which somebody has taken the last away
    delivery.make_tables(db)
    to = f"file:{tmp_path}/out.json?rotate_seconds=1"
    stream = herald(db, "--to", to)
    delivery.insert(db, 1, 20)
    stream.wait_until(lambda: len(lines(tmp_path)) == 20 and (tmp_path / "out.json").stat().st_size == 0,
                      "all to be closed")
    stream.kill9()
    os.rename(tmp_path / names(tmp_path)[-2], tmp_path / "away")

    # when the slot was dropped behind its back
    stream = herald(db, "--to", to)
    stream.wait_confirmed(db)
    stream.stop()
    assert not (tmp_path / "out.json").stat().st_size, "nothing came again"
    db.drop_slots()
    db.sql("select pg_create_logical_replication_slot(%s, 'pgoutput')", (db.slot,))

    # then the mark, which only the line beside the empty file has, tells
    stream = herald(db, "--to", to, ready=False)
    assert stream.wait_exit() == 76, stream.describe()


def set_day(tmp_path, today, day):
    """Makes of a stopped output one that was stopped on another day."""
    note = tmp_path / "out-{date}.json.position"
    note.write_text(note.read_text().replace(today, day))
    os.rename(tmp_path / f"out-{today}.json", tmp_path / f"out-{day}.json")


def day_in_name(tmp_path):
    return re.search(r"out-(\d{4}-\d\d-\d\d)\.json", names(tmp_path)[-1]).group(1)


@pytest.mark.parametrize("format", ["native", "pgevents"])
def test_each_day_has_its_file(db, herald, tmp_path, format):
    # Given a file of today, which is then made one of another day
    delivery.make_tables(db)
    to = f"file:{tmp_path}/out-{{date}}.json?compress_closed=gzip"
    args = ("--format", format, "--to", to)
    stream = herald(db, *args)
    assert names(tmp_path) == []  # until there is an event
    delivery.insert(db, 1, 5)
    stream.wait_until(lambda: len(lines(tmp_path)) == 5, "5 events")
    stream.wait_confirmed(db)
    stream.stop()
    today = day_in_name(tmp_path)
    if format == "native":
        assert today == events(tmp_path)[0]["time"][:10]
    set_day(tmp_path, today, "2020-02-29")

    # when the next event comes today
    stream = herald(db, *args)
    delivery.insert(db, 6, 9)

    # then it is in a file of its own, and the other one is closed
    stream.wait_until(lambda: names(tmp_path) == ["out-2020-02-29.json.gz", f"out-{today}.json"], "two files")
    stream.wait_until(lambda: len(lines(tmp_path)) == 9, "all events")
    stream.kill9()

    # and so it is for the next process; a clock that was put back does not disturb the order
    set_day(tmp_path, today, "2999-12-31")
    stream = herald(db, *args)
    delivery.insert(db, 10, 12)
    stream.wait_confirmed(db)
    stream.stop()
    assert names(tmp_path) == ["out-2020-02-29.json.gz", "out-2999-12-31.json"]
    assert [e["new"]["n"] for e in events(tmp_path)] == list(range(1, 13))


def test_days_with_several_files_are_numbered(db, herald, tmp_path):
    delivery.make_tables(db)
    to = f"file:{tmp_path}/out-{{date}}.json?rotate_size=1K"
    stream = herald(db, "--to", to)
    delivery.insert(db, 1, 12)
    stream.wait_confirmed(db)
    stream.stop()
    today = day_in_name(tmp_path)
    before = numbers_of(tmp_path)
    set_day(tmp_path, today, "2020-02-29")
    for n in before:
        os.rename(tmp_path / f"out-{today}.json.{n:09}", tmp_path / f"out-2020-02-29.json.{n:09}")
    stream = herald(db, "--to", to)
    delivery.insert(db, 13, 24)
    stream.wait_confirmed(db)
    stream.stop()
    assert numbers_of(tmp_path) == list(range(1, len(numbers_of(tmp_path)) + 1))
    assert f"out-2020-02-29.json.{len(before) + 1:09}" in names(tmp_path)
    delivery.check(events(tmp_path), {"a": range(1, 25)})


def test_case_64_a_full_disk_in_the_middle_of_rotations(db, herald, small_disk):  # noqa: F811
    # Given a disk that a neighbour has nearly filled
    delivery.make_tables(db)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 900_000)
    stream = herald(db, "--to", f"file:{small_disk}/out.json?rotate_size=20K&compress_closed=zstd")

    # when events do not fit any more
    db.sql("insert into a select i, md5(i::text) from generate_series(1, 2000) i")
    stream.wait_log("No space left")

    # then they all come, once, when there is room again
    ballast.unlink()
    stream.wait_log("is back")
    stream.wait_confirmed(db)
    stream.stop()
    delivery.check(events(small_disk), {"a": range(1, 2001)})


class Follower:
    """Reads on where it stopped, knowing nothing but the names, as docs/destinations/file.md says."""

    def __init__(self, path):
        self.path, self.number, self.at, self.lines = path, 1, 0, []

    def read(self):
        with open(self.path, "rb") as f:  # opened before looking, it is the file of this number or its follower
            closed = f"{self.path}.{self.number:09}"
            if os.path.exists(closed):
                with open(closed, "rb") as g:
                    self.take(g)
                self.number, self.at = self.number + 1, 0
            else:
                self.take(f)
        return len(self.lines)

    def take(self, f):
        f.seek(self.at)
        whole = f.read().rpartition(b"\n")[0:2]
        text = b"".join(whole)
        self.at += len(text)
        self.lines += text.split(b"\n")[:-1]


def test_a_reader_that_follows_sees_every_line_once(db, herald, tmp_path):
    # Given a reader of the file that is written
    delivery.make_tables(db)
    path = tmp_path / "out.json"
    stream = herald(db, "--to", f"file:{path}?rotate_size=3K")
    stream.wait_until(path.exists, "the file")
    reader = Follower(path)

    # when files are closed while it reads
    def read():
        try:
            return reader.read()
        except FileNotFoundError:  # between a name and the next
            return len(reader.lines)
    for n in range(4):
        delivery.insert(db, n * 100 + 1, n * 100 + 100)
        stream.wait_until(lambda n=n: read() >= n * 100 + 50, "the reader")
    stream.wait_until(lambda: read() >= 400, "the reader")

    # then it has all
    delivery.check([json.loads(line) for line in reader.lines], {"a": range(1, 401)})
    assert reader.number > 10


def test_numbers_go_on_behind_what_is_there(db, herald, tmp_path):
    # Given a closed file whose output has lost what was beside
    delivery.make_tables(db)
    (tmp_path / "out.json.000000041.gz").write_bytes(gzip.compress(b""))
    stream = herald(db, "--to", f"file:{tmp_path}/out.json?rotate_size=1K")
    delivery.insert(db, 1, 10)
    stream.wait_until(lambda: 42 in numbers_of(tmp_path), "a file with the next number")


@pytest.mark.parametrize("url, word", [
    ("out.json?rotate_size=lots", "rotate_size"),
    ("out.json?rotate_size=0", "rotate_size"),
    ("out.json?rotate_size=10KB", "rotate_size"),
    ("out.json?rotate_seconds=0", "rotate_seconds"),
    ("out.json?compress_closed=gzip", "rotate_size"),
    ("out.json?rotate_size=1K&compress_closed=lzma", "compress_closed"),
    ("{date}/out.json", "in the file's name"),
    ("/dev/null?rotate_size=1K", "/dev/null"),
])
def test_settings_that_make_no_sense_say_so(db, herald, tmp_path, url, word):
    path = url if url.startswith("/") else f"{tmp_path}/{url}"
    stream = herald(db, "--to", f"file:{path}", ready=False)
    assert stream.wait_exit() in (64, 78) and word in stream.err, stream.describe()
