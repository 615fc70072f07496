"""An ASGI application with Sendoff in it. Run it: `uvicorn app:app`, here in this folder.

It is a bare one; Starlette, FastAPI and others are wrapped in the same way.
"""

from __future__ import annotations

from typing import Any

import sendoff
from sendoff.integrations.asgi import SendoffMiddleware

sendoff.init(service="asgi-hello")


async def answer(send: Any, status: int, text: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    _, kind, argument = scope["path"].split("/", 2)
    if kind == "hello":
        sendoff.increment("hello.greetings", framework="asgi")
        sendoff.event("hello.said", name=argument)
        await answer(send, 200, f"Hello, {argument}!\n")
    else:
        await answer(send, 200, f"{12 / int(argument)} pieces each\n")


app = SendoffMiddleware(hello)
