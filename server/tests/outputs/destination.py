"""A small destination on loopback that does as a test says, and complains about whatever a sender must never do.

``script`` holds what to do with the next requests; when it is empty everything is stored. Complaints fail the test.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from sendoff_server.wire.batch import Batch, BodyError, decode_body

Answer = Callable[[web.Request, list[Batch]], Awaitable[web.StreamResponse]]
KEY = "sk_test"


class Destination:
    """Speaks as a gateway on /v1/batches and as any service on /hook."""

    def __init__(self) -> None:
        self.script: deque[Answer] = deque()
        self.always: Answer | None = None
        self.requests: list[list[str]] = []
        self.stored: dict[str, bytes] = {}
        self.ledgers: list[Batch] = []
        self.complaints: list[str] = []
        self.hanging = asyncio.Event()
        self._released = asyncio.Event()
        self._seen: dict[str, bytes] = {}
        self._definite: set[tuple[str, str]] = set()
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/batches", self._gateway)
        app.router.add_post("/hook", self._hook)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self._released.set()
        if self._runner:
            await self._runner.cleanup()

    def do(self, *answers: Answer) -> None:
        self.script.extend(answers)

    @property
    def stored_lines(self) -> list[bytes]:
        return [line for raw in self.stored.values() for line in raw.split(b"\n")[1:] if line]

    async def _gateway(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            self.complaints.append("the key is missing")
        batches = await self._batches(request)
        if batches and batches[0].header["type"] == "ledger":
            self.ledgers += batches
            return results([{"batch": batches[0].id, "status": "stored"}])
        if len(batches) > 64:
            self.complaints.append(f"{len(batches)} batches in a body")
        return await self._answer(request, batches, self._store_all)

    async def _hook(self, request: web.Request) -> web.StreamResponse:
        batches = await self._batches(request)
        if [batch.id for batch in batches] != [request.headers.get("Idempotency-Key")]:
            self.complaints.append("one batch a request, with its id as Idempotency-Key")
        if request.headers.get("Sendoff-Schema") != "1":
            self.complaints.append("Sendoff-Schema is missing")
        return await self._answer(request, batches, self._store_all)

    async def _batches(self, request: web.Request) -> list[Batch]:
        if request.content_type != "application/x-ndjson":
            self.complaints.append(f"content type {request.content_type}")
        raw = await request.read()
        if len(raw) > 8 * 1024 * 1024:
            self.complaints.append(f"a body of {len(raw)} bytes")
        try:
            return decode_body(raw, request.headers.get("Content-Encoding", ""))
        except BodyError as error:
            self.complaints.append(str(error))
            return []

    async def _answer(self, request: web.Request, batches: list[Batch], otherwise: Answer) -> web.StreamResponse:
        self.requests.append([batch.id for batch in batches])
        for batch in batches:
            whole = content(batch)
            if self._seen.setdefault(batch.id, whole) != whole:
                self.complaints.append(f"{batch.id} changed after it was sealed")
            if (request.path, batch.id) in self._definite:
                self.complaints.append(f"{batch.id} was sent again after a definite answer")
        answer = self.script.popleft() if self.script else self.always or otherwise
        return await answer(request, batches)

    async def _store_all(self, request: web.Request, batches: list[Batch]) -> web.StreamResponse:
        for batch in batches:
            self.stored[batch.id] = content(batch)
            self._definite.add((request.path, batch.id))
        return results([{"batch": batch.id, "status": "stored"} for batch in batches])

    async def store(self, request: web.Request, batches: list[Batch]) -> web.StreamResponse:
        """Store everything, as without a script."""
        return await self._store_all(request, batches)

    async def hang(self, request: web.Request, batches: list[Batch]) -> web.StreamResponse:
        """Never answer."""
        self.hanging.set()
        await self._released.wait()
        return web.Response(status=503)

    def refuse_lines(self, **codes: str) -> Answer:
        """Store all but the lines that hold a word; refuse those with a code."""

        async def answer(request: web.Request, batches: list[Batch]) -> web.StreamResponse:
            found = []
            for batch in batches:
                refused = [
                    {"line": number, "id": None, "code": code, "detail": f"{word} is not wanted"}
                    for number, line in enumerate(batch.lines, 1)
                    for word, code in codes.items()
                    if word.encode() in line
                ]
                found.append({"batch": batch.id, "status": "stored", "refused": refused})
                bad = {entry["line"] for entry in refused}
                kept = [line for number, line in enumerate(batch.lines, 1) if number not in bad]
                self.stored[batch.id] = content(Batch(batch.header, kept))
                self._definite.add((request.path, batch.id))
            return results(found)

        return answer

    def refuse_bodies_with(self, word: bytes, code: int = 400) -> Answer:
        """Refuse any body that holds a word; store the others."""

        async def answer(request: web.Request, batches: list[Batch]) -> web.StreamResponse:
            if any(word in line for batch in batches for line in batch.lines):
                return web.Response(status=code, text=f"{word.decode()} is not wanted")
            return await self._store_all(request, batches)

        return answer

    def fail_on(self, word: bytes, failure: Answer) -> Answer:
        """Do what ``failure`` does with any body that holds a word; store the others."""

        async def answer(request: web.Request, batches: list[Batch]) -> web.StreamResponse:
            if any(word in line for batch in batches for line in batch.lines):
                return await failure(request, batches)
            return await self._store_all(request, batches)

        return answer

    def refuse_bodies_over(self, lines: int) -> Answer:
        """413 for bodies of more lines than that."""

        async def answer(request: web.Request, batches: list[Batch]) -> web.StreamResponse:
            if sum(len(batch.lines) for batch in batches) > lines:
                return web.Response(status=413)
            return await self._store_all(request, batches)

        return answer


def content(batch: Batch) -> bytes:
    return b"\n".join([msgspec.json.encode(batch.header), *batch.lines])


def results(found: list[dict[str, Any]]) -> web.Response:
    return web.json_response({"results": found, "dedupe_s": 60})


def status(code: int, text: str = "", **headers: str) -> Answer:
    """Answer with a status. ``headers``: underscores stand for dashes."""

    async def answer(request: web.Request, batches: list[Batch]) -> web.StreamResponse:
        return web.Response(
            status=code, text=text, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return answer


def say(text: str) -> Answer:
    """200 with any text."""
    return status(200, text)


async def reset(request: web.Request, batches: list[Batch]) -> web.StreamResponse:
    """Break the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut_short(request: web.Request, batches: list[Batch]) -> web.StreamResponse:
    """Begin an answer and break off."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"results": [')
    assert request.transport is not None
    request.transport.close()
    return response
