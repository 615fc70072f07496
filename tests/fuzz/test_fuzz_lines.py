"""Whatever bytes arrive as lines: no error, every line and point in the books, and snapshots that can be read."""

from __future__ import annotations

import json
from pathlib import Path

from sendoff_server.aggregate import Limits, Rotation, make_core
from tests.fuzz.mutate import run

NOW = 1_700_000_000_000
SPEC = (Path(__file__).parents[2] / "protocol" / "wire-format.md").read_text()
VECTORS = json.loads((Path(__file__).parents[2] / "protocol" / "vectors" / "lines.json").read_text())["cases"]
CORPUS = [
    bytes.fromhex(case["input_hex"]) if "input_hex" in case else case["input"].encode()
    for case in VECTORS
    if "input_repeat" not in case
]
LINES = SPEC.split("**Lines**, the first that applies:")[1].split("**Frames** refused")[0]
REASONS, NOTES = (set(part.replace("`", " ").split()) for part in LINES.split("**Notes**"))


def check(rotation: Rotation, points: int) -> None:
    core = make_core(Limits())
    for line in rotation.lines:
        series = core.decode(line)
        assert series.encode() == line
        points -= series.value.n
    assert points == 0
    assert sorted(core.merge([[line] for line in rotation.lines], 1)) == sorted(rotation.lines)


def test_no_bytes_break_the_core_or_its_books() -> None:
    def target(data: bytes) -> None:
        core = make_core(Limits(max_series=20, overflow_names=3, stamped_windows=4), (), (7, 1))
        found = core.feed(data, "statsd/udp", [("service", "shop")], NOW)
        found += core.feed(data, "tcp", [], NOW, framed=True, cut=True, t=NOW - 5_000)
        found += core.feed(data, "tcp", [], NOW + 1, t=NOW + 10_000_000)
        rotation = core.rotate(NOW, everything=True)
        for source, received in rotation.lines_received.items():
            rejected = rotation.lines_rejected.get(source, {})
            assert rejected.keys() <= REASONS
            assert sum(rejected.values()) <= received
        assert core.stats().notes.keys() <= NOTES
        assert all(0 < len(event.name.encode()) <= 200 for event in found)
        json.dumps([(event.fields, event.tags, event.host) for event in found], ensure_ascii=False).encode()
        check(rotation, sum(rotation.points.values()))
        assert not core.rotate(NOW + 10_000, everything=True)

    assert run(target, CORPUS) > len(CORPUS)
