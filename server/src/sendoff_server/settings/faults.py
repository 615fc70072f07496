"""What can be wrong with settings, for people: where, which key, what value, and what to do. All faults at once."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import ErrorDetails

from sendoff_server.settings.declared import ANY, PREFIX, settings

NEVER_SHOWN = frozenset({"key", "headers"})
"""Names of settings whose values are secrets."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``where``: a file's path, a variable or ``command line``. ``value``: None where it is missing or secret."""

    where: str
    key: str
    value: str | None
    problem: str
    remedy: str

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {self.value}"
        subject = self.where if not self.key else f"{self.where}: {self.key}{shown}"
        return f"{subject}: {self.problem}\n    {self.remedy}"


class SettingsError(Exception):
    """The settings cannot be used. ``faults`` has every reason, not only the first."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(f"{number} in the settings\n" + "\n".join(f"  {fault}" for fault in faults))

    def as_json(self) -> list[dict[str, str | None]]:
        return [asdict(fault) for fault in self.faults]


def closest(word: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """The known word that ``word`` was probably meant to be. Words that begin alike need a higher ``cutoff``."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def from_pydantic(error: ErrorDetails, origins: Mapping[str, str], fallback: str) -> Fault:
    """One of pydantic's errors in our words. ``origins`` says by path where a value came from."""
    path = tuple(str(part) for part in error["loc"])
    if path[-1:] == ("[key]",):  # A name in a table is at fault, not what stands under it.
        path, error = path[:-1], {**error, "input": {}}
    key = ".".join(path)
    where = _origin(key, origins, fallback)
    problem, remedy = _words(error, path)
    return Fault(where, key, _shown(error, path), problem, remedy)


def _origin(key: str, origins: Mapping[str, str], fallback: str) -> str:
    """Of a value, or of the first value found below a section that is wrong as a whole."""
    while key:
        for known, where in origins.items():
            if known == key or known.startswith(key + "."):
                return where
        key = key.rpartition(".")[0]
    return fallback


def _shown(error: ErrorDetails, path: tuple[str, ...]) -> str | None:
    value = error["input"]
    secret = (
        any(part in NEVER_SHOWN for part in path) or error["type"] == "extra_forbidden"
    )  # It may be a misspelt key.
    if secret or error["type"] == "missing" or isinstance(value, dict | list):
        return None
    if path[-1] == "url" and isinstance(value, str) and "@" in value:
        return None
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    return text or (f'"{value[:200]}"' if isinstance(value, str) else str(value)[:200])


def _words(error: ErrorDetails, path: tuple[str, ...]) -> tuple[str, str]:
    context: dict[str, Any] = error.get("ctx") or {}
    match error["type"]:
        case "sendoff":
            return str(context["problem"]), str(context["remedy"])
        case "missing":
            return "is missing", f"set it here or with {PREFIX}{'_'.join(path).upper().replace('-', '_')}"
        case "extra_forbidden":
            return "is no setting", suggestion(path)
        case "literal_error":
            return "is not known", f"choose {context['expected']}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "is not a table", f"write a section [{'.'.join(path)}]"
        case _:
            return "cannot be read", error["msg"]


def suggestion(path: tuple[str, ...]) -> str:
    """What to do about a key that does not exist."""
    known = [each.path for each in settings()]
    pattern = (path[0], ANY, *path[2:]) if path[0] == "outputs" and len(path) > 2 else path
    beside = {
        other[len(path) - 1] for other in known if len(other) >= len(path) and other[: len(path) - 1] == pattern[:-1]
    }
    found = closest(path[-1], beside)
    if found is None:
        for other in known:
            if path[-1] not in other or ANY in other:
                continue
            elsewhere = other[: other.index(path[-1]) + 1]
            return f"did you mean {'.'.join(elsewhere)}?"
        return f"known here: {', '.join(sorted(beside))}" if beside else "leave it out"
    return f"did you mean {'.'.join((*path[:-1], found))}?"
