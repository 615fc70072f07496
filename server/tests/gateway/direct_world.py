"""A store with the direct path over it, below any transport, which can be killed and started again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.gateway import keys, look, metrics
from sendoff_server.gateway.direct import Direct, Project
from sendoff_server.gateway.params import Range
from sendoff_server.gateway.problems import Problem
from sendoff_server.gateway.store import Store, open_store
from sendoff_server.settings import DirectSettings
from sendoff_server.wire.frame import decode_frame

from .support import NOW, Clock, Json


class Wire:
    """A connection of a client, as the ZeroMQ input makes one."""

    def __init__(self, project: Project) -> None:
        self.said: list[Json] = []
        self.closed = self.full = False
        self.session = project.connected("zmq", self)

    def reply(self, data: bytes) -> bool:
        if self.full:
            return False
        self.said.append(msgspec.json.decode(data))
        return True

    def close(self) -> None:
        self.closed = True

    def send(self, *frames: bytes) -> "Wire":
        for one in frames:
            self.session.take(decode_frame(one, datagram=False))
        return self

    async def heard(self, **wanted: Any) -> Json:
        """Wait for an answer that says this."""
        async with asyncio.timeout(10):
            while not any(wanted.items() <= said.items() for said in self.said):
                await asyncio.sleep(0.005)
        return next(said for said in self.said if wanted.items() <= said.items())


class World:
    """A store, and gateways' direct paths over it, one after the other."""

    def __init__(self, folder: Path) -> None:
        keys.create(folder, "shop", now_ms=NOW)
        self.store: Store = open_store(folder)
        self.clock = Clock()
        self.direct = self._start()

    def _start(self) -> Direct:
        made = Direct(
            self.store, DirectSettings(), make_core(Limits()).merge, now=self.clock, running=self.clock.running
        )
        made.start()
        return made

    @property
    def project(self) -> Project:
        return self.direct.project(1)

    def connect(self) -> Wire:
        return Wire(self.project)

    async def kill(self) -> None:
        """As kill -9 and a new start: what is not stored is gone."""
        for project in self.direct._projects.values():
            if project._storing is not None:
                project._storing.cancel()
                await asyncio.wait([project._storing])
                project._storing = None
        await self.direct.stop(0)
        await asyncio.wrap_future(self.store.writer.submit(lambda db: None))
        self.clock.ms += 1_000
        self.direct = self._start()

    async def ask(self, query: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await self.store.readers.read(query, 1, *args, **options)

    async def sum(self, name: str) -> float:
        within = Range(NOW - 86_400_000, NOW + 86_400_000, None)
        try:
            metric, _ = await self.ask(metrics.find, name, None, None)
        except Problem:  # there is none yet
            return 0
        found = await self.ask(metrics.total, metric, within, tags={}, by=None, percentiles=[0.5])
        (one,) = found["totals"]
        return float(one.get("sum", one.get("last", 0)))

    async def events(self) -> int:
        return int((await self.ask(look.counts))["events"])

    async def books(self) -> Json:
        (agent,) = (await self.ask(look.ledger))["agents"]
        assert agent["balanced"], agent
        return dict(agent)

    async def clients(self) -> list[Json]:
        return [memo for memo in (await self.books())["memos"] if memo["memo"] == "client"]


@asynccontextmanager
async def world_in(folder: Path) -> AsyncIterator[World]:
    made = World(folder)
    yield made
    await made.direct.stop(5)
    made.store.close()
