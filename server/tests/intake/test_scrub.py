"""The second look at secrets knows the names that the protocol's vectors list."""

import json
from pathlib import Path
from typing import Any

import pytest

from sendoff_server.intake.scrub import HIDDEN, hides, scrub

VECTORS = json.loads((Path(__file__).parents[3] / "protocol/vectors/secrets.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"] or "empty")
def test_a_name_is_hidden_or_not_as_the_vectors_say(case: dict[str, Any]) -> None:
    assert hides(case["input"]) is case["expect"]["hidden"]


def test_what_stands_under_a_secret_name_is_hidden_at_any_depth() -> None:
    value = {"form": [{"card_number": "4111", "keep": 1}], "cvc": {"a": 1}}
    assert scrub(value) == {"form": [{"card_number": HIDDEN, "keep": 1}], "cvc": HIDDEN}
