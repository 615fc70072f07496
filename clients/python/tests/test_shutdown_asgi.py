"""uvicorn without an agent: it ends a process by the signal that it was sent, so no `atexit` runs; the middleware
flushes at the end of the lifespan.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.python.tests.shutdown import everything_arrives, free_port, it_ends_in_time
from clients.python.tests.test_direct_process import Way, dead_address
from sendoff.integrations.asgi import SendoffMiddleware

SHOP = """
import sendoff
from sendoff.integrations.asgi import SendoffMiddleware
sendoff.init(service="shop", linger=1)

async def answer(scope, receive, send):
    {lifespan}
    sendoff.event("served", path=scope["path"])
    sendoff.increment("requests")
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"fine"}})

app = SendoffMiddleware(answer{more})
"""
KNOWS = """
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
"""
KNOWS_NOT = """
    if scope["type"] == "lifespan":
        raise ValueError("as Django says it")
"""
APPS = {
    "knows": SHOP.format(lifespan=KNOWS.strip(), more=""),
    "knows not": SHOP.format(lifespan=KNOWS_NOT.strip(), more=", lifespan=False"),
}


@pytest.fixture(params=["http", "zmq"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    made = Way(request.param)
    yield made
    made.peer.close()
    assert made.peer.complaints == []


def uvicorn(port: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "uvicorn", "shop:app", "--port", str(port), "--log-level", "warning", *more]


@pytest.mark.parametrize(("app", "more"), [("knows", ()), ("knows", ("--workers", "2")), ("knows not", ())])
def test_uvicorn_sends_everything_before_it_ends(way: Way, tmp_path: Path, app: str, more: tuple[str, ...]) -> None:
    (tmp_path / "shop.py").write_text(APPS[app])
    port = free_port()
    everything_arrives(way, uvicorn(port, *more), tmp_path, port, byes=False)


@pytest.mark.parametrize("path", ["http", "zmq"])
def test_uvicorn_ends_in_time_though_the_gateway_is_dead(path: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APPS["knows"])
    port = free_port()
    it_ends_in_time(dead_address(path), uvicorn(port), tmp_path, port)


def test_an_application_that_fails_to_start_fails_as_without_the_middleware() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise ValueError("no database")

    with pytest.raises(ValueError, match="no database"):
        asyncio.run(SendoffMiddleware(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
