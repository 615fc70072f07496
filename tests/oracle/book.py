"""The oracle's own book: what each producer did, written by itself, outside of everything that is being tested.

One file a producer process, one line an entry, one `write` a line: a process that is killed leaves at most its last
line torn, and a torn entry counts as not made. The book says before a call what is about to be sent, and after it what
came of it, so that whatever arrives must be in the book, and what the book calls certain must arrive.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def digest(name: str, content: object) -> str:
    """What an event's content comes down to. The same for what was meant to be sent and for what arrived."""
    text = json.dumps([name, content], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class Pen:
    """Appends entries to one file, each by a single write."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **entry: object) -> None:
        os.write(self._descriptor, (json.dumps(entry) + "\n").encode())


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The whole entries of a file; a torn last line is left out."""
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)


@dataclass
class Sent:
    """One event as its producer saw it. Times are seconds of the system's monotonic clock."""

    digest: str
    event_id: str | None = None
    returned: bool = False
    """Whether the call came back: then `event_id` is None only if the client dropped the event."""
    written: float | None = None
    """When all its bytes were known to be with the kernel, on a connection that was not known to be dead."""
    acknowledged: bool = False
    poison: bool = False
    """Whether the fake destination refuses it."""
    kept: bool = False
    """Whether it stood in a file of its client's (`spool=`) when its process was dead."""


@dataclass
class Account:
    """One producer process."""

    name: str
    service: str = ""
    calm: bool = False
    """Whether it lived while no agent ended: then its counters must arrive to the last point."""
    events: dict[str, Sent] = field(default_factory=dict)
    counted: int = 0
    """Points that it began to count, at most."""
    amount: int = 0
    """Their sum, likewise."""
    settled: dict[str, Any] | None = None
    """What a flush that said yes had found counted before it: `amount`, `points`, `dropped`."""
    ended: dict[str, Any] | None = None
    """What it said at an orderly end: `flushed`, `dropped`, `refused`, `points`, `amount`."""
    trouble: list[str] = field(default_factory=list)
    project: str = ""
    path: str = "agent"
    kind: str = ""
    slow: list[dict[str, Any]] = field(default_factory=list)
    """Calls that took long: `began`, `took`, of that `limit` as asked for, `starved` for want of a processor."""


def read(path: Path) -> Account:
    """A producer's file as an account."""
    account = Account(path.stem)
    numbered: list[str] = []
    acknowledged = 0
    for entry in entries(path):
        match entry["op"]:
            case "begin":
                account.service, account.calm = entry["service"], entry["calm"]
                account.project, account.path = entry.get("project", ""), entry.get("path", "agent")
                account.kind = entry.get("kind", "")
            case "try":
                account.events[entry["ref"]] = Sent(entry["digest"], poison=entry.get("poison", False))
            case "sent":
                sent = account.events[entry["ref"]]
                sent.returned, sent.event_id = True, entry["id"]
                if entry["id"] is not None:
                    numbered.append(entry["ref"])
                    sent.written = entry["t"] if entry["written"] else None
            case "receipt":
                account.events[entry["ref"]].acknowledged = True
            case "acknowledged":
                acknowledged = max(acknowledged, entry["upto"])
            case "count":
                account.counted = max(account.counted, entry["upto"])
                account.amount = max(account.amount, entry.get("amount", 0))
            case "settled":
                account.settled = entry
                acknowledged = acknowledged if entry["unknown"] else len(numbered)
            case "slow":
                account.slow.append(entry)
            case "end":
                account.ended = entry
            case "trouble":
                account.trouble.append(entry["what"])
    for ref in numbered[:acknowledged]:
        account.events[ref].acknowledged = True
    return account


def read_all(folder: Path) -> list[Account]:
    """All producers' accounts, oldest first."""
    return [read(path) for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_ctime_ns)]
