"""Looks after what waits in the spool: metrics that wait get longer windows, what waited too long is given up."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from sendoff_server.spool import SpoolError

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks when there was nothing to do."""
EXPIRE_S = 60.0
"""Between two looks for what waited too long. It also keeps the running time, by which age is measured."""
SHARE = 0.25
"""How much of the time may be spent merging: it takes turns with everything else on one processor."""


class Waiting(Protocol):
    """What is needed of the spool."""

    async def expire(self) -> int: ...
    async def merge_backlog(self, merge: Callable[..., list[bytes]], most: int = 1) -> int: ...


class Backlog:
    """``merge`` is a core's that nobody else uses, ``running`` gives monotonic seconds."""

    def __init__(self, spool: Waiting, merge: Callable[..., list[bytes]], running: Callable[[], float]) -> None:
        self._spool = spool
        self._merge = merge
        self._running = running
        self._expired_at = running()

    async def run(self) -> None:
        """Until cancelled. A disk that refuses is tried again later."""
        while True:
            try:
                wait = await self.step()
            except SpoolError as error:
                log.warning("what waits in the spool could not be looked after: %s", error)
                wait = LOOK_S
            await asyncio.sleep(wait)

    async def step(self) -> float:
        """Do a little; seconds to wait before the next one. Raises ``SpoolError``."""
        began = self._running()
        if began - self._expired_at >= EXPIRE_S:
            self._expired_at = began
            await self._spool.expire()
        merged = await self._spool.merge_backlog(self._merge)
        return (self._running() - began) * (1 / SHARE - 1) if merged else LOOK_S
