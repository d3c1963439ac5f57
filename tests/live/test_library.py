"""libpgherald: programs in C that use the installed header and library."""
import os
import select
import socket
import subprocess

import pytest

import herald as program
from postgres import LIMIT, wait_until

ROOT = program.REPO
BUILD = os.path.dirname(program.PROGRAM)
OURS = [f"-I{ROOT}/include", f"-L{BUILD}", "-lpgherald", f"-Wl,-rpath,{BUILD}"]

SOURCE = r"""
#include <pgherald.h>
#include <stdio.h>
#include <string.h>

static struct herald_stream *stream;
static struct herald_position last;
static int seen;

static enum herald_answer on_insert(void *user, const struct herald_event *e)
{
	int64_t n, us;
	double d;
	int flag;
	size_t len;
	const unsigned char *bytes;

	printf("%s %s.%s", herald_action_name(e), herald_schema(e), herald_table(e));
	if (herald_int64(e, HERALD_NEW, herald_column(e, "n"), &n) == 0)
		printf(" n=%lld", (long long)n);
	if (herald_double(e, HERALD_NEW, herald_column(e, "d"), &d) == 0)
		printf(" d=%g", d);
	if (herald_bool(e, HERALD_NEW, herald_column(e, "f"), &flag) == 0)
		printf(" f=%d", flag);
	if (herald_time_us(e, HERALD_NEW, herald_column(e, "at"), &us) == 0)
		printf(" at=%lld", (long long)us);
	bytes = herald_bytes(e, HERALD_NEW, herald_column(e, "b"), &len);
	if (bytes)
		printf(" b=%zu:%02x", len, bytes[len - 1]);
	printf(" t=%s", herald_text(e, HERALD_NEW, herald_column(e, "t"), NULL));
	printf(" kinds=%d%d%d", herald_kind(e, HERALD_NEW, herald_column(e, "t")),
	       herald_kind(e, HERALD_OLD, 0), herald_kind(e, HERALD_NEW, herald_column(e, "no")));
	printf(" wrong=%d\n", herald_int64(e, HERALD_NEW, herald_column(e, "t"), &n));
	fflush(stdout);
	last = herald_position(e);
	seen++;
	return *(enum herald_answer *)user;
}

int main(int argc, char **argv)
{
	enum herald_answer answer = strcmp(argv[3], "later") == 0 ? HERALD_LATER
				    : strcmp(argv[3], "stop") == 0 ? HERALD_STOP : HERALD_TAKEN;
	int done = 0;

	stream = herald_stream_new();
	if (herald_stream_set(stream, "nonsense", "x") == 0 || !*herald_stream_error(stream))
		return 2;
	if (herald_stream_set(stream, "connection", argv[1]) || herald_stream_set(stream, "slot", argv[2]) ||
	    herald_stream_on(stream, HERALD_INSERT, "public.t*", on_insert, &answer))
		return 3;
	if (herald_stream_fd(stream) < 0)
		return 4;
	while (done == 0 && seen < 3)
		done = herald_stream_step(stream, 1000);
	if (strcmp(argv[3], "later") == 0 && argc > 4)
		herald_stream_acknowledge(stream, last);
	if (done == 0) {
		herald_stream_stop(stream);
		done = herald_stream_run(stream) ? -1 : 1;
	}
	if (done < 0)
		fprintf(stderr, "%s\n", herald_stream_error(stream));
	herald_stream_free(stream);
	return done < 0;
}
"""


def build(folder, name, source, flags=None):
    """A program linked with the library of the build under test, or as the flags say."""
    (folder / f"{name}.c").write_text(source)
    sanitize = ["-fsanitize=address,undefined"] if "build-test" in BUILD else []
    subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", *sanitize,
                    str(folder / f"{name}.c"), "-o", str(folder / name), *(flags or OURS)], check=True)
    return str(folder / name)


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    return build(tmp_path_factory.mktemp("lib"), "reader", SOURCE)


def start(reader, db, *args):
    return subprocess.Popen([reader, db.conninfo, db.slot, *args], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=program.environment())


def finish(process):
    out, err = process.communicate(timeout=60)
    program.check_sanitizers(["reader"], err)
    assert process.returncode == 0, err
    return out.splitlines()


def make(db):
    db.sql("create table t (n bigint primary key, d numeric, f bool, at timestamptz, b bytea, t text)")
    db.sql("create table other (n int)")


def insert(db, n):
    db.sql(f"insert into t values ({n}, 1.5, true, '2020-01-01 00:00:00.5+00', '\\x00ff', 'text {n}')")


def ready(db):
    wait_until(db.is_streaming, "the stream to begin")


def test_a_callback_reads_typed_values(db, reader):
    make(db)
    process = start(reader, db, "taken")
    ready(db)
    db.sql("insert into other values (1)")
    for n in (9007199254740993, 2, 3):
        insert(db, n)
    lines = finish(process)
    assert lines[0] == ("insert public.t n=9007199254740993 d=1.5 f=1 at=1577836800500000 b=2:ff "
                        "t=text 9007199254740993 kinds=1000 wrong=-1")
    assert [line.split()[2] for line in lines[1:]] == ["n=2", "n=3"]

    # what was taken does not come again
    process = start(reader, db, "taken")
    ready(db)
    for n in (4, 5, 6):
        insert(db, n)
    assert [line.split()[2] for line in finish(process)] == ["n=4", "n=5", "n=6"]


@pytest.mark.parametrize("acknowledged", [False, True])
def test_what_is_answered_later_counts_when_it_is_acknowledged(db, reader, acknowledged):
    make(db)
    process = start(reader, db, "later", *(["ack"] if acknowledged else []))
    ready(db)
    for n in (1, 2, 3):
        insert(db, n)
    finish(process)
    for n in (4, 5, 6):
        insert(db, n)
    process = start(reader, db, "taken")
    first = finish(process)[0].split()[2]
    assert first == ("n=4" if acknowledged else "n=1")


def test_stop_leaves_the_event_in_the_slot(db, reader):
    make(db)
    process = start(reader, db, "stop")
    ready(db)
    insert(db, 1)
    assert len(finish(process)) == 1
    insert(db, 2)
    insert(db, 3)
    process = start(reader, db, "taken")
    assert [line.split()[2] for line in finish(process)] == ["n=1", "n=2", "n=3"]


def test_the_actors_example_shows_old_and_new(db):
    db.sql("create table actors (nconst text primary key, primaryname text)")
    db.sql("alter table actors replica identity full; insert into actors values ('nm1', 'Fred')")
    process = subprocess.Popen([f"{BUILD}/actors", db.conninfo], text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=program.environment())
    db.slot = "actors"
    ready(db)
    db.sql("update actors set primaryname = 'Fred Astaire'")
    head = [process.stdout.readline() for _ in range(3)]
    process.terminate()
    finish(process)
    assert head[0].endswith(" public.actors\n")
    assert head[2] == "  primaryname: Fred -> Fred Astaire\n"


def test_the_forward_example_forwards_and_counts(db, tmp_path):
    db.sql("create table t (n int primary key)")
    path = tmp_path / "out.json"
    process = subprocess.Popen([f"{BUILD}/forward", db.conninfo, f"file:{path}"], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=program.environment())
    db.slot = "forward"
    ready(db)
    db.sql("insert into t select generate_series(1, 3)")
    wait_until(lambda: len(program.read_lines(path)) == 3, "the events to be in the file")
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "3 events forwarded\n")


STEPPER = r"""
#include <pgherald.h>
#include <stdio.h>

static enum herald_answer on_any(void *user, const struct herald_event *e)
{
	return HERALD_TAKEN;
}

int main(int argc, char **argv)
{
	struct herald_stream *s = herald_stream_new();
	int failed = herald_stream_set(s, "connection", argv[1]) ||
		     herald_stream_on(s, HERALD_ALL, "*", on_any, NULL);

	for (int i = 0; i < 5 && !failed; i++)
		failed = herald_stream_step(s, 0);
	puts("stepped");
	fflush(stdout);
	getchar();
	if (!failed && argc > 2) {
		herald_stream_stop(s);
		failed = herald_stream_run(s);
	}
	herald_stream_free(s);
	return failed;
}
"""


@pytest.mark.parametrize("end", [["stop"], []])
def test_steps_do_not_wait_for_a_connection(tmp_path, end):
    # Given a server that never answers
    stepper = build(tmp_path, "stepper", STEPPER)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        conninfo = f"host=127.0.0.1 port={listener.getsockname()[1]} connect_timeout=600"

        # when steps are done that shall not wait, then they do not
        process = subprocess.Popen([stepper, conninfo, *end], text=True, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=program.environment())
        assert process.stdout.readline() == "stepped\n"
        caller, _ = listener.accept()

        # and neither does the end
        finish(process)
        caller.close()


POLLER = r"""
#include <poll.h>
#include <pgherald.h>

static int seen;

static enum herald_answer on_insert(void *user, const struct herald_event *e)
{
	seen++;
	return HERALD_TAKEN;
}

int main(int argc, char **argv)
{
	struct herald_stream *s = herald_stream_new();
	struct pollfd pfd = { .events = POLLIN };
	int done = herald_stream_set(s, "connection", argv[1]) || herald_stream_set(s, "slot", argv[2]) ||
		   herald_stream_on(s, HERALD_INSERT, "*", on_insert, NULL) ? -1 : 0;

	pfd.fd = herald_stream_fd(s);
	while (done == 0 && poll(&pfd, 1, -1) > 0) {
		done = herald_stream_step(s, 0);
		if (seen == 3)
			herald_stream_stop(s);
	}
	herald_stream_free(s);
	return done != 1 || seen != 3;
}
"""


ANSWERER = r"""
#include <poll.h>
#include <pgherald.h>
#include <stdio.h>

static int seen;

static enum herald_answer on_insert(void *user, const struct herald_event *e)
{
	seen++;
	return HERALD_TAKEN;
}

int main(int argc, char **argv)
{
	struct herald_stream *s = herald_stream_new();
	struct pollfd fds[] = { { 0, POLLIN, 0 }, { 0, POLLIN, 0 } };
	int done = herald_stream_set(s, "connection", argv[1]) || herald_stream_set(s, "slot", argv[2]) ||
		   herald_stream_on(s, HERALD_INSERT, "*", on_insert, NULL) ? -1 : 0;

	fds[1].fd = herald_stream_fd(s);
	while (done == 0 && seen == 0 && poll(fds, 2, -1) > 0) {
		if (fds[0].revents && getchar() == '\n') {
			puts("here");
			fflush(stdout);
		}
		if (fds[1].revents)
			done = herald_stream_step(s, 0);
	}
	herald_stream_free(s);
	return done < 0;
}
"""


def test_steps_do_not_wait_for_the_slot(db, tmp_path):
    # Given a program with an event loop, whose slot the server makes when a transaction has ended
    make(db)
    db.sql("begin; insert into other values (1); prepare transaction 'forgotten'")
    process = subprocess.Popen([build(tmp_path, "answerer", ANSWERER), db.conninfo, db.slot], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=program.environment())
    waits = "select 1 from pg_stat_activity where query like 'CREATE_REPLICATION_SLOT%' and wait_event_type = 'Lock'"
    wait_until(lambda: db.sql(waits), "the server to wait for the transaction")

    # then the program goes on with its own work
    for _ in range(3):
        process.stdin.write("\n")
        process.stdin.flush()
        assert select.select([process.stdout], [], [], LIMIT)[0] and process.stdout.readline() == "here\n"
    assert db.sql(waits)

    # and has its events when the transaction has ended
    db.sql("rollback prepared 'forgotten'")
    ready(db)
    insert(db, 1)
    finish(process)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of what is installed, and what pkg-config says of it there."""
    root = tmp_path_factory.mktemp("root")
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", str(root)], check=True,
                   capture_output=True)
    described, = root.glob("**/pgherald.pc")
    prefix, = [line.split("=")[1] for line in described.read_text().splitlines() if line.startswith("prefix=")]

    def flags(*options):
        asked = ["pkg-config", f"--define-variable=prefix={root}{prefix}", *options]
        return subprocess.run(asked, check=True, text=True, capture_output=True).stdout.split()
    return root, described, flags


@pytest.mark.parametrize("kind", ["shared", "static"])
def test_a_program_of_an_installation_waits_for_the_streams_descriptor(db, installed, tmp_path, kind):
    # Given a program with an event loop of its own, built as pkg-config says
    root, described, ask = installed
    library, = root.glob("**/libpgherald.so")
    flags = [*ask("--cflags", "--libs", str(described)), f"-Wl,-rpath,{library.parent}"]
    if kind == "static":
        flags = [str(library.with_suffix(".a")) if flag == "-lpgherald" else flag for flag in flags]
        needs = [name.strip(",") for name in ask("--print-requires-private", str(described))]
        flags += [*ask("--libs", *needs), "-pthread", "-lm"]
    poller = build(tmp_path, "poller", POLLER, flags)
    needed = subprocess.run(["readelf", "-d", poller], check=True, text=True, capture_output=True).stdout
    assert ("[libpgherald.so.0]" in needed) == (kind == "shared")

    # then it gets its events
    make(db)
    process = start(poller, db)
    ready(db)
    for n in (1, 2, 3):
        insert(db, n)
    finish(process)


def test_the_program_and_its_manual_are_installed(installed):
    root, _, _ = installed
    done = {path.name: path for path in root.rglob("*") if path.is_file()}
    shown = subprocess.run([str(done["pgherald"]), "--version"], text=True, capture_output=True,
                           env=program.environment())
    assert shown.returncode == 0 and "pgherald" in shown.stdout
    assert {"pgherald.1", "pgherald-stream.1", "pgherald.yaml.5", "pgherald.h"} <= done.keys()


def test_only_the_public_names_are_exported():
    names = subprocess.run(["nm", "-D", "--defined-only", f"{BUILD}/libpgherald.so"], text=True,
                           capture_output=True, check=True).stdout.split("\n")
    exported = [line.split()[2] for line in names if line]
    assert exported and all(name.startswith("herald_") for name in exported)
