"""NATS servers that let in by key and by credentials."""
import itertools
import socket

import delivery
import herald as program
import nkeys
from postgres import LIMIT
from test_nats import new_nats, refused  # noqa: F401


def test_an_nkey_lets_in(db, herald, new_nats, tmp_path):  # noqa: F811
    # Given a server that knows a public key
    key, other = nkeys.Key("U", tmp_path), nkeys.Key("U", tmp_path)
    nats = new_nats(config=f"authorization {{ users: [{{nkey: {key.public}}}] }}",
                    user={"nkey": key.public, "sign": key.sign})
    for name, one in (("right", key), ("wrong", other)):
        (tmp_path / name).write_text(one.seed)
    url = nats.url(f"?stream=S&nkey={key.public}&nkey_seed=")

    # then its seed lets in, another one does not, and none is shown
    delivery.make_tables(db)
    assert "does not let us in" in refused(herald, db, url + str(tmp_path / "wrong"))
    err = refused(herald, db, url + str(tmp_path / "missing"))
    assert "missing" in err
    stream = herald(db, "--to", url + str(tmp_path / "right"))
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": range(1, 4)})
    assert key.seed not in stream.err


def test_credentials_let_in(db, herald, new_nats, tmp_path):  # noqa: F811
    # Given a server of an operator with accounts
    accounts = nkeys.Accounts(tmp_path)
    nats = new_nats(config=accounts.config, user={"jwt": accounts.jwt, "sign": accounts.user.sign})
    right = accounts.creds(tmp_path / "right.creds")
    wrong = accounts.creds(tmp_path / "wrong.creds", user=nkeys.Key("U", tmp_path))
    delivery.make_tables(db)

    # then the user's credentials let in, and others do not
    assert "does not let us in" in refused(herald, db, nats.url(f"?stream=S&creds={wrong}"))
    assert "missing.creds" in refused(herald, db, nats.url(f"?stream=S&creds={tmp_path}/missing.creds"))
    stream = herald(db, "--to", nats.url(f"?stream=S&creds={right}"))
    delivery.insert(db, 1, 3)
    stream.wait_confirmed(db)
    delivery.check(nats.events("S"), {"a": range(1, 4)})
    assert accounts.user.seed not in stream.err and accounts.jwt not in stream.err


def test_a_signature_that_begins_with_zero_is_not_the_end(tmp_path):
    """libnats leaves such a signature out, and the server refuses who has not signed."""
    # Given a server whose first nonce makes one
    key = nkeys.Key("U", tmp_path)
    (tmp_path / "seed").write_text(key.seed)
    signed = ((n, key.sign(n)) for n in map(str, itertools.count()))
    (bad, _), (good, _) = (next(s for s in signed if nkeys.begins_with_zero(s[1]) == zero) for zero in (True, False))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT)
        port = server.getsockname()[1]
        one = program.Herald("consume", f"nats://127.0.0.1:{port}/?stream=S&nkey={key.public}"
                                        f"&nkey_seed={tmp_path}/seed")
        try:
            # when it refuses who has not signed, then it is asked again, and a signature comes
            for nonce in (bad, good):
                with server.accept()[0] as client, client.makefile("rwb") as stream:
                    stream.write(b'INFO {"server_id":"S","version":"2.9.10","proto":1,"headers":true,'
                                 b'"auth_required":true,"max_payload":1048576,"nonce":"%s"}\r\n' % nonce.encode())
                    stream.flush()
                    if b'"sig":"' + key.sign(nonce).encode() in stream.readline():
                        return
                    stream.write(b"-ERR 'Authorization Violation'\r\n")
            raise AssertionError("no signature came")
        finally:
            one.close()
