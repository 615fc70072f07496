"""Looking into the spool and putting it in order by hand: what `sendoff spool` asks, as values, and the answers.

Each wish is a small struct, so that it is the same through a running agent (`agent/control.py`) and on the files
(`offline.py`). Every answer is bounded; what goes over much says how far it came (`after`, `more`) and is asked again.
Everything here takes a connection or a transaction, and knows no output: a look never gives anything up.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal

import apsw
import msgspec

from sendoff_server.spool import folding, receipts
from sendoff_server.spool.items import EVENTS, KINDS, checksum, take, unseal
from sendoff_server.spool.letters import CannotReplay, replay
from sendoff_server.spool.sql import ask
from sendoff_server.spool.writer import Transaction

PAGE_BYTES = 4 * 1024 * 1024
"""Decoded bytes of one answer that holds lines; its first batch is always in it."""
PAGE_DAMAGED = 1_000
"""Damaged batches that one answer names: they travel in a header."""
PURGE_ROWS = 200
REPLAY_LETTERS = 20
"""What one transaction of a purge or a replay takes: commits of others must not wait for long."""

Limit = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Numbers = Annotated[list[Number], msgspec.Meta(max_length=10_000)]
What = Literal["waiting", "dead"]


class Listing(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is there: waiting batches and dead letters, oldest first, and totals."""

    output: str | None = None
    dead: bool = False
    """Only dead letters."""
    limit: Limit = 50


class Showing(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One batch or dead letter with its lines. ``name``: the number of an item, a batch's id, or ``dead/N``."""

    name: str
    lines: Limit = 20


class Exporting(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The next page of all batches as lines (wire format, section 6), after a number."""

    what: What
    output: str | None = None
    after: Number = 0


class Replaying(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Dead letters that are to be sent again: these, or all up to ``until`` (0: all there are now)."""

    numbers: Numbers = []
    every: bool = False
    output: str | None = None
    to: str | None = None
    force: bool = False
    after: Number = 0
    until: Number = 0


class Purging(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be thrown away: these items (or dead letters), or all that are old enough, of one output or of all."""

    what: What
    output: str | None = None
    older_ms: Number | None = None
    """Only what waited for longer while an agent ran, as in ``spool.events.age``; dead letters by the clock."""
    numbers: Numbers = []
    yes: bool = False
    """Do it; otherwise only say what would go."""
    after: Number = 0
    until: Number = 0


def listing(connection: apsw.Connection, wish: Listing, ran_ms: int) -> dict[str, Any]:
    """``ran_ms``: for how long agents of this spool have run: what the age of what waits is measured by."""
    values = {"output": wish.output, "most": wish.limit}
    with connection:
        waiting = [] if wish.dead else [_waiting(row, ran_ms) for row in ask(connection, "list_waiting", values)]
        dead = [_dead(row) for row in ask(connection, "list_dead", values)]
        totals = [
            {"output": output, "items": items, "events": events or 0, "points": points or 0, "bytes": size}
            for output, items, events, points, size in ask(connection, "total_waiting", values)
        ]
        letters = [
            {"output": output, "letters": n, "events": events or 0, "points": points or 0, "bytes": size}
            for output, n, events, points, size in ask(connection, "total_dead", values)
        ]
        folding = [
            {"output": output, "lines": lines, "events": events}
            for output, lines, events in ask(connection, "total_folding", values)
        ]
    return {"waiting": waiting, "dead": dead, "totals": {"waiting": totals, "folding": folding, "dead": letters}}


def _waiting(row: tuple[Any, ...], ran_ms: int) -> dict[str, Any]:
    names = ("item", "id", "kind", "output", "lines", "n", "bytes", "made")
    *kept, born = row
    found = dict(zip(names, kept, strict=True))
    return {**found, "kind": KINDS[found["kind"]], "age_s": max(0, ran_ms - born) // 1000}


def _dead(row: tuple[Any, ...]) -> dict[str, Any]:
    names = ("dead", "output", "batch", "kind", "at", "status", "code", "excerpt", "lines", "n", "bytes")
    found = dict(zip(names, row, strict=True))
    return {**found, "kind": KINDS[found["kind"]], "excerpt": found["excerpt"].decode("utf-8", "replace")}


def showing(connection: apsw.Connection, wish: Showing, ran_ms: int) -> dict[str, Any] | None:
    """None when there is nothing of that name."""
    with connection:
        if wish.name.startswith("dead/"):
            number = _number(wish.name.removeprefix("dead/"))
            rows = [_dead(row) for row in ask(connection, "list_one_dead", {"dead": number})]
            blobs = ask(connection, "dead_blob", {"dead": number})
        else:
            found = ask(connection, "find_item", {"name": wish.name, "item": _number(wish.name)})
            rows = [_waiting(row, ran_ms) for (item,) in found for row in ask(connection, "list_item", {"item": item})]
            blobs = ask(connection, "blob", {"item": rows[0]["item"]}) if rows else []
    if not rows:
        return None
    about = {key: value for key, value in rows[0].items() if key != "output" or wish.name.startswith("dead/")}
    outputs = {} if wish.name.startswith("dead/") else {"outputs": [row["output"] for row in rows]}
    ((expected, blob),) = blobs
    if checksum(blob) != expected:
        return {**about, **outputs, "damaged": True, "header": None, "lines_shown": [], "more_lines": about["lines"]}
    header, lines = unseal(blob)
    shown: list[Any] = []
    size = 0
    for line in lines[: wish.lines]:
        size += len(line)
        if shown and size > PAGE_BYTES:
            break
        shown.append(_json(line))
    more = len(lines) - len(shown)
    return {**about, **outputs, "damaged": False, "header": header, "lines_shown": shown, "more_lines": more}


def nothing(wish: Showing) -> str:
    """That there is nothing of that name."""
    return f"nothing called {wish.name[:100]!r} is in the spool: `sendoff spool ls` lists what is"


def _number(text: str) -> int:
    """The number of a row, or one that no row has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def _json(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return line.decode("utf-8", "replace")


def exporting(connection: apsw.Connection, wish: Exporting) -> tuple[bytes, int, list[str]]:
    """Whole batches as lines, the number of the last one (0: there were no more), and what was damaged."""
    page = bytearray()
    damaged: list[str] = []
    after = wish.after
    query = "next_dead_letter" if wish.what == "dead" else "next_waiting"
    while len(page) < PAGE_BYTES and len(damaged) < PAGE_DAMAGED:
        rows = ask(connection, query, {"output": wish.output, "after": after})
        if not rows:
            return bytes(page), after if page or damaged else 0, damaged
        number, expected, blob = rows[0]
        after = number
        if checksum(blob) != expected:
            damaged.append(f"dead/{number}" if wish.what == "dead" else str(number))
            continue
        header, lines = unseal(blob)
        page += msgspec.json.encode(header) + b"\n"
        for line in lines:
            page += line + b"\n"
    return bytes(page), after, damaged


def replaying(transaction: Transaction, wish: Replaying, outputs: Collection[str]) -> dict[str, Any]:
    """What was replayed, what was not and why; ``more``: ask again with this ``after`` and ``until``."""
    connection = transaction.connection
    numbers = wish.numbers[:REPLAY_LETTERS]
    until = wish.until
    if wish.every:
        until = until or int(ask(connection, "last_dead")[0][0])
        values = {"output": wish.output, "after": wish.after, "until": until, "most": REPLAY_LETTERS}
        numbers = [number for (number,) in ask(connection, "dead_between", values)]
    done: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for number in numbers:
        try:
            letter = replay(transaction, number, outputs, to=wish.to, force=wish.force)
        except CannotReplay as error:
            refused.append({"dead": number, "why": str(error)})
            continue
        if letter is None:
            refused.append({"dead": number, "why": f"dead/{number}: there is no such dead letter"})
        else:
            target = wish.to or letter.output
            done.append({"dead": number, "output": target, "kind": KINDS[letter.kind], "n": letter.n})
    more = len(numbers) == REPLAY_LETTERS if wish.every else len(wish.numbers) > REPLAY_LETTERS
    last = numbers[-1] if numbers else wish.after
    return {"replayed": done, "refused": refused, "after": last, "until": until, "more": more}


def purging(transaction: Transaction, wish: Purging) -> dict[str, Any]:
    """What went, or would go; ``more``: ask again with this ``after`` and ``until``."""
    connection, dead = transaction.connection, wish.what == "dead"
    until = wish.until or int(ask(connection, "last_dead" if dead else "last_item")[0][0])
    clock = transaction.now_ms if dead else transaction.ran_ms
    before = None if wish.older_ms is None else clock - wish.older_ms
    values = {
        "output": wish.output,
        "before": before,
        "numbers": msgspec.json.encode(wish.numbers).decode() if wish.numbers else None,
        "after": wish.after,
        "until": until,
        "most": PURGE_ROWS,
    }
    gone = {"items": 0, "folds": 0, "events": 0, "points": 0, "bytes": 0}
    if not dead and not wish.numbers and not wish.after:
        folded = folding.purge(connection, transaction.tally, wish.output, before, do=wish.yes)
        gone["folds"], gone["events"] = folded.folds, folded.events
    rows = ask(connection, f"purge_{wish.what}", values)
    for number, kind, n, size in rows:
        waiting = [row[0] for row in ask(connection, "outputs_of_item", {"item": number})] if not dead else [""]
        chosen = [output for output in waiting if dead or wish.output in (None, output)]
        for output in chosen:
            gone["items"] += 1
            gone["events" if kind == EVENTS else "points"] += n
            if wish.yes and not dead:
                _lose(transaction, output, number, kind)
        gone["bytes"] += size if chosen == waiting else 0  # else another output still waits for it
        if wish.yes and dead:
            ask(connection, "delete_dead", {"dead": number})
    last = rows[-1][0] if rows else wish.after
    return {"gone": gone, "done": wish.yes, "after": last, "until": until, "more": len(rows) == PURGE_ROWS}


def _lose(transaction: Transaction, output: str, item: int, kind: int) -> None:
    """One output does without an item. What it is being sent right now is counted here, and not by its answer."""
    connection = transaction.connection
    for source, n in ask(connection, "contents_of_item", {"item": item}):
        if kind == EVENTS:
            transaction.tally.events(source, output, "lost", n, "purged")
        else:
            transaction.tally.points_out(output, "lost", n, "purged")
    receipts.lose(connection, output, item, "purged", transaction.now_ms)
    take(connection, output, item)
