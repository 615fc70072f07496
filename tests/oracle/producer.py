"""A producer: an app of its own that sends events and counters, and keeps the oracle's book about each.

`python -m tests.oracle.producer NAME BOOK KIND RATE SEED`, the client's settings in its environment. It runs until
SIGTERM, then ends in order; or until it is killed. What it sends is a function of its name and seed.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import sendoff
from sendoff import current
from sendoff.receipt import Receipt
from tests.oracle.book import Pen, digest

POISON = 0.005
"""Of all events, those that the fake destination refuses whatever comes with them."""
LETTERS = 'abcdefghijklmnoprstuvyz äßøλж漢🙂"\\\n\t'
FLUSH_S = 60.0


class Producer:
    """Sends, and writes down what it sent. `written`: whether the kernel has all bytes of all events so far."""

    def __init__(self, name: str, book: Path, kind: str, seed: int) -> None:
        self.name = name
        self.kind = kind
        self.pen = Pen(book)
        self.random = random.Random(f"{seed}/{name}")
        self.number = 0
        self.points = 0
        self.amount = 0
        self.acknowledged = 0
        self.receipts: list[tuple[str, Receipt]] = []

    def step(self) -> None:
        """One event or exception, and some points."""
        self.number += 1
        ref = f"{self.name}-{self.number}"
        content: dict[str, object] = {
            "ref": ref,
            "n": self.number,
            "filling": self._text(),
            "deep": {"list": [1, None]},
        }
        if self.random.random() < POISON and self.kind != "storm":
            content["poison"] = True
        if self.kind == "storm":
            self._exception(ref, content, "storm")
        elif self.random.random() < 0.1:
            self._exception(ref, content, ref)
        else:
            self._event(ref, content)
        self._count(self.random.randrange(8))
        self._acknowledged()

    def _text(self) -> str:
        length = self.random.choice((10, 300, 300, 2_000, 60_000 if self.kind == "large" else 2_000))
        return "".join(self.random.choices(LETTERS, k=min(length, 500))) * (length // 500 or 1)

    def _event(self, ref: str, content: dict[str, object]) -> None:
        self.pen.write(op="try", ref=ref, digest=digest("chaos.done", content), poison="poison" in content)
        made = sendoff.event("chaos.done", confirm=self.kind.endswith("confirm"), **content)
        if isinstance(made, Receipt):
            self.receipts.append((ref, made))
            made = made.id
        self._sent(ref, made)

    def _exception(self, ref: str, content: dict[str, object], fingerprint: str) -> None:
        self.pen.write(op="try", ref=ref, digest=digest("RuntimeError", content), poison="poison" in content)
        error = RuntimeError(ref)
        self._sent(ref, sendoff.capture_exception(error, fields=content, fingerprint=[fingerprint]))

    def _sent(self, ref: str, event_id: str | None) -> None:
        self.pen.write(op="sent", ref=ref, id=event_id, written=written(), t=time.monotonic())

    def _count(self, points: int) -> None:
        self.points += points
        self.pen.write(op="count", upto=self.points)  # before they are counted: no more than this can arrive
        for _ in range(points):
            amount = self.random.randrange(1, 100)
            self.amount += amount
            sendoff.increment("chaos.amount", amount, producer=self.name)

    def _acknowledged(self) -> None:
        stats = sendoff.stats()
        acked = stats.get("acked", 0)
        if stats.get("refused"):
            self.pen.write(op="trouble", what=f"the agent refused {stats['refused']}")
        elif isinstance(acked, int) and acked > self.acknowledged:
            self.acknowledged = acked
            self.pen.write(op="acknowledged", upto=acked)
        while self.receipts and self.receipts[0][1].state != "pending":
            ref, receipt = self.receipts.pop(0)
            if receipt.state == "spooled":
                self.pen.write(op="receipt", ref=ref)
            elif receipt.id is not None:
                self.pen.write(op="trouble", what=f"the receipt of {ref} says {receipt.state} {receipt.reason}")

    def end(self) -> None:
        """In order: everything acknowledged, or said that it is not."""
        flushed = sendoff.flush(FLUSH_S)
        self._acknowledged()
        stats = sendoff.stats()
        sendoff.close()
        self.pen.write(
            op="end",
            flushed=flushed,
            dropped=stats["dropped"],
            refused=stats.get("refused", {}),
            internal_error=stats.get("internal_error", 0),
            points=self.points,
            amount=self.amount,
        )


def written() -> bool:
    """Whether every event so far is wholly with the kernel. The one look behind the client's public names."""
    client = current.client
    if client is None:
        return False
    outbox: Any = client.outbox  # type: ignore[attr-defined]
    stream = outbox.channel.stream
    return not outbox.pending and not outbox.channel.held.to_write and stream is not None and stream.job is None


def main() -> int:
    name, book, kind, rate, seed = sys.argv[1:]
    producer = Producer(name, Path(book), kind, int(seed))
    told: list[int] = []

    def told_to_end(number: int, frame: FrameType | None) -> None:
        told.append(number)

    signal.signal(signal.SIGTERM, told_to_end)
    group = kind.split("-")[0]
    service = group if group in ("calm", "fresh", "storm") else "wild"
    producer.pen.write(op="begin", service=service, calm=group == "calm", kind=kind)
    sendoff.init(service=service, env="chaos", linger=2)
    pause = 1 / float(rate)
    while not told:
        producer.step()
        time.sleep(pause * 2 * producer.random.random())
    producer.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
