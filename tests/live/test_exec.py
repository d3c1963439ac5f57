"""exec:COMMAND: programs in Python and shell."""
import json
import os
import random
import sys

import delivery
from herald import read_events
from postgres import running, wait_until

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


def test_case_3_killed_at_random_nothing_is_lost(db, herald, tmp_path):
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


def numbers(events):
    return [e["new"]["n"] for e in events]


def test_case_64_a_program_that_dies_is_started_again(db, herald, tmp_path):
    # Given a program that dies behind each 50th line, before it says so
    delivery.make_tables(db)
    dying = """
import json, os, sys
out = open(sys.argv[1], "a")
for line in sys.stdin:
    event = json.loads(line)
    print(line, end="", file=out, flush=True)
    mark = sys.argv[1] + str(event["new"]["n"])
    if event["new"]["n"] % 50 == 0 and not os.path.exists(mark):
        open(mark, "w").close()
        sys.exit(3)
    print(event["id"], flush=True)
"""
    stream = herald(db, "--to", program(tmp_path, dying))
    delivery.insert(db, 1, 200)
    stream.wait_confirmed(db)
    delivery.check(read_events(tmp_path / "out.json"), {"a": range(1, 201)}, repeats=True)
    assert "ended with exit code 3" in stream.err


def test_ids_may_come_in_any_order_and_what_it_says_besides_goes_to_our_standard_error(db, herald, tmp_path):
    delivery.make_tables(db)
    late = """
import json, sys
held = []
print("I am here", file=sys.stderr, flush=True)
for line in sys.stdin:
    held.append(json.loads(line)["id"])
    if len(held) == 10:
        print("\\n".join(reversed(held)), flush=True)
        print(held[0], flush=True)
        held = []
"""
    stream = herald(db, "--to", program(tmp_path, late))
    delivery.insert(db, 1, 9)
    end = db.wal_lsn()
    stream.wait_log("I am here")
    assert db.slot_state()["confirmed"] < end
    delivery.insert(db, 10, 10)
    stream.wait_confirmed(db)


REFUSER = """
import json, sys
for line in sys.stdin:
    event = json.loads(line)
    if event["new"]["n"] == 5:
        print(event["id"], "refused I do not like it", flush=True)
    else:
        open(sys.argv[1], "a").write(line)
        print(event["id"], flush=True)
"""


def test_case_64_a_program_may_refuse(db, herald, tmp_path):
    delivery.make_tables(db)
    to, letters = program(tmp_path, REFUSER), tmp_path / "letters.json"
    stream = herald(db, "--to", to)
    delivery.insert(db, 1, 5)
    assert stream.wait_exit() == 1
    assert "I do not like it" in stream.err and "public.a" in stream.err
    stream = herald(db, "--to", to, "--on-refused", "dead-letter", "--dead-letter", f"file:{letters}")
    delivery.insert(db, 6, 9)
    stream.wait_confirmed(db)
    stream.stop()
    assert set(numbers(read_events(tmp_path / "out.json"))) == {1, 2, 3, 4, 6, 7, 8, 9}
    assert [json.loads(e["body"])["new"]["n"] for e in read_events(letters)] == [5]


def test_case_64_a_run_may_refuse_and_fail(db, herald, tmp_path):
    # Given a program that ends with 65 when it is given a 5, and with 1 at its second run
    delivery.make_tables(db)
    out, runs, letters = tmp_path / "out.json", tmp_path / "runs", tmp_path / "letters.json"
    command = (f"echo run >> {runs}; cat > {tmp_path}/in; [ $(wc -l < {runs}) != 2 ] || exit 1; "
               f"grep -q '\"n\":5,' {tmp_path}/in && exit 65; cat {tmp_path}/in >> {out}")
    herald(db, "--to", f"exec:{command}?ack=exit").stop()
    delivery.insert(db, 1, 20)

    # when there are 20 lines
    stream = herald(db, "--to", f"exec:{command}?ack=exit", "--on-refused", "dead-letter",
                    "--dead-letter", f"file:{letters}")
    stream.wait_confirmed(db)

    # then only the 5 is refused
    assert numbers(read_events(out)) == [n for n in range(1, 21) if n != 5]
    assert [json.loads(e["body"])["new"]["n"] for e in read_events(letters)] == [5]
    assert "ended with exit code 1" in stream.err


def test_case_3_a_run_killed_at_random_loses_nothing(db, herald, tmp_path):
    delivery.make_tables(db)
    luck = random.Random(15)
    out = tmp_path / "out.json"
    to = f"exec:cat > {tmp_path}/$$; cat {tmp_path}/$$ >> {out}; rm {tmp_path}/$$?ack=exit&lines=50"
    herald(db, "--to", to).stop()
    for n in range(ROUNDS):
        stream = herald(db, "--to", to)
        delivery.insert(db, n * 300 + 1, n * 300 + 300)
        goal = n * 300 + luck.randint(1, 300)
        stream.wait_until(lambda: len({e["id"] for e in read_events(out)}) >= goal, "some events")
        stream.kill9()
    stream = herald(db, "--to", to)
    stream.wait_confirmed(db)
    stream.stop()
    delivery.check(read_events(out), {"a": range(1, ROUNDS * 300 + 1)}, repeats=True)


def test_what_the_user_has_to_mend_is_said(db, herald, tmp_path):
    delivery.make_tables(db)
    db.sql("select pg_create_logical_replication_slot(%s, 'pgoutput')", (db.slot,))
    for url, args, words in (("exec:", [], "names no command"), ("exec:/no/such/program", [], "cannot be run"),
                             ("exec:echo hello; cat", [], "\\\"hello\\\""),
                             ("exec:cat", ["--format", "pgevents"], "ack=exit"),
                             ("exec:cat?ack=no", [], "line|exit")):
        stream = herald(db, "--to", url, *args, ready=False)
        assert stream.wait_exit() == 78, url
        assert words in stream.err, stream.err


def test_case_2_a_program_that_reads_nothing_ends_with_us(db, herald, tmp_path):
    # Given a program with a child that both ignore everything
    delivery.make_tables(db)
    pid = tmp_path / "pid"
    stream = herald(db, "--to", f"exec:trap '' TERM; sleep 1000 & echo $! > {pid}; wait; wait")
    delivery.insert(db, 1, 2000, body="x" * 100)
    wait_until(lambda: pid.exists() and pid.read_text(), "the child")

    # when we end
    stream.stop()

    # then they are gone too
    wait_until(lambda: not running(int(pid.read_text())), "the child to end")


def test_two_programs_with_their_own_speed(db, herald, tmp_path):
    delivery.make_tables(db)
    (tmp_path / "slow").mkdir()
    slow = KEEPER.replace("import json, sys", "import json, sys, time").replace("    out.flush", "    time.sleep(0.002)\n    out.flush")
    stream = herald(db, "--to", program(tmp_path, KEEPER), "--to", program(tmp_path / "slow", slow))
    delivery.insert(db, 1, 500)
    stream.wait_confirmed(db)
    for folder in (tmp_path, tmp_path / "slow"):
        delivery.check(read_events(folder / "out.json"), {"a": range(1, 501)})


def test_a_large_line(db, herald, tmp_path):
    delivery.make_tables(db)
    stream = herald(db, "--to", program(tmp_path, KEEPER))
    db.sql("insert into a values (1, repeat('x', 20000000))")
    stream.wait_confirmed(db)
    assert len(read_events(tmp_path / "out.json")[0]["new"]["body"]) == 20000000
