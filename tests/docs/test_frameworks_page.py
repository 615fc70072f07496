"""docs/frameworks.md shows what the examples are, which tests/docs/test_examples.py runs."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import page

SHOWN = re.findall(
    r"<!-- part of: (\S+) -->\n```python\n(.*?)^```$", page("docs/frameworks.md"), re.MULTILINE | re.DOTALL
)


def test_each_framework_shows_its_example() -> None:
    assert [place.split("/")[1] for place, _ in SHOWN] == ["flask_hello", "django_hello", "asgi_hello"]


@pytest.mark.parametrize(("place", "code"), SHOWN, ids=[place for place, _ in SHOWN])
def test_what_is_shown_stands_in_the_example(place: str, code: str) -> None:
    assert code in page(place)
