"""A private certificate authority for tests."""
import os
import subprocess


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, capture_output=True)


class Authority:
    """Makes key and certificate files in a folder: Authority(tmp_path).issue("localhost")."""

    def __init__(self, folder, name="ca"):
        self.folder = folder
        self.key, self.cert = f"{folder}/{name}.key", f"{folder}/{name}.crt"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-days", "2", "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.cert)

    def issue(self, host, owner=None):
        """(certificate, key) for a server of that name, or for an IP address; owner is a dict of
        user and group, as subprocess takes it."""
        base = f"{self.folder}/{host}"
        kind = "IP" if host.replace(".", "").isdigit() else "DNS"
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-subj", f"/CN={host}", "-keyout", f"{base}.key", "-out", f"{base}.csr")
        with open(f"{base}.ext", "w") as f:
            f.write(f"subjectAltName={kind}:{host}\n")
        openssl("x509", "-req", "-in", f"{base}.csr", "-CA", self.cert, "-CAkey", self.key,
                "-CAcreateserial", "-days", "2", "-extfile", f"{base}.ext", "-out", f"{base}.crt")
        if owner:
            os.chown(f"{base}.key", owner["user"], owner["group"])
        return f"{base}.crt", f"{base}.key"
