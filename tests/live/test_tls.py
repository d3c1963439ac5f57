"""Connections that are encrypted, checked and refused; secrets that stay secret."""
import os
import subprocess

import herald as program
import postgres
import proxy as proxy_module
import pytest
from postgres import Via


def openssl(*args):
    done = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def make_ca(folder, name):
    """A private authority: folder/NAME.crt and NAME.key."""
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2,
            "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt")
    return folder / f"{name}.crt"


def make_certificate(folder, ca, host):
    """A certificate for a host: folder/HOST.crt and HOST.key."""
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={host}",
            "-addext", f"subjectAltName=DNS:{host}", "-keyout", folder / f"{host}.key",
            "-out", folder / f"{host}.csr")
    openssl("x509", "-req", "-days", 2, "-copy_extensions", "copy", "-CA", ca, "-CAkey", ca.with_suffix(".key"),
            "-CAcreateserial", "-in", folder / f"{host}.csr", "-out", folder / f"{host}.crt")


HBA = """local all postgres trust
hostssl all all 127.0.0.1/32 {method}
hostssl replication all 127.0.0.1/32 {method}
"""


@pytest.fixture
def tls(new_server, tmp_path):
    """A database of a server that takes encrypted connections only, by certificate as localhost."""
    server = new_server(tcp=True)
    ca = make_ca(tmp_path, "ca")
    make_certificate(tmp_path, ca, "localhost")
    for end in ("crt", "key"):
        with open(f"{server.data}/server.{end}", "wb") as f:
            f.write((tmp_path / f"localhost.{end}").read_bytes())
        os.chmod(f.name, 0o600)
        if server.owner:
            os.chown(f.name, server.owner["user"], server.owner["group"])
    server.hba(HBA.format(method="trust"))
    server.configure(ssl="on")
    server.restart()
    db = postgres.Database(server)
    db.sql("create table t (n int primary key, t text)")
    db.ca = ca
    return db


def verified(db, **more):
    return Via(db, **{"host": "localhost", "hostaddr": "127.0.0.1", "sslmode": "verify-full",
                      "sslrootcert": db.ca, **more})


def check_rows(db, stream, n):
    assert [e["new"]["n"] for e in stream.events] == list(range(1, n + 1))
    assert all(len(e["new"]["t"]) == 1000 for e in stream.events)


def test_a_verified_server_streams_over_tls(tls, herald, tmp_path):
    stream = herald(verified(tls), file=tmp_path / "out.json")
    assert tls.sql("select bool_and(ssl) from pg_stat_ssl join pg_stat_replication using (pid)") == [(True,)]
    tls.sql("insert into t select i, repeat('x', 1000) from generate_series(1, 10000) i")
    stream.wait_for(10000)
    stream.wait_confirmed(tls)
    stream.stop()
    check_rows(tls, stream, 10000)


def test_a_backlog_is_drained_over_tls(tls, herald, tmp_path):
    herald(verified(tls), file=tmp_path / "out.json").stop()
    tls.sql("insert into t select i, repeat('x', 1000) from generate_series(1, 10000) i")
    stream = herald(verified(tls), "--until", "now", file=tmp_path / "out.json", ready=False)
    assert stream.wait_exit() == 0
    check_rows(tls, stream, 10000)


def test_records_of_tls_may_come_in_any_pieces(tls, herald):
    proxy = proxy_module.Proxy(tls.server.port, split=True)
    try:
        stream = herald(verified(tls, port=proxy.port))
        tls.sql("insert into t select i, repeat('x', 1000) from generate_series(1, 300) i")
        stream.wait_for(300)
        stream.wait_confirmed(tls)
        check_rows(tls, stream, 300)
        proxy.split = False
        proxy.cut()
        tls.sql("insert into t select i, repeat('x', 1000) from generate_series(301, 400) i")
        stream.wait_for(400)
        stream.stop()
        check_rows(tls, stream, 400)
    finally:
        proxy.close()


@pytest.mark.parametrize("wrong, words", [
    ({"sslrootcert": "other"}, "certificate verify failed"),
    ({"host": "db.example"}, "does not match host name"),
    ({"sslrootcert": "/nowhere/ca.crt"}, "does not exist"),
    ({"sslmode": "disable"}, "pg_hba.conf"),
])
def test_what_cannot_be_verified_is_refused(tls, herald, tmp_path, wrong, words):
    if wrong.get("sslrootcert") == "other":
        wrong = {"sslrootcert": make_ca(tmp_path, "other")}
    stream = herald(verified(tls, **wrong), ready=False)
    assert stream.wait_exit() == 78
    assert words in stream.err


def test_a_server_without_tls_is_refused_where_it_is_wanted(new_server, herald):
    db = postgres.Database(new_server(tcp=True))
    stream = herald(Via(db, host="127.0.0.1", sslmode="require"), ready=False)
    assert stream.wait_exit() == 78
    assert "does not support SSL" in stream.err


def test_a_password_stays_secret(tls, herald, tmp_path):
    # Given a role with a password, which the settings take from the environment
    tls.sql("create role guarded superuser login password '5ecret'")
    tls.server.hba(HBA.format(method="scram-sha-256"))
    tls.server.reload()
    settings = tmp_path / "pgherald.yaml"
    settings.write_text(f"connection: {verified(tls, user='guarded').conninfo} password=${{SECRET}}\n"
                        f"slot: {tls.slot}\nlog_level: debug\n")
    args, env = ("stream", "-c", settings), {"SECRET": "5ecret"}

    # when it streams
    stream = program.Herald(*args, env=env).wait_ready(tls)
    tls.sql("insert into t values (1, 'x')")
    stream.wait_for(1)
    with open(f"/proc/{stream.pid}/cmdline", "rb") as f:
        command = f.read()
    stream.stop()

    # then nobody sees the password
    shown = program.run(*args, "--print-config", env=env)
    assert "guarded" in shown.out
    for text in (stream.err, command.decode(), shown.out, shown.err):
        assert "5ecret" not in text

    # and a wrong one is refused, and not shown either
    refused = program.run(*args, env={"SECRET": "oth3r"})
    assert refused.code == 78
    assert "password authentication failed" in refused.err and "oth3r" not in refused.err


# Refusals in the server's language: libpq gives no SQLSTATE for them


@pytest.fixture
def german(new_server):
    """A database of a server that speaks German, which a message of its own has to show."""
    server = new_server(tcp=True, language="de", lc_messages="C.UTF-8")
    try:
        server.sql("select nothing")
    except postgres.psycopg2.Error as e:
        if "existiert nicht" not in str(e):
            pytest.skip("the server has no German messages")
    server.hba("local all postgres trust\nhost all postgres 127.0.0.1/32 trust\n"
               "host replication postgres 127.0.0.1/32 reject\n"
               "host all guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n")
    server.reload()
    server.sql("create role guarded login replication password 'right'; create role plain login;"
               "create role full login superuser connection limit 0")
    db = postgres.Database(server)
    db.sql("create table t (n int primary key); create publication pgherald for all tables")
    return db


@pytest.mark.parametrize("who, words", [
    ({"user": "guarded", "password": "wrong"}, "Passwort-Authentifizierung"),
    ({"user": "nobody"}, "existiert nicht"),
    ({"user": "plain"}, "keine Berechtigung|Replikationsrollen"),
])
def test_a_refusal_in_another_language_ends_at_once(german, herald, who, words):
    stream = herald(Via(german, host="127.0.0.1", **who), ready=False)
    assert stream.wait_exit() == 78
    assert any(w in stream.err for w in words.split("|"))
    assert "wrong" not in stream.err


def test_a_server_that_is_full_is_waited_for_in_another_language(german, herald):
    german.sql("alter role full nosuperuser replication")
    stream = herald(Via(german, host="127.0.0.1", user="full"), ready=False)
    stream.wait_log("trying again")
    assert "Verbindungen" in stream.err
    german.sql("alter role full connection limit -1")
    stream.wait_ready(german)


def test_elements_without_binary_form_are_read_as_text_in_another_language(german, herald):
    german.sql("create table a (n int primary key, acl aclitem[])")
    stream = herald(german, "--binary")
    german.sql("insert into a values (1, array['postgres=r/postgres'::aclitem])")
    assert stream.wait_for(1)[0]["new"] == {"n": 1, "acl": ["postgres=r/postgres"]}
