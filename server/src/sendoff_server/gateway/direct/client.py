"""A client whose points are acknowledged: which of them are stored, and which are only in the core yet."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from sendoff_server.intake.client import LIVE, MAX_REFUSED, TAIL_UNKNOWN, Client, Hole
from sendoff_server.spool import ClientState

PATIENCE_S = 120.0
"""How long points that were overtaken may still come before they count as a gap."""


@dataclass(slots=True)
class DirectState(ClientState):
    """As it is stored, with the points that were missing then and may still come: from, up to."""

    holes: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Covered:
    """What is stored of a client's points: all before `next_n` but those in `holes`. `points`, `gap`: how many came,
    and how many will not come any more. `next_n` None: it has not sent any.
    """

    next_n: int | None = None
    points: int = 0
    gap: int = 0
    holes: tuple[tuple[int, int], ...] = ()

    @property
    def n(self) -> int:
        """Every point before this one is stored, or given up."""
        return min([first for first, _ in self.holes], default=self.next_n or 0)


@dataclass(slots=True, eq=False)
class DirectClient(Client):
    """What `state` says of points holds for the core; `covered` says what of that is stored.

    Here a hole is no datagram that overtook another, but a request that takes longer than a later one, and is sent
    again until it is acknowledged: hence the patience.
    """

    patience_s: ClassVar[float] = PATIENCE_S
    covered: Covered = field(default_factory=Covered)
    events_stored: int = 0
    """How many events of it are stored: `state` counts those that wait as well."""
    given: int = 0
    """What number the last entry for a round had that is acknowledged to it."""

    def __post_init__(self) -> None:
        self.covered = self.live()
        self.events_stored = self.state.events

    @classmethod
    def unknown(cls, name: str, now_ms: int) -> Self:
        return cls(DirectState(name, since=now_ms))

    @classmethod
    def stored(cls, state: ClientState, now: float) -> Self:
        if state.state == LIVE:
            state.state = TAIL_UNKNOWN
        holes = state.holes if isinstance(state, DirectState) else []
        until = now + cls.patience_s
        missing = [Hole(first, end, until, now) for first, end in holes]
        refused = deque(state.refused, MAX_REFUSED)
        return cls(state, state.upto, refused, seen=now, counted_at=now, holes=missing)

    @property
    def at_rest(self) -> bool:
        return not self.sessions and not self.holes and self.is_stored

    @property
    def is_stored(self) -> bool:
        """Nothing of it waits to be stored."""
        return self.received == self.state.upto and self.covered == self.live()

    def live(self) -> Covered:
        """What will be stored of its points once the core has handed over all that it has now."""
        holes = tuple((hole.first, hole.end) for hole in self.holes)
        return Covered(self.state.next_n, self.state.points, self.state.gap, holes)

    def copy(self, upto: int) -> DirectState:
        return self.as_of(upto, self.events_stored, self.covered)

    def as_of(self, upto: int, events: int, covered: Covered) -> DirectState:
        """What to store when its frames up to `upto` are stored with it, which makes so many events, and of its points
        what is `covered`.
        """
        state = Client.copy(self, upto)
        assert isinstance(state, DirectState)
        state.next_n, state.points, state.gap = covered.next_n, covered.points, covered.gap
        state.holes, state.events = list(covered.holes), events
        return state

    def fold(self, folded: ClientState) -> None:
        Client.fold(self, folded)
        self.events_stored -= folded.events
        points, gap = self.covered.points - folded.points, self.covered.gap - folded.gap
        self.covered = replace(self.covered, points=points, gap=gap)
