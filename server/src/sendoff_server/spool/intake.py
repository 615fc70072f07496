"""What comes in: events are sealed at once, a second of metrics becomes a journal row. Counted where it is stored."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from sendoff_server.spool import folding, receipts
from sendoff_server.spool.accounts import Tally
from sendoff_server.spool.items import EVENTS, JOURNAL, add_item, runs
from sendoff_server.spool.records import UNASSIGNED, EventIn, OutputSpec, Rotation
from sendoff_server.spool.room import has_room
from sendoff_server.spool.sql import tell
from sendoff_server.spool.writer import Put, Transaction


@dataclass(frozen=True, slots=True)
class Copied:
    """A rotation as the writer's thread gets it: a copy that nobody else changes."""

    ord: tuple[int, int]
    made_ms: int
    lines: list[bytes]
    points: dict[str, int]
    lost: dict[str, dict[str, int]]
    lines_received: dict[str, int]
    lines_rejected: dict[str, dict[str, int]]
    gauges: list[bytes]

    @classmethod
    def of(cls, rotation: Rotation) -> "Copied":
        return cls(
            (rotation.ord[0], rotation.ord[1]),
            rotation.made_ms,
            list(rotation.lines),
            {source: n for source, n in rotation.points.items() if n},
            {source: dict(reasons) for source, reasons in rotation.lost.items()},
            dict(rotation.lines_received),
            {source: dict(reasons) for source, reasons in rotation.lines_rejected.items()},
            list(rotation.gauges),
        )


def assigned(outputs: Sequence[OutputSpec]) -> Sequence[OutputSpec]:
    """The outputs that messages are kept for."""
    return outputs or [OutputSpec(UNASSIGNED, 10_000)]


def wanting_events(outputs: Sequence[OutputSpec]) -> list[str]:
    """Names of the outputs that events are kept for."""
    return [output.name for output in assigned(outputs) if output.events]


def batch_header(name: str, kind: str, lines: int, made_ms: int, agent: str, host: str) -> dict[str, Any]:
    """A batch's header (wire format, section 6)."""
    return {
        "batch": name,
        "schema": 1,
        "type": kind,
        "count": lines,
        "agent": agent,
        "made": made_ms,
        "host": host,
    }


class Intake:
    """Stores for the outputs of this run."""

    def __init__(self, outputs: Sequence[OutputSpec], agent: str, host: str, epoch: int) -> None:
        self._outputs = assigned(outputs)
        self._agent = agent
        self._host = host
        self._epoch = epoch
        self._numbers = count(1)
        self._wanting = wanting_events(outputs)

    def name(self) -> str:
        """A new id for a batch of events. From any thread."""
        # Never used again, even if this commit fails: a number says nothing, and the epoch is new with each start.
        return f"ev-{self._agent}-{self._epoch}-{next(self._numbers)}"

    def header(self, name: str, kind: str, lines: int, made_ms: int) -> dict[str, Any]:
        """A batch's header (wire format, section 6)."""
        return batch_header(name, kind, lines, made_ms, self._agent, self._host)

    def store(self, transaction: Transaction, puts: Sequence[Put], now_ms: int) -> None:
        """All events of a group of puts, as few batches as the caps allow, and the clients that they came from."""
        events = [event for put in puts for event in put.events]
        folded = [event for event in events if event.fold]
        for piece in _cut([event for event in events if not event.fold]):
            self._store_batch(transaction, piece, now_ms)
        if folded:
            self._receive(transaction.tally, folded)
            if self._wanting:
                folding.keep(transaction.connection, folded, transaction.ran_ms)
        clients = {row[0]: row for put in puts for row in put.clients}
        tell(transaction.connection, "set_client", clients.values())
        refusals = [refusal for put in puts for refusal in put.refusals]
        receipts.refuse(transaction.connection, refusals, now_ms, transaction.ran_ms)

    def _store_batch(self, transaction: Transaction, events: list[EventIn], now_ms: int) -> None:
        name = self.name()
        counts = self._receive(transaction.tally, events)
        item = None
        if self._wanting:
            lines = [event.line for event in events]
            header = self.header(name, "events", len(lines), now_ms)
            sources = runs(event.source for event in events)
            item = add_item(
                transaction.connection,
                EVENTS,
                header,
                lines,
                counts=counts,
                sources=sources,
                outputs=self._wanting,
                born=transaction.ran_ms,
            )
        receipts.keep(transaction.connection, events, item, self._outputs, now_ms, transaction.ran_ms)

    def _receive(self, tally: Tally, events: Sequence[EventIn]) -> Counter[str]:
        """Count events as received, and those that nobody wants; how many there are of each source."""
        counts = Counter(event.source for event in events)
        for output in self._outputs:
            for source, n in counts.items():
                tally.events(source, output.name, "received", n)
                if not output.events:
                    tally.events(source, output.name, "not_routed", n)
        return counts

    def unfold(self, transaction: Transaction, keys: Sequence[str] | None, now_ms: int) -> int:
        """The minute of these folds (None: of all) is over: one line goes out for each. How many there were."""
        name = self.name()
        header = self.header(name, "events", 0, now_ms)
        return folding.unfold(transaction.connection, transaction.tally, keys, header, self._wanting)

    def count_lost_events(self, tally: Tally, by_source: Mapping[str, int], reason: str) -> None:
        """Events that were received but could not be stored."""
        for output in self._outputs:
            for source, n in by_source.items():
                tally.events(source, output.name, "received", n)
                tally.events(source, output.name, "lost", n, reason)

    def journal(self, transaction: Transaction, rotation: Copied) -> None:
        """One second of metrics: its row, its counts, its gauges. Without room its points are lost, and counted."""
        points = sum(rotation.points.values())
        full = bool(rotation.lines or points) and not has_room(transaction, "metrics")
        count_rotation(transaction.tally, rotation, "spool_full" if full else None)
        self._set_gauges(transaction, rotation.gauges)
        if full or not (rotation.lines or points):
            return
        for output in self._outputs:
            transaction.tally.points_out(output.name, "journaled", points)
            if not output.metrics:
                transaction.tally.points_out(output.name, "not_routed", points)
        wanting = [output.name for output in self._outputs if output.metrics]
        if wanting:
            name = f"jr-{rotation.ord[0]}-{rotation.ord[1]}"
            add_item(
                transaction.connection,
                JOURNAL,
                self.header(name, "journal", len(rotation.lines), rotation.made_ms),
                rotation.lines,
                counts={"": points},
                sources=rotation.points,
                outputs=wanting,
                born=transaction.ran_ms,
                window=rotation.ord,
            )

    def _set_gauges(self, transaction: Transaction, gauges: Sequence[bytes]) -> None:
        states = {key: state for key, _, state in (gauge.partition(b"\0") for gauge in gauges)}
        tell(transaction.connection, "set_gauge", [(key, state) for key, state in states.items() if state])
        tell(transaction.connection, "forget_gauge", [(key,) for key, state in states.items() if not state])


def count_rotation(tally: Tally, rotation: Copied, given_up: str | None) -> None:
    """A rotation's points and lines. ``given_up``: why its points were not journaled, or None if they were."""
    for source, n in rotation.points.items():
        tally.points_in(source, "received", n)
        tally.points_in(source, "lost" if given_up else "journaled", n, given_up or "")
    for source, reasons in rotation.lost.items():
        for reason, n in reasons.items():
            tally.points_in(source, "received", n)
            tally.points_in(source, "lost", n, reason)
    for source, n in rotation.lines_received.items():
        rejected = rotation.lines_rejected.get(source, {})
        tally.lines(source, "received", n)
        tally.lines(source, "accepted", n - sum(rejected.values()))
    for source, reasons in rotation.lines_rejected.items():
        for reason, n in reasons.items():
            tally.lines(source, "rejected", n, reason)


def _cut(events: Sequence[EventIn]) -> Iterator[list[EventIn]]:
    """Pieces of at most 1,000 events and about 1 MiB."""
    piece: list[EventIn] = []
    size = 0
    for event in events:
        if piece and (len(piece) == folding.BATCH_EVENTS or size + len(event.line) > folding.BATCH_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(event)
        size += len(event.line) + 1
    if piece:
        yield piece
