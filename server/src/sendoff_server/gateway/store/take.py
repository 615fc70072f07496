"""What one request stores, run by the writer within its transaction: deduplicate, store, count, and say what happened.

The ids that make repeats recognisable are written in the transaction of the data that they stand for, so no crash can
part them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import apsw

from sendoff_server.gateway.check import Checked, Cover, Refusal, Window
from sendoff_server.gateway.events import EventRow
from sendoff_server.gateway.store.sql import QUERIES

MOST = 2**53 - 1
"""Where counts stop, as the wire format's do: hostile numbers must not make the honest ones after them fail."""
Merge = Callable[[Sequence[Sequence[bytes]], int], list[bytes]]
"""``merge(snapshots, length_ms)`` of the core."""


@dataclass(frozen=True, slots=True)
class Result:
    """The answer for one batch."""

    batch: str
    status: Literal["stored", "duplicate", "refused"]
    refused: Sequence[Refusal] = ()
    reason: Refusal | None = None

    def as_json(self) -> dict[str, Any]:
        answer: dict[str, Any] = {"batch": self.batch, "status": self.status}
        if self.reason is not None:
            answer |= {"code": self.reason.code, "detail": self.reason.detail}
        if self.refused:
            answer["refused"] = [
                {"line": line.line, "id": line.id, "code": line.code, "detail": line.detail} for line in self.refused
            ]
        return answer


@dataclass(slots=True)
class Taker:
    """Stores checked batches of one project. One is made for each piece of work."""

    db: apsw.Connection
    project: int
    now_ms: int
    merge: Merge
    counts: dict[str, int] = field(default_factory=dict)

    def take(self, batches: Sequence[Checked]) -> list[Result]:
        results = [self._batch(batch) for batch in batches]
        self.write_counts()
        return results

    def write_counts(self) -> None:
        """At the end: what was counted."""
        for name, n in self.counts.items():
            self.db.execute(QUERIES["count"], (self.project, name, min(n, MOST)))

    def _count(self, name: str, n: int = 1) -> None:
        if n:
            self.counts[name] = self.counts.get(name, 0) + n

    def _batch(self, batch: Checked) -> Result:
        reason = batch.refusal
        if reason is None and batch.type == "ledger":
            return self._ledger(batch)
        if reason is None:
            for (digest,) in self.db.execute(QUERIES["find_batch"], (self.project, batch.id)):
                self._count("batches.duplicate")
                if digest == batch.digest:  # the sender may not have heard what was refused of it the first time
                    return Result(batch.id, "duplicate", batch.refused)
                self._count("batches.conflict")
                return Result(batch.id, "duplicate")
            reason = self._overlap(batch)
        if reason is not None:
            self._count(f"batches.refused.{reason.code}")
            return Result(batch.id, "refused", reason=reason)
        cover = (None,) * 4 if batch.cover is None else _columns(batch.cover)
        key = (self.project, batch.id, batch.digest, batch.type, batch.agent, self.now_ms)
        self.db.execute(QUERIES["add_batch"], key + cover)
        for event in batch.events:
            self.event(batch, event)
        for window in batch.windows:
            self.window(batch.agent, window)
        self._count("batches.stored")
        for line in batch.refused:
            self._count(f"lines.refused.{line.code}")
        return Result(batch.id, "stored", batch.refused)

    def _overlap(self, batch: Checked) -> Refusal | None:
        """Stored covers of a run overlap only as parts and halves do: the walk ends at the first that ends earlier."""
        new = batch.cover
        if new is None:
            return None
        key = (self.project, batch.agent, new.epoch, new.last)
        for known, first, last, part in self.db.execute(QUERIES["covers_before"], key):
            if last < new.first:
                return None
            another_part = (first, last) == (new.first, new.last) and part != new.part
            if not another_part and not _halves(known, batch.id):
                detail = f"covers: windows {first} to {last} of this run are stored as {known}"
                return Refusal(0, None, "overlap", detail)
        return None

    def event(self, batch: Checked, row: EventRow) -> None:
        """Store an event unless its id is known."""
        event = row.event
        self.db.execute(QUERIES["add_event_id"], (self.project, event.id, row.digest, self.now_ms))
        if not self.db.changes():
            ((digest,),) = self.db.execute(QUERIES["event_digest"], (self.project, event.id))
            self._count("events.duplicate")
            self._count("events.conflict", digest != row.digest)
            return
        where = (event.service, event.env, event.release, event.host, event.name)
        origin = (self.now_ms, batch.made, batch.id, batch.agent)
        key = (self.project, event.id, event.kind, event.t)
        shown = event.fingerprint if row.group else None
        self.db.execute(QUERIES["add_event"], (*key, *origin, *where, shown, row.weight, row.line))
        self._count(f"{event.kind}s.stored")
        self._count(f"{event.kind}s.repeats", row.weight - 1)
        if row.group is not None:
            self._group(row)

    def _group(self, row: EventRow) -> None:
        event, group = row.event, row.group
        assert group is not None
        new_user = 0
        if group.user is not None:
            self.db.execute(QUERIES["add_user"], (self.project, group.fingerprint, group.user))
            new_user = self.db.changes()
        shown = (event.name, group.message, group.place, event.service)
        numbers = (event.t, row.weight, new_user, event.id)
        self.db.execute(QUERIES["add_to_group"], (self.project, group.fingerprint, *shown, *numbers))
        release = (event.release, event.service, event.env, event.t, row.weight)
        self.db.execute(QUERIES["add_to_release"], (self.project, group.fingerprint, *release))

    def window(self, agent: str, window: Window) -> None:
        """Add a window to what is stored of it."""
        start, length = window.start, window.length
        identity = (self.project, window.name, window.type, window.unit, window.tags)
        number = self.db.execute(QUERIES["find_series"], identity).get
        if number is None:
            number = self.db.execute(QUERIES["add_series"], (*identity, start, start + length)).get
        else:
            self.db.execute(QUERIES["touch_series"], (number, start, start + length))
        key = (number, start, length, agent)
        line = window.line
        # Late points of a window that was sent before, or a part or half of its snapshot: both together are the window.
        for (stored,) in self.db.execute(QUERIES["window"], key):
            (line,) = self.merge([[stored], [line]], length)
        self.db.execute(QUERIES["put_window"], (*key, line))
        self._count("points.stored", window.n)

    def _ledger(self, batch: Checked) -> Result:
        lines = b"\n".join(batch.books)
        key = (self.project, batch.agent, batch.host, batch.ordinal, batch.made, self.now_ms, lines)
        self.db.execute(QUERIES["put_ledger"], key)
        return Result(batch.id, "stored" if self.db.changes() else "duplicate", batch.refused)


def _columns(cover: Cover) -> tuple[int, int, int, int]:
    return cover.epoch, cover.first, cover.last, cover.part


def _halves(one: str, other: str) -> bool:
    """Whether both are parts of one split batch. The whole and a half of it hold the same lines, so those are not."""
    (parent, *half), (its_parent, *its_half) = one.split("/", 1), other.split("/", 1)
    return parent == its_parent and bool(half and its_half)
