"""exec:COMMAND: programs in Python and shell."""
import os
import random
import sys

import delivery
from herald import read_events

ROUNDS = int(os.environ.get("PGHERALD_TEST_ROUNDS", 4))

# Appends lines to a file and writes their ids back once they are there.
KEEPER = """
import json, sys
out = open(sys.argv[1], "a")
for line in sys.stdin:
    out.write(line)
    out.flush()
    print(json.loads(line)["id"], flush=True)
"""


def program(tmp_path, text, name="program.py"):
    path = tmp_path / name
    path.write_text(text)
    return f"exec:exec {sys.executable} {path} {tmp_path}/out.json".replace("%", "%25")


def test_lines_are_taken_when_their_ids_come_back(db, herald, tmp_path):
    delivery.make_tables(db)
    stream = herald(db, "--to", program(tmp_path, KEEPER))
    delivery.insert(db, 1, 3000, body="x" * 100)
    stream.wait_confirmed(db)
    delivery.check(read_events(tmp_path / "out.json"), {"a": range(1, 3001)})


def test_killed_at_random_nothing_is_lost(db, herald, tmp_path):
    delivery.make_tables(db)
    luck = random.Random(14)
    to, out = program(tmp_path, KEEPER), tmp_path / "out.json"
    herald(db, "--to", to).stop()
    for n in range(ROUNDS):
        stream = herald(db, "--to", to)
        delivery.insert(db, n * 500 + 1, n * 500 + 500)
        goal = n * 500 + luck.randint(1, 500)
        stream.wait_until(lambda: len({e["id"] for e in read_events(out)}) >= goal, "some events")
        stream.kill9()
    stream = herald(db, "--to", to)
    stream.wait_confirmed(db)
    stream.stop()
    delivery.check(read_events(out), {"a": range(1, ROUNDS * 500 + 1)}, repeats=True)


def test_with_ack_exit_each_run_gets_some_lines_and_its_end(db, herald, tmp_path):
    delivery.make_tables(db)
    out = tmp_path / "out.json"
    stream = herald(db, "--to", f"exec:cat >> {out}; echo run >> {tmp_path}/runs?ack=exit&lines=100")
    delivery.insert(db, 1, 1000, body="x" * 300)
    stream.wait_confirmed(db)
    delivery.check(read_events(out), {"a": range(1, 1001)})
    assert (tmp_path / "runs").read_text().count("run") >= 10
