"""The declaration written out: the sample file, the tables of `docs/configuration.md`, settings with their origins."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from sendoff_server.settings.declared import ANY, Section, Setting, sections
from sendoff_server.settings.model import Settings

HEAD = """\
# Sendoff's settings: all there are, each with its default or an example.
#
# A line that begins with "#" and a letter is a setting: take the "#" away to use it. Lines with "# " explain.
# Each setting can also be given by the environment variable that is named beside it, which beats this file.
# `sendoff check FILE` says whether a file is right; `sendoff check --show FILE` shows what it leads to.
"""
EXAMPLE_OUTPUT = "main"
HIDDEN = "(set, not shown)"


@dataclass(frozen=True, slots=True)
class Shown:
    """A setting as it is in force, and where its value came from. Secrets are hidden."""

    key: str
    value: Any
    origin: str
    variable: str


def sample() -> str:
    """A whole file in which everything is commented out."""
    return HEAD + "".join(f"\n{_sample_section(each)}" for each in sections())


def tables() -> str:
    """One table a section, in Markdown."""
    return "\n".join(_table(each) for each in sections() if each.settings)


def in_force(settings: Settings) -> Iterator[Shown]:
    """Every value, in the order of the declaration."""
    for section in sections():
        if ANY not in section.path:
            yield from (_shown(settings, each.path, each) for each in section.settings)
            continue
        for name in settings.outputs:
            for each in section.settings:
                yield _shown(settings, tuple(name if part == ANY else part for part in each.path), each)


def _shown(settings: Settings, path: tuple[str, ...], declared: Setting) -> Shown:
    value: Any = settings
    for part in path:
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    key = ".".join(path)
    variable = "SENDOFF_" + "_".join(path).upper().replace("-", "_")
    return Shown(key, _visible(value, declared), settings.origins.get(key, "default"), variable)


def _visible(value: Any, declared: Setting) -> Any:
    if value is None:
        return None
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    if declared.path[-1] == "url" and urlsplit(value).query:
        return value.partition("?")[0] + "?" + HIDDEN
    return False if value is False else declared.kind.say(value)


def _sample_section(section: Section) -> str:
    path = [EXAMPLE_OUTPUT if part == ANY else part for part in section.path]
    off = "#" if ANY in section.path else ""  # An empty output would be a fault; any other empty table changes nothing.
    lines = [*_comment(section.help), f"{off}[{'.'.join(path)}]"]
    for each in section.settings:
        variable = each.variable.replace(ANY, EXAMPLE_OUTPUT.upper())
        lines += [
            *_comment(each.help),
            f"# {variable}: {each.kind.word}",
            f"#{each.path[-1]} = {_toml(each.sample)}",
            "",
        ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(name)} = {_toml(each)}" for name, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)


def _table(section: Section) -> str:
    rows = [
        f"### `[{'.'.join(section.path)}]`",
        section.help,
        "",
        "| setting | type | default | what it does |",
        "| --- | --- | --- | --- |",
    ]
    for each in section.settings:
        cells = (f"`{each.path[-1]}`<br>`{each.variable}`", each.kind.word, _default(each), each.help)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _default(setting: Setting) -> str:
    if setting.required:
        return "must be set"
    if setting.default is None:
        return "none" if "Default" not in setting.help else "see right"
    return f"`{_toml(setting.kind.say(setting.default))}`"
