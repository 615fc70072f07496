"""Group commit: durable frames are collected, stored together, and only then acknowledged.

While the spool is full or the disk refuses, what was taken in is kept, bounded, and tried again; nothing is
acknowledged, and beyond the bound the streams are not read any more, so that the clients hold what they have.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sendoff_server.intake.client import Client
from sendoff_server.spool import ClientState, EventIn, Refusal, SpoolFailed, SpoolFull

log = logging.getLogger(__name__)

GROUP_EVENTS = 1_000
GROUP_BYTES = 4 * 1024 * 1024
HIGH_BYTES = 8 * 1024 * 1024
"""From so much that is not stored on, streams are not read; below half of it they are again."""
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 2.0
_ENTRY_BYTES = 256
"""What an entry costs beside its line."""


class Store(Protocol):
    """What is needed of the spool."""

    async def put(
        self, events: Sequence[EventIn], clients: Sequence[ClientState], refusals: Sequence[Refusal]
    ) -> None: ...

    def lose_events(self, by_source: dict[str, int], reason: str) -> None: ...


@dataclass(slots=True)
class _Entry:
    """Something to be stored: an event, of a client or of nobody; or a change of a client's state alone."""

    event: EventIn | None
    client: Client | None
    upto: int
    refusal: Refusal | None = None

    @property
    def size(self) -> int:
        return _ENTRY_BYTES + (len(self.event.line) if self.event else 0)


class Committer:
    """Stores groups, one after the other. `on_pressure` is told to stop reading streams (True) or to go on (False)."""

    def __init__(self, store: Store, on_pressure: Callable[[bool], None], on_stored: Callable[[], None]) -> None:
        self._store = store
        self._on_pressure = on_pressure
        self._on_stored = on_stored
        self._queue: deque[_Entry] = deque()
        self._bytes = 0
        self.given = 0
        """Entries that were ever handed in."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.storing = asyncio.Lock()
        """Held while a group is on its way to the disk and back."""
        self.pressed = False
        self.blocked: str | None = None
        """Why nothing can be stored at the moment, or None."""
        self._reason = "disk_failed"

    def __repr__(self) -> str:
        return f"<Committer {len(self._queue)} waiting, {self._bytes} bytes{', blocked' if self.blocked else ''}>"

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def stored(self) -> int:
        """How many of the entries that were ever handed in are stored."""
        return self.given - len(self._queue)

    def add(self, event: EventIn, client: Client) -> None:
        """An event that is acknowledged to its client once it is stored. Every event can be."""
        self._append(_Entry(event, client, client.received))

    def touch(self, client: Client, refusal: Refusal | None = None) -> None:
        """A client's state changed in a way that is acknowledged once it is stored; maybe by a refusal to be known."""
        self._append(_Entry(None, client, client.received, refusal))

    def holds(self, event: str) -> bool:
        """Whether an event whose sender asked for a receipt is here, and not on the disk yet."""
        return any(entry.event and entry.event.confirm and entry.event.id == event for entry in self._queue)

    def add_unacknowledged(self, event: EventIn) -> None:
        """An event whose sender holds no copy. When there is no room it is lost, and counted."""
        if self.pressed:
            self._store.lose_events({event.source: 1}, self._reason)
        else:
            self._append(_Entry(event, None, 0))

    def _append(self, entry: _Entry) -> None:
        self._queue.append(entry)
        self._bytes += entry.size
        self.given += 1
        self._idle.clear()
        self._wake.set()
        if not self.pressed and self._bytes >= HIGH_BYTES:
            self.pressed = True
            self._on_pressure(True)

    async def run(self) -> None:
        """For ever: store what there is. Ends only by cancellation."""
        delay = RETRY_FIRST_S
        while True:
            await self._wake.wait()
            try:
                async with self.storing:
                    group = self._group()
                    refusals = [entry.refusal for entry in group if entry.refusal]
                    events = [entry.event for entry in group if entry.event]
                    await self._store.put(events, self._states(group), refusals)
                    self._stored(group)
            except (SpoolFull, SpoolFailed) as error:
                self._hold(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_MOST_S)
            else:
                delay = RETRY_FIRST_S

    async def flush(self, seconds: float) -> bool:
        """Wait until everything is stored; False if it was not in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def give_up(self) -> None:
        """At the very end: what nobody else holds and could not be stored is lost, and counted."""
        lost = Counter(entry.event.source for entry in self._queue if entry.event and entry.client is None)
        if lost:
            self._store.lose_events(dict(lost), self._reason)
        self._queue.clear()

    def _group(self) -> list[_Entry]:
        """The front of the queue, as much as one transaction should hold. It stays there until it is stored."""
        group: list[_Entry] = []
        size = 0
        for entry in self._queue:
            if group and (len(group) >= GROUP_EVENTS or size + entry.size > GROUP_BYTES):
                break
            group.append(entry)
            size += entry.size
        return group

    @staticmethod
    def _states(group: list[_Entry]) -> list[ClientState]:
        """Each client of the group as it will be once the group is stored."""
        last = {entry.client: entry.upto for entry in group if entry.client}
        return [client.copy(upto) for client, upto in last.items()]

    def _hold(self, error: SpoolFull | SpoolFailed) -> None:
        self._reason = "spool_full" if isinstance(error, SpoolFull) else "disk_failed"
        if self.blocked is None:
            log.error("nothing is acknowledged until the spool takes it: %s", error)
        self.blocked = str(error)

    def _stored(self, group: list[_Entry]) -> None:
        if self.blocked is not None:
            log.warning("the spool takes events again")
            self.blocked = None
        told: dict[Client, None] = {}
        for entry in group:
            self._queue.popleft()
            self._bytes -= entry.size
            if entry.client is not None:
                entry.client.state.upto = max(entry.client.state.upto, entry.upto)
                told[entry.client] = None
        if not self._queue:
            self._wake.clear()
            self._idle.set()
        if self.pressed and self._bytes < HIGH_BYTES // 2:
            self.pressed = False
            self._on_pressure(False)
        for client in told:
            for session in list(client.sessions):
                session.acknowledge()
        self._on_stored()
