"""A real gateway on loopback with a real store, and what tests send to it."""

import io
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from sendoff_server.gateway import Gateway, keys
from sendoff_server.settings import Settings
from sendoff_server.wire.batch import encode_batch

AGENT = "a" * 32
NOW = 1_764_000_000_000
Json = dict[str, Any]
_numbers = itertools.count(1)


def settings(folder: Path, listen: str = "127.0.0.1:0", **retention: float) -> Settings:
    return Settings.model_validate({"gateway": {"listen": listen, "data_dir": str(folder), "retention": retention}})


@dataclass
class Clock:
    """The gateway's clock. ``ms`` is the time that passes, ``ahead`` by how much the clock is wrong."""

    ms: int = NOW
    ahead: int = 0

    def __call__(self) -> int:
        return self.ms + self.ahead

    def running(self) -> float:
        return self.ms / 1000


@dataclass
class Running:
    """A started gateway, its key, and a client of it."""

    gateway: Gateway
    folder: Path
    key: str
    http: aiohttp.ClientSession
    clock: Clock
    project: str = "shop"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{self.gateway.addresses['http']}"

    async def post(self, body: bytes, encoding: str = "zstd", **headers: str) -> tuple[int, Json]:
        sent = {
            "Authorization": f"Bearer {self.key}",
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": encoding,
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(f"{self.url}/v1/batches", data=io.BytesIO(body), headers=sent) as answer:
            return answer.status, msgspec.json.decode(await answer.read())

    async def get(self, path: str, **query: str | int) -> Json:
        """A JSON answer of the project's API, which must be 200."""
        status, found = await self.ask(f"/api/v1/{self.project}/{path}", **query)
        assert status == 200, found
        return found

    async def ask(self, path: str, **query: str | int) -> tuple[int, Json]:
        async with self.http.get(self.url + path, params=query) as answer:
            return answer.status, msgspec.json.decode(await answer.read())

    async def page(self, path: str, **query: str) -> tuple[int, str]:
        async with self.http.get(self.url + path, params=query) as answer:
            assert answer.headers["Content-Type"].startswith("text/html"), await answer.text()
            return answer.status, await answer.text()


@asynccontextmanager
async def running(
    folder: Path, *, clock: Clock | None = None, listen: str = "127.0.0.1:0", **retention: float
) -> AsyncIterator[Running]:
    clock = clock or Clock()
    key = keys.create(folder / "gateway", "shop", now_ms=clock.ms)
    gateway = Gateway(settings(folder, listen, **retention), now=clock, running=clock.running)
    await gateway.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Running(gateway, folder, key, http, clock)
    finally:
        await gateway.stop(2)


def event(name: str = "order.placed", **more: Any) -> Json:
    number = next(_numbers)
    made = {"id": f"01930000-0000-7000-8000-{number:012x}", "kind": "event", "t": NOW - 60_000, "service": "web"}
    return made | {"env": "production", "release": "1", "host": "web-1", "name": name, "tags": {}, "fields": {}} | more


def exception(fingerprint: str = "f" * 32, **more: Any) -> Json:
    frame = {"file": "shop/pay.py", "line": 88, "func": "charge", "module": "shop.pay", "in_app": True}
    chain = [{"type": "PaymentTimeout", "message": "no answer within 10 s", "frames": [frame]}]
    made: Json = {"kind": "exception", "fingerprint": fingerprint, "chain": chain, "repeats": 0} | more
    return event(made.pop("name", "PaymentTimeout"), **made)


def counter(name: str, start: int, total: float, *, length: int = 10_000, n: int = 1, **tags: str) -> Json:
    made = {"name": name, "tags": dict(sorted(tags.items())), "unit": "", "type": "counter", "w": [start, length]}
    return made | {"ord": [1, 1], "sum": total, "n": n}


def batch(kind: str, lines: Sequence[Json | bytes], batch_id: str | None = None, **more: Any) -> bytes:
    """One sealed batch."""
    raw = [line if isinstance(line, bytes) else msgspec.json.encode(line) for line in lines]
    number = next(_numbers)
    header = {"batch": batch_id or f"b-{number}", "schema": 1, "type": kind, "count": len(raw), "agent": AGENT}
    header |= {"made": NOW, "host": "web-1"}
    if kind == "snapshot":
        header["covers"] = [1, number, number, 0]
    if kind == "ledger":
        header["ordinal"] = number
    compression = more.pop("compression", "zstd")
    return encode_batch(header | more, raw, compression)
