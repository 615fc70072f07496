"""Frames as a client without an agent sends them, and what is asked of the gateway about them."""

import gzip
import io
import json
import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from .support import NOW, Json, Running

CONTENT_TYPE = "application/vnd.sendoff.frames"


def frame(kind: str, client: str, payload: Json | bytes = b"", **header: Any) -> bytes:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    head = {"v": 1, "client": client, "kind": kind} | header
    return json.dumps(head).encode() + b"\n" + body


def unit(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def body(frames: Iterable[bytes]) -> bytes:
    return b"".join(unit(one) for one in frames)


class Sender:
    """Makes frames of one client, numbered as a client numbers them."""

    def __init__(self, service: str = "web", name: str | None = None) -> None:
        self.name = name or secrets.token_hex(16)
        self.service = service
        self.seq = 0
        self.n = 0
        self.acked = 0

    def hello(self, resume_from: int | None = None) -> bytes:
        said = {
            "service": self.service,
            "env": "production",
            "release": "1",
            "host": "web-1",
            "pid": 7,
            "lib": "test/1",
        }
        return frame("hello", self.name, said | {"resume_from": resume_from or self.acked + 1})

    def event(self, name: str = "order.placed", **fields: Any) -> bytes:
        self.seq += 1
        return frame("event", self.name, {"name": name, "fields": fields}, seq=self.seq, id=event_id(), t=NOW)

    def exception(self, fingerprint: str = "f" * 32) -> bytes:
        self.seq += 1
        call = {"file": "shop/pay.py", "line": 88, "func": "charge", "module": "shop.pay", "in_app": True}
        chain = [{"type": "PaymentTimeout", "message": "no answer", "frames": [call]}]
        said = {"name": "PaymentTimeout", "fingerprint": fingerprint, "chain": chain}
        return frame("exception", self.name, said, seq=self.seq, id=event_id(), t=NOW)

    def points(self, lines: bytes, count: int, **header: Any) -> bytes:
        made = frame("metrics", self.name, lines, n=self.n, **header)
        self.n += count
        return made

    def bye(self) -> bytes:
        return frame("bye", self.name, {"last_seq": self.seq, "last_n": self.n, "dropped": {}})


def event_id() -> str:
    raw = secrets.token_hex(16)
    return f"01930000-0000-7{raw[:3]}-8{raw[3:6]}-{raw[6:18]}"


async def post(gateway: Running, frames: Iterable[bytes], *, key: str = "", zipped: bool = False) -> tuple[int, Json]:
    return await post_body(gateway, body(frames), key=key, zipped=zipped)


async def post_body(
    gateway: Running, data: bytes, *, key: str = "", zipped: bool = False, **more: str
) -> tuple[int, Json]:
    headers = {"Authorization": f"Bearer {key or gateway.key}", "Content-Type": CONTENT_TYPE}
    headers["Content-Encoding"] = "gzip" if zipped else "identity"
    data = gzip.compress(data) if zipped else data
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    async with gateway.http.post(f"{gateway.url}/v1/frames", data=io.BytesIO(data), headers=headers) as answer:
        return answer.status, msgspec.json.decode(await answer.read())


async def total(gateway: Running, name: str, now_ms: int = NOW) -> Json:
    """The one series of a metric, a day before and after, added up."""
    (found,) = (
        await gateway.get("metrics/total", name=name, **{"from": now_ms - 86_400_000, "to": now_ms + 86_400_000})
    )["totals"]
    return dict(found)


async def all_events(gateway: Running) -> list[Json]:
    found = await gateway.get("events", limit=1_000, **{"from": NOW - 86_400_000, "to": NOW + 86_400_000})
    return list(found["events"])


async def ledger(gateway: Running) -> Json:
    """What the direct path's books say. They balance at every moment."""
    (found,) = [agent for agent in (await gateway.get("ledger"))["agents"] if agent["direct"]]
    assert found["balanced"], found["imbalances"]
    return dict(found)


def book(found: Json, name: str, **where: str) -> Json:
    (one,) = [one for one in found["books"] if one["book"] == name and all(one[key] == where[key] for key in where)]
    return dict(one)
