"""Every test here that asks for `make` runs over each core there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sendoff_server.aggregate import Limits, make_core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sendoff_server.aggregate import Core

CORES = ["python"]


@pytest.fixture(params=CORES)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Core]:
    """A function that makes a core: limits as keywords, and gauges and ord as `make_core` takes them."""
    monkeypatch.setenv("SENDOFF_CORE", request.param)

    def build(gauges: Iterable[bytes] = (), ord: tuple[int, int] = (7, 1), **limits: object) -> Core:
        return make_core(Limits(**limits), gauges, ord)  # type: ignore[arg-type]

    return build
