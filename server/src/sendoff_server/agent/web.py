"""The agent's own HTTP: the status page, its JSON, health, Prometheus metrics; on the control socket also `control`.

It has no keys, so it answers on loopback addresses only, and only to requests whose Host header names one: otherwise a
web page elsewhere could have its own name point here and read along.
"""

import asyncio
import logging
import os
import socket
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web_protocol import RequestHandler
from msgspec import structs

from sendoff_server.agent import control as controls
from sendoff_server.agent.status import Status
from sendoff_server.inputs import Inherited, InputError
from sendoff_server.inputs.kept import KeptSocket
from sendoff_server.inputs.open import find
from sendoff_server.inputs.sockets import listen_ip, listen_unix, remove_file, shown
from sendoff_server.settings import split_listen
from sendoff_server.spool import SpoolError

log = logging.getLogger(__name__)

HEAD_DEADLINE = 10.0
"""Seconds in which a new connection must have sent its first request's head."""
MAX_OPEN = 200
HAND_OVER_S = 0.5
"""How long a request under way may take while the process is replaced: nothing is read meanwhile."""
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATIC = {
    "tokens.css": Path(__file__).parent.parent / "gateway/pages/static/tokens.css",
    "pages.css": Path(__file__).parent.parent / "gateway/pages/static/pages.css",
    "favicon.svg": Path(__file__).parent.parent / "gateway/pages/static/favicon.svg",
    "agent.css": Path(__file__).parent / "pages/agent.css",
}
"""The gateway's sheets and one more: both look alike."""


class Web:
    """Serves one `Status`, and one `Control` to who owns the control socket."""

    def __init__(self, status: Status, control: controls.Control) -> None:
        self._status = status
        self._answers = control
        self._servers: list[asyncio.Server] = []
        self._runners: list[web.AppRunner] = []
        self._control: tuple[Path, int | None] | None = None
        self._open: dict[RequestHandler, asyncio.TimerHandle] = {}
        self._listening: list[tuple[int, KeptSocket]] = []

    async def start(self, listen: str, control: Path | None, inherited: Inherited | None = None) -> dict[str, str]:
        """Listen on the address, unless it is empty, and on the control socket; gives both. Raises InputError."""
        addresses = {}
        inherited = inherited or Inherited()
        open_web = partial(listen_ip, listen, socket.SOCK_STREAM, "web.listen")
        if (found := find("web", listen, open_web, inherited)) is not None:
            addresses["web"] = shown(found[0])
            await self._serve(*found, self._app(1024))
        if (found := _find_control(control, inherited)) is not None:
            sock, kept = found
            self._control = (Path(kept.setting), kept.inode) if kept.ours else None
            addresses["control"] = shown(sock)
            app = self._app(controls.MAX_BODY)
            app.add_routes(self._answers.routes())
            await self._serve(sock, kept, app)
        for sock, kept in inherited.rest("web", "control"):
            if kept.ours and kept.inode is not None:
                remove_file(Path(kept.setting), kept.inode)
            sock.close()
        return addresses

    def _app(self, most: int) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=most)
        app.router.add_get("/", self._page)
        app.router.add_get("/status.json", self._json)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/static/{name}", self._static)
        return app

    async def give_up(self) -> list[KeptSocket]:
        """Answer what was asked, then stop, but let the sockets listen: who asks now waits for the next run."""
        self._control = None
        kept = [structs.replace(kept, descriptor=os.dup(number)) for number, kept in self._listening]
        await self.stop(HAND_OVER_S)
        return kept

    async def stop(self, grace_s: float = 1.0) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._listening.clear()
        if self._control:
            remove_file(*self._control)
            self._control = None
        for runner in self._runners:
            if runner.server is not None:
                await runner.server.shutdown(grace_s)
            await runner.cleanup()
        self._runners.clear()
        for timer in self._open.values():
            timer.cancel()
        self._open.clear()

    async def _serve(self, sock: socket.socket, kept: KeptSocket, app: web.Application) -> None:
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=30.0, handle_signals=False)
        await runner.setup()
        self._runners.append(runner)
        self._listening.append((sock.fileno(), kept))
        accept = partial(self._accept, runner)
        self._servers.append(await asyncio.get_running_loop().create_server(accept, sock=sock, backlog=64))

    def _accept(self, runner: web.AppRunner) -> asyncio.Protocol:
        """A new connection. aiohttp would wait for the first head for ever."""
        assert runner.server is not None
        protocol: RequestHandler = runner.server()
        loop = asyncio.get_running_loop()
        if len(self._open) >= MAX_OPEN:  # too many that say nothing: the oldest goes
            oldest = next(iter(self._open))
            self._open.pop(oldest).cancel()
            loop.call_later(0.01, oldest.force_close)  # not at once: it may not have its transport yet
        self._open[protocol] = loop.call_later(HEAD_DEADLINE, self._too_slow, protocol)
        return protocol

    def _too_slow(self, protocol: RequestHandler) -> None:
        del self._open[protocol]
        protocol.force_close()

    @property
    def _guard(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if timer := self._open.pop(request.protocol, None):
                timer.cancel()
            response: web.StreamResponse
            if not _names_this_machine(request):
                text = "This page answers to localhost and loopback addresses only.\n"
                response = web.Response(status=421, text=text)
            else:
                try:
                    response = await handler(request)
                except SpoolError as error:
                    response = web.json_response({"status": "failing", "why": str(error)}, status=503)
                except web.HTTPException as error:
                    response = web.Response(status=error.status, text=f"{error.reason}\n", headers=_allow(error))
            response.headers.update(SECURITY)
            return response

        return guard

    async def _page(self, request: web.Request) -> web.Response:
        from sendoff_server.agent.pages import render  # jinja2 is loaded for who looks

        return web.Response(text=render(await self._status.read()), content_type="text/html")

    async def _json(self, request: web.Request) -> web.Response:
        return web.json_response(await self._status.read())

    async def _health(self, request: web.Request) -> web.Response:
        """The process answers."""
        return web.json_response({"status": "ok"})

    async def _ready(self, request: web.Request) -> web.Response:
        """It listens, and the spool takes what comes."""
        reason = self._status.why_not_ready()
        return web.json_response({"status": "ready" if reason is None else "not ready", "why": reason},
                                 status=200 if reason is None else 503)  # fmt: skip

    async def _metrics(self, request: web.Request) -> web.Response:
        from sendoff_server.agent.metrics import expose  # prometheus_client is loaded for who scrapes

        body, content_type = expose(
            await self._status.books(), await self._status.read(), request.headers.get("Accept", "")
        )
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _static(self, request: web.Request) -> web.StreamResponse:
        path = STATIC.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path)


def _find_control(path: Path | None, inherited: Inherited) -> tuple[socket.socket, KeptSocket] | None:
    """The control socket. The agent does its work without one, so that it cannot be had is only said."""

    def open_new() -> socket.socket:
        assert path is not None
        return listen_unix(path, socket.SOCK_STREAM, 0o600, "the control socket")

    try:
        return find("control", str(path or ""), open_new, inherited)
    except InputError as error:
        log.warning("`sendoff status` will not find this agent: %s", error)
        return None


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}


def _names_this_machine(request: web.Request) -> bool:
    """The Host header is a loopback one. On the control socket only the socket's owner can ask, by any name."""
    transport = request.transport
    if transport is not None and transport.get_extra_info("socket").family == socket.AF_UNIX:
        return True
    host = request.headers.get("Host", "")
    try:
        return split_listen(host if host.rpartition("]")[2].count(":") else f"{host}:80").loopback
    except ValueError:
        return False
