"""Values as people write them: sizes, durations, counts, addresses, links.

Each reader raises an error that says the problem and the remedy. It takes what a file or an environment variable holds
(a string, a number) and gives back the plain value; the matching `say_` function writes it as the sample file does,
and reading that gives the same value again.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

SIZES: dict[str, int | Decimal] = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
DURATIONS: dict[str, int | Decimal] = {
    "": Decimal(1),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
    "w": Decimal(604800),
}
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")


class Address(NamedTuple):
    """Where something listens. ``host`` is without brackets; port 0 asks the system for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. Names but ``localhost`` are never looked up and count as no."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def wildcard(self) -> bool:
        try:
            return ip_address(self.host).is_unspecified
        except ValueError:
            return False


def wrong(problem: str, remedy: str) -> PydanticCustomError:
    """The error of a value, in the two halves that a fault shows. Neither may hold a secret."""
    return PydanticCustomError("sendoff", "{problem}; {remedy}", {"problem": problem, "remedy": remedy})


def read_size(value: object) -> int:
    """Bytes from ``2147483648``, ``"2 GiB"``, ``"500 MB"``."""
    remedy = 'write a size such as 65536, "64 MiB" or "2 GiB"'
    number = _quantity(value, "a size", SIZES, remedy)
    if number != int(number):
        raise wrong("is not a whole number of bytes", remedy)
    return int(number)


def read_duration(value: object) -> float:
    """Seconds from ``10``, ``0.5``, ``"10 s"``, ``"250 ms"``, ``"2 d"``."""
    return float(_quantity(value, "a duration", DURATIONS, 'write a duration such as 10, "10 s", "5 min" or "2 d"'))


def read_count(value: object) -> int:
    """A whole number from ``50000``, ``"50000"``, ``50_000``."""
    remedy = "write a whole number such as 50000"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise wrong("is not a whole number", remedy)
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,18}", value):
        raise wrong("is not a whole number", remedy)
    return int(value)


def read_switch(value: object) -> bool:
    """True or false, also from the words that an environment variable can hold."""
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    raise wrong("is neither true nor false", "write true or false")


def read_mode(value: object) -> str:
    """The permissions of a socket, octal, as four digits: ``"0660"``."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise wrong("is not a file mode", 'write octal digits in quotes, such as "0660"')
    return value.rjust(4, "0")


def read_listen(value: object) -> str:
    """An address to listen on, ``HOST:PORT`` or ``[IPv6]:PORT``; empty or false disables."""
    if value is False or value == "":
        return ""
    if not isinstance(value, str):
        raise wrong("is not an address", 'write HOST:PORT such as "127.0.0.1:8125", or "" to switch it off')
    return str(split_listen(value))


def split_listen(text: str) -> Address:
    """Host and port of a listen address. Raises an error for anything else, an unbracketed IPv6 address included."""
    remedy = 'write HOST:PORT such as "127.0.0.1:8125" or "[::1]:8125"'
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253})):([0-9]{1,5})", text)
    if match is None:
        if text.count(":") > 1 and "[" not in text:
            raise wrong("is not an address and a port", 'write an IPv6 address in brackets: "[::1]:8125"')
        raise wrong("is not an address and a port", remedy)
    six, name, port = match[1], match[2], int(match[3])
    if port > 65535:
        raise wrong(f"has the port {port}, but ports end at 65535", remedy)
    if six is not None or re.fullmatch(r"[0-9.]+", name):
        try:
            return Address(str(ip_address(six if six is not None else name)), port)
        except ValueError:
            raise wrong("is not an IP address", remedy) from None
    return Address(name.lower(), port)


def read_link(value: object) -> str:
    """An ``http://`` or ``https://`` address without credentials and fragment."""
    remedy = 'write an address such as "https://gateway.example.com"'
    if not isinstance(value, str) or not value or not re.fullmatch(r"[!-~]{1,2000}", value):
        raise wrong("is not a web address", remedy)
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong("is not a web address", remedy) from None
    if parts.scheme not in ("http", "https", "zmq+curve"):
        raise wrong("is neither an http:// nor an https:// address", remedy)
    if not host or port == 0:
        raise wrong("names no host that can be reached", remedy)
    if parts.username is not None or parts.password is not None:
        raise wrong("has credentials in it", "take them out and put them into the setting `key` of this output")
    if parts.fragment:
        raise wrong("ends in a #fragment, which is never sent", "leave it out")
    if parts.scheme == "zmq+curve" and not (
        port and re.fullmatch(f"server={CURVE_KEY}", parts.query) and not parts.path.strip("/")
    ):
        raise wrong(
            "is not the address of a gateway's ZeroMQ port",
            "copy the url that `sendoff gateway keys create PROJECT --curve` printed",
        )
    return value


CURVE_KEY = r"[A-Za-z0-9_-]{43}"
"""A CURVE key, public or secret: 32 bytes in the alphabet of base64url, without padding."""


def read_endpoint(value: object) -> str:
    """Where a ZeroMQ socket is bound: ``ipc:///path`` or ``tcp://HOST:PORT``; empty or false disables."""
    if value is False or value == "":
        return ""
    remedy = 'write "ipc:///path" or "tcp://HOST:PORT"'
    scheme, _, place = value.partition("://") if isinstance(value, str) else ("", "", "")
    if scheme == "ipc":
        return f"ipc://{read_socket_path(place)}"
    if scheme == "tcp":
        return f"tcp://{split_listen(place)}"
    raise wrong("is not the address of a ZeroMQ socket", remedy)


def read_curve_clients(value: object) -> object:
    """A table of names and public CURVE keys, no key twice."""
    remedy = 'write clients = { shop = "KEY" } with what `sendoff agent curve shop` printed'
    if not isinstance(value, dict):
        raise wrong("is not a table of names and keys", remedy)
    for name, key in value.items():
        if not isinstance(key, str) or not re.fullmatch(CURVE_KEY, key):
            raise wrong(f"has no public key of 43 characters for {str(name)[:40]!r}", remedy)
    if len(set(value.values())) < len(value):
        raise wrong("has one key under two names", "make a key for each client")
    return value


def read_path(value: object) -> Path:
    """An absolute path; ``~`` is the home folder."""
    remedy = 'write an absolute path such as "/var/lib/sendoff"'
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise wrong("is not a path", remedy)
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise wrong("begins with ~, but there is no home folder", remedy) from None
    if not path.is_absolute():
        raise wrong("is a relative path, which depends on where the command was called", remedy)
    return path


def read_socket_path(value: object) -> Path:
    """As `read_path`, short enough for a Unix socket (107 bytes)."""
    path = read_path(value)
    if len(str(path).encode()) > 107:
        raise wrong("is longer than the 107 bytes that a Unix socket's path may have", "choose a shorter path")
    return path


def say_size(value: int) -> str:
    """``2147483648`` as ``2 GiB``."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value and value % factor == 0:
            return f"{value // factor} {unit}"
    return f"{value} B"


def say_duration(value: float) -> str:
    """``172800`` as ``2 d``."""
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60)):
        if value and value % factor == 0:
            return f"{int(value // factor)} {unit}"
    return f"{value:g} s"


def _quantity(value: object, noun: str, units: Mapping[str, int | Decimal], remedy: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong(f"is not {noun}", remedy)
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        raise wrong(f"is not {noun}", remedy)
    factor = units.get(match[2].lower())
    if factor is None:
        raise wrong(f"has the unknown unit {match[2]!r}", remedy)
    return Decimal(match[1]) * factor
