"""The names of secrets that the protocol's vectors list are those that this client hides."""

import json
from pathlib import Path
from typing import Any

import pytest

from sendoff.content.scrub import Scrubber

VECTORS = json.loads((Path(__file__).parents[3] / "protocol/vectors/secrets.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"] or "empty")
def test_a_name_is_hidden_or_not_as_the_vectors_say(case: dict[str, Any]) -> None:
    assert Scrubber().hides(case["input"]) is case["expect"]["hidden"]
