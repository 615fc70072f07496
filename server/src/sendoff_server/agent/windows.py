"""The windows' way to the spool: rotated each second, journaled in order, kept for a while when the disk refuses."""

import logging
from collections import deque
from typing import Protocol

from sendoff_server.aggregate import Core, Rotation
from sendoff_server.spool import SpoolFailed

log = logging.getLogger(__name__)

MAX_HELD = 60
"""Rotations (seconds) that are kept while the disk refuses them; the oldest beyond is lost, and counted."""


class Journal(Protocol):
    """What is needed of the spool."""

    async def journal(self, rotation: Rotation) -> None: ...

    def lose(self, rotation: Rotation, reason: str = "disk_failed") -> None: ...


class Windows:
    """Takes what the core has finished to the journal."""

    def __init__(self, core: Core, journal: Journal) -> None:
        self._core = core
        self._journal = journal
        self._held: deque[Rotation] = deque()

    @property
    def open(self) -> int:
        """Windows that hold points and are not journaled yet."""
        return self._core.stats().windows + len(self._held)

    @property
    def held(self) -> int:
        """Rotations that the disk has not taken."""
        return len(self._held)

    async def turn(self, now_ms: int, *, everything: bool = False) -> None:
        """Journal every window that is over; with `everything` all. What the disk refuses is tried again next time."""
        rotation = self._core.rotate(now_ms, everything=everything)
        if rotation:
            self._held.append(rotation)
        try:
            while self._held:
                await self._journal.journal(self._held[0])
                self._held.popleft()
        except SpoolFailed as error:
            log.error("%d windows wait for the disk: %s", len(self._held), error)
            while len(self._held) > MAX_HELD:
                self._journal.lose(self._held.popleft())

    def give_up(self) -> None:
        """At the very end: what the disk did not take is lost, and counted."""
        while self._held:
            self._journal.lose(self._held.popleft())
