"""What an answer changes: taken, dead, or split in halves. Counted in the transaction that moves the rows."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from sendoff_server.spool import receipts
from sendoff_server.spool.folding import weight
from sendoff_server.spool.items import EVENTS, SNAPSHOT, add_item, runs, take, unseal
from sendoff_server.spool.leasing import points_of
from sendoff_server.spool.letters import bury
from sendoff_server.spool.records import Dead, Delivered, RefusedLine, Sealed, Settlement, Split
from sendoff_server.spool.shares import Kept, Origin, Share, by_line, sharer
from sendoff_server.spool.sql import ask
from sendoff_server.spool.writer import Transaction


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
            share = sharer(kind, lines, n, sources, batch.blob)
            kept = Kept(kind, sources, Origin(epoch, window, first, born))
            if isinstance(settlement, Delivered):
                _delivered(transaction, output, settlement, kept, share, now_ms)
            else:
                every = range(1, lines + 1)
                words = refusal_words(settlement)
                receipts.settle(transaction.connection, output, batch.item, "refused", now_ms, words)
                _count(transaction, output, kind, "dead", share(every))
                bury(transaction, output, settlement, kept, every, sum(share(every).values()), now_ms)


def _delivered(
    transaction: Transaction, output: str, settlement: Delivered, kept: Kept, share: Share, now_ms: int
) -> None:
    batch, kind = settlement.batch, kept.kind
    refused = {line.line: line for line in settlement.refused if 1 <= line.line <= batch.lines}
    dead = share(sorted(refused))
    whole = share(range(1, batch.lines + 1))
    taken = {key: n - dead.get(key, 0) for key, n in whole.items()}
    if kind == EVENTS and batch.n != batch.lines:  # what a line stands for beside itself is folded into it
        named = by_line(kept.sources)
        own = Counter(named[number - 1] for number in range(1, batch.lines + 1) if number not in refused)
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
        bury(transaction, output, letter, kept, numbers, sum(share(numbers).values()), now_ms, alone=True)
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
    named = by_line(sources)[start:stop]
    counts: Counter[str] = Counter()
    for source, line in zip(named, piece, strict=True):
        counts[source] += weight(line)
    return counts, runs(named)
