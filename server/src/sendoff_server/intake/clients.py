"""All clients that are known, and which of them go.

Pure state: times are passed in, `now_ms` (Unix ms) only to be shown, `now` (monotonic seconds) for everything that
depends on how long ago something was, so that a jump of the wall clock expires nothing.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from math import inf

import msgspec

from sendoff_server.intake.client import LIVE, MAX_REFUSED, TAIL_UNKNOWN, Client, Hole
from sendoff_server.spool import ClientState

MAX_CLIENTS = 10_000
SILENT_S = 300.0
"""Without a connection and without a word for so long, a client has ended, tail unknown."""
FOLD_S = 3_600.0
"""How long a client that ended is still listed by itself."""
MAX_LEAVING = 1_000
LOOKED_AT = 100
"""Clients that are asked whether they can give way, from the one longest unheard on."""


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
    """All clients that are known, bounded: the one longest unheard gives way, and is stored as ended. `kind`: what they
    are made as.
    """

    def __init__(
        self, stored: Iterable[ClientState], now: float, *, most: int = MAX_CLIENTS, kind: type[Client] = Client
    ) -> None:
        self._most = most
        self._kind = kind
        self._known = {state.client: kind.stored(state, now) for state in stored}
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
        client = self._known.get(name) or self._returning(name) or self._kind.unknown(name, now_ms)
        self.heard(client, now_ms, now)
        return client

    def knows(self, name: str) -> bool:
        return name in self._known or name in self._leaving

    @property
    def has_room(self) -> bool:
        """Whether one more can be known, somebody who was not heard of lately giving way if need be."""
        if len(self._known) < self._most:
            return True
        oldest = islice(self._known.values(), LOOKED_AT)
        return len(self._leaving) < MAX_LEAVING and any(client.at_rest for client in oldest)

    def adopt(self, state: ClientState, now: float) -> None:
        """A client that is not known here, but stored. Where there is no room for it, somebody gives way."""
        if len(self._known) >= self._most:
            self._make_room()
        self._known[state.client] = self._kind.stored(state, now)

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
        return [client.copy(client.state.upto) for client in self.take_changed(most)]

    def take_changed(self, most: int) -> list[Client]:
        """Up to `most` clients whose state the spool does not have yet; they count as unchanged from now on."""
        out: list[Client] = []
        for client in self._known.values():
            if len(out) >= most:
                break
            # What waits to be committed is stored with it: a copy made now could overwrite that with less.
            if client.dirty and client.received == client.state.upto:
                client.dirty = False
                out.append(client)
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

    def forget_refusals(self, most: int) -> None:
        """Keep no more than about `most` refusals of all clients: those longest unheard forget theirs."""
        over = sum(len(client.refused) for client in self._known.values()) - most
        for client in self._known.values():
            if over <= 0:
                break
            if client.at_rest:
                over -= len(client.refused)
                client.refused.clear()
                client.dirty = True

    def _returning(self, name: str) -> Client | None:
        state = self._leaving.pop(name, None)
        return self._kind(state, state.upto, deque(state.refused, MAX_REFUSED)) if state else None

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
