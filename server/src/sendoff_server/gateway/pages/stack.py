"""Stacks as they are read: latest call first, the application's own frames open, runs of library frames folded."""

from itertools import groupby
from typing import Any

from sendoff_server.gateway.pages import words

Json = dict[str, Any]
OPENED = 6
"""Frames of the application that are open at first."""


def stacks(chain: list[Json]) -> list[Json]:
    """One section for each exception of a chain, in the chain's order."""
    return [_section(index, exception, chain) for index, exception in enumerate(chain)]


def _section(index: int, exception: Json, chain: list[Json]) -> Json:
    parent = exception.get("parent")
    links = {"cause": "caused by", "context": "while handling", "member": "one of the group"}
    relation = links.get(exception.get("link") or "", "") if parent is not None else ""
    return {
        "id": f"c{index}",
        "type": exception["type"],
        "message": exception.get("message", ""),
        "relation": relation,
        "of": chain[parent]["type"] if parent is not None and parent != index - 1 else None,
        "notes": exception.get("notes", []),
        "runs": _runs(exception.get("frames", [])),
    }


def _runs(frames: list[Json]) -> list[Json]:
    """Frames that are open, one each, and folded runs of those that are not the application's."""
    latest_first = list(reversed(frames))
    if not any(frame.get("in_app") for frame in latest_first):
        # Nothing is the application's own: then the place where it happened is worth most.
        latest_first = [frame | {"in_app": i == 0} for i, frame in enumerate(latest_first)]
    runs: list[Json] = []
    opened = 0
    for own, group in groupby(latest_first, key=lambda frame: bool(frame.get("in_app"))):
        members = list(group)
        if own:
            for frame in members:
                opened += 1
                runs.append({"own": True, "frame": frame, "open": opened <= OPENED, "source": _source(frame)})
        else:
            runs.append({"own": False, "frames": members, "label": _label(members)})
    return runs


def _source(frame: Json) -> list[Json]:
    if frame.get("code") is None:
        return []
    pre, post = frame.get("pre", []), frame.get("post", [])
    lines = [*pre, frame["code"], *post]
    first = frame["line"] - len(pre)
    return [{"n": first + i, "text": words.cut(line, 400) or " ", "hit": i == len(pre)} for i, line in enumerate(lines)]


def _label(frames: list[Json]) -> str:
    modules = dict.fromkeys((frame.get("module") or "").partition(".")[0] for frame in frames)
    known = [words.plain(module, 40) for module in modules if module][:4]
    number = words.plural(len(frames), "frame")
    return f"{number} in {', '.join(known)}" if known else number
