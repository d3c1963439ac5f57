"""The demo: `pgherald demo` on a throwaway server of its own."""
import contextlib
import glob
import json
import os
import re
import signal
import subprocess

import pytest

from herald import PROGRAM, REPO, SANITIZER, environment
from postgres import LIMIT, running, wait_until


def start_demo(*args):
    return subprocess.Popen([f"{REPO}/script/pgherald-demo", *args], text=True,
                            env=environment({"PGHERALD": PROGRAM}), stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            # whoever started the tests may ignore SIGINT, and that is inherited
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def folder(intro):
    return re.search(r"host=(\S+)", intro).group(1)


def server_pid(intro):
    with open(f"{folder(intro)}/data/postmaster.pid") as f:
        return int(f.readline())


def child_commands(pid):
    """The command lines of a process's children."""
    commands = ""
    for task in glob.glob(f"/proc/{pid}/task/*/children"):
        with open(task) as f:
            for child in f.read().split():
                with contextlib.suppress(OSError), open(f"/proc/{child}/cmdline") as line:
                    commands += line.read().replace("\0", " ")
    return commands


def test_demo_tells_what_the_shop_does_and_ends_by_itself():
    # Given the demo with a limit of time, when it has run
    demo = start_demo("--seconds", "4")
    out, err = demo.communicate(timeout=LIMIT)

    # then it ends well, having said in two lines what it shows and how to join in
    assert demo.returncode == 0, err
    assert not SANITIZER.search(err), err
    says, joins = err.splitlines()[:2]
    assert "throwaway PostgreSQL" in says and "psql" in joins

    # and has told inserts, updates and a delete of several tables, whole transactions among them
    events = [json.loads(line) for line in out.splitlines()]
    assert {e["action"] for e in events} >= {"insert", "update"}
    assert {e["table"] for e in events} >= {"customers", "orders", "order_items", "products"}
    first = [e["table"] for e in events if e["xid"] == events[0]["xid"]]
    assert first[:2] == ["orders", "order_items"] and first[-1] == "orders"

    # and nothing of it is left
    assert not os.path.exists(folder(err))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_interrupted_leaves_nothing(number):
    # Given a demo that shows events
    demo = start_demo()
    intro = demo.stderr.readline() + demo.stderr.readline()
    assert demo.stdout.readline().startswith("{")
    postmaster = server_pid(intro)
    assert running(postmaster)

    # when it gets a signal
    demo.send_signal(number)
    _, err = demo.communicate(timeout=LIMIT)

    # then it ends well, and its server and folder are gone
    assert demo.returncode == 0, err
    assert not SANITIZER.search(err), err
    assert not running(postmaster)
    assert not os.path.exists(folder(intro))


def test_demo_interrupted_while_it_starts_leaves_nothing():
    # Given a demo that has only made its folder
    demo = start_demo()
    made = wait_until(lambda: re.search(r"/tmp/pgherald-demo\.\w+", child_commands(demo.pid)),
                      "a command on its folder").group()

    # when it gets a signal, then its folder goes with it
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=LIMIT)
    assert not os.path.exists(made)


def test_demo_refuses_a_wrong_argument():
    demo = start_demo("--seconds", "soon")
    _, err = demo.communicate(timeout=LIMIT)
    assert demo.returncode == 64
    assert "--seconds" in err
