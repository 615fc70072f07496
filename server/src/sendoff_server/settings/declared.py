"""The declaration as a list: each setting's path, type, default and help, read off the classes of `model`.

Whatever speaks about settings (environment variables, sample file, documentation, `sendoff check`) walks this list.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sendoff_server.settings.kinds import Kind
from sendoff_server.settings.model import Settings
from sendoff_server.settings.outputs import OutputSettings

PREFIX = "SENDOFF_"
ANY = "NAME"
"""Stands for an output's name in a path."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``sample`` is what the sample file shows: the default, or an example where that depends."""

    path: tuple[str, ...]
    kind: Kind
    help: str
    default: Any
    """None where there is none, or where it depends on the machine (the help says how)."""
    sample: Any
    required: bool

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        return PREFIX + "_".join(self.path).upper()


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the file, with its own settings."""

    path: tuple[str, ...]
    help: str
    settings: tuple[Setting, ...]


def sections() -> list[Section]:
    """All tables in the order of the declaration; `outputs.NAME` stands for every output."""
    return list(_walk(Settings, ()))


def settings() -> list[Setting]:
    """All settings, flat."""
    return [each for section in sections() for each in section.settings]


def _walk(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Section]:
    leaves: list[Setting] = []
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, info in model.model_fields.items():
        below = _model_of(info)
        if below is not None:
            inner.append((name, below))
        else:
            leaves.append(_setting((*path, name), info))
    if path:
        yield Section(path, " ".join((model.__doc__ or "").split()), tuple(leaves))
    for name, below in inner:
        here = (*path, name, ANY) if below is OutputSettings else (*path, name)
        yield from _walk(below, here)


def _model_of(info: FieldInfo) -> type[BaseModel] | None:
    for each in (info.annotation, *get_args(info.annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _setting(path: tuple[str, ...], info: FieldInfo) -> Setting:
    kind = next(each for each in reversed(info.metadata) if isinstance(each, Kind))
    default = None if info.default is PydanticUndefined else info.default
    if info.default_factory is dict:
        default = {}
    sample = info.examples[0] if info.examples else kind.say(default)
    return Setting(path, kind, info.description or "", default, sample, info.is_required())
