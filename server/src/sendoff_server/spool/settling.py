"""What an answer changes: taken, dead, or split in halves. Counted in the transaction that moves the rows."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sendoff_server.spool import receipts
from sendoff_server.spool.folding import weight
from sendoff_server.spool.items import EVENTS, SNAPSHOT, add_item, checksum, runs, take, unseal
from sendoff_server.spool.leasing import points_of
from sendoff_server.spool.records import Dead, Delivered, RefusedLine, Sealed, Settlement, Split
from sendoff_server.spool.room import prune_dead
from sendoff_server.spool.sql import ask
from sendoff_server.spool.writer import Transaction
from sendoff_server.wire.batch import encode_batch

EXCERPT_BYTES = 2_048


@dataclass(frozen=True, slots=True)
class Origin:
    """What the pieces of a batch have from it: its windows, and the running time when its data came in."""

    epoch: int
    window: int
    first: int
    born: int


def settle(transaction: Transaction, output: str, settlements: Sequence[Settlement], now_ms: int) -> None:
    """Settle batches of one output. A batch that was settled before is left alone and counts nothing."""
    for settlement in settlements:
        batch = settlement.batch
        rows = ask(transaction.connection, "item", {"item": batch.item})
        if not rows:
            continue
        kind, lines, n, sources, epoch, window, first, born = rows[0]
        if isinstance(settlement, Split):
            _split(transaction, output, batch, kind, sources, Origin(epoch, window, first, born))
        elif take(transaction.connection, output, batch.item) is not None:
            share = _sharer(kind, lines, n, sources, batch)
            if isinstance(settlement, Delivered):
                _delivered(transaction, output, settlement, kind, sources, share, now_ms)
            else:
                every = range(1, lines + 1)
                words = refusal_words(settlement)
                receipts.settle(transaction.connection, output, batch.item, "refused", now_ms, words)
                _count(transaction, output, kind, "dead", share(every))
                _bury(transaction, output, settlement, kind, every, sum(share(every).values()), now_ms)


Share = Callable[[Iterable[int]], dict[str, int]]
"""Line numbers to what they hold: events by source (with those that a line stands for), or points under ''."""


def _sharer(kind: int, lines: int, n: int, sources: str, batch: Sealed) -> Share:
    """How to count lines of a batch. All lines of a snapshot together are what its row says, without decoding it."""

    by_line = _by_line(sources) if kind == EVENTS else []
    weights = [weight(line) for line in unseal(batch.blob)[1]] if kind == EVENTS and n != lines else [1] * lines

    def events(numbers: Iterable[int]) -> dict[str, int]:
        found: Counter[str] = Counter()
        for number in numbers:
            found[by_line[number - 1]] += weights[number - 1]
        return found

    def points(numbers: Iterable[int]) -> dict[str, int]:
        wanted = list(numbers)
        if len(wanted) in (0, lines):
            return {"": n if wanted else 0}
        decoded = unseal(batch.blob)[1]
        return {"": sum(points_of(decoded[number - 1]) for number in wanted)}

    return events if kind == EVENTS else points


def _by_line(sources: str) -> list[str]:
    runs = msgspec.json.decode(sources, type=list[tuple[str, int]])
    return [source for source, n in runs for _ in range(n)]


def _delivered(
    transaction: Transaction, output: str, settlement: Delivered, kind: int, sources: str, share: Share, now_ms: int
) -> None:
    batch = settlement.batch
    refused = {line.line: line for line in settlement.refused if 1 <= line.line <= batch.lines}
    dead = share(sorted(refused))
    whole = share(range(1, batch.lines + 1))
    taken = {key: n - dead.get(key, 0) for key, n in whole.items()}
    if kind == EVENTS and batch.n != batch.lines:  # what a line stands for beside itself is folded into it
        by_line = _by_line(sources)
        own = Counter(by_line[number - 1] for number in range(1, batch.lines + 1) if number not in refused)
        _count(transaction, output, kind, "folded", {source: n - own[source] for source, n in taken.items()})
        taken = own
    _count(transaction, output, kind, "delivered", taken)
    _count(transaction, output, kind, "dead", dead)
    by_words: dict[tuple[str, str], list[RefusedLine]] = {}
    for line in refused.values():
        by_words.setdefault((line.code, line.detail), []).append(line)
    for (code, detail), lines in by_words.items():
        numbers = sorted(line.line for line in lines)
        letter = Dead(batch, 200, code, detail.encode())
        if receipts.waiting(transaction.connection, output, batch.item):
            decoded = unseal(batch.blob)[1]
            among = [decoded[number - 1] for number in numbers]
            words = refusal_words(letter)
            receipts.settle(transaction.connection, output, batch.item, "refused", now_ms, words, among=among)
        _bury(transaction, output, letter, kind, numbers, sum(share(numbers).values()), now_ms)
    receipts.settle(transaction.connection, output, batch.item, "delivered", now_ms)


def refusal_words(letter: Dead) -> str:
    """What a destination answered, for a receipt."""
    words = letter.excerpt.decode("utf-8", "replace").strip()
    return f"{letter.status or 'no status'} {letter.code}{': ' + words if words else ''}"


def _count(transaction: Transaction, output: str, kind: int, name: str, amounts: dict[str, int]) -> None:
    for source, n in amounts.items():
        if kind == EVENTS:
            transaction.tally.events(source, output, name, n)
        else:
            transaction.tally.points_out(output, name, n)


def _bury(
    transaction: Transaction, output: str, letter: Dead, kind: int, numbers: Sequence[int], n: int, now_ms: int
) -> None:
    """Keep lines as a dead letter: a batch of its own, which can be sent again."""
    batch = letter.batch
    blob = batch.blob
    if len(numbers) < batch.lines:
        header, lines = unseal(batch.blob)
        chosen = [lines[number - 1] for number in numbers]
        blob = encode_batch({**header, "count": len(chosen)}, chosen)
    values = {
        "output": output,
        "batch": batch.id,
        "kind": kind,
        "at": now_ms,
        "status": letter.status,
        "code": letter.code[:200],
        "excerpt": letter.excerpt[:EXCERPT_BYTES],
        "lines": len(numbers),
        "n": n,
        "checksum": checksum(blob),
        "blob": blob,
    }
    ask(transaction.connection, "add_dead", values)
    prune_dead(transaction, "events" if kind == EVENTS else "metrics")


def _split(transaction: Transaction, output: str, batch: Sealed, kind: int, sources: str, origin: Origin) -> None:
    """The halves become batches of this output alone, in the same place; named by the lines of the root they hold."""
    if batch.lines < 2 or (place := take(transaction.connection, output, batch.item)) is None:
        return
    header, lines = unseal(batch.blob)
    heirs = {}
    for name, start, stop in batch.halves():
        piece = lines[start:stop]
        counts, piece_sources = _piece(kind, piece, sources, start, stop)
        half: dict[str, Any] = {**header, "batch": name, "count": len(piece)}
        item = add_item(
            transaction.connection,
            kind,
            half,
            piece,
            counts=counts,
            sources=piece_sources,
            outputs=[output],
            born=origin.born,
            window=(origin.epoch, origin.window),
            first=origin.first,
            place=place,
            sealed=True,
        )
        heirs[item] = piece
    receipts.move(transaction.connection, output, batch.item, heirs)


def _piece(kind: int, piece: Sequence[bytes], sources: str, start: int, stop: int) -> tuple[dict[str, int], Any]:
    if kind == SNAPSHOT:
        return {"": sum(map(points_of, piece))}, msgspec.Raw(sources.encode())
    named = _by_line(sources)[start:stop]
    counts: Counter[str] = Counter()
    for source, line in zip(named, piece, strict=True):
        counts[source] += weight(line)
    return counts, runs(named)
