"""NATS servers that let in by key and by credentials."""
import delivery
import nkeys
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
