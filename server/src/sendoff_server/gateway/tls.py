"""The gateway's certificate: read at the start, and again when its files have changed, so that renewing it takes no
restart.

Connections that are there keep the certificate they began with; new ones get the newest that could be read. A changed
file that cannot be used is said, and the one before it stays in force.
"""

import calendar
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_EVERY = 10.0
"""Seconds between two looks at the files."""

_Seen = tuple[tuple[int, int, int] | None, ...]


class CertificateError(OSError):
    """The certificate or its key cannot be used. The message names the file, what is wrong, and what to do."""


class Certificate:
    """One certificate with its key. ``context`` is for listening, and stays the same object."""

    def __init__(self, certificate: Path, key: Path | None, *, wall: Callable[[], float] = time.time) -> None:
        """Raises ``CertificateError``."""
        self._files = (certificate, key or certificate)
        self._wall = wall
        self._seen = self._stat()
        self._newest = load(*self._files)
        self.context = load(*self._files)
        # Asked at the beginning of every handshake, also where the client names no host.
        self.context.sni_callback = self._choose
        self._say_end()

    def look(self) -> bool:
        """Read the files again if they have changed. True if there is a new certificate."""
        seen = self._stat()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self._newest = load(*self._files)
        except CertificateError as error:
            log.error("%s; the certificate that was read before stays in force", error)
            return False
        log.info("the certificate %s has changed and is in force for new connections", self._files[0])
        self._say_end()
        return True

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _stat(self) -> _Seen:
        """What changes when a file is written or replaced; a link is followed."""
        found: list[tuple[int, int, int] | None] = []
        for path in self._files:
            try:
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
            except OSError:
                found.append(None)
        return tuple(found)

    def _say_end(self) -> None:
        left = ends(self._files[0]) - self._wall()
        if left < 0:
            log.error("the certificate %s has expired: clients refuse it", self._files[0])

    def __repr__(self) -> str:
        return f"<Certificate {self._files[0]}>"


def load(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context for listening. Raises ``CertificateError``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for path, setting in ((certificate, "gateway.certificate"), (key, "gateway.certificate_key")):
        try:
            path.open("rb").close()
        except OSError as error:
            words = f"cannot read {path} ({error.strerror}); change {setting}, or let this user read it"
            raise CertificateError(words) from error
    try:
        ends(certificate)
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise CertificateError(_why(error, certificate, key)) from error
    return context


def _no_password() -> str:
    """Without this, OpenSSL would ask at the terminal."""
    raise ValueError("locked")


def _why(error: Exception, certificate: Path, key: Path) -> str:
    reason = str(getattr(error, "reason", None) or error)
    if reason == "locked":
        return f"the key in {key} is locked with a password; write it without one, readable by this user alone"
    if reason == "KEY_VALUES_MISMATCH":
        return f"the key in {key} is not that of the certificate in {certificate}; give two that were made together"
    if key == certificate:
        more = "one PEM file has both, or gateway.certificate_key names the key"
        return f"{certificate} does not have a certificate and its key in PEM ({reason}); {more}"
    return f"{certificate} and {key} are no certificate and key in PEM ({reason}); give the files of the authority"


def ends(certificate: Path) -> float:
    """When the certificate in a PEM file, the first one, ends: Unix seconds. Raises ``ValueError`` or ``OSError``."""
    text = certificate.read_text("ascii", "replace")
    begin, end = text.find("-----BEGIN CERTIFICATE-----"), text.find("-----END CERTIFICATE-----")
    if begin < 0 or end < begin:
        raise ValueError("no certificate in it")
    return not_after(ssl.PEM_cert_to_DER_cert(text[begin : end + len("-----END CERTIFICATE-----")]))


def not_after(der: bytes) -> float:
    """The end of a certificate's validity in Unix seconds (RFC 5280, section 4.1). Raises ``ValueError``."""
    _, certificate, _ = _next(der)
    _, body, _ = _next(certificate)
    fields: list[bytes] = []
    while body and len(fields) < 6:
        tag, content, body = _next(body)
        if tag != 0xA0:  # the version, which may be missing
            fields.append(content)
    if len(fields) < 5:
        raise ValueError("a certificate without a validity")
    _, _, rest = _next(fields[3])
    tag, when, _ = _next(rest)
    text = when.decode("ascii")
    if tag == 0x17:  # UTCTime has two digits of the year
        text = ("20" if text < "5" else "19") + text
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def _next(der: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows of the first element. Raises ``ValueError``."""
    if len(der) < 2:
        raise ValueError("a certificate that is cut off")
    length, at = der[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(der[2:at], "big")
    if at + length > len(der):
        raise ValueError("a certificate that is cut off")
    return der[0], der[at : at + length], der[at + length :]
