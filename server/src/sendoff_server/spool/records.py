"""What goes into the spool and what comes out of it, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

UNASSIGNED = "unassigned"
"""Stands for the outputs while none is configured."""

Kind = Literal["events", "snapshot"]


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What the spool has to know of an output: its name, its interval, and what it wants."""

    name: str
    interval_ms: int
    events: bool = True
    metrics: bool = True
    gather: bool = False
    """Whether it sends one batch a request, so that small batches of events are to be gathered into larger ones."""


WhenFull = Literal["hold", "drop_oldest", "drop_new"]


@dataclass(frozen=True, slots=True)
class ClassLimit:
    """What one class of data (events, or metrics) may take: bytes of disk, seconds of the agent's running time."""

    bytes: int
    age_s: float
    when_full: WhenFull


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """What a spool may hold. The defaults are those of the settings ``[spool]``."""

    events: ClassLimit = ClassLimit(1536 * 2**20, 30 * 86400.0, "hold")
    metrics: ClassLimit = ClassLimit(512 * 2**20, 30 * 86400.0, "drop_oldest")
    receipts_s: float = 7 * 86400.0

    @property
    def bytes(self) -> int:
        return self.events.bytes + self.metrics.bytes

    @property
    def receipts(self) -> int:
        """How many receipts are kept at most: one for each 8 KiB. Beyond that the oldest go."""
        return self.bytes // 8_192


@dataclass(frozen=True, slots=True)
class EventIn:
    """One event on its way in: a line of wire format section 6 (no LF), its id, and the source it counts for.

    ``confirm``: its sender may ask what became of it (a receipt is kept). ``fold``: the key under which it is only
    counted, because too many like it came within a minute; "" if it is kept by itself. ``client``: who sent it, if a
    Sendoff client did.
    """

    line: bytes
    id: str
    source: str
    confirm: bool = False
    fold: str = ""
    client: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An event that the agent did not take and whose sender asked for a receipt: its id, its client, the reason."""

    event: str
    client: str
    reason: str


@dataclass(slots=True)
class ClientState:
    """What the agent knows of one client (wire format, section 3). Times are Unix ms."""

    client: str
    service: str = ""
    env: str = ""
    release: str = ""
    host: str = ""
    pid: int = 0
    lib: str = ""
    source: str = "unknown"
    upto: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    state: str = "live"
    since: int = 0
    seen: int = 0
    events: int = 0
    points: int = 0
    next_n: int | None = None
    gap: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    folded: dict[str, int] = field(default_factory=dict)
    """Of the totals that it says it dropped, what stands in the totals of its service already."""


class Rotation(Protocol):
    """What the core hands over every second. ``points``: points by source that ``lines`` hold."""

    @property
    def ord(self) -> tuple[int, int]: ...
    @property
    def made_ms(self) -> int: ...
    @property
    def lines(self) -> Sequence[bytes]: ...
    @property
    def points(self) -> Mapping[str, int]: ...
    @property
    def lost(self) -> Mapping[str, Mapping[str, int]]: ...
    @property
    def lines_received(self) -> Mapping[str, int]: ...
    @property
    def lines_rejected(self) -> Mapping[str, Mapping[str, int]]: ...
    @property
    def gauges(self) -> Sequence[bytes]: ...


@dataclass(frozen=True, slots=True)
class Sealed:
    """One sealed batch of one output: it is sent as it is, under its id, until the answer is definite."""

    item: int
    id: str
    kind: Kind
    lines: int
    n: int
    """Events, or points."""
    made_ms: int
    decoded: int
    """Bytes before compression."""
    blob: bytes = field(repr=False)

    @property
    def root(self) -> str:
        """The id of the batch that this is a piece of, or its own."""
        return self.id.partition("/")[0]

    @property
    def half(self) -> bool:
        return "/" in self.id

    def halves(self) -> list[tuple[str, int, int]]:
        """The two pieces it is split into: id, and the slice of its lines. Ids name the lines of the root, from 1."""
        begin = int(self.id.partition("/")[2].partition("-")[0] or 1)
        middle = self.lines // 2
        return [
            (f"{self.root}/{begin + start}-{begin + stop - 1}", start, stop)
            for start, stop in ((0, middle), (middle, self.lines))
        ]


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line (from 1) that the destination refused, with its code and words."""

    line: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has the batch for good, except for the lines it refused."""

    batch: Sealed
    refused: Sequence[RefusedLine] = ()


@dataclass(frozen=True, slots=True)
class Dead:
    """The destination refused the whole batch for good: a dead letter. ``status`` is the HTTP status."""

    batch: Sealed
    status: int
    code: str
    excerpt: bytes


@dataclass(frozen=True, slots=True)
class Split:
    """The destination refused the batch: its halves are tried instead. The batch has two lines or more."""

    batch: Sealed


Settlement = Delivered | Dead | Split
