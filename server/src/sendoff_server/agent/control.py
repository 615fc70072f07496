"""What is asked and done on the control socket alone, never on an address: receipts, and the keeping of the spool.

The wishes and their answers are those of `spool.keeping`; a wish that makes no sense is answered by 400 and a sentence.
"""

import os
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from sendoff_server.intake.commit import Committer
from sendoff_server.spool import Spool, keeping
from sendoff_server.spool.checking import checking

MAX_BODY = 1024 * 1024
Reload = Callable[[], Awaitable[str | None]]
"""Replaces the process. None when that is going to happen, else why everything stays as it is."""
Wish = TypeVar("Wish", bound=msgspec.Struct)


class Control:
    """Answers for one agent. `wake` is told when something waits for delivery anew."""

    def __init__(
        self,
        spool: Spool,
        committer: Committer,
        wake: Callable[[], None],
        reload: Reload | None = None,
    ) -> None:
        self._spool = spool
        self._committer = committer
        self._wake = wake
        self._renew = reload

    def routes(self) -> list[web.RouteDef]:
        """Everything that there is."""
        return [
            web.post("/reload", self._reload),
            web.get("/receipts/{event}", self._receipt),
            web.get("/spool", _plainly(self._list)),
            web.get("/spool/place", _plainly(self._place)),
            web.get("/spool/show", _plainly(self._show)),
            web.get("/spool/export", _plainly(self._export)),
            web.get("/spool/check", _plainly(self._check)),
            web.post("/spool/replay", _plainly(self._replay)),
            web.post("/spool/purge", _plainly(self._purge)),
        ]

    async def _place(self, request: web.Request) -> web.Response:
        """Which spool it is that is asked."""
        return _answer({"path": str(self._spool.path), "pid": os.getpid()})

    async def _receipt(self, request: web.Request) -> web.Response:
        """Where one event is. 404 when nothing is known of it, which is no proof of anything."""
        event = request.match_info["event"]
        if self._committer.holds(event):
            return web.json_response({"event": event, "state": "accepted", "outputs": []})
        found = await self._spool.receipt(event)
        if found is None:
            return web.json_response({"event": event, "state": "unknown", "outputs": []}, status=404)
        return web.json_response(found)

    async def _reload(self, request: web.Request) -> web.Response:
        """Check the new settings and the new code; 202 when the process is replaced next, 409 when it is not."""
        fault = await self._renew() if self._renew else "this command cannot reload; stop it and start it again"
        return web.json_response({"fault": fault}, status=202 if fault is None else 409)

    async def _list(self, request: web.Request) -> web.Response:
        wish = _asked(request, keeping.Listing)
        ran_ms = self._spool.ran_ms()
        return _answer(await self._spool.look(lambda connection: keeping.listing(connection, wish, ran_ms)))

    async def _show(self, request: web.Request) -> web.Response:
        wish = _asked(request, keeping.Showing)
        ran_ms = self._spool.ran_ms()
        found = await self._spool.look(lambda connection: keeping.showing(connection, wish, ran_ms))
        return _answer(found) if found is not None else _answer({"detail": keeping.nothing(wish)}, 404)

    async def _export(self, request: web.Request) -> web.Response:
        """One page of lines; the header Sendoff-After says what to ask for next, 0 that it was the last."""
        wish = _asked(request, keeping.Exporting)
        page, after, damaged = await self._spool.look(lambda connection: keeping.exporting(connection, wish))
        headers = {"Sendoff-After": str(after), "Sendoff-Damaged": ",".join(damaged)}
        return web.Response(body=page, content_type="application/x-ndjson", headers=headers)

    async def _check(self, request: web.Request) -> web.Response:
        return _answer(await self._spool.look(checking))

    async def _replay(self, request: web.Request) -> web.Response:
        wish = await _told(request, keeping.Replaying)
        answer = await self._spool.replay(wish)
        self._wake()
        return _answer(answer)

    async def _purge(self, request: web.Request) -> web.Response:
        return _answer(await self._spool.purge(await _told(request, keeping.Purging)))


def _asked(request: web.Request, kind: type[Wish]) -> Wish:
    try:
        return msgspec.convert(dict(request.query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise _Senseless(str(error)) from error


async def _told(request: web.Request, kind: type[Wish]) -> Wish:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _Senseless(str(error)) from error


class _Senseless(Exception):
    """A wish that cannot be understood."""


def _plainly(handler: Handler) -> Handler:
    """Answers a wish that makes no sense by a sentence."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except _Senseless as error:
            return _answer({"detail": f"this cannot be asked: {error}"[:500]}, 400)

    return answer


def _answer(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)
