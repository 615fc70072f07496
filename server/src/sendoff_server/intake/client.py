"""One client: what it may be acknowledged, which of its points are missing, what it says it dropped. Pure state.

`now` is monotonic seconds.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from sendoff_server.spool import ClientState

MAX_REFUSED = 1_000
MAX_HOLES = 64
REORDER_S = 2.0
"""How long points that are missing may still come before they count as a gap."""
KERNEL_LAG_S = 2.0
"""How much later than the kernel dropped a datagram the one before it may be read here, or its drop be noticed."""
MAX_REASONS = 32
MAX_REASON = 64
MAX_TOTAL = 2**40
"""What one client may claim as gap or as dropped: more is a lie, and sums of lies must still fit 64 bits."""
ENDED, LIVE, TAIL_UNKNOWN = "ended", "live", "tail unknown"


class Listener(Protocol):
    """A session that is told of its client's acknowledgements."""

    def acknowledge(self) -> None: ...


class Hole(NamedTuple):
    """A range of points that are missing, from `first` up to `end`, and until when they may still come. They went
    missing after `since`, on the datagram input `origin` (empty: on a stream).
    """

    first: int
    end: int
    until: float
    since: float = 0.0
    origin: str = ""


@dataclass(slots=True, eq=False)
class Client:
    """One client. `state` is what the spool has or gets; `state.upto` only ever says what is stored.

    `received` is the highest seq that was taken in, refused or passed over; between `state.upto` and that lies what
    waits to be stored. `refused` holds all refusals, also those that wait. `patience_s`: how long points that are
    missing may still come.
    """

    patience_s: ClassVar[float] = REORDER_S
    state: ClientState
    received: int = 0
    refused: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=MAX_REFUSED))
    sessions: set[Listener] = field(default_factory=set)
    seen: float = 0.0
    dirty: bool = True
    holes: list[Hole] = field(default_factory=list)
    charged: list[Hole] = field(default_factory=list)
    """Holes that were charged since the last tick, which asks whether the kernel had them."""
    counted_at: float = 0.0
    """When the last of its points came, or when this run began, if that was later."""

    @property
    def at_rest(self) -> bool:
        """It has no connection, and nothing of it waits to be stored."""
        return not self.sessions and self.received == self.state.upto

    @property
    def counts(self) -> bool:
        """It has numbers that stand in no total."""
        state = self.state
        return bool(state.events or state.points or state.gap or state.dropped)

    @classmethod
    def unknown(cls, name: str, now_ms: int) -> Self:
        """A client that is heard of for the first time."""
        return cls(ClientState(name, since=now_ms))

    @classmethod
    def stored(cls, state: ClientState, now: float) -> Self:
        """A client of an earlier run: its connections have ended, and nothing more is known."""
        if state.state == LIVE:
            state.state = TAIL_UNKNOWN
        return cls(state, state.upto, deque(state.refused, MAX_REFUSED), seen=now, counted_at=now)

    def hello(self, body: dict[str, Any]) -> None:
        """Take over what a hello says of the client."""
        state = self.state
        for key in ("service", "env", "release", "host", "lib"):
            setattr(state, key, body.get(key) or "")
        state.pid = body.get("pid") or 0
        state.state = LIVE
        self.dirty = True

    def resumes(self, seq: int) -> bool:
        """On this stream its durable frames go on from `seq`. True when it passed some over: that has to be stored."""
        if seq - 1 <= self.received:
            return False
        self.received = seq - 1
        return True

    def arrives(self, seq: int) -> bool:
        """A durable frame with this seq is here. False: it is a repeat. Those that a jump left out are refused."""
        if seq <= self.received:
            return False
        first = max(self.received + 1, seq - MAX_REFUSED)
        self.refused.extend((missing, "missing") for missing in range(first, seq))
        self.received = seq
        return True

    def refuse(self, seq: int, reason: str) -> bool:
        """A durable frame with this seq came and was bad. False: it is a repeat."""
        if not self.arrives(seq):
            return False
        self.refused.append((seq, reason))
        return True

    def points(self, n: int, count: int, now: float, origin: str = "") -> bool:
        """`count` points that follow the first `n`, on the datagram input `origin` if on any. False: they were here
        before and must not count again.

        None at all: the client says its `n` after a silence, so what is missing before has had its time.
        """
        state, end = self.state, n + count
        if state.next_n is None or n == state.next_n:
            state.next_n = end
        elif n > state.next_n:
            self._miss(Hole(state.next_n, n, now + self.patience_s, self.counted_at, origin))
            state.next_n = end
        elif count and not self._fill(n, end) and end <= state.next_n:
            return False
        else:
            state.next_n = max(state.next_n, end)
        if not count and self.holes:
            self.holes = [hole._replace(until=now) if hole.end <= n else hole for hole in self.holes]
        state.points += count
        self.counted_at = now
        self.dirty = True
        return True

    def drops(self, totals: dict[str, int] | None) -> None:
        """Running totals of what the client dropped. Frames may overtake each other: the higher number is the newer."""
        dropped, folded = self.state.dropped, self.state.folded
        for reason, total in (totals or {}).items():
            known = reason in dropped or (len(dropped) < MAX_REASONS and len(reason) <= MAX_REASON)
            own = min(total, MAX_TOTAL) - folded.get(reason, 0)
            if known and own > dropped.get(reason, 0):
                dropped[reason] = own
                self.dirty = True

    def wrote(self, last_seq: int) -> None:
        """On its stream nothing follows `last_seq`: what is not here of its durable frames is missing."""
        if self.arrives(last_seq + 1):
            self.received = last_seq

    def bye(self, body: dict[str, Any], now: float, origin: str = "") -> None:
        """It has ended. Points that are not here may still be on the way, for a moment."""
        next_n = self.state.next_n
        if next_n is not None and body["last_n"] > next_n:
            self._miss(Hole(next_n, body["last_n"], now + self.patience_s, self.counted_at, origin))
        self.state.next_n = max(next_n or 0, body["last_n"])
        self.drops(body.get("dropped"))
        self.state.state = ENDED
        self.dirty = True

    def settle(self, now: float) -> None:
        """Charge the points whose time to come has passed."""
        late = [hole for hole in self.holes if hole.until <= now]
        if late:
            self.holes = [hole for hole in self.holes if hole.until > now]
            for hole in late:
                self._charge(hole)

    def in_kernel(self, dropped_at: Mapping[str, float]) -> Iterator[tuple[str, int]]:
        """Of what was charged since the last tick: how many points the kernel dropped, by input. `dropped_at`: when it
        last did. It says of datagrams only how many, so this is whatever went missing while it was dropping some.
        """
        for hole in self.charged:
            if dropped_at.get(hole.origin, -inf) >= hole.since - KERNEL_LAG_S:
                yield hole.origin, hole.end - hole.first
        self.charged.clear()

    def fold(self, folded: ClientState) -> None:
        """These of its numbers stand in the totals of its service now."""
        state = self.state
        state.events -= folded.events
        state.points -= folded.points
        state.gap -= folded.gap
        for reason, n in folded.dropped.items():
            state.folded[reason] = state.folded.get(reason, 0) + n
            state.dropped[reason] -= n
        state.dropped = {reason: n for reason, n in state.dropped.items() if n}
        self.dirty = True

    def copy(self, upto: int) -> ClientState:
        """What to store when everything up to `upto` is stored with it."""
        refused = [entry for entry in self.refused if entry[0] <= upto]
        state = self.state
        return replace(state, upto=upto, refused=refused, dropped=dict(state.dropped), folded=dict(state.folded))

    def refusals(self, after: int) -> list[tuple[int, str]]:
        """Refusals above `after` that are stored."""
        return [entry for entry in self.refused if after < entry[0] <= self.state.upto]

    def _miss(self, hole: Hole) -> None:
        self.holes.append(hole)
        if len(self.holes) > MAX_HOLES:
            self._charge(self.holes.pop(0))

    def _charge(self, hole: Hole) -> None:
        self.state.gap = min(self.state.gap + hole.end - hole.first, MAX_TOTAL)
        self.dirty = True
        if hole.origin and len(self.charged) < MAX_HOLES:
            self.charged.append(hole)

    def _fill(self, first: int, end: int) -> bool:
        """Take what lies from `first` to `end` out of the holes. False when no hole has any of it."""
        left: list[Hole] = []
        filled = False
        for hole in self.holes:
            if first >= hole.end or end <= hole.first:
                left.append(hole)
                continue
            filled = True
            left += [hole._replace(first=a, end=b) for a, b in ((hole.first, first), (end, hole.end)) if a < b]
        self.holes = left
        return filled
