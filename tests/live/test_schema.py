"""What the schema does to events: identities, TOAST, DDL, partitions, publications. Numbers are
those of the acceptance cases."""
import hashlib
import itertools
import re

import pytest

import herald as program
import postgres
from postgres import wait_until

BIG = "string_agg(md5(i::text), '')"  # 32 bytes for each i, which does not compress


def big_value(db, rows=400):
    return db.sql(f"select {BIG} from generate_series(1, {rows}) i")[0][0]


def test_case_17_unchanged_toast_is_marked_not_null(db, herald):
    # Given columns of several types whose values are large and stored apart
    db.sql("create extension hstore")
    db.sql("create table t (id int primary key, n int, t text, a text[], j jsonb, b bytea, h hstore)")
    for column in "tajbh":
        db.sql(f"alter table t alter {column} set storage external")
    big = big_value(db)
    db.sql("insert into t values (1, 0, %s, array[%s], jsonb_build_object('k', %s::text), %s::bytea,"
           " hstore('k', %s))", (big,) * 5)
    stream = herald(db)

    # when another column changes, and then one of them becomes a real null
    db.sql("update t set n = 1")
    db.sql("update t set t = null")

    # then they are listed as unchanged and absent from the row; the null is a null
    first, second = stream.wait_for(2)
    assert first["new"] == {"id": 1, "n": 1}
    assert first["unchanged"] == ["t", "a", "j", "b", "h"]
    assert second["new"] == {"id": 1, "n": 1, "t": None}
    assert second["unchanged"] == ["a", "j", "b", "h"]


def test_case_18_full_identity_fills_unchanged_values(db, herald):
    db.sql("create table t (id int primary key, n int, t text); alter table t replica identity full")
    db.sql("alter table t alter t set storage external")
    big = big_value(db)
    db.sql("insert into t values (1, 0, %s)", (big,))
    stream = herald(db)
    db.sql("update t set n = 1")
    event, = stream.wait_for(1)
    assert event["old"]["t"] == big and event["new"]["t"] == big
    assert event["changed"] == ["n"] and "unchanged" not in event


def test_case_19_a_changed_key_beside_unchanged_toast(db, herald):
    db.sql("create table t (id int primary key, t text); alter table t alter t set storage external")
    db.sql("insert into t values (1, %s)", (big_value(db),))
    stream = herald(db)
    db.sql("update t set id = 2")
    event, = stream.wait_for(1)
    assert (event["old"], event["new"], event["key"]) == ({"id": 1}, {"id": 2}, {"id": 2})
    assert event["unchanged"] == ["t"]


def test_case_20_a_delete_shows_the_key_alone_and_full_shows_nulls(db, herald):
    db.sql("create table d (id int primary key, t text); insert into d values (1, null)")
    db.sql("create table f (id int primary key, t text); alter table f replica identity full")
    db.sql("insert into f values (1, null)")
    stream = herald(db)
    db.sql("delete from d")
    db.sql("delete from f")
    keyed, full = stream.wait_for(2)
    assert keyed["old"] == {"id": 1}
    assert full["old"] == {"id": 1, "t": None}


def test_case_21_identity_by_index_and_none_at_all(db, herald):
    db.sql("create table i (a int not null, b int not null, c int); create unique index ui on i (b)")
    db.sql("alter table i replica identity using index ui; create table n (a int)")
    stream = herald(db)
    db.sql("insert into i values (1, 2, 3)")
    db.sql("update i set b = 5")
    db.sql("insert into n values (1)")
    born, moved, keyless = stream.wait_for(3)
    assert born["key"] == {"b": 2}
    assert moved["old"] == {"b": 2} and moved["key"] == {"b": 5}
    assert "key" not in keyless


def test_case_22_identity_changes_inside_a_transaction(db, herald):
    db.sql("create table t (id int primary key, v text); insert into t values (1, 'a')")
    stream = herald(db)
    db.transaction("update t set v = 'b'", "alter table t replica identity full",
                   "update t set v = 'c'")
    first, second = stream.wait_for(2)
    assert "old" not in first
    assert second["old"] == {"id": 1, "v": "b"}


def test_case_24_rolled_back_savepoints_leave_nothing(db, herald):
    db.sql("create table t (n int)")
    stream = herald(db)
    db.transaction("insert into t select generate_series(1, 3)", "savepoint a",
                   "insert into t select generate_series(100, 600)", "savepoint b",
                   "insert into t values (700)", "rollback to a",
                   "insert into t values (4)", "savepoint c", "insert into t values (5)",
                   "release c")
    db.sql("insert into t values (6)")
    assert [e["new"]["n"] for e in stream.wait_for(6)] == [1, 2, 3, 4, 5, 6]
    assert stream.count == 6

    # and of 100 of them, one in another, only those that are kept
    parts = [f"savepoint s{n}; insert into t values ({n})" for n in range(100, 200)]
    db.transaction(*parts, "rollback to s150", "insert into t values (200)", "release s120")
    assert [e["new"]["n"] for e in stream.wait_for(57)][6:] == [*range(100, 150), 200]


def test_case_25_a_rolled_back_transaction_is_never_seen(db, herald):
    db.sql("create table t (n int)")
    stream = herald(db)
    db.sql("begin; insert into t select generate_series(1, 20000); rollback")
    db.sql("insert into t values (1)")
    assert [e["new"]["n"] for e in stream.wait_for(1)] == [1]


def test_case_25_interleaved_transactions_come_whole_in_commit_order(db, herald):
    db.sql("create table t (n int)")
    stream = herald(db)
    one, two = db.connect(autocommit=False), db.connect(autocommit=False)
    for i in range(5):
        postgres.execute(one, f"insert into t values ({i})")
        postgres.execute(two, f"insert into t values ({100 + i})")
    two.commit()
    one.commit()
    assert [e["new"]["n"] for e in stream.wait_for(10)] == [100, 101, 102, 103, 104, 0, 1, 2, 3, 4]


def test_case_26_every_row_of_a_transaction_that_outgrows_the_servers_memory_is_there(db, herald):
    # Given a server that must spill a transaction to disk, and could have sent it in pieces
    if db.server.version < 140000:
        pytest.skip("the server tells of what it has spilled since PostgreSQL 14")
    db.sql(f"alter database {db.name} set logical_decoding_work_mem = '64kB'")
    db.sql("create table t (n int, v text)")
    stream = herald(db)

    # when two of these are written in turns, with parts that are rolled back
    sessions = [db.connect(autocommit=False) for _ in range(2)]
    for part in range(4):
        for i, session in enumerate(sessions):
            first = i * 100000 + part * 2000
            rows = "insert into t select n, md5(n::text) from generate_series"
            postgres.execute(session, f"{rows}({first}, {first + 1999}) n")
            postgres.execute(session, f"savepoint s; {rows}(1, 1500) n; rollback to s")
    for session in sessions:
        session.commit()

    # then each comes whole, at its commit
    events = stream.wait_for(16000)
    numbers = [*range(8000), *range(100000, 108000)]
    assert [e["new"]["n"] for e in events] == numbers
    assert all(e["new"]["v"] == hashlib.md5(str(n).encode()).hexdigest()
               for n, e in zip(numbers, events))
    assert [len(list(group)) for _, group in itertools.groupby(e["xid"] for e in events)] == [8000, 8000]
    wait_until(lambda: db.sql("select spill_txns > 1 from pg_stat_replication_slots "
                              "where slot_name = %s", (db.slot,)) == [(True,)], "the spilling to be told")


def test_case_27_prepared_transactions_appear_when_committed(db, herald):
    db.sql("create table t (n int)")
    stream = herald(db)
    prepare = db.connect()
    for n in (1, 2):
        postgres.execute(prepare, "begin")
        postgres.execute(prepare, f"insert into t values ({n})")
        postgres.execute(prepare, f"prepare transaction 'p{n}'")
    # a restart in between changes nothing
    stream.stop()
    stream = herald(db)
    postgres.execute(prepare, "commit prepared 'p1'")
    postgres.execute(prepare, "rollback prepared 'p2'")
    db.sql("insert into t values (3)")
    assert [e["new"]["n"] for e in stream.wait_for(2)] == [1, 3]


def test_case_27_a_slot_that_sends_what_is_only_prepared_is_refused(db, herald):
    if db.server.version < 150000:
        pytest.skip("pgoutput sends prepared transactions since PostgreSQL 15")
    db.sql("create table t (n int)")
    db.sql("create publication pgherald for all tables")
    db.sql("select pg_create_logical_replication_slot(%s, 'pgoutput', false, true)", (db.slot,))
    stream = herald(db, ready=False)
    assert stream.wait_exit() == 78
    assert "two_phase" in stream.err and "--slot" in stream.err
    checked = program.run("check", db.conninfo, "--slot", db.slot)
    assert checked.code == 1 and "two_phase" in checked.out


def test_case_29_a_message_outside_of_transactions_survives_a_rollback(db, herald):
    if db.server.version < 140000:
        pytest.skip("pgoutput sends messages since PostgreSQL 14")
    db.sql("create table t (n int)")
    stream = herald(db)
    db.sql("begin; insert into t values (1); select pg_logical_emit_message(false, 'audit', '{\"a\": 1}');"
           "rollback")
    db.sql("select pg_logical_emit_message(true, 'audit', 'text')")
    loose, bound = stream.wait_for(2)
    assert (loose["action"], loose["prefix"], loose["content"]) == ("message", "audit", {"a": 1})
    assert loose["transactional"] is False and "xid" not in loose
    assert (bound["content"], bound["transactional"]) == ("text", True)


def test_case_30_transactions_from_elsewhere_are_events_like_all_others(db, herald):
    # Given a session that applies what another server did
    db.sql("create table t (n int)")
    origin = f"upstream of {db.name}"
    db.sql("select pg_replication_origin_create(%s)", (origin,))
    applier = db.connect()
    postgres.execute(applier, "select pg_replication_origin_session_setup(%s)", (origin,))
    stream = herald(db)

    # when it and another one write
    for n in (1, 2, 3):
        session = db.connection if n == 2 else applier
        postgres.execute(session, f"insert into t values ({n})")
    events = stream.wait_for(3)
    postgres.execute(applier, "select pg_replication_origin_session_reset()")
    db.sql("select pg_replication_origin_drop(%s)", (origin,))

    # then all are there, and nobody carries the other's mark
    assert [e["new"]["n"] for e in events] == [1, 2, 3]
    assert len({tuple(e) for e in events}) == 1


def test_case_31_a_transaction_of_ddl_alone_moves_the_slot(db, herald):
    stream = herald(db)
    db.sql("create table t (n int)")
    stream.wait_confirmed(db)
    assert stream.count == 0


def test_case_32_columns_come_go_and_change_between_and_inside_transactions(db, herald):
    db.sql("create table t (id int primary key, a text)")
    stream = herald(db)
    db.sql("insert into t values (1, 'x')")
    db.transaction("insert into t values (2, 'y')", "alter table t add b int default 7",
                   "insert into t values (3, 'z', 8)", "alter table t rename a to c",
                   "insert into t values (4, 'w', 9)", "alter table t drop b",
                   "alter table t alter c type int using length(c)", "insert into t values (5, 10)")
    assert [e["new"] for e in stream.wait_for(5)] == [
        {"id": 1, "a": "x"}, {"id": 2, "a": "y"}, {"id": 3, "a": "z", "b": 8},
        {"id": 4, "c": "w", "b": 9}, {"id": 5, "c": 10}]


def test_case_33_tables_are_renamed_moved_and_made_anew(db, herald):
    db.sql("create table t (id int primary key); create schema s")
    stream = herald(db)
    db.sql("insert into t values (1)")
    db.sql("alter table t rename to u")
    db.sql("insert into u values (2)")
    db.sql("alter table u set schema s")
    db.sql("insert into s.u values (3)")
    db.sql("drop table s.u; create table s.u (id int primary key, v text)")
    db.sql("insert into s.u values (4, 'new')")
    events = stream.wait_for(4)
    assert [(e["schema"], e["table"]) for e in events] == [
        ("public", "t"), ("public", "u"), ("s", "u"), ("s", "u")]
    assert events[3]["new"] == {"id": 4, "v": "new"}


PARTITIONS = """create table p (id int, v text, primary key (id)) partition by range (id);
    create table p1 partition of p for values from (0) to (10);
    create table p2 (v text, gone int, id int not null primary key); alter table p2 drop gone;
    alter table p attach partition p2 for values from (10) to (20)"""


def test_cases_34_35_36_37_38_partitions_by_leaf(db, herald):
    # Given partitions, one with another order of columns and a dropped one
    db.sql(PARTITIONS)
    stream = herald(db)

    # when rows are born, move to the other partition, and the whole is emptied
    db.sql("insert into p values (1, 'a')")
    db.sql("update p set id = 11")
    db.sql("truncate p")
    db.sql("create table p3 partition of p for values from (20) to (30); insert into p values (21, 'c')")
    db.sql("alter table p detach partition p3; insert into p3 values (22, 'd')")

    # then events carry the leaves' names, a move is a delete and an insert
    events = stream.wait_for(7)
    assert [(e["action"], e["table"]) for e in events] == [
        ("insert", "p1"), ("delete", "p1"), ("insert", "p2"), ("truncate", "p1"), ("truncate", "p2"),
        ("insert", "p3"), ("insert", "p3")]
    assert events[2]["new"] == {"id": 11, "v": "a"}


def test_cases_34_35_36_38_partitions_by_root(db, herald):
    if db.server.version < 130000:
        pytest.skip("publish_via_partition_root came with PostgreSQL 13")
    db.sql(PARTITIONS)
    db.sql("create publication rooted for table p with (publish_via_partition_root)")
    stream = herald(db, "--publication", "rooted")
    db.sql("insert into p values (1, 'a')")
    db.sql("update p set id = 11")
    db.sql("truncate p")
    events = stream.wait_for(4)
    assert [(e["action"], e["table"]) for e in events] == [
        ("insert", "p"), ("delete", "p"), ("insert", "p"), ("truncate", "p")]
    assert events[2]["new"] == {"id": 11, "v": "a"}


def test_case_39_odd_names_and_many_columns(db, herald):
    name = 'a "b" . \\ \n é 😀'
    name += "x" * (63 - len(name.encode()))  # as long as names may be
    quoted = '"' + name.replace('"', '""') + '"'
    db.sql(f"create schema {quoted}; create table {quoted}.{quoted} ({quoted} int primary key)")
    db.sql("create table none ()")
    db.sql("create table wide (" + ", ".join(f"c{i} int" for i in range(1600)) + ")")
    stream = herald(db, "--tables", f"{quoted}.{quoted},public.*")
    db.sql(f"insert into {quoted}.{quoted} values (1)")
    db.sql("insert into none default values")
    db.sql("insert into wide select " + ", ".join(str(i) for i in range(1600)))
    odd, none, wide = stream.wait_for(3)
    assert (odd["schema"], odd["table"], odd["new"]) == (name, name, {name: 1})
    assert none["new"] == {}
    assert wide["new"] == {f"c{i}": i for i in range(1600)}


def test_case_41_column_lists_and_row_filters_of_a_users_publication(db, herald):
    if db.server.version < 150000:
        pytest.skip("column lists and row filters came with PostgreSQL 15")
    db.sql("create table t (id int primary key, shown text, hidden text)")
    db.sql("create publication mine for table t (id, shown) where (id < 10)")
    stream = herald(db, "--publication", "mine")
    db.sql("insert into t values (1, 'a', 'b'), (20, 'c', 'd')")
    db.sql("update t set id = 30 where id = 1")   # leaves the filter
    db.sql("update t set id = 2 where id = 20")   # enters it
    events = stream.wait_for(3)
    assert [(e["action"], e.get("new")) for e in events] == [
        ("insert", {"id": 1, "shown": "a"}), ("delete", None), ("insert", {"id": 2, "shown": "c"})]


def test_case_41_a_publication_changes_while_it_is_used(db, herald):
    db.sql("create table a (n int); create table b (n int); create publication mine for table a")
    stream = herald(db, "--publication", "mine")
    db.sql("insert into a values (1)")
    db.sql("insert into b values (1)")
    db.sql("alter publication mine add table b")
    db.sql("insert into b values (2)")
    db.sql("alter publication mine drop table a")
    db.sql("insert into a values (2)")
    db.sql("alter publication mine set (publish = 'update')")
    db.sql("insert into b values (4)")
    db.sql("alter publication mine set (publish = 'insert')")
    db.sql("alter table b replica identity full; update b set n = 5")
    db.sql("insert into b values (3)")
    assert [(e["action"], e["table"], e["new"]["n"]) for e in stream.wait_for(3)] == [
        ("insert", "a", 1), ("insert", "b", 2), ("insert", "b", 3)]


def test_case_41_columns_and_filters_change_while_they_are_used(db, herald):
    if db.server.version < 150000:
        pytest.skip("column lists and row filters came with PostgreSQL 15")
    db.sql("create table t (id int primary key, a text, b text); create publication mine for table t")
    stream = herald(db, "--publication", "mine")
    db.sql("insert into t values (1, 'a', 'b')")
    db.sql("alter publication mine set table t (id, b)")
    db.sql("insert into t values (2, 'a', 'b')")
    db.sql("alter publication mine set table t where (id > 3)")
    db.sql("insert into t values (3, 'a', 'b'), (4, 'a', 'b')")
    assert [e["new"] for e in stream.wait_for(3)] == [
        {"id": 1, "a": "a", "b": "b"}, {"id": 2, "b": "b"}, {"id": 4, "a": "a", "b": "b"}]


def test_case_42_tables_that_come_later_have_events(db, herald):
    stream = herald(db)
    db.sql("create table later (n int); insert into later values (1)")
    assert stream.wait_for(1)[0]["table"] == "later"


def test_case_43_stored_generated_columns_are_there_since_18(db, herald):
    if db.server.version < 120000:
        pytest.skip("generated columns came with PostgreSQL 12")
    # Given a table that could not be updated when it is published without its generated column
    db.sql("create table g (a int primary key, b int generated always as (a * 2) stored);"
           "alter table g replica identity full")
    stream = herald(db)
    db.sql("insert into g values (1)")
    db.sql("update g set a = 2")
    first, second = stream.wait_for(2)
    since_18 = db.server.version >= 180000
    assert first["new"] == ({"a": 1, "b": 2} if since_18 else {"a": 1})
    assert second["new"] == ({"a": 2, "b": 4} if since_18 else {"a": 2})


def test_case_43_stored_generated_columns_follow_the_publication(db, herald):
    if db.server.version < 180000:
        pytest.skip("publish_generated_columns came with PostgreSQL 18")
    db.sql("create table g (a int primary key, s int generated always as (a * 2) stored,"
           " v int generated always as (a * 3) virtual, t text)")
    db.sql("create publication mine for table g with (publish_generated_columns = stored)")
    stream = herald(db, "--publication", "mine")
    db.sql("insert into g (a, t) values (1, 'x')")
    db.sql("update g set a = 2")
    db.sql("alter table g drop v")  # under FULL it could not be updated
    db.sql("alter table g replica identity full; update g set t = 'y'; delete from g")
    inserted, moved, updated, deleted = stream.wait_for(4)
    assert inserted["new"] == {"a": 1, "s": 2, "t": "x"}
    assert (moved["old"], moved["new"]) == ({"a": 1}, {"a": 2, "s": 4, "t": "x"})
    assert updated["new"] == {"a": 2, "s": 4, "t": "y"} and updated["changed"] == ["t"]
    assert deleted["old"] == {"a": 2, "s": 4, "t": "y"}


def test_patterns_and_actions_choose_events(db, herald, tmp_path):
    db.sql('create table users (n int primary key); create table "Logs" (n int); create table x (n int)')
    stream = herald(db, "--tables", "public.*,!public.x", "--actions", "insert,delete")
    for table in ("users", '"Logs"', "x"):
        db.sql(f"insert into {table} values (1)")
    db.sql("update users set n = 2")
    db.sql("delete from users")
    events = stream.wait_for(3)
    assert [(e["action"], e["table"]) for e in events] == [
        ("insert", "users"), ("insert", "Logs"), ("delete", "users")]
    assert stream.count == 3


def test_named_tables_are_pushed_into_the_publication(db, herald):
    if db.server.version < 110000:
        pytest.skip("truncates are published since PostgreSQL 11")
    db.sql("create table a (n int); create table b (n int)")
    herald(db, "--tables", "public.a", "--actions", "insert")
    assert db.sql("select tablename from pg_publication_tables") == [("a",)]
    assert db.sql("select pubinsert, pubupdate, pubtruncate from pg_publication") == [(True, False, False)]


def test_case_54_databases_in_other_encodings(new_db, herald):
    # Given databases in other encodings, one of many bytes, and one that does not know its encoding and
    # holds what is not UTF-8
    latin, japanese, raw = [new_db(f"encoding '{name}' template template0")
                            for name in ("LATIN1", "EUC_JP", "SQL_ASCII")]
    streams = {}
    for db in (latin, japanese, raw):
        if db is not raw:
            db.sql("select 1")
            db.connection.set_client_encoding("UTF8")
        column = {latin: "ÿ", japanese: "名前"}.get(db, "v")
        db.sql(f'create table t ("{column}" text)')
        streams[db] = herald(db)
    latin.sql("insert into t values ('Çelik ÿ')")
    japanese.sql("insert into t values ('日本語 ｱ')")
    raw.sql("insert into t values (E'a\\xffb')")
    raw.sql("insert into t values (E'\\xc3\\xa9')")

    # then theirs arrives as UTF-8, and the last one's bytes that mean nothing are marked
    assert streams[latin].wait_for(1)[0]["new"] == {"ÿ": "Çelik ÿ"}
    assert streams[japanese].wait_for(1)[0]["new"] == {"名前": "日本語 ｱ"}
    assert [e["new"]["v"] for e in streams[raw].wait_for(2)] == ["a\ufffdb", "é"]
    for stream in streams.values():
        stream.stop()


def mend(said, db):
    """Runs what a line of the log says to run."""
    statement = re.search(r'run: (ALTER .*)"$', said, re.M)[1]
    db.sql(statement.replace('\\"', '"'))


def test_a_publication_that_lacks_a_named_table_says_so(db, herald):
    # Given a publication that was made for one table
    db.sql("create table a (n int primary key); create table b (n int primary key)")
    herald(db, "--tables", "public.a").stop()

    # when another is wanted too, then the log says what to do
    stream = herald(db, "--tables", "public.a,public.b")
    stream.wait_log("lacks tables")
    assert '\\"public\\".\\"b\\"' in stream.err and '\\"a\\"' not in stream.err

    # and that helps
    mend(stream.err, db)
    db.sql("insert into b values (1)")
    assert stream.wait_for(1)[0]["table"] == "b"
    stream.stop()
    stream = herald(db, "--tables", "public.*")
    db.sql("insert into b values (2)")
    stream.wait_for(1)
    assert "lacks" not in stream.err


def test_case_33_a_table_made_anew_that_is_no_longer_published_is_told(db, herald):
    # Given a stream of a table that is named
    db.sql("create table a (n int primary key)")
    herald(db, "--tables", "public.a").stop()

    # when the table is dropped and made anew, which takes it out of the publication
    db.sql("drop table a; create table a (n int primary key)")

    # then that is told, also when it is wanted by a pattern
    for tables in ("public.a", "a", "pub*.*"):
        stream = herald(db, "--tables", tables)
        stream.wait_log("ADD TABLE")
        stream.stop()


def test_a_publication_that_lacks_actions_says_so(db, herald):
    db.sql("create table a (n int primary key)")
    herald(db, "--actions", "insert").stop()
    stream = herald(db, "--actions", "insert,delete")
    stream.wait_log("lacks actions")
    mend(stream.err, db)
    db.sql("insert into a values (1); delete from a")
    assert [e["action"] for e in stream.wait_for(2)] == ["insert", "delete"]


def test_of_a_publication_of_others_only_what_is_named_is_expected(db, herald):
    db.sql("create table a (n int primary key); create table b (n int primary key)")
    db.sql("create publication pgherald for table a with (publish = 'insert')")
    stream = herald(db)
    db.sql("insert into b values (1); insert into a values (1)")
    assert stream.wait_for(1)[0]["table"] == "a"
    assert "warn" not in stream.err
    stream.stop()
    stream = herald(db, "--tables", "b")
    stream.wait_log('ADD TABLE \\"public\\".\\"b\\"')


def test_case_35_a_partitioned_table_that_is_named_has_its_events(db, herald):
    if db.server.version < 130000:
        pytest.skip("roots are published since PostgreSQL 13")
    # Given a partitioned table that is wanted by its name
    db.sql(PARTITIONS)
    stream = herald(db, "--tables", "public.p")

    # when rows are born and move to another partition
    db.sql("insert into p values (1, 'x')")
    db.sql("update p set id = 11")

    # then these are its events
    assert [(e["action"], e["table"]) for e in stream.wait_for(3)] == [
        ("insert", "p"), ("delete", "p"), ("insert", "p")]
    assert "warn" not in stream.err


def test_a_partitioned_table_whose_partitions_are_published_is_told(db, herald):
    if db.server.version < 130000:
        pytest.skip("roots are published since PostgreSQL 13")
    db.sql(PARTITIONS)
    db.sql("create publication pgherald for table p")
    stream = herald(db, "--tables", "public.p")
    stream.wait_log("publish_via_partition_root")
    mend(stream.err, db)
    db.sql("insert into p values (1, 'x')")
    assert stream.wait_for(1)[0]["table"] == "p"
