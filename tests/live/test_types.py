"""Values: for a column of every type, an event's `new` is what to_jsonb(row) says, digit by digit.

PostgreSQL itself compares: the event lines are loaded into a table beside the rows.
"""
import io
import random
import sys
import threading

import pytest
from postgres import LIMIT, Database, wait_until

sys.set_int_max_str_digits(0)  # PostgreSQL has numbers that are longer than Python expects

EXTENSIONS = ("hstore", "citext", "ltree", "cube", "seg", "isn", "lo")

TEXTS = ["", "a", "NULL", "null", " blank ", 'quo"te', "back\\slash", "{brace}", "(paren),", "a,b;c",
         "tab\tnew\nline\rreturn", "\x01\x1f\x7f", "é ß 日本", "😀𝄞", "x" * 300, "'", "}{", "\\x41", "[1:2]="]

# Literals of each type; every one also appears in arrays of the type.
VALUES = {
    "bool": ["t", "f"],
    "int2": ["0", "-32768", "32767"],
    "int4": ["0", "-2147483648", "2147483647"],
    "int8": ["0", "-9223372036854775808", "9223372036854775807", "9007199254740993"],
    "numeric": ["0", "10.20", "-0.00", "NaN", "Infinity", "-Infinity", "1e-20", "22.2200",
                "9" * 1000 + "." + "1" * 500, "123456789012345678901234567890.000000000001"],
    "numeric(3,-2)": ["12345", "-99900"],
    "float4": ["0", "-0", "1.5", "NaN", "Infinity", "-Infinity", "3.4028235e38", "1e-45", "0.1", "1e15", "1e-5"],
    "float8": ["0", "-0", "0.1", "NaN", "Infinity", "-Infinity", "1.7976931348623157e308", "5e-324", "1e15",
               "123456789.123456789", "1e-7", "100000000000000000000"],
    "money": ["$1,234.50", "-$0.01", "$92,233,720,368,547,758.07"],
    "text": TEXTS, "varchar": TEXTS, "varchar(20)": ["a", "é😀"], "char(5)": ["a", "ab   ", "é"],
    '"char"': ["a", "", "~"], "name": ["pg", 'we"ird'],
    "citext": ["Abc", 'x"y'],
    "bytea": ["\\x", "\\x00ff7f80", "\\x" + bytes(range(256)).hex()],
    "date": ["2020-02-29", "infinity", "-infinity", "0044-03-15 BC", "4713-01-01 BC", "12345-06-07",
             "5874897-12-31", "1582-10-10"],
    "time": ["00:00:00", "24:00:00", "12:34:56.789012", "01:02:03.1"],
    "timetz": ["24:00:00+02", "12:34:56.7-08:00:30", "00:00:00+00"],
    "timestamp": ["2020-01-02 03:04:05", "2020-01-02 03:04:05.678901", "infinity", "-infinity",
                  "0044-03-15 12:00:00 BC", "294276-12-31 23:59:59.999999", "4713-01-01 00:00:00 BC",
                  "12345-01-01 00:00:00.1"],
    "timestamptz": ["2020-07-02 03:04:05+02", "2020-01-02 03:04:05.678901+05:45", "infinity", "-infinity",
                    "0044-03-15 12:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "1890-01-01 00:00:00-08:00:30"],
    "interval": ["0", "10 mons 3 days -04:05:06.789", "-1 year -2 mons +3 days", "1 day", "-00:00:00.000001",
                 "178000000 years"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "inet": ["192.168.0.1/24", "::1", "10.0.0.1"], "cidr": ["192.168.0.0/24", "2001:db8::/32"],
    "macaddr": ["08:00:2b:01:02:03"], "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "bit(5)": ["10101"], "varbit": ["", "1", "0101010101"],
    "json": ['{"b": 1, "a": [1, 2, null], "n": 123456789012345678901234567890}', '"x\\u00e9"', "null", "  [1 ,\n 2]",
             '{"a":1,"a":2}', "1e5"],
    "jsonb": ['{"b": 1, "a": [1, 2, {"c": "d\\"e"}]}', '"x"', "null", "[]", "1.50", "123456789012345678901234567890.5"],
    "jsonpath": ["$.a[*]"], "xml": ["<a b=\"c\">d &amp; e</a>"],
    "point": ["(1,2)", "(1e300,-0.1)"], "line": ["{1,2,3}"], "lseg": ["[(0,0),(1,1)]"], "box": ["(3,4),(1,2)"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1))"], "polygon": ["((0,0),(1,1),(1,0))"], "circle": ["<(0,0),1.5>"],
    "tsvector": ["'a':1A 'b c':2", ""], "tsquery": ["'a' & 'b' | !'c'"],
    "oid": ["0", "4294967295"], "xid": ["4294967295"], "xid8": ["18446744073709551615"], "cid": ["1"], "tid": ["(4,2)"],
    "pg_lsn": ["16/B374D848"], "pg_snapshot": ["10:20:10,14,15"],
    "regclass": ["pg_class"], "regtype": ["int4"], "regproc": ["now"],
    "int4range": ["[1,10)", "empty", "(,)", "(,5]"], "int8range": ["[1,2)"], "numrange": ["(1.5,2.50]"],
    "tsrange": ['["2020-01-01 00:00:00",)'], "tstzrange": ['["2020-01-01 00:00:00+02",infinity)'],
    "daterange": ["[2020-01-01,2020-02-01)", "[,infinity]"],
    "int4multirange": ["{}", "{[1,3),[5,9)}"], "tstzmultirange": ['{["2020-01-01 00:00:00+02",)}'],
    "datemultirange": ["{[2020-01-01,2020-02-01)}"],
    "int2vector": ["1 2 3", ""], "oidvector": ["1 4294967295"],
    "hstore": ['"a"=>"1", "b"=>NULL, "q\\"uo"=>"b\\\\s"', ""],
    "ltree": ["Top.Science"], "cube": ["(1,2),(3,4)"], "seg": ["1.5 .. 2.5"], "isbn": ["978-0-11-000222-4"], "lo": ["12"],
    "mood": ["sad", "o k", 'qu"o,te', "é"], "posint": ["5"], "dmood": ["sad"], "ddmood": ["o k"],
    "pair": ['(1,"a ""b"", c")', "(,)", '(7,"")', '(2,"back\\\\slash")'],
    "nested": ['("(1,x)","{""(2,y)"",NULL}",2020-01-02 03:04:05+00,t)', "(,,,)"],
    "dpair": ["(1,x)"], "floatrange": ["[1.5,2.5)"],
}

SETUP = """
    create type mood as enum ('sad', 'o k', 'qu"o,te', 'é');
    create domain posint as int check (value > 0);
    create domain dmood as mood; create domain ddmood as dmood;
    create type pair as (a int, gone text, b text); alter type pair drop attribute gone;
    create type nested as (p pair, ps pair[], at timestamptz, ok bool);
    create domain dpair as pair check ((value).a > 0);
    create type floatrange as range (subtype = float8);
"""


def literal(text):
    return "null" if text is None else "'" + text.replace("'", "''") + "'"


def array_literal(luck, values, delim):
    """An array of one or two dimensions, sometimes with lower bounds, with nulls inside."""
    def element():
        v = luck.choice([*values, None])
        return "NULL" if v is None else '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"'
    shape = luck.randrange(4)
    if shape == 0:
        return "{}"
    row = [element() for _ in range(luck.randrange(1, 4))]
    if shape == 1:
        return "{" + delim.join(row) + "}"
    if shape == 2:
        return f"[0:{len(row) - 1}]={{{delim.join(row)}}}"
    other = [element() for _ in row]
    return "{{" + delim.join(row) + "}" + delim + "{" + delim.join(other) + "}}"


# Types that are not sent in binary, or whose binary form depends on more than the value.
TEXT_ONLY = {"money", '"char"', "citext", "tsvector", "tsquery", "pg_snapshot", "regclass", "regtype", "regproc",
             "hstore", "ltree", "cube", "seg", "isbn"}


def fill(db, binary):
    luck = random.Random(42)
    for name in EXTENSIONS:
        db.sql(f"create extension {name}")
    db.sql(SETUP)
    columns, makers = ["id int primary key"], []
    for i, (type_, values) in enumerate(VALUES.items()):
        if "," in type_ and db.server.version < 150000:
            continue  # a negative scale
        if binary and type_ in TEXT_ONLY:
            continue
        columns.append(f"c{i} {type_}")
        makers.append(lambda values=values: luck.choice([*values, None]))
        if type_ in ("dpair", "pg_snapshot"):
            continue
        columns.append(f"a{i} {type_}[]")
        delim = ";" if type_ == "box" else ","
        makers.append(lambda values=values, delim=delim: luck.choice(
            [None, array_literal(luck, values, delim), array_literal(luck, values, delim)]))
    db.sql(f"create table t ({', '.join(columns)})")
    return makers


def insert(db, makers, rows):
    for first in range(0, rows, 50):
        lines = ["(" + ", ".join([str(n), *(literal(make()) for make in makers)]) + ")"
                 for n in range(first, first + 50)]
        db.sql("insert into t values " + ", ".join(lines))


def compare(db, stream):
    """The columns in which an event and its row differ, with both values."""
    db.sql("create table lines (line text)")
    with db.connection.cursor() as c:
        text = b"".join(stream.lines).decode()
        c.copy_from(io.StringIO(text.replace("\\", "\\\\")), "lines")
    db.sql("set search_path = pg_catalog; set timezone = 'UTC'")
    return db.sql("""
        select c.key, left(c.value::text, 200), left((e.new -> c.key)::text, 200), count(*)
        from (select line::jsonb -> 'new' from public.lines where line like '%%"table":"t"%%') e(new)
        join public.t on t.id = (e.new ->> 'id')::int, jsonb_each(to_jsonb(t)) c
        where c.value is distinct from e.new -> c.key group by 1, 2, 3 order by 1 limit 20""")


@pytest.mark.parametrize("wire", ["text", "binary"])
def test_cases_45_46_47_48_49_50_51_53_every_type_is_what_to_jsonb_says(db, herald, wire):
    # Given a table with a column of every type and of arrays of it, and odd role settings
    rows = 1000
    makers = fill(db, wire == "binary")
    db.sql("alter database {0} set datestyle = 'German'; alter database {0} set intervalstyle = 'iso_8601';"
           "alter database {0} set bytea_output = 'escape'; alter database {0} set timezone = 'Asia/Kathmandu';"
           "alter database {0} set extra_float_digits = 0".format(db.name))
    stream = herald(db, *(["--binary"] if wire == "binary" else []))

    # when random rows are inserted
    insert(db, makers, rows)
    stream.wait_for(rows)

    # then each event's new is its row
    differences = compare(db, stream)
    assert differences == []
    assert db.sql("select count(*) from public.lines") == [(rows,)]
    assert "asking for text" not in stream.err


@pytest.mark.parametrize("wire", ["text", "binary"])
def test_cases_45_49_52_the_largest_values(db, herald, wire):
    # Given the longest numbers that there are, a megabyte of bytes, a number that no double holds
    db.sql("create table t (id int primary key, n numeric, b bytea, j jsonb)")
    stream = herald(db, *(["--binary"] if wire == "binary" else []))
    db.sql("insert into t select 1, (repeat('9', 131072) || '.' || repeat('7', 16383))::numeric,"
           " decode(repeat(encode(sha256('x'), 'hex'), 32768), 'hex'), '{\"n\": 1e400, \"m\": 1e-400}'")
    db.sql("insert into t values (2, ('-0.' || repeat('0', 16382) || '1')::numeric, '', '-1.50')")
    db.sql("insert into t values (3, '1e131071', '\\x00', '[]')")

    # then each digit is there
    stream.wait_for(3)
    assert compare(db, stream) == []
    assert db.sql("select count(*) from public.lines") == [(3,)]


def test_a_type_without_a_known_binary_form_is_read_as_text(db, herald):
    # Given a stream of binary values
    db.sql("create extension isn; create table t (n int, v isbn); create table m (n int, v money)")
    stream = herald(db, "--binary")
    db.sql("insert into m values (1, '$1.50')")
    stream.wait_for(1)

    # when a type comes that the server cannot send so
    db.sql("insert into t values (2, '978-0-11-000222-4')")

    # then the stream goes on in text, without a gap or a repeat
    db.sql("insert into m values (3, '$2.50')")
    assert [e["new"] for e in stream.wait_for(3)] == [
        {"n": 1, "v": "$1.50"}, {"n": 2, "v": "0-11-000222-9"}, {"n": 3, "v": "$2.50"}]
    assert "asking for text" in stream.err


def test_case_53_an_enum_grows_while_the_stream_runs(db, herald):
    db.sql("create type mood as enum ('sad'); create table t (m mood, ms mood[])")
    stream = herald(db)
    db.sql("insert into t values ('sad', '{sad}')")
    db.sql("alter type mood add value 'glad, \"very\"'")
    db.sql("insert into t values ('glad, \"very\"', array['glad, \"very\"', null]::mood[])")
    assert [e["new"] for e in stream.wait_for(2)] == [
        {"m": "sad", "ms": ["sad"]}, {"m": 'glad, "very"', "ms": ['glad, "very"', None]}]


def test_case_53_types_of_the_same_name_in_two_schemas(db, herald):
    # Given types that are told apart by their schema alone, and domains over domains of them
    db.sql("create schema a; create schema b;"
           "create type a.kind as enum ('é \"q\"'); create type b.kind as (kind int, x text);"
           "create domain a.one as a.kind not null; create domain b.one as b.kind; create domain b.two as b.one;"
           "create table t (e a.kind, es a.kind[], d a.one, ds a.one[], c b.kind, cs b.kind[], o b.two, os b.two[])")
    stream = herald(db)
    db.sql("""insert into t values ('é "q"', array['é "q"'::a.kind, null], 'é "q"', array['é "q"'::a.one],"""
           " (1, 'y'), array[(2, 'z')::b.kind], (3, ','), array[(4, null)::b.two])")
    e = 'é "q"'
    assert stream.wait_for(1)[0]["new"] == {
        "e": e, "es": [e, None], "d": e, "ds": [e], "c": {"kind": 1, "x": "y"}, "cs": [{"kind": 2, "x": "z"}],
        "o": {"kind": 3, "x": ","}, "os": [{"kind": 4, "x": None}]}


def test_case_52_json_is_passed_on_byte_by_byte(db, herald):
    texts = ['{"b":1, "a":2,  "b":3}', "[123456789012345678901234567890]", '"\\u0000 \\udead"', "1e400"]
    db.sql("create table t (id int, j json)")
    stream = herald(db)
    for i, text in enumerate(texts):
        db.sql("insert into t values (%s, %s)", (i, text))
    stream.wait_for(len(texts))
    for line, text in zip(stream.lines, texts):
        assert f'"j":{text}}}'.encode() in line


def test_number_and_time_styles(db, herald):
    db.sql("create table t (n numeric, i int8, b bytea, at timestamptz)")
    stream = herald(db, "--numeric", "string", "--int8", "string", "--bytea", "base64", "--timestamps", "epoch_us")
    db.sql("insert into t values (1.50, 9007199254740993, '\\x00ff', '2020-01-01 00:00:00.000001+00')")
    assert stream.wait_for(1)[0]["new"] == {
        "n": "1.50", "i": "9007199254740993", "b": "AP8=", "at": 1577836800000001}


def test_a_type_made_by_a_transaction_that_nobody_can_see_yet(new_server, herald):
    """The server sends a transaction that waits for a synchronous standby before its end is seen."""
    # Given a server whose commits wait for a standby that is not there
    server = new_server(durable=True)
    db = Database(server)
    stream = herald(db)
    server.sql("alter system set synchronous_standby_names = 'nobody'")
    server.sql("select pg_reload_conf()")
    wait_until(lambda: db.sql("show synchronous_standby_names")[0][0] == "nobody", "the setting")

    # when a transaction makes a type and uses it, and is sent
    ending = threading.Thread(target=lambda: db.connect().cursor().execute(
        "create type pair as (a int, b text); create table pairs (p pair); insert into pairs values ((1, 'x'))"))
    ending.start()
    stream.wait_log("nobody can see it yet")

    # then its values are exact as soon as it has ended
    server.sql("alter system reset synchronous_standby_names")
    server.sql("select pg_reload_conf()")
    ending.join(LIMIT)
    assert stream.wait_for(1)[0]["new"] == {"p": {"a": 1, "b": "x"}}


def test_commits_that_wait_for_pgherald_itself_are_not_waited_for(new_server, herald):
    # Given a stream that is, by the server's settings, one of the standbys that commits wait for
    server = new_server()
    db = Database(server)
    db.sql("create type mood as enum ('sad'); create table t (n int primary key, m mood, ms mood[])")
    stream = herald(db)
    server.sql("alter system set synchronous_standby_names = '*'")
    server.sql("select pg_reload_conf()")
    wait_until(lambda: server.sql("select sync_state from pg_stat_replication") == [("sync",)], "the setting")

    # then they end all the same, and somebody hears of it
    db.sql("insert into t values (1, 'sad', '{sad}')")
    assert stream.wait_for(1)[0]["new"] == {"n": 1, "m": "sad", "ms": ["sad"]}
    assert "synchronous_standby_names" in stream.err


@pytest.mark.parametrize("wire", ["text", "binary"])
def test_a_composite_type_changes_while_the_stream_runs(db, herald, wire):
    """No message tells of it."""
    # Given a stream that knows a type, also inside of others
    db.sql("create type pair as (a int, b text); create domain dpair as pair; create type pairs as (p pair, d dpair);"
           "create table t (n int primary key, p pair, ps pair[], q pairs)")
    stream = herald(db, *(["--binary"] if wire == "binary" else []))

    def insert(n, row):
        inner = row.replace('"', '""')
        db.sql("insert into t values (%s, %s, array[%s::pair], %s)", (n, row, row, f'("{inner}","{inner}")'))
        stream.wait_for(n)

    # when its attributes come, are renamed and go, also in the transaction that uses them
    insert(1, "(1,x)")
    db.sql("alter type pair add attribute c int")
    insert(2, "(1,x,2)")
    db.sql("alter type pair rename attribute a to first")
    insert(3, "(1,x,2)")
    db.sql("alter type pair drop attribute b")
    insert(4, "(1,2)")
    db.transaction("alter type pair add attribute d bool", "insert into t (n, p) values (5, '(1,2,t)')")

    # then each row is what it was
    rows = [{"a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 2}, {"first": 1, "b": "x", "c": 2}, {"first": 1, "c": 2}]
    last = {"n": 5, "p": {"first": 1, "c": 2, "d": True}, "ps": None, "q": None}
    assert [e["new"] for e in stream.wait_for(5)] == [
        *({"n": n, "p": row, "ps": [row], "q": {"p": row, "d": row}} for n, row in enumerate(rows, 1)), last]
