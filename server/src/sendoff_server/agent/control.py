"""What is asked and done on the control socket alone, never on an address: receipts, and the keeping of the spool."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from sendoff_server.agent.commit import Committer
from sendoff_server.spool import Spool

MAX_BODY = 1024 * 1024
Reload = Callable[[], Awaitable[str | None]]
"""Replaces the process. None when that is going to happen, else why everything stays as it is."""


class Control:
    """Answers for one agent."""

    def __init__(self, spool: Spool, committer: Committer, reload: Reload | None = None) -> None:
        self._spool = spool
        self._committer = committer
        self._renew = reload

    def routes(self) -> list[web.RouteDef]:
        """Everything that there is."""
        return [web.get("/receipts/{event}", self._receipt), web.post("/reload", self._reload)]

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
