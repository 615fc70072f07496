"""Every setting of the client, declared once: name, environment variable, default, check and help.

Arguments of `sendoff.init` win over the environment, the environment over the default. This is the one place that may
raise.
"""

from __future__ import annotations

import os

from sendoff.frame import STRING_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class SettingError(ValueError):
    """A setting cannot be used. The message names the setting, what was given, and what to give instead."""


class Setting:
    """One declaration. `check` gives the value to use, or raises `ValueError` with what is wanted instead."""

    __slots__ = ("check", "default", "help", "name")

    def __init__(self, name: str, default: object, check: Callable[[object], object], help: str) -> None:
        self.name = name
        self.default = default
        self.check = check
        self.help = help

    @property
    def variable(self) -> str:
        """The environment variable of this setting."""
        return f"SENDOFF_{self.name.upper()}"


class Address:
    """Where messages go. `scheme` says how:

    - `unix`: the agent's socket at `path` (None: found by the protocol's rule);
    - `udp`: metrics by UDP and events by TCP to the agent at `host` and `port`;
    - `zmq+ipc`: the agent's ZeroMQ socket at `path`; `zmq+tcp`: the same at `host` and `port`, of this machine only;
    - `zmq+curve`: `host` and `port` of a gateway (or an agent), whose public key is `server`, as who holds `secret`;
    - `https`, `http`: a gateway at `host`, `port` and `prefix`, as who holds the key `secret`.

    Never shows its secret.
    """

    __slots__ = ("host", "path", "port", "prefix", "scheme", "secret", "server")

    def __init__(
        self,
        scheme: str = "unix",
        *,
        path: str | None = None,
        host: str = "",
        port: int = 0,
        prefix: str = "",
        secret: str = "",
        server: str = "",
    ) -> None:
        self.scheme = scheme
        self.path = path
        self.host = host
        self.port = port
        self.prefix = prefix
        self.secret = secret
        self.server = server

    @property
    def place(self) -> str:
        """Host and port as they are written."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __repr__(self) -> str:
        if not self.host:
            return f"{self.scheme}://{self.path or ''}"
        return f"{self.scheme}://{'…@' if self.secret else ''}{self.place}{self.prefix}"


_CURVE_KEY = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_KEY = frozenset(chr(code) for code in range(0x21, 0x7F)) - frozenset("@/?#")
_FORMS = (
    '"unix:///path/of/agent.sock", "udp://host:port", "https://KEY@gateway", '
    '"zmq+curve://SECRET@host:port?server=KEY", "zmq+ipc:///path" or "zmq+tcp://127.0.0.1:port"; '
    "leave it out to look for the agent's usual socket"
)


def _address(value: object) -> Address:
    if value is None or value == "":
        return Address()
    if type(value) is not str:
        raise ValueError(f"must be {_FORMS}")
    scheme, separator, rest = value.partition("://")
    read = {
        "unix": _at_path,
        "zmq+ipc": _at_path,
        "udp": _at_host,
        "zmq+tcp": _at_host,
        "zmq+curve": _at_curve,
        "https": _at_web,
        "http": _at_web,
    }.get(scheme)
    if read is None or not separator:
        raise ValueError(f"must be {_FORMS}")
    return read(scheme, rest)


def _at_path(scheme: str, rest: str) -> Address:
    if not rest.startswith("/") or "\0" in rest:
        raise ValueError(f"must be a path after {scheme}://, such as {scheme}:///run/sendoff/agent.sock")
    if len(os.fsencode(rest)) > 107:
        raise ValueError(
            "must be a path of at most 107 bytes, which is all that a Unix socket can have: move the socket"
        )
    return Address(scheme, path=rest)


def _at_host(scheme: str, rest: str) -> Address:
    host, port = _host(rest, scheme, None)
    if scheme == "zmq+tcp" and not _is_loopback(host):
        raise ValueError("must name this machine (127.0.0.1), as nothing is encrypted: use zmq+curve:// to another one")
    return Address(scheme, host=host, port=port)


def _at_curve(scheme: str, rest: str) -> Address:
    secret, _, rest = rest.rpartition("@")
    place, _, server = rest.partition("?server=")
    for key in (secret, server):
        if len(key) != 43 or not _CURVE_KEY.issuperset(key):
            raise ValueError("must be the whole line that `sendoff gateway keys create PROJECT --curve` printed")
    host, port = _host(place.rstrip("/"), scheme, None)
    return Address(scheme, host=host, port=port, secret=secret, server=server)


def _at_web(scheme: str, rest: str) -> Address:
    key, _, rest = rest.rpartition("@")
    key = key.removesuffix(":")
    if not key or not _KEY.issuperset(key):
        raise ValueError(f"must have the project's key in it: {scheme}://KEY@gateway.example.com")
    place, slash, prefix = rest.partition("/")
    if not _KEY.issuperset(prefix.replace("/", "")):
        raise ValueError("must have a path of plain letters, without ? and #, behind the host")
    host, port = _host(place, scheme, 443 if scheme == "https" else 80)
    return Address(scheme, host=host, port=port, prefix=(slash + prefix).rstrip("/"), secret=key)


def _host(place: str, scheme: str, usual: int | None) -> tuple[str, int]:
    """Host and port of `host:port`; the port may be missing where there is a usual one."""
    host, colon, port = place.rpartition(":")
    if usual is not None and (not colon or place.endswith("]")):
        host, port = place, str(usual)
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    right = host.isprintable() and host and (bracketed or ":" not in host) and not set(host) & set("/@?# []")
    if not right or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError(f"must name a host and a port: {scheme}://host:port")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or (host.startswith("127.") and set(host) <= set("0123456789."))


def _folder(value: object) -> str:
    if type(value) is not str or (value and not os.path.isabs(value)) or "\0" in value:
        raise ValueError("must be the absolute path of a folder, or empty")
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError("must be text")
    if len(value.encode("utf-8", "replace")) > STRING_LIMIT or not value.isprintable():
        raise ValueError(f"must be printable text of at most {STRING_LIMIT} bytes: shorten it")
    return value


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if type(value) in (int, float, str) else -1.0  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= 60:
        raise ValueError("must be a number of seconds from 0 to 60")
    return seconds


def _size(value: object) -> int:
    text = str(value) if type(value) is int and value.bit_length() < 60 else value
    if type(text) is not str or not (text.isascii() and text.isdigit()) or not 65_536 <= int(text[:19]) <= 2**30:
        raise ValueError("must be a number of bytes from 65536 to 1073741824")
    return int(text)


def _switch(value: object) -> bool:
    if type(value) is bool:
        return value
    known = {
        "1": True,
        "true": True,
        "on": True,
        "yes": True,
        "0": False,
        "false": False,
        "off": False,
        "no": False,
        "": False,
    }
    found = known.get(value.lower()) if type(value) is str else None
    if found is None:
        raise ValueError("must be True or False (in the environment: on or off)")
    return found


def _names(value: object) -> tuple[str, ...]:
    if type(value) is str:
        value = [part.strip() for part in value.split(",") if part.strip()]
    if type(value) not in (list, tuple, set, frozenset) or not all(type(name) is str and name for name in value):  # type: ignore[attr-defined]
        raise ValueError("must be a list of names (in the environment: separated by commas)")
    return tuple(value)  # type: ignore[arg-type]


DECLARED = (
    Setting(
        "address",
        None,
        _address,
        "Where messages go: unix:///path, udp://host:port, zmq+ipc:///path or zmq+tcp://127.0.0.1:port of an agent; "
        "https://KEY@host or zmq+curve://SECRET@host:port?server=KEY of a gateway. Empty: the agent's usual Unix "
        "socket.",
    ),
    Setting("service", "", _text, "The name of this application."),
    Setting("env", "", _text, "Where it runs, such as production."),
    Setting("release", "", _text, "Its version."),
    Setting("enabled", True, _switch, "False: every call is a no-op."),
    Setting("linger", 2.0, _seconds, "Seconds that the end of the process may wait for acknowledgements."),
    Setting("scrub", (), _names, "More names whose values are secrets, beside password, token, cookie and the like."),
    Setting("locals", True, _switch, "Whether exceptions carry local variables (scrubbed)."),
    Setting("source", True, _switch, "Whether exceptions carry source lines."),
    Setting("in_app", (), _names, "Modules that count as the application's own, wherever they are installed."),
    Setting("not_in_app", (), _names, "Modules that do not."),
    Setting("excepthooks", True, _switch, "Whether uncaught exceptions of the process and of threads are reported."),
    Setting("buffer", 8_388_608, _size, "Bytes of events not acknowledged and metrics not sent that are kept."),
    Setting(
        "spool",
        "",
        _folder,
        "Folder where events wait that a gateway has not acknowledged, so that they survive the process. Only for "
        "https and zmq+curve; empty: in memory only.",
    ),
    Setting(
        "allow_plaintext",
        False,
        _switch,
        "Whether a key may be sent unencrypted (http://) to another machine, where it can be read on the way.",
    ),
    Setting("debug", False, _switch, "Whether errors inside the client are printed to stderr."),
)


def _shown(name: str, value: object) -> str:
    """What was given, for the message of an error. An address may have a secret in it, and is shown without."""
    if type(value) is str:
        return ascii((_without_secret(value) if name == "address" else value)[:100])
    if type(value) is float or (type(value) is int and value.bit_length() <= 64):
        return str(value)
    return f"something of the type {type(value).__name__}"


def _without_secret(address: str) -> str:
    """An address as it may be shown. What is wrong with it may be just that its secret is not where it belongs, so
    whatever is as long as one goes, too.
    """
    import re

    scheme, separator, rest = address.partition("://")
    if scheme in ("unix", "zmq+ipc"):
        return address
    if not separator or "@" in scheme:
        scheme, separator, rest = "", "", address
    _, at, place = rest.rpartition("@")
    return re.sub(r"[\w-]{17,}", "…", f"{scheme}{separator}{'…' if at else ''}{at}{place}")


class Settings:
    """The values in force."""

    address: Address
    service: str
    env: str
    release: str
    enabled: bool
    linger: float
    scrub: tuple[str, ...]
    locals: bool
    source: bool
    in_app: tuple[str, ...]
    not_in_app: tuple[str, ...]
    excepthooks: bool
    buffer: int
    spool: str
    allow_plaintext: bool
    debug: bool

    def __init__(self, given: Mapping[str, object], environ: Mapping[str, str]) -> None:
        """Raises `SettingError` for the first setting that is wrong or unknown."""
        names = [setting.name for setting in DECLARED]
        for name in given:
            if name not in names:
                raise SettingError(f"sendoff.init: there is no setting {name!r}. Known are {', '.join(names)}.")
        for setting in DECLARED:
            value = given.get(setting.name)
            source = f"sendoff.init: {setting.name}"
            if value is None:
                value = environ.get(setting.variable)
                source = f"sendoff.init: the environment variable {setting.variable}"
            if value is None:
                value = setting.default
            try:
                setattr(self, setting.name, setting.check(value))
            except ValueError as error:
                raise SettingError(f"{source} {error}, not {_shown(setting.name, value)}.") from None
        self._fit_together()

    def _fit_together(self) -> None:
        address = self.address
        if address.scheme == "http" and not _is_loopback(address.host) and not self.allow_plaintext:
            raise SettingError(
                f"sendoff.init: address sends its key unencrypted to {address.host}. Use https://, or set "
                "allow_plaintext=True if the network in between is your own."
            )
        if self.spool and address.scheme not in ("https", "http", "zmq+curve"):
            raise SettingError(
                "sendoff.init: spool is for sending without an agent (https, zmq+curve); the agent has its own. "
                "Leave it out."
            )

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{setting.name}={getattr(self, setting.name)!r}' for setting in DECLARED)})"
