"""What is known of each client: what it may be acknowledged, which of its points are missing, what it says it dropped.

Pure state: times are passed in, `now_ms` (Unix ms) only to be shown, `now` (monotonic seconds) for everything that
depends on how long ago something was, so that a jump of the wall clock expires nothing.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, NamedTuple, Protocol

import msgspec

from sendoff_server.spool import ClientState

MAX_REFUSED = 1_000
MAX_HOLES = 64
REORDER_S = 2.0
"""How long points that are missing may still come before they count as a gap."""
MAX_CLIENTS = 10_000
KERNEL_LAG_S = 2.0
"""How much later than the kernel dropped a datagram the one before it may be read here, or its drop be noticed."""
SILENT_S = 300.0
"""Without a connection and without a word for so long, a client has ended, tail unknown."""
FOLD_S = 3_600.0
"""How long a client that ended is still listed by itself."""
MAX_REASONS = 32
MAX_REASON = 64
MAX_LEAVING = 1_000
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
    waits to be stored. `refused` holds all refusals, also those that wait.
    """

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
    def stored(cls, state: ClientState, now: float) -> "Client":
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
            self._miss(Hole(state.next_n, n, now + REORDER_S, self.counted_at, origin))
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
            self._miss(Hole(next_n, body["last_n"], now + REORDER_S, self.counted_at, origin))
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


class KeptClient(msgspec.Struct):
    """What goes from one run to the next beside the spool. Seconds: how long it was silent, and since the last of its
    points; times of holes from now.
    """

    client: str
    live: bool
    silent_s: float
    holes: list[Hole]
    counted_s: float = 0.0


class Clients:
    """All clients that are known, bounded: the one longest unheard gives way, and is stored as ended."""

    def __init__(self, stored: Iterable[ClientState], now: float, *, most: int = MAX_CLIENTS) -> None:
        self._most = most
        self._known = {state.client: Client.stored(state, now) for state in stored}
        self._leaving: dict[str, ClientState] = {}
        self.untracked = 0
        """Frames of clients for which there was no room: taken, but with nothing known of what came before."""
        self.in_kernel: Counter[str] = Counter()
        """Points in gaps that the kernel had dropped, by input."""

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._known.values())

    def get(self, name: str, now_ms: int, now: float) -> Client:
        """The client of this name, made if it is not known; it counts as heard of now."""
        client = self._known.get(name) or self._returning(name) or Client(ClientState(name, since=now_ms))
        self.heard(client, now_ms, now)
        return client

    def keep(self, now: float) -> list[KeptClient]:
        """What the spool does not know of clients that are live, or whose points may still come."""
        return [
            KeptClient(
                client.state.client,
                client.state.state == LIVE,
                now - client.seen,
                [hole._replace(until=hole.until - now, since=hole.since - now) for hole in client.holes],
                now - client.counted_at,
            )
            for client in self._known.values()
            if client.state.state == LIVE or client.holes
        ]

    def resume(self, kept: Iterable[KeptClient], now: float) -> None:
        """Go on with clients of the run before in this process: they did not end with it."""
        for each in kept:
            if client := self._known.get(each.client):
                client.seen, client.counted_at = now - each.silent_s, now - each.counted_s
                client.holes = [hole._replace(until=now + hole.until, since=now + hole.since) for hole in each.holes]
                if each.live and client.state.state == TAIL_UNKNOWN:
                    client.state.state = LIVE

    def heard(self, client: Client, now_ms: int, now: float) -> None:
        """It said something. If there was no room for it before, there may be now."""
        known = self._known.pop(client.state.client, None)
        if known is None and len(self._known) >= self._most and not self._make_room():
            self.untracked += 1
        else:
            self._known[client.state.client] = known or client  # in the order of being heard of
        client.seen, client.state.seen = now, now_ms
        if client.state.state == TAIL_UNKNOWN:
            client.state.state = LIVE
            client.dirty = True

    @property
    def crowded(self) -> bool:
        """Clients had to give way: fold them, to make room for more."""
        return bool(self._leaving)

    def lost(self, client: Client) -> None:
        """The last connection of a client ended without bye."""
        if not client.sessions and client.state.state == LIVE:
            client.state.state = TAIL_UNKNOWN
            client.dirty = True

    def tick(self, now: float, dropped_at: Mapping[str, float]) -> None:
        """Once a second: charge gaps, and see who has been silent too long. `dropped_at`: when the kernel last dropped
        datagrams, by input.
        """
        self.settle(now, dropped_at)
        for client in self._known.values():
            if now - client.seen > SILENT_S:
                self.lost(client)

    def settle(self, now: float, dropped_at: Mapping[str, float]) -> None:
        """Charge the points whose time to come has passed; with `now` infinite all, as nobody will come any more."""
        for client in self._known.values():
            if client.holes:
                client.settle(now)
            if client.charged:
                for origin, points in client.in_kernel(dropped_at):
                    self.in_kernel[origin] += points

    def changed(self, most: int) -> list[ClientState]:
        """Up to `most` states that the spool does not have yet, as copies; what it has not stored is not in them."""
        out: list[ClientState] = []
        for client in self._known.values():
            if len(out) >= most:
                break
            # What waits to be committed is stored with it: a copy made now could overwrite that with less.
            if client.dirty and client.received == client.state.upto:
                client.dirty = False
                out.append(client.copy(client.state.upto))
        return out

    def again(self, states: Iterable[ClientState]) -> None:
        """These were not stored after all."""
        for state in states:
            if client := self._known.get(state.client):
                client.dirty = True

    def to_fold(self, now: float) -> list[ClientState]:
        """States to be folded into their service's totals: ended long ago, or given up for want of room.

        Their `seen` is 0 in these copies, so that folding what was seen before 1 ms takes these and no others.
        """
        old = [
            client.copy(client.state.upto)
            for client in self._known.values()
            if client.state.state != LIVE and now - client.seen > FOLD_S and client.at_rest
        ]
        leaving = [replace(state, dropped=dict(state.dropped)) for state in self._leaving.values()]
        return [replace(state, seen=0) for state in [*old, *leaving]]

    def folded(self, states: Iterable[ClientState]) -> None:
        """These copies of `to_fold` stand in the totals now."""
        for state in states:
            self._leaving.pop(state.client, None)
            if client := self._known.get(state.client):
                client.fold(state)  # what is left came meanwhile, and goes on from here
                if client.at_rest and client.state.state != LIVE and not client.counts:
                    del self._known[state.client]

    def _returning(self, name: str) -> Client | None:
        state = self._leaving.pop(name, None)
        return Client(state, state.upto, deque(state.refused, MAX_REFUSED)) if state else None

    def _make_room(self) -> bool:
        if len(self._leaving) >= MAX_LEAVING:  # they are folded once a second; until then this is a flood
            return False
        for name, client in self._known.items():
            if client.at_rest:
                self.lost(client)
                client.settle(inf)
                self._leaving[name] = client.copy(client.state.upto)
                del self._known[name]
                return True
        return True
