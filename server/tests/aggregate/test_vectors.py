"""The samples that every implementation shares: protocol/vectors/{lines,snapshots,merges}.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sendoff_server.aggregate import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sendoff_server.aggregate import Core

VECTORS = Path(__file__).parents[3] / "protocol" / "vectors"
NOW = 1_700_000_000_000


def load(name: str, key: str) -> list[Any]:
    """The cases of a file that have the given key, each under its name."""
    cases = json.loads((VECTORS / name).read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases if key in case["expect"] or key in case]


def payload(case: dict[str, Any]) -> bytes:
    if "input_hex" in case:
        return bytes.fromhex(case["input_hex"])
    if "input_repeat" in case:
        return "".join(text * times for text, times in case["input_repeat"]).encode()
    return str(case["input"]).encode()


def feed(core: Core, step: dict[str, Any]) -> list[Any]:
    return core.feed(
        payload(step),
        step.get("source", "shop"),
        [(key, value) for key, value in step.get("tags", [])],
        step.get("now", NOW),
        framed=step.get("framed", False),
        cut=step.get("cut", False),
        t=step.get("t"),
    )


@pytest.mark.parametrize("case", load("lines.json", "name"))
def test_lines_become_what_the_vectors_say(make: Callable[..., Core], case: dict[str, Any]) -> None:
    core = make(gauge_minus=case.get("gauge_minus", "auto"))
    source, expect = case.get("source", "shop"), case["expect"]
    found = feed(core, case)
    rotation = core.rotate(NOW, everything=True)
    rejected = rotation.lines_rejected.get(source, {})
    received = rotation.lines_received.get(source, 0)
    assert rejected == expect.get("rejected", {})
    assert received - sum(rejected.values()) == expect.get("accepted", 0)
    if not rejected:
        assert sorted(core.stats().notes) == expect.get("notes", [])
    series = [json.loads(line) for line in rotation.lines]
    wanted = expect.get("series", [])
    assert [{key: one.get(key) for key in want} for one, want in zip(series, wanted, strict=True)] == wanted
    assert [
        {key: getattr(one, key) for key in ("kind", "name", "fields", "tags", "t", "host")} for one in found
    ] == expect.get("found", [])


@pytest.mark.parametrize("case", load("snapshots.json", "lines"))
def test_points_become_exactly_these_snapshot_lines(make: Callable[..., Core], case: dict[str, Any]) -> None:
    core = make(ord=tuple(case["ord"]), **case.get("limits", {}))
    for step in case["feeds"]:
        feed(core, step)
    lines = [line.encode() for line in case["expect"]["lines"]]
    assert core.rotate(case["rotate"]).lines == lines
    assert [core.decode(line).encode() for line in lines] == lines


@pytest.mark.parametrize("case", load("snapshots.json", "valid"))
def test_lines_of_others_are_read_and_written_canonically(make: Callable[..., Core], case: dict[str, Any]) -> None:
    if case["expect"]["valid"]:
        assert make().decode(payload(case)).encode().decode() == case["expect"]["canonical"]
        return
    with pytest.raises(SnapshotError) as caught:
        make().decode(payload(case))
    assert caught.value.field == case["expect"]["field"]


@pytest.mark.parametrize("case", load("merges.json", "name"))
def test_snapshots_merge_to_what_the_vectors_say(make: Callable[..., Core], case: dict[str, Any]) -> None:
    snapshots = [[line.encode() for line in snapshot] for snapshot in case["snapshots"]]
    core = make()
    expect = case["expect"]["lines"]
    assert [line.decode() for line in core.merge(snapshots, case["length"])] == expect
    assert [line.decode() for line in core.merge(reversed(snapshots), case["length"])] == expect
