"""Each place of a spool and of its log, damaged in three ways: it starts, loses only what it says, and goes on."""

import os
from pathlib import Path

import pytest

from sendoff_server.spool import database

from .sweep import FILES, Way, damage, look, make_sample

STRIDE = int(os.environ.get("SWEEP_STRIDE", "0"))
"""Bytes between two places; 0: as many as fit into a test run. 1 takes an hour or two."""
PLACES = 40


@pytest.mark.timeout(0 if STRIDE else 120)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", ["flip", "truncate", "zero"])
async def test_damage_at_any_place_costs_only_what_is_said_to_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, way: Way
) -> None:
    monkeypatch.setattr(database, "PAGE_BYTES", 1_024)
    sample = await make_sample(tmp_path / "made")
    assert await look(tmp_path / "whole", sample, sample.files) == []
    size = len(sample.files[name])
    stride = STRIDE or max(1, size // PLACES - 1)
    wrong: dict[int, list[str]] = {}
    for place in range(0, size, stride):
        try:
            said = await look(tmp_path / "broken", sample, damage(sample.files, name, place, way))
        except Exception as error:
            said = [f"{type(error).__name__}: {error}"]
        if name == "spool.db-wal" and way == "truncate":
            # A log that ends too early looks like one that never was longer.
            said = [each for each in said if "nobody says so" not in each]
        if said:
            wrong[place] = said
    assert wrong == {}
