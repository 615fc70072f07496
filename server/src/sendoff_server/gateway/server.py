"""The gateway's process: open the store, listen, clean up in the background, stop in reverse."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.typedefs import Middleware
from aiohttp.web_protocol import RequestHandler

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.gateway import access, problems
from sendoff_server.gateway.api import Api
from sendoff_server.gateway.direct import Direct
from sendoff_server.gateway.direct.frames import Frames
from sendoff_server.gateway.ingest import Ingest
from sendoff_server.gateway.pages import Pages
from sendoff_server.gateway.store import Store, open_store
from sendoff_server.gateway.tls import LOOK_EVERY, Certificate
from sendoff_server.gateway.upkeep import Upkeep

if TYPE_CHECKING:
    from sendoff_server.gateway.zmq import ZmqPort
    from sendoff_server.settings import Settings

log = logging.getLogger(__name__)
http_log = logging.getLogger(f"{__name__}.http")
http_log.addFilter(problems.soften)

HEAD_DEADLINE = 10.0
"""Seconds until the first request's head must be there. Later heads are covered by the keep-alive time."""
KEEP_ALIVE = 75.0
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Gateway:
    """Takes batches in and shows what is in them. ``addresses`` is known after ``start``."""

    def __init__(
        self,
        settings: "Settings",
        *,
        now: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        running: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings.gateway
        self._now = now
        self._running = running
        self.addresses: dict[str, str] = {}
        self._waiting: dict[RequestHandler, asyncio.TimerHandle] = {}
        self._store: Store | None = None
        self._zmq: ZmqPort | None = None
        self._servers: list[asyncio.Server] = []
        self._certificate: Certificate | None = None
        self._looking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "listening" if self._servers else "stopped"
        return f"<Gateway {state} {self.addresses}>"

    async def start(self) -> None:
        """Raises ``StoreError`` (the store cannot be opened) or ``OSError`` (the address cannot be listened on, or the
        certificate not used).
        """
        if self._settings.certificate is not None:
            self._certificate = Certificate(self._settings.certificate, self._settings.certificate_key)
        sockets = _listen(self._settings.listen)
        try:
            self._store = await asyncio.to_thread(open_store, self._settings.data_dir / "gateway")
        except BaseException:
            for each in sockets:
                each.close()
            raise
        core = make_core(Limits())
        keep = self._settings.retention
        self._upkeep = Upkeep(self._store, keep, core.merge, now=self._now, running=self._running)
        self._ingest = Ingest(self._store, core.merge, dedupe_s=self._upkeep.dedupe_s, now=self._now)
        self._direct = Direct(self._store, self._settings.direct, core.merge, now=self._now, running=self._running)
        self._frames = Frames(self._store, self._direct)
        names = [each.getsockname() for each in sockets]
        self._runner = web.AppRunner(
            self._app(loopback=all(access.is_loopback(name[0]) for name in names)),
            # Bodies are decompressed by us, with limits; the server underneath must not touch them.
            auto_decompress=False,
            access_log=None,
            logger=http_log,
            keepalive_timeout=KEEP_ALIVE,
            handle_signals=False,
        )
        await self._runner.setup()
        await self._serve(sockets)
        self.addresses = {"http": _shown(names[0])}
        self._direct.start()
        self._upkeep.start()
        log.info("gateway listens on %s", self.url)
        if self._settings.zmq.listen:
            await self._start_zmq(self._store)

    @property
    def url(self) -> str:
        """Where it listens, as a URL."""
        return f"{'http' if self._certificate is None else 'https'}://{self.addresses['http']}"

    async def _serve(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self._certificate is not None:
            tls = {
                "ssl": self._certificate.context,
                "ssl_handshake_timeout": HEAD_DEADLINE,
                "ssl_shutdown_timeout": 2.0,
            }
            self._looking = loop.create_task(self._look_at(self._certificate))
        for each in sockets:
            self._servers.append(await loop.create_server(self._accept, sock=each, backlog=512, **tls))

    async def _look_at(self, certificate: Certificate) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await asyncio.to_thread(certificate.look)

    async def _start_zmq(self, store: Store) -> None:
        from sendoff_server.gateway.zmq import ZmqPort

        port = ZmqPort(self._settings.zmq, store.folder, store, self._direct, self._ingest, self._running)
        try:
            await port.start()
        except BaseException:
            await self.stop(0.0)
            raise
        self._zmq = port
        self.addresses["zmq"] = port.input.address

    async def stop(self, drain_s: float = 10.0) -> None:
        """Finish what was begun within ``drain_s`` seconds, then close."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._looking is not None:
            self._looking.cancel()
        if self._store is None:
            return
        if self._zmq is not None:
            self._zmq.pause()
        await self._upkeep.stop()
        if self._runner.server is not None:
            self._runner.server.pre_shutdown()
            await self._runner.server.shutdown(drain_s)
        await self._runner.cleanup()
        await self._direct.stop(drain_s)
        if self._zmq is not None:
            await self._zmq.stop(drain_s)
            self._zmq = None
        self._frames.close()
        for timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()
        self._ingest.close()
        await asyncio.to_thread(self._store.close)
        self._store = None

    def _app(self, *, loopback: bool) -> web.Application:
        assert self._store is not None
        api = Api(self._store, loopback=loopback, now=self._now)
        pages = Pages(api)
        app = web.Application(middlewares=[self._began, problems.middleware(pages.problem)], client_max_size=0)
        app.on_response_prepare.append(_secure)
        app.router.add_post("/v1/batches", self._ingest.post)
        app.router.add_post("/v1/frames", self._frames.post)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._ready)
        api.add_routes(app.router)
        pages.add_routes(app.router)
        return app

    def _accept(self) -> asyncio.Protocol:
        """A new connection. aiohttp waits for the first head for ever; we do not."""
        assert self._runner.server is not None
        protocol: RequestHandler = self._runner.server()
        loop = asyncio.get_running_loop()
        self._waiting[protocol] = loop.call_later(HEAD_DEADLINE, self._too_slow, protocol)
        return protocol

    def _too_slow(self, protocol: RequestHandler) -> None:
        self._waiting.pop(protocol, None)
        protocol.force_close()

    @property
    def _began(self) -> Middleware:
        @web.middleware
        async def began(request: web.Request, handler: problems.Handler) -> web.StreamResponse:
            timer = self._waiting.pop(request.protocol, None)
            if timer is not None:
                timer.cancel()
            return await handler(request)

        return began

    async def _health(self, request: web.Request) -> web.Response:
        """The process answers."""
        return web.json_response({"status": "ok"})

    async def _ready(self, request: web.Request) -> web.Response:
        """The store begins transactions, and took the last that had something to store."""
        assert self._store is not None
        try:
            async with asyncio.timeout(5):
                await asyncio.wrap_future(self._store.writer.submit(lambda db: None))
        except TimeoutError:
            raise problems.retry_later("The gateway cannot store", "the disk has not answered for 5 s", 30) from None
        failing = self._store.writer.failing()
        if failing:
            raise problems.retry_later("The gateway cannot store", failing, 30)
        return web.json_response({"status": "ready"})


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in SECURITY.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Server"] = "sendoff"  # which library answers, and its version, is nobody's business


def _listen(address: str) -> list[socket.socket]:
    """Listening sockets for ``host:port``. Raises ``OSError`` naming the address and the setting."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return [_bound(family, where) for family, _, _, _, where in found[:1]]
    except (OSError, ValueError, OverflowError) as error:
        raise OSError(f"cannot listen on {address} ({error}); change gateway.listen") from error


def _bound(family: int, where: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(where)  # type: ignore[arg-type]
    except OSError:
        sock.close()
        raise
    return sock


def _shown(name: tuple[str, int]) -> str:
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
