"""``POST /v1/batches``: read within limits, look at every line, store in one transaction, answer after the commit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import apsw
from aiohttp import web

from sendoff_server.gateway import access, keys
from sendoff_server.gateway.body import Bodies
from sendoff_server.gateway.check import Checked, check_batches
from sendoff_server.gateway.problems import Problem
from sendoff_server.gateway.store import Store
from sendoff_server.gateway.store.sql import QUERIES
from sendoff_server.gateway.store.take import Merge, Result, Taker
from sendoff_server.wire.batch import CONTENT_TYPE, DEFAULT, decode_body
from sendoff_server.wire.batch_frame import encode_results

DECODED_HELD = 134_217_728
"""About how many bytes decoded bodies may take until they are stored; beyond, no other is decoded. A few thousand bytes
on the wire can become 64 MiB."""
LINE_COSTS = 500
"""Bytes that a line takes beside its text."""


class Ingest:
    """Takes batches in. ``dedupe_s`` is promised to senders, ``now`` is Unix ms."""

    def __init__(self, store: Store, merge: Merge, *, dedupe_s: int, now: Callable[[], int]) -> None:
        self._store = store
        self._merge = merge
        self._dedupe_s = dedupe_s
        self._now = now
        self._bodies = Bodies(DEFAULT.raw, "send fewer batches at once")
        self._decoded = 0
        self._stored = asyncio.Event()
        # Two threads: decompression lets go of the GIL, and a large body must not keep small ones waiting.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="gateway-decode")
        self._decoders = asyncio.Semaphore(2)

    def close(self) -> None:
        self._pool.shutdown()

    async def post(self, request: web.Request) -> web.Response:
        holder = await access.sender(request, self._store.keys)
        if request.content_type != CONTENT_TYPE:
            detail = f"Content-Type is {request.headers.get('Content-Type', 'missing')[:100]!r}"
            raise Problem(415, "The content type is not known", detail, f"send {CONTENT_TYPE}", "Content-Type")
        with self._bodies.reserve(request.content_length, holder.project):
            raw = await self._bodies.read(request)
            encoding = request.headers.get("Content-Encoding", "")
            return web.Response(body=await self._take_in(holder, raw, encoding), content_type="application/json")

    async def store(self, holder: keys.Holder, raw: bytes, encoding: str, *, named: str) -> bytes:
        """Store what came otherwise than by HTTP, which begins with the batch `named`; the answer, after the commit.

        Raises what `problems.problem_of` knows the meaning of.
        """
        with self._bodies.reserve(len(raw), holder.project):
            return await self._take_in(holder, raw, encoding, named)

    async def _take_in(self, holder: keys.Holder, raw: bytes, encoding: str, named: str = "") -> bytes:
        async with self._decode(raw, encoding) as checked:
            if named and checked[0].id != named:
                detail = f"it begins with another batch than {named}"
                remedy = "name a frame after its first batch"
                raise Problem(400, "The frame does not hold the batch it names", detail, remedy, "batch")
            take = self._store.writer.submit(lambda db: self._take(db, holder, checked))
            results = await asyncio.wrap_future(take)
            return encode_results([result.as_json() for result in results], self._dedupe_s)

    def _take(self, db: apsw.Connection, holder: keys.Holder, batches: list[Checked]) -> list[Result]:
        now = self._now()
        db.execute(QUERIES["touch_key"], (holder.key, now))
        return Taker(db, holder.project, now, self._merge).take(batches)

    @asynccontextmanager
    async def _decode(self, raw: bytes, encoding: str) -> AsyncIterator[list[Checked]]:
        """Decode a body as soon as there is room for what it may become, and hold the room."""
        async with self._decoders:
            while self._decoded >= DECODED_HELD:
                self._stored.clear()
                await self._stored.wait()
            loop = asyncio.get_running_loop()
            checked, size = await loop.run_in_executor(self._pool, _decode, raw, encoding)
            self._decoded += size
        try:
            yield checked
        finally:
            self._decoded -= size
            self._stored.set()


def _decode(raw: bytes, encoding: str) -> tuple[list[Checked], int]:
    """What is in a body, and about how many bytes of memory that takes."""
    batches = decode_body(raw, encoding)
    size = sum(len(line) + LINE_COSTS for batch in batches for line in batch.lines)
    return check_batches(batches), size
