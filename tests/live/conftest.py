"""Fixtures of the live tests: real servers, fresh databases, the program under test."""
import os

import pytest

for name in [n for n in os.environ if n.startswith("PG") and not n.startswith("PGHERALD_")]:
    del os.environ[name]  # the tests' connections are their own

import herald as herald_module  # noqa: E402
import postgres  # noqa: E402
import proxy  # noqa: E402


@pytest.fixture
def tmp_path(tmp_path):
    """Servers that run as other users read certificates and the like from a test's folder."""
    for folder in (tmp_path, *tmp_path.parents):
        if "pytest-" in str(folder):
            folder.chmod(0o755)
    return tmp_path


@pytest.fixture(scope="session")
def server():
    """The server that most tests share: fast, because nothing of it need survive a crash."""
    with postgres.Postgres() as shared:
        yield shared


@pytest.fixture
def new_server():
    """Makes and starts a server for one test alone: new_server(wal_sender_timeout="2s"), or
    new_server(postgres.Standby, primary)."""
    made = []

    def make(kind=postgres.Postgres, *args, **settings):
        if "max_slot_wal_keep_size" in settings and postgres.server_major() < 13:
            pytest.skip("slots have no limit before PostgreSQL 13")
        made.append(kind(*args, **settings))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.remove()


@pytest.fixture
def new_db(server):
    """Makes a fresh database of the shared server: new_db("encoding 'LATIN1' template template0")."""
    made = []

    def make(options=""):
        made.append(postgres.Database(server, options))
        return made[-1]

    yield make
    for one in made:
        one.drop()


@pytest.fixture
def db(new_db):
    """A fresh database of the shared server."""
    return new_db()


@pytest.fixture
def herald(request, new_db):  # new_db: programs end before their databases go
    """Starts `pgherald stream` on a database and waits for its slot: herald(db, "--limit", 3).

    Options file, env and read are Herald's; file=PATH adds --to; ready=False does not wait.
    """
    started = []
    request.node.heralds = started

    def start(db, *args, ready=True, **options):
        if options.get("file"):
            args = ("--to", f"file:{options['file']}", *args)
        if "--slot" not in args:
            args = ("--slot", db.slot, *args)
        started.append(herald_module.Herald("stream", db.conninfo, *args, **options))
        return started[-1].wait_ready(db) if ready else started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def new_proxy():
    """Makes a proxy before a port of 127.0.0.1: new_proxy(port, cuts=[1000])."""
    made = []

    def make(*args, **options):
        made.append(proxy.Proxy(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows what the program and its server had to say."""
    report = (yield).get_result()
    if not report.failed:
        return
    for one in getattr(item, "heralds", []):
        report.sections.append(("pgherald", one.describe()))
    for name in ("db", "server"):
        found = getattr(item, "funcargs", {}).get(name)
        if found:
            report.sections.append(("PostgreSQL's log", found.log()[-3000:]))
            break
