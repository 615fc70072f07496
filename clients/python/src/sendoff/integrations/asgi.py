"""ASGI middleware: exceptions of a request or a websocket, with what the request was. Lifespan and the rest pass
through untouched.

May:     read the scope's strings; send exceptions that the application raises.
May not: read or replace a message, the body included: `receive` and `send` are handed on as they are.
         keep an exception from the server: it is always raised on, as it was. A cancellation is no exception.
         let the user, tags or request of one request be seen by another: each has a context of its own.
         raise or wait: whatever fails in here is counted, and the request goes on.
"""

from __future__ import annotations

from sendoff import current, guard
from sendoff.scope import fresh_context, set_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any


class SendoffMiddleware:
    """`app = SendoffMiddleware(app)`, or `app.add_middleware(SendoffMiddleware)`."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
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
