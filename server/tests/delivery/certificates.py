"""Certificates, good and bad, made with the openssl that is there."""

import ssl
import subprocess
from pathlib import Path


def make_ca(folder: Path) -> Path:
    """A certificate authority of the test's: its certificate, with the key beside it."""
    _openssl(
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=testing "
        f"-keyout {folder}/ca.key -out {folder}/ca.pem"
    )
    return folder / "ca.pem"


def make_server(folder: Path, name: str, *, host: str = "DNS:localhost", days: str = "-days 2") -> ssl.SSLContext:
    """A server's context with a certificate of that authority for ``host``."""
    key, asked, signed, extra = (folder / f"{name}.{end}" for end in ("key", "csr", "pem", "ext"))
    extra.write_text(f"subjectAltName={host}\n")
    _openssl(f"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout {key} -out {asked}")
    _openssl(
        f"x509 -req -in {asked} -CA {folder}/ca.pem -CAkey {folder}/ca.key -CAcreateserial {days} "
        f"-extfile {extra} -out {signed}"
    )
    return context(signed, key)


def make_self_signed(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate that nobody vouches for."""
    _openssl(
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -keyout {folder}/self.key -out {folder}/self.pem"
    )
    return context(folder / "self.pem", folder / "self.key")


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    return made


def _openssl(arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], check=True, capture_output=True, timeout=30)
