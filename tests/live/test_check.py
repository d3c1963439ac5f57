"""The doctor: each check turned bad on a real server, and mended by the SQL that it gives."""
import contextlib
import json

import postgres
import pytest
from herald import in_terminal, run

LEVELS = ("ok", "info", "warn", "fail")


class Findings(dict):
    """Of one run of check, by name; of several findings of a check the worst."""

    def __init__(self, result):
        found = json.loads(result.out)
        assert all(f["level"] in LEVELS and f["text"] for f in found), found
        found.sort(key=lambda f: LEVELS.index(f["level"]))
        super().__init__((f["check"], f) for f in found)
        self.code = result.code
        assert bool(self.code) == any(f["level"] == "fail" for f in found), result
        assert result.err == ""

    def level(self, name):
        return self[name]["level"] if name in self else "ok"


def check(db, *args, **conninfo):
    return Findings(run("check", db.server.conninfo(db.name, **conninfo), "--json", *args))


def mend(db, finding):
    """Runs what a finding says as psql would: each statement by itself."""
    with contextlib.closing(db.connect()) as superuser:
        for statement in finding["mend"].splitlines():
            postgres.execute(superuser, statement)


def restart_server(db):
    db.server.stop()
    db.server.start()
    db.connection = None


def check_mended(db, name, *args, before="fail", after=("ok",), restart=False, **conninfo):
    """The story of most tests: a check finds something, and its SQL mends it."""
    finding = check(db, *args, **conninfo)[name]
    assert finding["level"] == before
    mend(db, finding)
    if restart:
        restart_server(db)
    assert check(db, *args, **conninfo).level(name) in after
    return finding["text"]


@pytest.fixture
def own(new_server):
    """Makes a database on a server of its own with these settings."""
    return lambda **settings: postgres.Database(new_server(**settings))


def make_role(db, name, options="login replication"):
    """A role of this database alone, and no superuser."""
    name = f"{name}_{db.name}"
    db.sql(f"create role {name} {options}")
    return name


@pytest.fixture
def role(db):
    names = []

    def make(name, options="login replication"):
        names.append(make_role(db, name, options))
        return names[-1]

    yield make
    for name in names:
        db.sql(f"drop role {name}")


def make_slot(db, name=None, plugin="pgoutput"):
    db.sql("select pg_create_logical_replication_slot(%s, %s)", (name or db.slot, plugin))
    return name or db.slot


def test_a_good_server_has_nothing_to_mend(own):
    db = own(max_slot_wal_keep_size="10GB")
    db.sql("create table t (n int primary key)")
    db.sql("alter table t replica identity full")
    found = check(db)
    assert {f["level"] for f in found.values()} == {"ok"}
    assert found.code == 0
    assert {"version", "connection", "role", "wal_level", "slots", "senders", "publication", "slot",
            "wal_keep"} <= set(found)


def test_what_is_found_is_readable(db):
    db.sql("create table shop (n int)")
    done = run("check", db.conninfo)
    assert done.code == 0
    assert "ok    wal_level     wal_level is logical\n" in done.out
    assert "fails (1): public.shop\n" in done.out
    assert f"{'':20}mend: ALTER TABLE public.shop REPLICA IDENTITY FULL;\n" in done.out
    assert done.out.endswith("\n\nStreaming can start.\n")
    assert "\033" not in done.out


def test_colours_are_for_terminals_and_only_where_they_are_wanted(db):
    assert "\033[32mok  \033[0m  version" in in_terminal("check", db.conninfo)
    assert "\033" not in in_terminal("check", db.conninfo, env={"NO_COLOR": "1"})
    assert "\033" in in_terminal("check", db.conninfo, env={"NO_COLOR": ""})


def test_of_many_lines_a_person_sees_a_few(db):
    db.sql("; ".join(f"create table t{n:02} (n int)" for n in range(20)))
    done = run("check", db.conninfo)
    assert done.out.count("ALTER TABLE") == 5
    assert "and 15 more lines, see --json" in done.out
    assert check(db)["identity"]["mend"].count("ALTER TABLE") == 20


# Whether streaming can start


def test_wal_level(own):
    db = own(wal_level="replica")
    assert "restart" in check_mended(db, "wal_level", restart=True)
    assert check(db).code == 0


def test_replication_slots_that_are_used_up(own):
    db = own(max_replication_slots=1)
    make_slot(db, "somebody")
    assert "somebody" in check_mended(db, "slots", restart=True)


def test_a_slot_of_our_own_needs_no_free_one(own):
    db = own(max_replication_slots=1)
    make_slot(db)
    assert check(db, "--slot", db.slot).level("slots") == "ok"


def test_wal_senders_that_are_used_up(own, herald):
    # Given a server whose only sender is taken
    db = own(max_wal_senders=1)
    stream = herald(db)

    # then neither the count nor the trial finds one
    found = check(db)
    assert found.level("senders") == found.level("connection") == "fail"
    assert "max_wal_senders" in found["connection"]["text"]

    # and the mend makes room
    stream.stop()
    mend(db, found["senders"])
    restart_server(db)
    herald(db)
    assert check(db).level("senders") == "ok"


def test_a_role_without_the_right_to_replicate(db, role):
    name = role("plain", "login")
    assert check(db, user=name).level("connection") == "fail"
    assert name in check_mended(db, "role", user=name)
    assert check(db, user=name).level("connection") == "ok"


def test_a_role_that_pg_hba_does_not_let_in(own):
    # Given a server that lets one role in, but not another
    db = own()
    name = make_role(db, "outsider")
    db.server.hba("local all postgres trust\n")
    db.server.sql("select pg_reload_conf()")

    # then that is all there is to say, and it is a matter of configuration
    postgres.wait_until(lambda: run("check", db.server.conninfo(db.name, user=name)).code == 78,
                        "pg_hba.conf to be read")
    found = check(db, user=name)
    assert found.code == 78
    assert list(found) == ["connection"]
    assert "pg_hba.conf" in found["connection"]["text"] and name in found["connection"]["text"]


def test_a_wrong_password_is_configuration_and_is_not_repeated(own):
    db = own()
    name = make_role(db, "guarded", "login replication password 'right'")
    db.server.hba("local all postgres trust\nlocal all all scram-sha-256\n")
    db.server.sql("select pg_reload_conf()")
    conninfo = db.server.conninfo(db.name, user=name, password="5ecret")
    postgres.wait_until(lambda: run("check", conninfo).code == 78, "pg_hba.conf to be read")
    for args in ((), ("--json",)):
        done = run("check", conninfo, *args)
        assert done.code == 78
        assert "password authentication failed" in done.out
        assert "5ecret" not in done.out + done.err
    assert run("check", db.server.conninfo(db.name, user=name, password="right")).code in (0, 1)


def test_a_server_that_is_away_is_a_failure(db):
    done = run("check", f"host={db.server.dir} port=1 dbname={db.name}", "--json")
    assert done.code == 1
    assert [f["check"] for f in json.loads(done.out)] == ["connection"]


def test_a_publication_that_only_a_superuser_can_make(db, role):
    name = role("reader")
    assert "superuser" in check_mended(db, "publication", user=name)
    assert check(db, user=name).code == 0


def test_a_publication_says_what_it_covers(db):
    db.sql("create table a (n int); create table b (n int)")
    db.sql("create publication partial for table a with (publish = 'insert, delete')")
    assert "covers 1 table: delete, insert" in check(db, "--publication", "partial")["publication"]["text"]
    db.sql("create publication whole for all tables")
    assert "covers all tables: delete, insert, truncate, update" in \
        check(db, "--publication", "whole")["publication"]["text"]
    db.sql("create publication nothing")
    assert check(db, "--publication", "nothing").level("publication") == "warn"


def test_a_publication_that_is_younger_than_its_slot(db):
    db.sql("create publication early for all tables")
    make_slot(db)
    db.sql("create publication late for all tables")
    assert check(db, "--slot", db.slot, "--publication", "early").level("publication") == "ok"
    assert check(db, "--slot", db.slot, "--publication", "late").level("publication") == "warn"


def test_a_slot_of_another_plugin(db):
    make_slot(db, plugin="test_decoding")
    found = check(db, "--slot", db.slot)
    assert found.level("slot") == "fail" and "test_decoding" in found["slot"]["text"]
    assert "mend" not in found["slot"]


def test_a_physical_slot(db):
    db.sql("select pg_create_physical_replication_slot(%s)", (db.slot,))
    try:
        assert "physical" in check(db, "--slot", db.slot)["slot"]["text"]
    finally:
        db.sql("select pg_drop_replication_slot(%s)", (db.slot,))


def test_a_slot_of_another_database(db, server):
    with contextlib.ExitStack() as stack:
        other = postgres.Database(server)
        stack.callback(other.drop)
        make_slot(other)
        found = check(db, "--slot", other.slot)
        assert found.level("slot") == "fail" and other.name in found["slot"]["text"]


def test_a_slot_that_is_in_use(db, herald):
    herald(db)
    found = check(db, "--slot", db.slot)
    assert found.level("slot") == "warn" and found.code == 0
    assert str(db.slot_state()["active_pid"]) in found["slot"]["text"]


def lose_slot(db):
    """Writes until the slot is further behind than the server keeps WAL."""
    def lost():
        db.sql("select pg_switch_wal()")
        db.sql("checkpoint")
        return db.slot_state()["wal_status"] == "lost"
    db.sql("create table if not exists filler (t text)")
    db.sql("insert into filler select repeat('x', 1000) from generate_series(1, 5000)")
    postgres.wait_until(lost, "the slot to be lost")


def test_a_lost_slot(own):
    db = own(max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB")
    db.sql("create publication pgherald for all tables")
    make_slot(db)
    lose_slot(db)
    assert "is lost" in check_mended(db, "slot", "--slot", db.slot)
    assert check(db, "--slot", db.slot).code == 0


@pytest.mark.parametrize("kept, level", [("-1", "info"), ("100MB", "warn")])
def test_wal_that_is_kept_for_ever_or_hardly(own, kept, level):
    check_mended(own(max_slot_wal_keep_size=kept), "wal_keep", before=level)


def test_sender_timeouts(own):
    db = own(wal_sender_timeout="1s")
    check_mended(db, "timeout", before="warn")
    db.sql("alter system set wal_sender_timeout = 0")
    db.sql("select pg_reload_conf()")
    postgres.wait_until(lambda: check(db).level("timeout") == "info", "the setting to be read")
    check_mended(db, "timeout", before="info")


def test_slots_that_time_out(own, server):
    if server.version < 180000:
        pytest.skip("slots time out since PostgreSQL 18")
    check_mended(own(idle_replication_slot_timeout="2h"), "slot_timeout", before="warn")


def test_a_transaction_that_keeps_the_slot_from_being_made(db):
    # Given two transactions that do not end, one of them prepared
    db.sql("create table t (n int)")
    db.sql("begin; insert into t values (1); prepare transaction 'forgotten'")
    with contextlib.closing(db.connect(autocommit=False, application_name="lingerer")) as open_one:
        postgres.execute(open_one, "insert into t values (2)")
        # then they are named, and ended by what the finding says
        text = check_mended(db, "transactions", before="warn")
    assert "lingerer" in text and "'forgotten'" in text


# What will surprise later


def test_tables_without_identity(db):
    db.sql('create table "No Key" (n int); create table keyed (n int primary key);'
           "create table later (n int primary key deferrable); create table nothing (n int primary key);"
           "create table parts (n int) partition by list (n);"
           "create table part partition of parts for values in (1);"
           "create table indexed (n int not null); create unique index i on indexed (n);"
           "alter table nothing replica identity nothing;"
           "alter table indexed replica identity using index i")
    text = check_mended(db, "identity", before="warn")
    assert text.endswith('(4): public."No Key", public.later, public.nothing, public.part')

    # An index that is no longer there identifies nothing
    db.sql("drop index i")
    assert "public.indexed" in check(db)["identity"]["text"]


def test_generated_columns_that_are_not_published(db):
    if db.server.version < 180000:
        pytest.skip("they are in the way since PostgreSQL 18")
    db.sql("create table s (n int primary key, g int generated always as (n + 1) stored);"
           "create table keyed (n int primary key, g int generated always as (n + 1) stored);"
           "alter table s replica identity full; insert into s values (1)")
    assert check(db).level("generated") == "ok"  # the publication will be made with them
    db.sql("create publication pgherald for all tables")
    with pytest.raises(postgres.psycopg2.Error):
        db.sql("update s set n = 2")
    assert check_mended(db, "generated", before="warn").endswith("(1): public.s")
    db.sql("update s set n = 2")

    # Virtual ones are never published
    db.sql("create table v (n int primary key, g int generated always as (n + 1) virtual);"
           "alter table v replica identity full; insert into v values (1)")
    assert check_mended(db, "generated", before="warn").endswith("(1): public.v")
    db.sql("update v set n = 2")


def test_identity_concerns_only_what_is_published(db):
    db.sql("create table a (n int); create table b (n int);"
           "create publication one for table a;"
           "create publication inserts for all tables with (publish = 'insert, truncate')")
    assert check(db, "--publication", "one")["identity"]["text"].endswith("(1): public.a")
    assert check(db, "--publication", "inserts").level("identity") == "ok"


def test_identity_of_leaves_counts_where_the_root_is_published(db, server):
    if server.version < 130000:
        pytest.skip("roots can be published since PostgreSQL 13")
    db.sql("create table root (n int) partition by list (n);"
           "create table leaf partition of root for values in (1);"
           "create publication p for table root with (publish_via_partition_root)")
    assert check(db, "--publication", "p")["identity"]["text"].endswith("(1): public.leaf")


def test_old_values_and_large_ones_are_summed_up(db):
    db.sql("create table a (n int primary key, t text); create table b (n int primary key);"
           "alter table b replica identity full")
    found = check(db)
    assert found["old_values"]["level"] == found["toast"]["level"] == "info"
    assert found["old_values"]["text"].endswith(": 1 of 2")
    assert found["toast"]["text"].endswith(": 1")


def test_unlogged_tables(db):
    db.sql("create unlogged table scratch (n int)")
    assert "public.scratch" in check_mended(db, "unlogged", before="info")
    db.sql("create unlogged table scratch2 (n int); create table t (n int); create publication p for table t")
    assert check(db, "--publication", "p").level("unlogged") == "ok"


def test_row_level_security_does_not_hide_events(db):
    db.sql("create table t (n int primary key); alter table t enable row level security")
    assert "public.t" in check(db)["row_security"]["text"]


def test_a_standby(new_server):
    # Given a server in recovery
    standby = new_server()
    standby.stop()
    with open(f"{standby.data}/standby.signal", "w"):
        pass
    standby.start()

    # then streaming from it depends on its version
    found = Findings(run("check", standby.conninfo(), "--json"))
    assert found.level("standby") == ("warn" if standby.version >= 160000 else "fail")
    assert "primary" in found["standby"]["text"]
    assert found.level("publication") == "fail" and "primary" in found["publication"]["text"]
