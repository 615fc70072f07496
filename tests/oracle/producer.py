"""A producer: an app of its own that sends events and counters, and keeps the oracle's book about each.

`python -m tests.oracle.producer NAME BOOK KIND RATE SEED`, the client's settings in its environment, beside them
`ORACLE_PROJECT` and `ORACLE_PATH` for the book, and `ORACLE_FLUSH` for its last flush. It runs until SIGTERM, then ends
in order; or until it is killed. What it sends is a function of its name and seed.
"""

from __future__ import annotations

import ctypes
import os
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
from tests.oracle.calls import Calls

POISON = 0.005
"""Of all events, those that the fake destination refuses whatever comes with them."""
LETTERS = 'abcdefghijklmnoprstuvyz äßøλж漢🙂"\\\n\t'
FLUSH_S = float(os.environ.get("ORACLE_FLUSH", "60"))
DIRECT = os.environ.get("ORACLE_PATH", "agent") not in ("agent", "ipc")
AT_ONCE = {"burst": (0.03, 400), "flood": (0.01, 3_000)}
"""How often, and how many events are sent at once: more than a small buffer holds; more than ZeroMQ's high-water mark
and the kernel together let pass while the peer does not read.
"""
CHILD_ENDS = ("exit", "kill", "term", "end", "return")
"""How the children of a `fork` end: `os._exit`, signals that nobody handles, a flush, and the interpreter's own end."""
PR_SET_PDEATHSIG = 1


class Producer:
    """Sends, and writes down what it sent. `written`: whether the kernel has all bytes of all events so far."""

    def __init__(self, name: str, book: Path, kind: str, seed: int) -> None:
        self.name = name
        self.kind = kind
        self.book = book
        self.seed = seed
        self.pen = Pen(book)
        self.calls = Calls(self.pen)
        self.random = random.Random(f"{seed}/{name}")
        self.number = 0
        self.none = 0
        self.points = 0
        self.amount = 0
        self.acknowledged = 0
        self.receipts: list[tuple[str, Receipt]] = []

    def begin(self) -> None:
        group = self.kind.split("-")[0]
        service = group if group in ("calm", "fresh", "storm", "revoked", "wrong") else "wild"
        self.pen.write(
            op="begin",
            service=service,
            calm=group == "calm",
            kind=self.kind,
            project=os.environ.get("ORACLE_PROJECT", ""),
            path=os.environ.get("ORACLE_PATH", "agent"),
        )
        sendoff.init(service=service, env="chaos", linger=2)

    def step(self) -> None:
        """One event or exception, and some points."""
        often, many = AT_ONCE.get(self.kind, (0, 1))
        for _ in range(many if self.random.random() < often else 1):
            self.calls.begin()
            self._one()
        self._count(self.random.randrange(8))
        if DIRECT and self.random.random() < 0.05:
            self._settle()
        self._acknowledged()

    def _one(self) -> None:
        self.number += 1
        ref = f"{self.name}-{self.number}"
        content: dict[str, Any] = {
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

    def _text(self) -> str:
        length = self.random.choice((10, 300, 300, 2_000, 60_000 if self.kind == "large" else 2_000))
        length = 2_000 if self.kind == "flood" else length
        return "".join(self.random.choices(LETTERS, k=min(length, 500))) * (length // 500 or 1)

    def _event(self, ref: str, content: dict[str, Any]) -> None:
        self.pen.write(op="try", ref=ref, digest=digest("chaos.done", content), poison="poison" in content)
        made = self.calls.made(sendoff.event, "chaos.done", confirm=self.kind.endswith("confirm"), **content)
        if isinstance(made, Receipt):
            self.receipts.append((ref, made))
            made = made.id
        self._sent(ref, made)

    def _exception(self, ref: str, content: dict[str, Any], fingerprint: str) -> None:
        self.pen.write(op="try", ref=ref, digest=digest("RuntimeError", content), poison="poison" in content)
        error = RuntimeError(ref)
        made = self.calls.made(sendoff.capture_exception, error, fields=content, fingerprint=[fingerprint])
        self._sent(ref, made)

    def _sent(self, ref: str, event_id: str | None) -> None:
        self.none += event_id is None
        self.pen.write(op="sent", ref=ref, id=event_id, written=written(), t=time.monotonic())

    def _count(self, points: int) -> None:
        self.points += points
        amounts = [self.random.randrange(1, 100) for _ in range(points)]
        self.amount += sum(amounts)
        # Before they are counted: no more than this can arrive.
        self.pen.write(op="count", upto=self.points, amount=self.amount)
        for amount in amounts:
            self.calls.made(sendoff.increment, "chaos.amount", amount, producer=self.name)
            if DIRECT:
                self.calls.made(sendoff.distribution, "chaos.size", amount, producer=self.name)

    def _settle(self) -> None:
        """After a flush that says yes, all that was sent and counted until now is where it should be."""
        if self.calls.made(sendoff.flush, 0.2, limit=0.2):
            self.pen.write(op="settled", amount=self.amount, points=self.points, **self._drops())

    def _drops(self) -> dict[str, Any]:
        """What was dropped, and whether that was after the call, so that it is not known which event it was."""
        dropped: Any = sendoff.stats()["dropped"]
        events = sum(n for reason, n in dropped.items() if reason.startswith("event."))
        return {"dropped": dropped, "unknown": events - self.none}

    def _acknowledged(self) -> None:
        stats = sendoff.stats()
        acked = stats.get("acked", 0)
        if stats.get("refused"):
            self.pen.write(op="trouble", what=f"the agent refused {stats['refused']}")
        elif isinstance(acked, int) and acked > self.acknowledged and not self._drops()["unknown"]:
            self.acknowledged = acked
            self.pen.write(op="acknowledged", upto=acked)
        while self.receipts and self.receipts[0][1].state != "pending":
            ref, receipt = self.receipts.pop(0)
            if receipt.state == "spooled":
                self.pen.write(op="receipt", ref=ref)
            elif receipt.id is not None and receipt.state != "dropped":
                self.pen.write(op="trouble", what=f"the receipt of {ref} says {receipt.state} {receipt.reason}")

    def end(self) -> None:
        """In order: everything acknowledged, or said that it is not."""
        self.calls.begin()
        flushed = self.calls.made(sendoff.flush, FLUSH_S, limit=FLUSH_S)
        self._acknowledged()
        stats = sendoff.stats()
        unknown = self._drops()["unknown"]
        self.calls.made(sendoff.close, limit=2)
        self.pen.write(
            op="end",
            flushed=flushed,
            dropped=stats["dropped"],
            unknown=unknown,
            refused=stats.get("refused", {}),
            internal_error=stats.get("internal_error", 0),
            points=self.points,
            amount=self.amount,
            trouble=str(stats["trouble"]),
            longest=self.calls.longest,
            calls=self.calls.number,
        )

    def fork(self, number: int) -> int:
        """A child that sends a little under a name of its own, and dies. Its process id."""
        pid = os.fork()
        if pid:
            return pid
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it goes with its parent, or it would outlive the run
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        name = f"{self.name}-c{number}"
        child = Producer(name, self.book.with_name(f"{name}.jsonl"), "wild", self.seed)
        child.begin_again()
        for _ in range(child.random.randrange(1, 12)):
            child.step()
            time.sleep(0.05 * child.random.random())
        child.die(child.random.choice(CHILD_ENDS))
        return 0

    def begin_again(self) -> None:
        """In a child: its book begins, and the client is the one that it inherited."""
        self.pen.write(
            op="begin",
            service="wild",
            calm=False,
            kind="child",
            project=os.environ.get("ORACLE_PROJECT", ""),
            path=os.environ.get("ORACLE_PATH", "agent"),
        )

    def die(self, how: str) -> None:
        self.pen.write(op="dies", how=how)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        if how == "end":
            self.end()
        if how == "return":
            sys.exit(0)
        os._exit(0)


def written() -> bool:
    """Whether every event so far is wholly with the kernel. The one look behind the client's public names."""
    client = current.client
    if client is None or DIRECT or client.settings.address.scheme.startswith("zmq"):  # type: ignore[attr-defined]
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
    producer.begin()
    pause = 1 / float(rate)
    children: list[int] = []
    while not told:
        producer.step()
        if kind == "fork" and producer.random.random() < 0.03:
            children.append(producer.fork(len(children)))
        time.sleep(pause * 2 * producer.random.random())
    producer.end()
    for child in children:
        os.waitpid(child, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
