"""A random workload; then its event file, applied to an empty copy of the tables, makes the same
database. DDL is no event: the workload says each statement in a logical message as well."""
import contextlib
import json
import random

import postgres
import pytest
from herald import read_lines

TABLES = """
    create table plain (id int primary key, v text, n numeric, at timestamptz, tags text[], doc jsonb);
    create table large (id int primary key, v text, big text);
    alter table large alter big set storage external;
    create table pair (a int, b text, v bytea, primary key (a, b));
    create table bag (v text, n int);
    alter table bag replica identity full;
    create table other (id int primary key, code text not null, v double precision);
    create unique index other_code on other (code);
    alter table other replica identity using index other_code;
    create table parent (id int primary key, v text);
    create table child (id int primary key, parent int references parent on update cascade on delete cascade)
"""


class Workload:
    """Writes at random. Names and columns change under way, so it asks the catalog for them."""

    def __init__(self, db, seed):
        self.random = random.Random(seed)
        self.connection = db.connect(autocommit=False)
        self.count = 0
        self.changes = 0

    def sql(self, text, params=None):
        return postgres.execute(self.connection, text, params)

    def tables(self):
        return [name for name, in self.sql("select relname from pg_class where relkind = 'r' and "
                                           "relnamespace = 'public'::regnamespace order by oid")]

    def columns(self, table):
        return self.sql("select attname, format_type(atttypid, atttypmod), coalesce(attnum = any(i.indkey), false) "
                        "from pg_attribute left join pg_index i on indrelid = attrelid and indisprimary "
                        "where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
                        (f'"{table}"',))

    def value(self, kind):
        luck, n = self.random, self.random.randrange(-50, 50)
        if luck.random() < 0.1:
            return None
        return {
            "integer": lambda: n,
            "text": lambda: luck.choice(["", "é😀\n\"\\", f"text {n}", "x" * 300]),
            "numeric": lambda: luck.choice([f"{n}.10", "NaN", "1e-30", "12345678901234567890.5"]),
            "double precision": lambda: luck.choice(["0.1", "-Infinity", "1e300", str(n / 3)]),
            "timestamp with time zone": lambda: luck.choice(["infinity", "0044-03-15 BC", f"2020-01-0{n % 9 + 1}"]),
            "text[]": lambda: luck.choice(["{}", '{NULL,"a,b","\\"{}"}', "{{1,2},{3,4}}"]),
            # 'null'::jsonb and a real null are both null in an event, as in to_jsonb(row).
            "jsonb": lambda: luck.choice(['{"a": [1, null, 1e2]}', "[]", '"text"', str(n)]),
            "bytea": lambda: f"\\x{n & 255:02x}00ff",
        }[kind]()

    def row(self, table):
        """Names and values of a new row; its keys are mostly free."""
        row = {}
        for name, kind, key in self.columns(table):
            self.count += 1
            fixed = key or name == "code"
            if name == "parent":
                row[name] = None
            elif name == "big":
                row[name] = str(self.count) * 3000
            elif fixed:
                row[name] = self.random.randrange(1, 60) if kind == "integer" else f"k{self.count}"
            else:
                row[name] = self.value(kind)
        return row

    def insert(self, table):
        row = self.row(table)
        names = ", ".join(f'"{n}"' for n in row)
        self.sql(f'insert into "{table}" ({names}) values ({", ".join(["%s"] * len(row))}) on conflict do nothing',
                 list(row.values()))

    def some(self, table, most=3):
        """A condition for a few rows that are there."""
        return f'ctid = any(array(select ctid from "{table}" order by random() limit {self.random.randint(1, most)}))'

    def update(self, table):
        keys = [name for name, _, key in self.columns(table) if key]
        row = {n: v for n, v in self.row(table).items() if n not in keys and self.random.random() < 0.5}
        if row:
            row.pop("code", None)
        if row:
            self.sql(f'update "{table}" set {", ".join(f"{chr(34)}{n}{chr(34)} = %s" for n in row)} '
                     f"where {self.some(table)}", list(row.values()))

    def change_key(self, table):
        for name, kind, key in self.columns(table):
            if name == "code" or (key and self.random.random() < 0.7):
                new = f"k{self.count}x" if kind == "text" else 1000 + self.count
                self.count += 1
                self.sql(f'update "{table}" set "{name}" = %s where {self.some(table, 1)}', (new,))

    def delete(self, table):
        self.sql(f'delete from "{table}" where {self.some(table)}')

    def truncate(self, table):
        if self.random.random() < 0.1:
            self.sql(f'truncate "{table}" cascade')

    def adopt(self, table):
        self.sql("update child set parent = (select id from parent order by random() limit 1)")

    def change_schema(self, table):
        self.changes += 1  # makes names unique
        extra = [n for n, _, _ in self.columns(table) if n.startswith("extra")]
        choices = [f'alter table "{table}" add extra{self.changes} int default {self.changes}',
                   f'alter table "{table}" add "extra Ü{self.changes}" text']
        if extra:
            choices += [f'alter table "{table}" drop "{extra[0]}"',
                        f'alter table "{table}" rename "{extra[0]}" to "extra{self.changes}n"',
                        f'alter table "{table}" alter "{extra[-1]}" type text']
        if table not in ("child", "parent"):
            choices.append(f'alter table "{table}" rename to "{table.split("_")[0]}_{self.changes}"')
        self.ddl(self.random.choice(choices))

    def ddl(self, text):
        self.sql(text)
        self.sql("select pg_logical_emit_message(true, 'ddl', %s)", (text,))

    def step(self):
        act = self.random.choices(
            [self.insert, self.update, self.change_key, self.delete, self.truncate, self.adopt, self.change_schema],
            [12, 8, 3, 3, 1, 1, 0.7])[0]
        act(self.random.choice(self.tables()))

    def transaction(self):
        """A few steps, some of them in savepoints that are kept or rolled back."""
        self.sql(f"select setseed({self.random.random()})")
        for _ in range(self.random.choice((1, 1, 2, 10))):
            if self.random.random() < 0.3:
                self.sql("savepoint s")
                for _ in range(self.random.randint(1, 4)):
                    self.step()
                self.sql(self.random.choice(("rollback to s", "release s")))
            else:
                self.step()
        self.connection.rollback() if self.random.random() < 0.1 else self.connection.commit()


def name_of(event):
    return ".".join('"' + event[part].replace('"', '""') + '"' for part in ("schema", "table"))


def listed(names):
    return ", ".join(f'r."{name}"' for name in names)


def apply(connection, line):
    """Makes an event happen; values go from its JSON into the row as PostgreSQL reads them."""
    event = json.loads(line)
    if event["action"] == "message":
        postgres.execute(connection, event["content"])
        return
    table, text = name_of(event), line.decode()
    if event["action"] == "truncate":
        postgres.execute(connection, f"truncate {table} cascade")
        return
    new, old = (f"(select * from json_populate_record(null::{table}, %(line)s::json->'{part}')) r"
                for part in ("new", "old" if "old" in event else "key"))
    columns = list(event.get("new", ()))
    names = ", ".join(f'"{name}"' for name in columns)
    # One of the rows that are as the old one was, as far as the event shows it.
    same = " and ".join(f'o."{name}" is not distinct from r."{name}"' for name in event.get("old", event.get("key", ())))
    where = f"where ctid = (select o.ctid from {table} o, {old} where {same} limit 1)"
    statement = {"insert": f"insert into {table} ({names}) select {listed(columns)} from {new}",
                 "update": f"update {table} set ({names}) = (select {listed(columns)} from {new}) {where}",
                 "delete": f"delete from {table} {where}"}[event["action"]]
    with connection.cursor() as cursor:
        cursor.execute(statement, {"line": text})
        assert cursor.rowcount == 1, f"{cursor.rowcount} rows for {text}"


def contents(db):
    """All columns and rows of all tables."""
    tables = [name for name, in db.sql("select relname from pg_class where relkind = 'r' and "
                                       "relnamespace = 'public'::regnamespace order by 1")]
    return {name: (db.sql("select attname, atttypid::regtype::text from pg_attribute where attrelid = %s::regclass "
                          "and attnum > 0 and not attisdropped order by attnum", (f'"{name}"',)),
                   db.sql(f'select t::text collate "C" from "{name}" t order by 1'))
            for name in tables}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_replaying_the_file_makes_the_same_database(db, new_db, herald, tmp_path, seed):
    # Given a random workload with a stream to a file, which is killed now and then
    db.sql(TABLES)
    path = tmp_path / "out.json"
    stream = herald(db, file=path)
    workload = Workload(db, seed)
    with contextlib.closing(workload.connection):
        for n in range(1, 401):
            workload.transaction()
            if n % 100 == 0:
                stream.kill9()
                stream = herald(db, file=path)
    stream.wait_confirmed(db)
    stream.stop()

    # when the events are applied to an empty copy
    copy = new_db()
    copy.sql(TABLES.replace(" references parent on update cascade on delete cascade", ""))
    with contextlib.closing(copy.connect(autocommit=False)) as connection:
        postgres.execute(connection, "set timezone to 'UTC'")
        for line in read_lines(path):
            apply(connection, line)
        connection.commit()

    # then both databases are equal
    made, wanted = contents(copy), contents(db)
    assert made.keys() == wanted.keys()
    for name, (columns, rows) in wanted.items():
        assert made[name][0] == columns
        assert set(made[name][1]) ^ set(rows) == set(), name
        assert made[name][1] == rows

    # and there was something of everything
    lines = read_lines(path)
    for part in (b'"insert"', b'"update"', b'"delete"', b'"truncate"', b'"unchanged":', b'"prefix":"ddl"'):
        assert any(part in line for line in lines), part
    assert sum(len(rows) for _, rows in wanted.values()) > 30
