"""The certificate of a gateway on this host: whether it can be used, and how long still."""

from collections.abc import Iterator
from pathlib import Path

from sendoff_server.doctor.report import Fault
from sendoff_server.gateway import tls

SOON_S = 14 * 86_400


def look(certificate: Path | None, key: Path | None, now_s: float) -> Iterator[Fault]:
    """What is wrong with it at the Unix time ``now_s``."""
    if certificate is None:
        return
    try:
        left = tls.ends(certificate) - now_s
        tls.load(certificate, key or certificate)
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__ or error, PermissionError):
            return  # it is the gateway's user who must be able to read it, not ours
        words = str(error) if isinstance(error, tls.CertificateError) else f"{certificate} cannot be used ({error})"
        yield Fault(
            "certificate", f"the gateway's certificate: {words}", "mend that; a gateway that runs keeps its old one"
        )
        return
    if left < SOON_S:
        end = "has expired" if left < 0 else f"expires in {left / 86_400:.0f} days"
        remedy = "renew it: a changed file is read within seconds, without a restart"
        yield Fault("certificate", f"the gateway's certificate {certificate} {end}", remedy)
