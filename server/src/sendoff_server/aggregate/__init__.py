"""Aggregation: metric lines in, mergeable snapshots of time windows out. `contract.Core` says what a core promises."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sendoff_server.aggregate.contract import Core, Found, Limits, Rotation, Stats
from sendoff_server.aggregate.core import PythonCore
from sendoff_server.aggregate.histogram import Distribution
from sendoff_server.aggregate.hyperloglog import Distinct
from sendoff_server.aggregate.scalar import Counter, Gauge
from sendoff_server.aggregate.snapshot import Series, SnapshotError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Core",
    "Counter",
    "Distinct",
    "Distribution",
    "Found",
    "Gauge",
    "Limits",
    "Rotation",
    "Series",
    "SnapshotError",
    "Stats",
    "make_core",
]


def make_core(limits: Limits, gauges: Iterable[bytes] = (), ord: tuple[int, int] = (0, 0)) -> Core:
    """The core that SENDOFF_CORE names ("python", which is the default, or "rust").

    `gauges` are the rows that earlier rotations gave (`Rotation.gauges`), the newest of each key; `ord` is the agent's
    epoch and the number of the next window. Raises RuntimeError for a core that is not there.
    """
    wanted = os.environ.get("SENDOFF_CORE") or "python"
    if wanted == "python":
        return PythonCore(limits, gauges, ord)
    if wanted == "rust":
        raise RuntimeError("SENDOFF_CORE=rust: this installation has no Rust core; unset SENDOFF_CORE to run in Python")
    raise RuntimeError(f"SENDOFF_CORE={wanted}: there is no such core; use python or rust, or unset it")
