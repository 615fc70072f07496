"""What is asked and done on the control socket alone, never on an address: receipts, and the keeping of the spool."""

from aiohttp import web

from sendoff_server.agent.commit import Committer
from sendoff_server.spool import Spool

MAX_BODY = 1024 * 1024


class Control:
    """Answers for one agent."""

    def __init__(self, spool: Spool, committer: Committer) -> None:
        self._spool = spool
        self._committer = committer

    def routes(self) -> list[web.RouteDef]:
        """Everything that there is."""
        return [web.get("/receipts/{event}", self._receipt)]

    async def _receipt(self, request: web.Request) -> web.Response:
        """Where one event is. 404 when nothing is known of it, which is no proof of anything."""
        event = request.match_info["event"]
        if self._committer.holds(event):
            return web.json_response({"event": event, "state": "accepted", "outputs": []})
        found = await self._spool.receipt(event)
        if found is None:
            return web.json_response({"event": event, "state": "unknown", "outputs": []}, status=404)
        return web.json_response(found)
