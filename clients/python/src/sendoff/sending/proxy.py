"""The proxy that the environment names for https addresses: HTTPS_PROXY, NO_PROXY, or both in lower case, which wins.

Only a proxy that is spoken to in the clear (`http://host:port`, with `user:password@` if it wants that) and leads on by
CONNECT: what passes through it is encrypted from us to the gateway. NO_PROXY has hosts and domains, with a port or
without, or `*`; no ranges of addresses. This machine itself is never reached through a proxy, nor is an http address.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sendoff.settings import Address


class Proxy:
    """Where it is, and what it is asked to lead to a host and port."""

    __slots__ = ("_authorization", "host", "port")

    def __init__(self, host: str, port: int, authorization: str = "") -> None:
        self.host = host
        self.port = port
        self._authorization = authorization

    @property
    def place(self) -> str:
        """Host and port as they are written."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def request(self, place: str) -> bytes:
        """What is sent to be led to `place`, a host and a port."""
        more = f"Proxy-Authorization: Basic {self._authorization}\r\n" if self._authorization else ""
        return f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{more}\r\n".encode()

    def __repr__(self) -> str:
        return f"Proxy({self.place})"


def proxy_for(address: Address, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for `address`, if there is one. Raises `ValueError`, in words without secrets, for one that cannot be
    used.
    """
    if address.scheme != "https" or address.host in ("localhost", "::1") or address.host.startswith("127."):
        return None
    value = environ.get("https_proxy", environ.get("HTTPS_PROXY", "")).strip()
    if not value or _excepted(address, environ.get("no_proxy", environ.get("NO_PROXY", ""))):
        return None
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    user, _, place = rest.partition("/")[0].rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, "80"
    host = host.removeprefix("[").removesuffix("]")
    if scheme.lower() != "http" or not host.isascii() or not host or not (port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError("the proxy in HTTPS_PROXY must be http://host:port")
    return Proxy(host, int(port), _basic(user))


def _basic(user: str) -> str:
    if not user:
        return ""
    from base64 import b64encode
    from urllib.parse import unquote_to_bytes

    name, _, password = user.partition(":")
    return b64encode(unquote_to_bytes(name) + b":" + unquote_to_bytes(password)).decode()


def _excepted(address: Address, exceptions: str) -> bool:
    host = address.host.lower().rstrip(".")
    for each in exceptions.replace(",", " ").lower().split():
        name, colon, port = each.rpartition(":")
        if not colon or not port.isdigit() or each.count(":") > 1:
            name, port = each, ""
        if port and int(port) != address.port:
            continue
        name = name.removeprefix("*").removeprefix(".")
        if name in ("", host) or host.endswith(f".{name}"):
            return True
    return False
