"""Clients that send without an agent, each project by itself: says which project is there, and ticks."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import apsw

from sendoff_server.gateway.direct.limits import Held
from sendoff_server.gateway.direct.project import Project
from sendoff_server.gateway.store import Busy, DiskFailed, Store
from sendoff_server.gateway.store.sql import DIRECT
from sendoff_server.gateway.store.take import Merge

if TYPE_CHECKING:
    from sendoff_server.settings import DirectSettings

log = logging.getLogger(__name__)
TICK_S = 1.0


class Direct:
    """``now``: Unix ms, ``running``: monotonic seconds. ``merge``: used by the store's writer only."""

    def __init__(
        self,
        store: Store,
        settings: "DirectSettings",
        merge: Merge,
        *,
        now: Callable[[], int],
        running: Callable[[], float],
    ) -> None:
        self._store = store
        self._settings = settings
        self._merge = merge
        self._now = now
        self._running = running
        self._projects: dict[int, Project] = {}
        self._held = Held()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Direct {len(self._projects)} projects, {self._held.bytes} bytes wait>"

    def project(self, number: int) -> Project:
        """The project of this number, which a key has named. It takes connections: see `inputs.Intake`."""
        project = self._projects.get(number)
        if project is None:
            project = self._projects[number] = Project(
                number, self._store, self._settings, self._merge, self._held, clock=self._now, running=self._running
            )
        return project

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="gateway-direct")

    async def stop(self, seconds: float) -> None:
        """Store what waits within so many seconds. What is not stored then is still held by who sent it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        projects = list(self._projects.values())
        self._projects.clear()
        done = await asyncio.gather(*(project.close(seconds) for project in projects))
        if not all(done):
            log.error("not everything could be stored; its clients still hold it")

    async def _run(self) -> None:
        await self._reopen()
        while True:
            await asyncio.sleep(TICK_S)
            for number, project in list(self._projects.items()):
                try:
                    await self._tick(number, project)
                except Exception:
                    log.exception("project %d", number)

    async def _tick(self, number: int, project: Project) -> None:
        project.tick()
        if project.is_idle:
            del self._projects[number]
            await project.close()

    async def _reopen(self) -> None:
        """Clients of an earlier run have ended, and are folded into totals in time: that needs their projects."""
        try:
            rows = await self._store.keys.read(_listed)
            for number in rows:
                await self.project(number).open()
        except (Busy, DiskFailed) as error:
            log.warning("projects are opened when their clients come: %s", error)


def _listed(db: apsw.Connection) -> list[int]:
    return [number for (number,) in db.execute(DIRECT["projects_listed"])]
