"""Who is who in a plane: an authority of its own, certificates that it issues, tokens that the API server knows."""

import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = unused
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:127.0.0.1, DNS:localhost
"""

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")


class Certificate(NamedTuple):
    """Files in PEM."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates for servers on 127.0.0.1 and for clients; it lives as long as its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._config = folder / "openssl.cnf"
        self._config.write_text(_CONFIG)
        self._own = Certificate(folder / "ca.crt", folder / "ca.key")
        self._make(self._own, "/CN=durableflow-test-authority", "authority")

    @property
    def certificate(self) -> Path:
        """What the others trust."""
        return self._own.certificate

    def issue(self, name: str, *, user: str, group: str | None = None) -> Certificate:
        """A certificate in files of this name, which says to the API server who its owner is."""
        issued = Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        if not issued.certificate.exists():
            subject = f"/O={group}/CN={user}" if group else f"/CN={user}"
            signed = ("-CA", str(self._own.certificate), "-CAkey", str(self._own.key))
            self._make(issued, subject, "leaf", signed)
        return issued

    def _make(self, files: Certificate, subject: str, extensions: str, signed: Sequence[str] = ()) -> None:
        command = ["openssl", "req", "-x509", "-config", str(self._config), "-extensions", extensions, *_NEW_KEY]
        command += ["-subj", subject, "-keyout", str(files.key), "-out", str(files.certificate), *signed]
        subprocess.run(command, check=True, capture_output=True)


def write_signing_key(file: Path) -> None:
    """The key that service accounts' tokens are signed with; the API server checks them by the same file."""
    command = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)


def write_tokens(file: Path, users: Sequence[str], *, group: str) -> dict[str, str]:
    """A token for each of these members of a group, in the file that the API server reads when it starts."""
    tokens = {user: secrets.token_hex(16) for user in users}
    file.write_text("".join(f'{token},{user},{user},"{group}"\n' for user, token in tokens.items()))
    file.chmod(0o600)
    return tokens
