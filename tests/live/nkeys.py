"""Keys and tokens of NATS accounts, as its tool nsc makes them, by openssl."""
import base64
import binascii
import json
import subprocess

PREFIXES = {"O": 14 << 3, "A": 0, "U": 20 << 3}  # operator, account, user
SEED = 18 << 3


def base32(data):
    """With the check sum that keys end with."""
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


def base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def begins_with_zero(signature):
    return base64.urlsafe_b64decode(signature + "==")[0] == 0


def openssl(*args, stdin=None):
    done = subprocess.run(["openssl", *map(str, args)], input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Key:
    """A new key of a kind of PREFIXES: .public and .seed as text."""

    def __init__(self, kind, folder):
        self.path = folder / f"{kind}{len(list(folder.iterdir()))}.pem"
        openssl("genpkey", "-algorithm", "ed25519", "-out", self.path)
        prefix = PREFIXES[kind]
        secret = openssl("pkey", "-in", self.path, "-outform", "DER")[-32:]
        self.public = base32(bytes([prefix])
                             + openssl("pkey", "-in", self.path, "-pubout", "-outform", "DER")[-32:])
        self.seed = base32(bytes([SEED | prefix >> 5, prefix << 3 & 0xff]) + secret)

    def sign(self, text):
        self.path.with_suffix(".text").write_bytes(text.encode())
        return base64url(openssl("pkeyutl", "-sign", "-inkey", self.path, "-rawin",
                                 "-in", self.path.with_suffix(".text")))

    def token(self, kind, subject, **claims):
        """A JWT by which this key says something of the subject, another key."""
        head = base64url(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
        body = base64url(json.dumps({
            "jti": subject.public, "iat": 1700000000, "iss": self.public, "name": kind, "sub": subject.public,
            "nats": {"type": kind, "version": 2, **claims}}).encode())
        return f"{head}.{body}.{self.sign(f'{head}.{body}')}"


class Accounts:
    """An operator with a system account, an account with JetStream and a user of that."""

    def __init__(self, folder):
        operator, self.account, system, self.user = (Key(kind, folder) for kind in "OAAU")
        free = {**dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1),
                "wildcards": True}
        jetstream = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        self.jwt = self.account.token("user", self.user, subs=-1, data=-1, payload=-1)
        self.config = f"""
            operator: {operator.token("operator", operator, system_account=system.public)}
            system_account: {system.public}
            resolver: MEMORY
            resolver_preload: {{
                {system.public}: {operator.token("account", system, limits=free)}
                {self.account.public}: {operator.token("account", self.account,
                                                       limits={**free, **jetstream})}
            }}
        """

    def creds(self, path, user=None):
        """Writes the user's credentials; of another one, they are not of the account."""
        path.write_text(f"-----BEGIN NATS USER JWT-----\n{self.jwt}\n------END NATS USER JWT------\n\n"
                        f"-----BEGIN USER NKEY SEED-----\n{(user or self.user).seed}\n"
                        "------END USER NKEY SEED------\n")
        return path
