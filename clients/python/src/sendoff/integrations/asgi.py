"""ASGI middleware: exceptions of a request or a websocket, with what the request was; and a flush at the end of the
lifespan, as a server may end the process by a signal, which no `atexit` sees (uvicorn does).

May:     read the scope's strings; send exceptions that the application raises; hold back the word that the
         application has shut down, for `linger` seconds at most, until what it sent is acknowledged.
May not: read or replace a message, the body included: `receive` and `send` of a request are handed on as they are.
         keep an exception from the server: it is always raised on, as it was. A cancellation is no exception.
         let the user, tags or request of one request be seen by another: each has a context of its own.
         raise or wait in a request: whatever fails in here is counted, and the request goes on.
"""

from __future__ import annotations

from sendoff import current, guard
from sendoff.scope import fresh_context, set_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any


class SendoffMiddleware:
    """`app = SendoffMiddleware(app)`, or `app.add_middleware(SendoffMiddleware)`.

    `lifespan=False`: the application knows no lifespan (Django's does not), so the middleware answers the server.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], *, lifespan: bool = True) -> None:
        self.app = app
        self._lifespan = lifespan

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] == "lifespan":
            await (self.app(scope, receive, _flushing(send)) if self._lifespan else _live(receive, _flushing(send)))
            return
        if scope["type"] not in ("http", "websocket") or current.client is None:
            await self.app(scope, receive, send)
            return
        with fresh_context():
            _describe(scope)
            try:
                await self.app(scope, receive, send)
            except Exception as error:
                client = current.client
                if client is not None:
                    client.exception(error, again=False)
                raise


def _flushing(send: Callable[..., Any]) -> Callable[..., Any]:
    """`send`, after a flush where it says that the application has shut down. No request is left that could wait."""

    async def say(message: dict[str, Any]) -> None:
        client = current.client
        if client is not None and str(message.get("type")).startswith("lifespan.shutdown."):
            client.flush(client.linger)
        await send(message)

    return say


async def _live(receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """The lifespan of an application that has none."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _describe(scope: dict[str, Any]) -> None:
    try:
        headers = {
            name.decode("latin-1").title(): value.decode("latin-1") for name, value in scope.get("headers") or ()
        }
        host = headers.get("Host", "")
        if not host and scope.get("server"):
            host = f"{scope['server'][0]}:{scope['server'][1]}"
        url = f"{scope.get('scheme', 'http')}://{host}{scope.get('path', '')}"
        remote = str((scope.get("client") or ("",))[0])
        query = bytes(scope.get("query_string") or b"").decode("latin-1")
        method = scope.get("method") or ("WEBSOCKET" if scope["type"] == "websocket" else "")
        set_request(method=method, url=url, query=query, remote=remote, headers=headers)
    except Exception as error:  # noqa: BLE001 - a request goes on whatever it says about itself
        guard.keep(error, current.tally())
