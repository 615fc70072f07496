"""What is known of each client: what it may be acknowledged, which of its points are missing, what it says it dropped.

Pure state: times are passed in, `now_ms` (Unix ms) only to be shown, `now` (monotonic seconds) for everything that
depends on how long ago something was, so that a jump of the wall clock expires nothing.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from sendoff_server.spool import ClientState

MAX_REFUSED = 1_000
MAX_HOLES = 64
REORDER_S = 2.0
"""How long points that are missing may still come before they count as a gap."""
MAX_CLIENTS = 10_000
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
    holes: list[tuple[int, int, float]] = field(default_factory=list)
    """Ranges of points that are missing: first, end, and until when they may still come."""

    @property
    def at_rest(self) -> bool:
        """It has no connection, and nothing of it waits to be stored."""
        return not self.sessions and self.received == self.state.upto

    @classmethod
    def stored(cls, state: ClientState, now: float) -> "Client":
        """A client of an earlier run: its connections have ended, and nothing more is known."""
        if state.state == LIVE:
            state.state = TAIL_UNKNOWN
        return cls(state, state.upto, deque(state.refused, MAX_REFUSED), seen=now)

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

    def points(self, n: int, count: int, now: float) -> bool:
        """`count` points that follow the first `n`. False: they were here before and must not count again."""
        state, end = self.state, n + count
        if state.next_n is None or n == state.next_n:
            state.next_n = end
        elif n > state.next_n:
            self._miss(state.next_n, n, now)
            state.next_n = end
        elif not self._fill(n, end) and end <= state.next_n:
            return False
        else:
            state.next_n = max(state.next_n, end)
        state.points += count
        self.dirty = True
        return True

    def drops(self, totals: dict[str, int] | None) -> None:
        """Running totals of what the client dropped. Frames may overtake each other: the higher number is the newer."""
        dropped = self.state.dropped
        for reason, total in (totals or {}).items():
            known = reason in dropped or (len(dropped) < MAX_REASONS and len(reason) <= MAX_REASON)
            if known and total > dropped.get(reason, 0):
                dropped[reason] = min(total, MAX_TOTAL)
                self.dirty = True

    def wrote(self, last_seq: int) -> None:
        """On its stream nothing follows `last_seq`: what is not here of its durable frames is missing."""
        if self.arrives(last_seq + 1):
            self.received = last_seq

    def bye(self, body: dict[str, Any], now: float) -> None:
        """It has ended. Points that are not here may still be on the way, for a moment."""
        next_n = self.state.next_n
        if next_n is not None and body["last_n"] > next_n:
            self._miss(next_n, body["last_n"], now)
        self.state.next_n = max(next_n or 0, body["last_n"])
        self.drops(body.get("dropped"))
        self.state.state = ENDED
        self.dirty = True

    def settle(self, now: float) -> None:
        """Charge the points whose time to come has passed."""
        late = [hole for hole in self.holes if hole[2] <= now]
        if late:
            self._charge(sum(end - first for first, end, _ in late))
            self.holes = [hole for hole in self.holes if hole[2] > now]
            self.dirty = True

    def copy(self, upto: int) -> ClientState:
        """What to store when everything up to `upto` is stored with it."""
        refused = [entry for entry in self.refused if entry[0] <= upto]
        return replace(self.state, upto=upto, refused=refused, dropped=dict(self.state.dropped))

    def refusals(self, after: int) -> list[tuple[int, str]]:
        """Refusals above `after` that are stored."""
        return [entry for entry in self.refused if after < entry[0] <= self.state.upto]

    def _miss(self, first: int, end: int, now: float) -> None:
        self.holes.append((first, end, now + REORDER_S))
        if len(self.holes) > MAX_HOLES:
            oldest = self.holes.pop(0)
            self._charge(oldest[1] - oldest[0])

    def _charge(self, points: int) -> None:
        self.state.gap = min(self.state.gap + points, MAX_TOTAL)

    def _fill(self, first: int, end: int) -> bool:
        """Take what lies from `first` to `end` out of the holes. False when no hole has any of it."""
        left: list[tuple[int, int, float]] = []
        filled = False
        for hole_first, hole_end, until in self.holes:
            if first >= hole_end or end <= hole_first:
                left.append((hole_first, hole_end, until))
                continue
            filled = True
            left += [(a, b, until) for a, b in ((hole_first, first), (end, hole_end)) if a < b]
        self.holes = left
        return filled


class KeptClient(msgspec.Struct):
    """What goes from one run to the next beside the spool. Seconds: how long it was silent, how long holes may last."""

    client: str
    live: bool
    silent_s: float
    holes: list[tuple[int, int, float]]


class Clients:
    """All clients that are known, bounded: the one longest unheard gives way, and is stored as ended."""

    def __init__(self, stored: Iterable[ClientState], now: float, *, most: int = MAX_CLIENTS) -> None:
        self._most = most
        self._known = {state.client: Client.stored(state, now) for state in stored}
        self._leaving: dict[str, ClientState] = {}
        self.untracked = 0
        """Frames of clients for which there was no room: taken, but with nothing known of what came before."""

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
                [(first, end, until - now) for first, end, until in client.holes],
            )
            for client in self._known.values()
            if client.state.state == LIVE or client.holes
        ]

    def resume(self, kept: Iterable[KeptClient], now: float) -> None:
        """Go on with clients of the run before in this process: they did not end with it."""
        for each in kept:
            if client := self._known.get(each.client):
                client.seen = now - each.silent_s
                client.holes = [(first, end, now + left) for first, end, left in each.holes]
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

    def tick(self, now: float) -> None:
        """Once a second: charge gaps, and see who has been silent too long."""
        for client in self._known.values():
            if client.holes:
                client.settle(now)
            if now - client.seen > SILENT_S:
                self.lost(client)

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
        return [replace(state, seen=0) for state in [*old, *self._leaving.values()]]

    def folded(self, names: Iterable[str]) -> None:
        for name in names:
            self._leaving.pop(name, None)
            client = self._known.get(name)
            if client is None:
                continue
            if client.at_rest:
                del self._known[name]
            else:  # it came back meanwhile: what it had sent before stands in the totals now
                client.state.events = client.state.points = client.state.gap = 0
                client.dirty = True

    def _returning(self, name: str) -> Client | None:
        state = self._leaving.pop(name, None)
        return Client(state, state.upto, deque(state.refused, MAX_REFUSED)) if state else None

    def _make_room(self) -> bool:
        if len(self._leaving) >= MAX_LEAVING:  # they are folded once a second; until then this is a flood
            return False
        for name, client in self._known.items():
            if client.at_rest:
                self.lost(client)
                self._leaving[name] = client.copy(client.state.upto)
                del self._known[name]
                return True
        return True
