"""From a damaged spool to a new one: what can be read is taken over, the rest is counted or called unknown.

The new spool is made beside, in one file that gets its name when it is whole, so that a crash leaves either all of it
or nothing. Rules:
- a batch is taken over only if its blob is what was stored and its row agrees with it;
- a batch of which nobody can say any more who waits for it is given to every output that wants such: gateways know
  what they have;
- the books balance. What was received and is nowhere any more is lost{damaged}, if the counts could be read and rows
  are missing. Counts that could not be read, or that disagree with rows of which none is missing, follow the rows, and
  that is remembered as unknown.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import msgspec

from sendoff_server.spool import audit
from sendoff_server.spool.accounts import Tally, read_books, unpack_client
from sendoff_server.spool.folding import weight
from sendoff_server.spool.items import EVENTS, KINDS, checksum, unseal
from sendoff_server.spool.layout import make
from sendoff_server.spool.leasing import batch_id, points_of
from sendoff_server.spool.records import UNASSIGNED, OutputSpec
from sendoff_server.spool.salvage import Wreck
from sendoff_server.spool.sense import TOTAL, agree, is_agent_id, is_count, named_by, windows_named
from sendoff_server.spool.shares import by_line
from sendoff_server.spool.sql import ask, tell
from sendoff_server.spool.unknown import Unknown, remember

log = logging.getLogger(__name__)

FRESH_NUMBERS = 1 << 20
"""Items of the new spool are numbered from this far behind the last number that was seen in the damaged one."""


@dataclass(slots=True)
class Rescued:
    """What became of a damaged spool."""

    items: int = 0
    damaged: int = 0
    """Batches that were seen, but are not what was stored."""
    dead: int = 0
    clients: int = 0
    missed: set[str] = field(default_factory=set)
    """Tables of which something could not be read."""

    def __str__(self) -> str:
        lost = f", {self.damaged} were damaged" if self.damaged else ""
        missed = f"; not all could be read of: {', '.join(sorted(self.missed))}" if self.missed else ""
        return f"{self.items} batches, {self.dead} dead letters and {self.clients} clients were rescued{lost}{missed}"


def rescue(kept: Path, target: Path, outputs: Sequence[OutputSpec], now_ms: int, why: str) -> Rescued:
    """Take over what can be read of ``kept/spool.db`` (and its log) into a new file ``target``.

    Raises ``apsw.Error`` and ``OSError`` if that cannot be written, ``ValueError`` if it makes no sense; then there is
    no such file.
    """
    target.unlink(missing_ok=True)
    try:
        wreck = Wreck(kept / "spool.db")
        new = apsw.Connection(str(target))
        try:
            # Not durable until it is whole: then the file is synced once.
            new.pragma("page_size", wreck.page_bytes)
            new.pragma("auto_vacuum", "incremental")
            new.pragma("journal_mode", "off")
            new.pragma("synchronous", "off")
            new.pragma("temp_store", "memory")
            new.pragma("foreign_keys", True)
            with new:
                make(new)
                rescued = _take_over(wreck, new, outputs, kept, now_ms, why)
                if fault := audit.books(new, now_ms):
                    raise ValueError(f"what was rescued does not agree with itself: {fault}")
        finally:
            wreck.close()
            new.close()
        with target.open("rb") as file:
            os.fsync(file.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return rescued


def _take_over(
    wreck: Wreck, new: apsw.Connection, outputs: Sequence[OutputSpec], kept: Path, now_ms: int, why: str
) -> Rescued:
    rescued = Rescued(missed=wreck.missed)
    epochs = [0]
    last = _items(wreck, new, outputs, rescued, epochs)
    for item, words in list(audit.faulty(new)):
        log.error("it is not rescued: %s", words)
        new.executemany("DELETE FROM item WHERE item = ?", [(item,)])
        rescued.items, rescued.damaged = rescued.items - 1, rescued.damaged + 1
        wreck.missed.add("item")
    _dead(wreck, new, rescued)
    _meta(wreck, new, epochs, now_ms)
    _counts(wreck, new)
    _clients(wreck, new, rescued)
    for table, key in (
        ("gauge", ["key"]),
        ("fold", ["key"]),
        ("receipt", ["event"]),
        ("standing", ["event", "output"]),
    ):
        _copy(wreck, new, table, key)
    new.execute("DELETE FROM standing WHERE event NOT IN (SELECT event FROM receipt)")
    ask(new, "lose_orphan_standing", {"at": now_ms})
    new.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'item'", (last + FRESH_NUMBERS,))
    certain = _balance(new, wreck.missed)
    found = [*wreck.missed & {"client", "gauge", "dead", "receipt", "standing", "fold"}]
    if not certain or found:
        words = f"the spool was damaged ({why})"
        words += f"; not all could be read of: {', '.join(sorted(wreck.missed))}" if wreck.missed else ""
        words += "" if certain else "; what is missing cannot be counted, since the counts are damaged too"
        remember(new, [Unknown(now_ms, words, str(kept))])
    return rescued


# --- Batches -------------------------------------------------------------------------------------------------------


def _items(
    wreck: Wreck, new: apsw.Connection, outputs: Sequence[OutputSpec], rescued: Rescued, epochs: list[int]
) -> int:
    """Take over items, what they hold and who waits for them; the greatest number that was seen."""
    names = _shared(wreck, new, "item")
    known = wreck.row("SELECT seq FROM sqlite_sequence WHERE name = 'item'", ())
    last = known[0] if known and isinstance(known[0], int) and 0 <= known[0] < TOTAL else None
    waiting = _waiting(wreck)
    wanted = {output.name for output in outputs} | {UNASSIGNED}
    numbers = wreck.numbers("item", "item", last) if names else []
    for number in numbers:
        row = wreck.numbered("item", "item", list(names.values()), number)
        values = dict(zip(names, row, strict=True)) if row else {}
        header, lines = _opened(values)
        if not _agrees(header, values):
            rescued.damaged += 1
            wreck.missed.add("item")
            continue
        holds = _holds(wreck, values, lines)
        if holds is None:
            rescued.damaged += 1
            wreck.missed.add("content")
            continue
        rows = waiting.get(number, {})
        standing = {name: rows[name] for name in rows if name in wanted or not outputs or rows[name][0]}
        if not standing:
            wreck.missed.add("delivery")
            standing = dict.fromkeys(_everyone(outputs, values, header), (False, number, 1))
        values["n"] = sum(holds.values())
        epochs.append(values["epoch"] if 0 <= values["epoch"] < TOTAL else 0)
        if not _insert(new, "item", values):
            rescued.damaged += 1
            wreck.missed.add("item")
            continue
        tell(new, "add_content", [(number, source, n) for source, n in holds.items()])
        for name, (_, place, sealed) in standing.items():
            _insert(
                new,
                "delivery",
                {"output": name, "kind": values["kind"], "place": place, "item": number, "sealed": sealed},
            )
        rescued.items += 1
    return max([last or 0, *numbers])


def _waiting(wreck: Wreck) -> dict[int, dict[str, tuple[bool, int, int]]]:
    """Who waits for each item: the output, whether two places say so, its place and whether it is sealed.

    The table and its index hold the same, on different pages.
    """
    found: dict[int, dict[str, tuple[bool, int, int]]] = {}
    columns = ["output", "kind", "place", "item"]
    sealed = ["sealed"] if "sealed" in wreck.columns("delivery") else []
    for row in wreck.keyed("delivery", columns, [*columns, *sealed]):
        output, _, place, item, *rest = row
        if isinstance(output, str) and isinstance(place, int) and isinstance(item, int):
            found.setdefault(item, {})[output] = (False, place, 0 if rest == [0] else 1)
    for row in wreck.keyed("delivery", ["item", "output"], columns, "delivery INDEXED BY delivery_item"):
        output, _, place, item = row
        if isinstance(output, str) and isinstance(place, int) and isinstance(item, int):
            rows = found.setdefault(item, {})
            rows[output] = (output in rows, place, rows[output][2] if output in rows else 1)
    return found


def _everyone(outputs: Sequence[OutputSpec], values: Mapping[str, Any], header: Mapping[str, Any]) -> list[str]:
    """Who may want an item of which nobody knows who waits for it. A snapshot names the one output it was made for."""
    if not outputs:
        return [UNASSIGNED]
    if values["kind"] == EVENTS:
        return [output.name for output in outputs if output.events]
    wanting = [output.name for output in outputs if output.metrics]
    agent = str(header.get("agent", ""))
    named = [name for name in wanting if str(values["id"]).startswith(batch_id(agent, name, ()))]
    return named or wanting


def _opened(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Header and lines of a row's blob; an empty header if the blob is not what was stored."""
    blob = values.get("blob")
    if not isinstance(blob, bytes) or checksum(blob) != values.get("checksum"):
        return {}, []
    try:
        return unseal(blob)
    except Exception:
        log.exception("a batch with the right checksum cannot be decoded")
        return {}, []


def _agrees(header: Mapping[str, Any], values: dict[str, Any]) -> bool:
    """Whether a row makes sense once what its blob says of itself is put into it."""
    kinds = [kind for kind, name in KINDS.items() if name == header.get("type")]
    if not kinds:
        return False
    values["kind"], values["id"], values["lines"] = kinds[0], header["batch"], header["count"]
    values |= windows_named(values["kind"], values["id"])
    return all(isinstance(values[name], int) for name in ("epoch", "window", "made", "n", "decoded"))


def _holds(wreck: Wreck, values: dict[str, Any], lines: Sequence[bytes]) -> dict[str, int] | None:
    """How many of each source an item holds. Its accounts of that are compared, and where they differ, its lines are
    asked, and the row is put right. None if nobody can say whose they are."""
    kind = values["kind"]
    rows = wreck.rows("SELECT source, n FROM content WHERE item = ?", (values["item"],))
    content = {source: n for source, n in rows if isinstance(source, str) and isinstance(n, int)}
    named = named_by(kind, values["lines"], values["sources"])
    if named is not None and sum(content.values()) == values["n"] and agree(kind, content, named):
        return content
    wreck.missed.add("content")
    if named is None and kind == EVENTS and len(content) != 1:
        return None
    if named is None:
        whose = [[next(iter(content)), len(lines)]] if kind == EVENTS else {"unknown": values["n"]}
        values["sources"] = msgspec.json.encode(whose).decode()
    try:
        if kind != EVENTS:
            return {"": sum(map(points_of, lines))}
        holds: Counter[str] = Counter()
        for source, line in zip(by_line(values["sources"]), lines, strict=True):
            holds[source] += weight(line)
        return dict(holds)
    except msgspec.MsgspecError:
        return None


def _dead(wreck: Wreck, new: apsw.Connection, rescued: Rescued) -> None:
    names = _shared(wreck, new, "dead")
    for number in wreck.numbers("dead", "dead", None) if names else []:
        row = wreck.numbered("dead", "dead", list(names.values()), number)
        values = dict(zip(names, row, strict=True)) if row else {}
        if not _opened(values)[0] or values["kind"] not in KINDS:
            wreck.missed.add("dead")
            continue
        if _insert(new, "dead", values):
            rescued.dead += 1
        else:
            wreck.missed.add("dead")


# --- What is known besides -----------------------------------------------------------------------------------------


def _meta(wreck: Wreck, new: apsw.Connection, epochs: Iterable[int], now_ms: int) -> None:
    """What is known of the spool itself, if it can be true. The epoch stays above every one that was seen."""
    known = {key: value for key, value in wreck.keyed("meta", ["key"], ["key", "value"]) if isinstance(key, str)}
    limit = now_ms + 366 * 86_400_000 * 50
    epoch = max([n for n in (known.get("epoch"), *epochs) if isinstance(n, int) and n < limit])
    kept: dict[str, Any] = {"epoch": epoch}
    if is_agent_id(known.get("agent_id")):
        kept["agent_id"] = known["agent_id"]
    if isinstance(known.get("ran_ms"), int) and 0 <= known["ran_ms"] < limit:
        kept["ran_ms"] = known["ran_ms"]
    if isinstance(known.get("unknown"), str):
        kept["unknown"] = known["unknown"]
    for key, value in kept.items():
        ask(new, "set_meta", {"key": key, "value": value})


def _counts(wreck: Wreck, new: apsw.Connection) -> None:
    columns = ["book", "source", "output", "name", "reason"]
    for row in wreck.keyed("count", columns, [*columns, "n"]):
        if is_count(row):
            tell(new, "bump", [row])
        else:
            wreck.missed.add("count")


def _clients(wreck: Wreck, new: apsw.Connection, rescued: Rescued) -> None:
    for row in wreck.keyed("client", ["client"], ["client", "state", "seen", "body"]):
        try:
            whole = unpack_client(row[3]).client == row[0]
        except (msgspec.MsgspecError, TypeError, ValueError):
            whole = False
        if whole:
            tell(new, "set_client", [row])
            rescued.clients += 1
        else:
            wreck.missed.add("client")


def _copy(wreck: Wreck, new: apsw.Connection, table: str, key: Sequence[str]) -> None:
    names = _shared(wreck, new, table)
    for row in wreck.keyed(table, key, list(names.values())) if names else ():
        if not _insert(new, table, dict(zip(names, row, strict=True))):
            wreck.missed.add(table)


def _shared(wreck: Wreck, new: apsw.Connection, table: str) -> dict[str, str]:
    """The columns that a table has in both (an older layout has fewer), and what they are called in the wreck.

    One that has no counterpart while the wreck has one as well is the same, with a damaged name.
    """
    there = wreck.columns(table)
    if not there:
        wreck.missed.add(table)
        return {}
    wanted = [name for (name,) in new.execute("SELECT name FROM pragma_table_info(?)", (table,))]
    shared = {name: f'"{name}"' for name in wanted if name in there}
    odd = [name.replace('"', '""') for name in there if name not in wanted]
    missing = [name for name in wanted if name not in there]
    if len(odd) == len(missing) == 1:
        shared[missing[0]] = f'"{odd[0]}"'
    return shared


def _insert(new: apsw.Connection, table: str, values: Mapping[str, Any]) -> bool:
    """Whether a row could be stored."""
    places = ", ".join(f":{name}" for name in values)
    try:
        # The names are those of our own tables.
        new.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", values)  # noqa: S608
    except apsw.ConstraintError:
        return False
    return True


# --- The books -----------------------------------------------------------------------------------------------------


def _balance(new: apsw.Connection, missed: set[str]) -> bool:
    """Make the books agree with the rows. Whether every number in them is certain."""
    rows_missing = bool(missed & {"item", "content", "delivery", "fold"})
    counted = rows_missing and "count" not in missed
    tally, certain = Tally(), True
    books = read_books(new)
    for book in books.events:
        gap = book.received - book.gone()
        if gap > 0 and counted:
            tally.events(book.source, book.output, "lost", gap, "damaged")
        elif gap:
            tally.events(book.source, book.output, "received", -gap)
            certain = False
    for out in books.points_out:
        gap = out.journaled - out.gone()
        if gap > 0 and counted:
            tally.points_out(out.output, "lost", gap, "damaged")
        elif gap:
            tally.points_out(out.output, "journaled", -gap)
            certain = False
    for came in books.points_in:
        if gap := came.received - came.gone():
            tally.points_in(came.source, "received", -gap)
            certain = False
    for line in books.lines:
        if gap := line.received - line.gone():
            tally.lines(line.source, "received", -gap)
            certain = False
    tally.write(new)
    return certain and "count" not in missed
