"""Whatever bytes arrive as a snapshot line: refused by name, or a line that can be merged and read for ever."""

from __future__ import annotations

import json
from pathlib import Path

from sendoff_server.aggregate import Limits, SnapshotError, make_core
from tests.fuzz.mutate import run

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"
CASES = json.loads((VECTORS / "snapshots.json").read_text())["cases"]
CORPUS = [line.encode() for case in CASES for line in case["expect"].get("lines", [])]
CORPUS += [case["input"].encode() for case in CASES if "input" in case]


def test_a_line_is_refused_by_name_or_can_be_merged_and_read_again() -> None:
    core = make_core(Limits())

    def target(data: bytes) -> None:
        try:
            series = core.decode(data)
        except SnapshotError as error:
            if not (0 < len(error.field) <= 64 and 0 < len(error.detail) <= 300):
                raise
            return
        line = series.encode()
        assert core.decode(line).encode() == line
        merged = core.merge([[line, data], [line] * 3], 10_000)
        assert len(merged) == 1
        assert core.merge([merged], 1) == merged

    # short lines first: a set of 1,025 members is 20 kB of base64, in which mutations find little
    assert run(target, sorted(CORPUS, key=len)[:-8]) > len(CORPUS)
