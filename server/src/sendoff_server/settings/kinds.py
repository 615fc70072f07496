"""What kinds of values settings have: how each is read, written and bounded; and what all sections share."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from sendoff_server.settings import units
from sendoff_server.settings.units import split_listen, wrong


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting holds, for people, and how its value is written in a file."""

    word: str
    say: Callable[[Any], object] = str


def within(low: float, high: float, say: Callable[[Any], str]) -> AfterValidator:
    """Refuse a number outside of the bounds, both included."""

    def check(value: Any) -> Any:
        if not low <= value <= high:
            raise wrong("is out of bounds", f"choose from {say(low)} to {say(high)}")
        return value

    return AfterValidator(check)


def whole_seconds(value: float) -> float:
    if value != int(value):
        raise wrong("is not a whole number of seconds", 'write a duration such as "10 s"; windows begin each second')
    return value


Size = Annotated[int, BeforeValidator(units.read_size), Kind("size", units.say_size)]
Duration = Annotated[float, BeforeValidator(units.read_duration), Kind("duration", units.say_duration)]
Count = Annotated[int, BeforeValidator(units.read_count), Kind("number", int)]
Switch = Annotated[bool, BeforeValidator(units.read_switch), Kind("true or false", bool)]
Mode = Annotated[str, BeforeValidator(units.read_mode), Kind("file mode")]
Listen = Annotated[str, BeforeValidator(units.read_listen), Kind("address")]
Link = Annotated[str, BeforeValidator(units.read_link), Kind("web address")]
Folder = Annotated[Path, BeforeValidator(units.read_path), Kind("path")]


def _loopback_only(value: str) -> str:
    if value and not split_listen(value).loopback:
        raise wrong(
            "can be reached from other machines, and nothing here asks who is sending",
            "listen on 127.0.0.1, [::1] or a Unix socket, and run an agent on each host",
        )
    return value


LoopbackListen = Annotated[Listen, AfterValidator(_loopback_only)]


def read_optional_socket(value: object) -> Path | Literal[False] | None:
    if value is None:
        return None
    if value is False or value == "":
        return False
    return units.read_socket_path(value)


def read_file(value: object) -> Path | None:
    return None if value is None or value == "" else units.read_path(value)


def default_data_dir(environ: Mapping[str, str], uid: int) -> Path:
    """``/var/lib/sendoff`` for root, else ``sendoff`` in the user's folder for state (XDG Base Directory)."""
    if uid == 0:
        return Path("/var/lib/sendoff")
    state = environ.get("XDG_STATE_HOME", "")
    if state.startswith("/"):
        return Path(state) / "sendoff"
    home = environ.get("HOME") or str(Path("~").expanduser())
    return Path(home) / ".local/state/sendoff"


def data_dir() -> Path:
    return default_data_dir(os.environ, os.getuid())


def read_text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= 200 or not value.isprintable():
        raise wrong("is not a text of 1 to 200 bytes", "write it in quotes")
    return value


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
