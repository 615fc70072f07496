"""What every core promises, whatever it is written in: its values, its limits, its methods.

A core takes metric lines in, adds them up in windows of one second, and hands the finished windows over as snapshot
lines. It knows no socket, no disk and no clock: the time is passed in. All times are Unix milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sendoff_server.aggregate.snapshot import Series

GaugeMinus = Literal["auto", "set", "subtract"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one core: the table of wire-format.md section 8, as far as lines and series go.

    `gauge_minus` says what `-5|g` means outside Sendoff frames: "auto" subtracts once the series ever got a `+`.
    A series that got nothing for `idle_ms` gives its place free; the last value of its gauge stays.
    """

    max_series: int = 50_000
    overflow_names: int = 1_000
    stamped_windows: int = 600
    gauge_minus: GaugeMinus = "auto"
    idle_ms: int = 600_000


@dataclass(frozen=True, slots=True)
class Found:
    """An event (`_e{}`) or a service check (`_sc`) found among the lines; `t` is when it says it happened.

    `name` has 1 to 200 bytes; what was longer stands whole in `fields["title"]`. A tag key that came with several
    values has them joined by commas.
    """

    kind: Literal["event", "check"]
    name: str
    fields: dict[str, object]
    tags: dict[str, str]
    t: int | None
    host: str | None


@dataclass(slots=True)
class Rotation:
    """The windows that ended, and everything that was counted since the rotation before. False when there is nothing.

    `points` are those held by `lines`, by source; `lost` are points that were received and will be in no snapshot:
    received = points + lost. Only lines use up a number of `ord`, so what is journaled has no gaps. `gauges` are
    `key NUL state`, for the store to keep by key; an empty state means that the key is forgotten.
    """

    ord: tuple[int, int]
    made_ms: int
    lines: list[bytes] = field(default_factory=list)
    points: dict[str, int] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    lines_received: dict[str, int] = field(default_factory=dict)
    lines_rejected: dict[str, dict[str, int]] = field(default_factory=dict)
    gauges: list[bytes] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lines or self.points or self.lost or self.lines_received or self.gauges)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a core can say about itself.

    `overflow` are the worst offenders against the limit of series: the name and how many points were folded or lost.
    `notes` counts repairs since the start; `last_rejected` is the newest rejected line, scrubbed, with its reason.
    """

    core: str
    series: int
    gauges: int
    windows: int
    overflow: list[tuple[str, int]]
    notes: dict[str, int]
    last_rejected: tuple[str, str] | None


class Core(Protocol):
    """One core. Calls must not overlap: whoever owns it calls it from one thread at a time."""

    name: str

    def feed(
        self,
        lines: bytes,
        source: str,
        tags: Sequence[tuple[str, str]],
        now_ms: int,
        *,
        framed: bool = False,
        cut: bool = False,
        t: int | None = None,
    ) -> list[Found]:
        """Take in the lines of one datagram, unit or read; never raises on any bytes.

        `tags` are given to points that have no tag of that key. `framed`: the lines came in a Sendoff frame, so
        `-5|g` sets. `cut`: the last line was cut off. `t`: the points were held back since then and belong to that
        window. A payload of another protocol from a source named in DATAGRAM_SOURCES counts as one rejected line.
        """
        ...

    def rotate(self, now_ms: int, *, everything: bool = False) -> Rotation:
        """Hand over every window that is over (with `everything`, all) and what was counted since the last call."""
        ...

    def merge(self, snapshots: Iterable[Iterable[bytes]], length_ms: int) -> list[bytes]:
        """Merge snapshots to windows of `length_ms`, whatever their order and grouping. Raises SnapshotError."""
        ...

    def decode(self, line: bytes) -> Series:
        """Read one snapshot line. Raises SnapshotError, which names the field."""
        ...

    def stats(self) -> Stats: ...


DATAGRAM_SOURCES = frozenset({"statsd/udp", "statsd/unix_datagram"})
