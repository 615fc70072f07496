"""Dead letters: what a destination refused for good, kept with its answer as a batch that can be sent again.

Under which id it is sent again decides whether anything can be doubled:
- a whole batch keeps its id: a destination that stored it after all knows it by that;
- lines that were refused while their batch was stored get another id, since the batch's is taken. Events are known by
  their own ids; lines of metrics become one more part of the same windows, which no other part has (wire format, 6).
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apsw
import msgspec

from sendoff_server.spool import receipts
from sendoff_server.spool.items import EVENTS, SNAPSHOT, add_item, checksum, runs, unseal
from sendoff_server.spool.leasing import batch_id
from sendoff_server.spool.records import Dead
from sendoff_server.spool.room import prune_dead
from sendoff_server.spool.shares import Kept, by_line, sharer
from sendoff_server.spool.sql import ask
from sendoff_server.spool.writer import Transaction
from sendoff_server.wire.batch import encode_batch

EXCERPT_BYTES = 2_048
PARTS_FROM = 1_000_000
"""Parts of refused lines are numbered from here on, after the number of their dead letter: no merge has so many."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it is kept."""

    dead: int
    output: str
    batch: str
    kind: int
    at: int
    status: int
    code: str
    lines: int
    n: int
    sources: str
    epoch: int
    first: int
    window: int
    checksum: bytes
    blob: bytes


class CannotReplay(Exception):
    """A dead letter is left as it is; the text says why, and what to do."""


def bury(
    transaction: Transaction,
    output: str,
    letter: Dead,
    kept: Kept,
    numbers: Sequence[int],
    n: int,
    now_ms: int,
    *,
    alone: bool = False,
) -> None:
    """Keep lines as a dead letter. ``alone``: these lines were refused, and their batch was stored without them."""
    batch, kind, blob, sources = letter.batch, kept.kind, letter.batch.blob, kept.sources
    if alone:
        header, lines = unseal(batch.blob)
        chosen = [lines[number - 1] for number in numbers]
        number = int(ask(transaction.connection, "next_dead")[0][0])
        header = {**header, **_another(header, output, number), "count": len(chosen)}
        blob = encode_batch(header, chosen)
        if kind == EVENTS:
            named = by_line(sources)
            sources = msgspec.json.encode(runs(named[line - 1] for line in numbers)).decode()
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
        "sources": sources,
        "epoch": kept.origin.epoch,
        "first": kept.origin.first,
        "window": kept.origin.window,
        "checksum": checksum(blob),
        "blob": blob,
    }
    ask(transaction.connection, "add_dead", values)
    prune_dead(transaction, "events" if kind == EVENTS else "metrics")


def read_letter(connection: apsw.Connection, number: int) -> Letter | None:
    rows = ask(connection, "dead_letter", {"dead": number})
    return Letter(*rows[0]) if rows else None


def replay(
    transaction: Transaction,
    number: int,
    outputs: Collection[str],
    *,
    to: str | None = None,
    force: bool = False,
) -> Letter | None:
    """Let a dead letter wait for its output (or another) once more, and take it out; None if there is none.

    ``outputs``: those that are set up. Raises ``CannotReplay``; then nothing is changed.
    """
    connection, now_ms = transaction.connection, transaction.now_ms
    letter = read_letter(connection, number)
    if letter is None:
        return None
    target = to or letter.output
    _check(connection, letter, target, outputs, now_ms, force=force)
    header, lines = unseal(letter.blob)
    blob: bytes | None = letter.blob
    if not letter.sources and letter.status == 200:  # of layout 1, which did not say whether its batch was stored
        header |= _another(header, letter.output, number)
        blob = None
    sources, counts = _sources(letter, lines)
    covers = header.get("covers") or [0, 0, 0]
    item = add_item(
        connection,
        letter.kind,
        header,
        lines,
        counts=counts,
        sources=sources,
        outputs=[target],
        born=transaction.ran_ms,
        window=(letter.epoch or covers[0], letter.window or covers[2]) if letter.kind == SNAPSHOT else (0, 0),
        first=letter.first or covers[1] if letter.kind == SNAPSHOT else 0,
        blob=blob,
        sealed=True,
    )
    _count(transaction, letter, target, counts)
    if letter.kind == EVENTS:
        receipts.again(connection, target, item, lines, now_ms)
    ask(connection, "delete_dead", {"dead": number})
    return letter


def _check(
    connection: apsw.Connection, letter: Letter, target: str, outputs: Collection[str], now_ms: int, *, force: bool
) -> None:
    name = f"dead/{letter.dead}"
    if target not in outputs:
        there = f"--to sends it to another ({', '.join(sorted(outputs))})" if outputs else "set one up"
        raise CannotReplay(f"{name}: there is no output {target} in the settings; {there}")
    if checksum(letter.blob) != letter.checksum:
        raise CannotReplay(f"{name}: it is damaged on the disk and cannot be sent; purge it")
    if force:
        return
    if letter.kind == SNAPSHOT and target != letter.output and _alone(letter):
        raise CannotReplay(
            f"{name}: these lines of metrics were refused by {letter.output}, which has the others of their seconds. "
            f"If {target} got those seconds by itself, it would count them twice; --force if it did not"
        )
    known = ask(connection, "get_meta", {"key": f"dedupe_s/{target}"})
    if known and now_ms - letter.at > int(known[0][0]) * 1000:
        days = int(known[0][0]) / 86_400
        raise CannotReplay(
            f"{name}: it is older than {target} recognises repeats ({days:.3g} days), so if it was stored after all it "
            "would be there twice; --force replays it nevertheless"
        )


def _alone(letter: Letter) -> bool:
    """Whether it is a part that was refused while the others of its windows were stored, now or an earlier time."""
    header = unseal(letter.blob)[0]
    part = (header.get("covers") or [0])[-1]
    return bool(header["batch"] != letter.batch or part >= PARTS_FROM or (not letter.sources and letter.status == 200))


def _another(header: dict[str, Any], output: str, number: int) -> dict[str, Any]:
    """Another id for lines of a batch that is stored, and for metrics another part of the same windows."""
    if covers := header.get("covers"):
        covers = [*covers[:3], PARTS_FROM + number]
        return {"batch": batch_id(header["agent"], output, covers), "covers": covers}
    base = str(header["batch"]).partition(":dead-")[0].replace("/", ".")  # after a "/" stand the lines of a half
    return {"batch": f"{base}:dead-{number}"}


def _sources(letter: Letter, lines: Sequence[bytes]) -> tuple[Any, dict[str, int]]:
    """The sources as an item keeps them, and what it holds of each."""
    if letter.kind == SNAPSHOT:
        return msgspec.Raw((letter.sources or "{}").encode()), {"": letter.n}
    if letter.sources:
        share = sharer(letter.kind, letter.lines, letter.n, letter.sources, letter.blob)
        return msgspec.Raw(letter.sources.encode()), share(range(1, letter.lines + 1))
    named = list(_services(lines))
    return runs(named), Counter(named)


class _Served(msgspec.Struct):
    service: str = ""


def _services(lines: Sequence[bytes]) -> Iterator[str]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=_Served).service or "unknown"
        except (msgspec.MsgspecError, ValueError):
            yield "unknown"


def _count(transaction: Transaction, letter: Letter, target: str, counts: dict[str, int]) -> None:
    """It is not dead any more. For another output than the one that refused it, it has come in anew.

    Of events of layout 1 nobody knows under which sources they were counted as dead, so they come in anew as well.
    """
    tally = transaction.tally
    anew = target != letter.output or (letter.kind == EVENTS and not letter.sources)
    for source, n in counts.items():
        if letter.kind == EVENTS:
            tally.events(source, target, "received" if anew else "dead", n if anew else -n)
        else:
            tally.points_out(target, "journaled" if anew else "dead", n if anew else -n)
