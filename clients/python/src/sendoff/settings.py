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
    """Where the agent is: `path` of a Unix socket (None: found by the protocol's rule), or `host` and `port`."""

    __slots__ = ("host", "path", "port")

    def __init__(self, path: str | None = None, host: str = "", port: int = 0) -> None:
        self.path = path
        self.host = host
        self.port = port

    @property
    def is_udp(self) -> bool:
        """Whether metrics go by UDP and events by TCP to the same host and port."""
        return bool(self.host)

    def __repr__(self) -> str:
        return f"udp://{self.host}:{self.port}" if self.host else f"unix://{self.path or ''}"


def _address(value: object) -> Address:
    if value is None or value == "":
        return Address()
    wanted = (
        'must be "unix:///path/of/agent.sock" or "udp://host:port"; leave it out to look for the agent\'s usual socket'
    )
    if type(value) is not str:
        raise ValueError(wanted)
    scheme, _, rest = value.partition("://")
    if scheme == "unix" and rest.startswith("/") and "\0" not in rest:
        if len(os.fsencode(rest)) > 107:
            raise ValueError(
                "must be a path of at most 107 bytes, which is all that a Unix socket can have: move the socket"
            )
        return Address(path=rest)
    host, colon, port = rest.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (
        scheme == "udp"
        and colon
        and host
        and not set(host) & set("/@ \0")
        and port.isascii()
        and port.isdigit()
        and 0 < int(port[:6]) < 65536
    ):
        return Address(host=host, port=int(port))
    raise ValueError(wanted)


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
        "address", None, _address, "Where the agent is: unix:///path or udp://host:port. Empty: the usual Unix socket."
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
    Setting("debug", False, _switch, "Whether errors inside the client are printed to stderr."),
)


def _shown(value: object) -> str:
    """What was given, for the message of an error."""
    if type(value) is str:
        return ascii(value[:100])
    if type(value) is float or (type(value) is int and value.bit_length() <= 64):
        return str(value)
    return f"something of the type {type(value).__name__}"


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
                raise SettingError(f"{source} {error}, not {_shown(value)}.") from None

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{setting.name}={getattr(self, setting.name)!r}' for setting in DECLARED)})"
