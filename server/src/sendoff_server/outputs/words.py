"""What went wrong with a request, in words that a person can act on."""

import socket
import ssl
from urllib.parse import urlsplit

import aiohttp

from sendoff_server.outputs.pace import Pace, len_of


def plain_url(url: str) -> str:
    """An address without what may be secret: user, password, query and fragment."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def never_reached(error: BaseException) -> bool:
    """Whether there was no connection over which the destination could have got anything."""
    return isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.ClientSSLError)


def explain_late(pace: Pace, where: str) -> str:
    """One sentence for a request that took too long at what it was doing. `where`: host and port."""
    limit = f"{pace.timeout_s:g} s"
    if pace.stage == "sending":
        size = len_of(pace.body)
        got = max(0, size - pace.least_left)
        then = f"less than 64 KiB in {limit}" if pace.creeping else f"nothing more for {limit}"
        return f"{where} took {got:,} of {size:,} bytes of the request, and then {then}"
    if pace.answered:
        return f"{where} began to answer but did not come to an end within {limit}"
    return f"{where} took the request but did not answer within {limit}"


def explain(error: BaseException, url: str) -> str:
    """One sentence for an error of aiohttp's or the system's."""
    where = authority_of(url)
    match error:
        case aiohttp.ConnectionTimeoutError():
            tls = ", and does it speak TLS there" if url.startswith("https:") else ""
            return f"{where} does not take the connection in time: does it run, does a firewall let it through{tls}?"
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {where} is not valid: {_certificate(error.certificate_error)}"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {urlsplit(url).hostname} cannot be resolved: check it, and the name server"
        case aiohttp.ClientSSLError():
            return f"{where} does not speak TLS as it should: is it http:// rather than https://? ({error})"
        case aiohttp.ClientConnectorError():
            return explain_connect(error.os_error, where)
        case aiohttp.ServerDisconnectedError():
            return f"{where} closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return f"{where} closed the connection in the middle of its answer"
        case aiohttp.ClientResponseError():
            return f"{where} answered with something that is not HTTP"
        case ConnectionResetError() | BrokenPipeError() | aiohttp.ClientOSError():
            return f"{where} broke the connection while the request was under way"
    return f"the request to {where} failed: {error!r}"


def explain_status(status: int, detail: str, url: str) -> str:
    """One sentence for an answer that is no success. ``detail``: the destination's own words, if it had any."""
    where = plain_url(url)
    said = f": {detail}" if detail else ""
    match status:
        case 401 | 403:
            return f"{where} does not accept the key ({status}){said}"
        case 404:
            return f"there is nothing at {where} (404): check the url{said}"
        case 429:
            return f"{where} asks to be sent less (429){said}"
        case _ if 300 <= status < 400:
            return f"{where} redirects ({status}), which is never followed: set the url it points to{said}"
        case _ if status >= 500:
            return f"{where} has a problem of its own ({status}){said}"
    return f"{where} refused the request ({status}){said}"


def authority_of(url: str) -> str:
    """Host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def explain_connect(error: OSError, where: str) -> str:
    """One sentence for a connection that could not be made, over whatever protocol."""
    if isinstance(error, TimeoutError):
        return f"{where} does not take the connection in time: does it run, does a firewall let it through?"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {where} (connection refused)"
    if isinstance(error, socket.gaierror):
        return f"the name in {where} cannot be resolved"
    return f"no connection to {where}: {error.strerror or error}"


def _certificate(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(error)
