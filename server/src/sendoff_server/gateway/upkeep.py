"""What happens in the background: old windows are merged to longer ones, what is older than its retention goes.

Merging keeps totals: counters, distributions and sets lose nothing but detail in time, and every step is one small
transaction in which the longer window replaces the shorter ones, so a crash leaves either. Steps are short because they
share the one writer with those who send.

Ages are reckoned by the store's own running time, from its newest row on: a clock that jumps deletes nothing, and what
is kept does not grow old while the gateway is off.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apsw

from sendoff_server.gateway.store import Store
from sendoff_server.gateway.store.sql import QUERIES
from sendoff_server.gateway.store.take import Merge

if TYPE_CHECKING:
    from sendoff_server.settings import RetentionSettings

log = logging.getLogger(__name__)

MINUTE, TEN_MINUTES = 60_000, 600_000
LEAST_DEDUPE_S = 30 * 86_400
"""Repeats are recognised at least this long: an agent may sit on a full spool for weeks."""
ROWS_A_STEP = 1_000
SERIES_A_STEP = 200
PAUSE = 300.0
"""Seconds between two passes."""


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """What is older goes or is merged. Unix ms."""

    raw: int
    minute: int
    ten_minutes: int
    events: int
    dedupe: int


class Upkeep:
    """Runs passes until stopped. ``dedupe_s``: how long repeats are recognised, in seconds."""

    def __init__(
        self,
        store: Store,
        keep: "RetentionSettings",
        merge: Merge,
        *,
        now: Callable[[], int],
        running: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._keep = keep
        self._merge = merge
        self._now = now
        self._running = running
        self._began: tuple[int, float] | None = None
        self._task: asyncio.Task[None] | None = None
        self.dedupe_s = int(max(keep.events, LEAST_DEDUPE_S))

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="gateway-upkeep")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.once()
            except Exception:
                log.exception("cleaning up failed; the next try is in %g s", PAUSE)
            await asyncio.sleep(PAUSE)

    async def once(self) -> None:
        """One pass over everything."""
        now = await self._reckoned()
        ages = (self._keep.raw, self._keep.minute, self._keep.ten_minutes, self._keep.events, self.dedupe_s)
        cut = Cutoffs(*(now - int(age * 1000) for age in ages))
        for name, before in (
            ("drop_old_events", cut.events),
            ("drop_old_event_ids", cut.dedupe),
            ("drop_old_batches", cut.dedupe),
            ("drop_old_ledgers", cut.events),
            ("drop_old_clients", cut.dedupe),
        ):
            while await self._write(_drop, name, before):
                pass
        while await self._write(_drop_groups, cut.events):
            pass
        last = 0
        while last is not None:
            last = await self._write(self._series_step, last, cut)
        await self._write(lambda db: db.execute("PRAGMA incremental_vacuum(2000)").fetchall())

    async def _reckoned(self) -> int:
        """The time that ages are counted from, in Unix ms: what the newest row says, and how long this ran since."""
        if self._began is None:
            newest = await self._write(lambda db: db.execute(QUERIES["newest_received"]).get)
            now = self._now()
            self._began = (now if newest is None else min(now, newest), self._running())
        at, running = self._began
        return at + int((self._running() - running) * 1000)

    async def _write(self, step: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.wrap_future(self._store.writer.submit(lambda db: step(db, *args), frees=True))

    def _series_step(self, db: apsw.Connection, after: int, cut: Cutoffs) -> int | None:
        """Some series from number ``after`` on; gives the number to go on from, None at the end."""
        rows = 0
        series = list(db.execute(QUERIES["series_after"], (after, SERIES_A_STEP)))
        for number, *_ in series:
            rows += merge_windows(db, number, cut.raw, MINUTE, self._merge, ROWS_A_STEP)
            rows += merge_windows(db, number, cut.minute, TEN_MINUTES, self._merge, ROWS_A_STEP)
            db.execute(QUERIES["drop_old_windows"], (number, cut.ten_minutes, ROWS_A_STEP))
            rows += db.changes()
            db.execute(QUERIES["drop_old_series"], (number, cut.ten_minutes))
            if rows >= ROWS_A_STEP:
                return int(number) - 1  # there may be more of this series
        return int(series[-1][0]) if series else None


def merge_windows(db: apsw.Connection, series: int, before: int, length: int, merge: Merge, most: int) -> int:
    """Merge windows shorter than ``length`` ms that lie wholly before ``before``; gives how many there were.

    Each agent's windows stay apart, so that gauges can still be told by agent.
    """
    before -= before % length
    starts = [start for (start,) in db.execute(QUERIES["windows_to_merge"], (series, before, length, most))]
    for bucket in sorted({start - start % length for start in starts}):
        rows = list(db.execute(QUERIES["windows_in_bucket"], (series, bucket, length)))
        for agent in {agent for _, _, agent, _ in rows}:
            own = [(start, short, line) for start, short, of, line in rows if of == agent]
            (line,) = merge([[line] for *_, line in own], length)
            for start, short, _ in own:
                db.execute(QUERIES["drop_window"], (series, start, short, agent))
            db.execute(QUERIES["put_window"], (series, bucket, length, agent, line))
    return len(starts)


def _drop(db: apsw.Connection, name: str, before: int) -> bool:
    db.execute(QUERIES[name], (before, ROWS_A_STEP))
    return db.changes() == ROWS_A_STEP


def _drop_groups(db: apsw.Connection, before: int) -> bool:
    groups = list(db.execute(QUERIES["old_groups"], (before, 100)))
    for key in groups:
        for name in ("drop_group_users", "drop_group_releases", "drop_group"):
            db.execute(QUERIES[name], key)
    return len(groups) == 100
