"""Folds: repeats of one exception that are only counted, and the one that stands for all when their minute is over.

While a fold stands in its table, all that it counts is pending for every output that wants events. Then one line goes
out for them, with ``repeats`` saying how many more it stands for; delivered, it counts as one delivered, the rest
folded. Refused or lost, all that it stands for is.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw
import msgspec

from sendoff_server.spool.accounts import Tally
from sendoff_server.spool.items import EVENTS, add_item, checksum, runs
from sendoff_server.spool.records import EventIn
from sendoff_server.spool.sql import ask, tell

log = logging.getLogger(__name__)

BATCH_EVENTS = 1_000
BATCH_BYTES = 1024 * 1024


class _Repeats(msgspec.Struct):
    repeats: int = 0


_decoder = msgspec.json.Decoder(_Repeats)


def weight(line: bytes) -> int:
    """How many events a line of an events batch stands for, itself included."""
    return 1 + _decoder.decode(line).repeats


@dataclass(frozen=True, slots=True)
class Purged:
    """How many folds were thrown away, and the exceptions that they counted, for all outputs together."""

    folds: int
    events: int


def keep(connection: apsw.Connection, events: Iterable[EventIn], ran_ms: int) -> None:
    """Count events into their folds. The first of a fold brings the line; the lines of the others do not matter."""
    counts: Counter[str] = Counter()
    first: dict[str, EventIn] = {}
    for event in events:
        counts[event.fold] += 1
        first.setdefault(event.fold, event)
    rows = [(key, first[key].source, ran_ms, n, _sealed(first[key].line)) for key, n in counts.items()]
    tell(connection, "fold", rows)


def purge(connection: apsw.Connection, tally: Tally, output: str | None, before_ms: int | None, *, do: bool) -> Purged:
    """What is only counted so far is lost (purged), if it began before a running time; or, without ``do``, would be.

    A fold counts for all outputs alike: of one alone nothing can be thrown away, unless there is no other.
    """
    outputs = fold_outputs(connection)
    if output is not None and outputs != [output]:
        return Purged(0, 0)
    rows = ask(connection, "purge_folds", {"before": before_ms})
    if do:
        ask(connection, "empty_folds", {"before": before_ms})
        for source, _, n in rows:
            for each in outputs:
                tally.events(source, each, "lost", n, "purged")
    return Purged(sum(lines for _, lines, _ in rows), len(outputs) * sum(n for _, _, n in rows))


def fold_outputs(connection: apsw.Connection) -> list[str]:
    """The outputs that folds are pending for."""
    known = ask(connection, "get_meta", {"key": "fold_outputs"})
    return msgspec.json.decode(known[0][0], type=list[str]) if known else []


def unfold(
    connection: apsw.Connection,
    tally: Tally,
    keys: Sequence[str] | None,
    header: Mapping[str, Any],
    outputs: Sequence[str],
) -> int:
    """Move folds into events batches of ``outputs``: those of these keys, or all. How many lines they became.

    ``header`` is a batch's, without its count; its id gets a number at its end.
    """
    wanted = None if keys is None else msgspec.json.encode(keys).decode()
    moved = 0
    for number, piece in enumerate(_pieces(ask(connection, "folds", {"keys": wanted}), tally, outputs)):
        named = {**header, "batch": f"{header['batch']}-{number}", "count": len(piece)}
        counts: Counter[str] = Counter()
        for source, n, _, _ in piece:
            counts[source] += n
        add_item(
            connection,
            EVENTS,
            named,
            [line for _, _, _, line in piece],
            counts=counts,
            sources=runs(source for source, _, _, _ in piece),
            outputs=outputs,
            born=min(began for _, _, began, _ in piece),
        )
        moved += len(piece)
    ask(connection, "drop_folds", {"keys": wanted})
    return moved


def _sealed(line: bytes) -> bytes:
    return line + b"\n" + checksum(line)


def _unsealed(kept: bytes) -> bytes:
    """The line that was kept. Raises ``ValueError`` if it is not: another event would stand for all."""
    line, _, seal = kept.partition(b"\n")
    if seal != checksum(line):
        raise ValueError("it is not what was stored")
    return line


Row = tuple[str, int, int, bytes]
"""Source, how many, when the first came (ms of running time), and the line that stands for them."""


def _pieces(rows: Iterable[tuple[Any, ...]], tally: Tally, outputs: Sequence[str]) -> Iterator[list[Row]]:
    """What fits one batch each, with lines that say how many they stand for."""
    piece: list[Row] = []
    size = 0
    for source, n, began, line in rows:
        try:
            whole = msgspec.json.encode({**msgspec.json.decode(_unsealed(line)), "repeats": n - 1})
        except (ValueError, TypeError) as error:
            log.error("%d exceptions of %s are lost: the line that stands for them is damaged: %s", n, source, error)
            for output in outputs:
                tally.events(source, output, "lost", n, "damaged")
            continue
        if piece and (len(piece) == BATCH_EVENTS or size + len(whole) > BATCH_BYTES):
            yield piece
            piece, size = [], 0
        piece.append((source, n, began, whole))
        size += len(whole) + 1
    if piece:
        yield piece
