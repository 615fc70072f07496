"""From decoded batches to what the writer stores: every line is looked at here, so the writer only writes. Pure.

A batch that cannot be taken at all (a header that is wrong, a schema or type not known) is refused as a whole; a line
that is wrong is refused alone, with a code of the wire format's section 9 and a detail that names the field.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sendoff_server.aggregate.snapshot import SnapshotError, decode
from sendoff_server.gateway import books, events
from sendoff_server.gateway.events import EventRow, LineError
from sendoff_server.wire.batch import DEFAULT, Batch, BodyError

MOST_REFUSED = 5_000
"""Wrong lines that one answer can name. With more the body is refused, and the sender splits it."""
Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Agent = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One line (from 1 after the header) that is not stored, or with line 0 the batch itself."""

    line: int
    id: str | None
    code: Literal["invalid", "too_long", "overlap", "schema_unknown", "type_unknown"]
    detail: str


@dataclass(frozen=True, slots=True)
class Cover:
    """The windows of an agent's run that a snapshot holds, both ends included."""

    epoch: int
    first: int
    last: int
    part: int


@dataclass(frozen=True, slots=True)
class Window:
    """One series in one window, and its line in the one form that equal aggregates share. ``n``: its points."""

    name: str
    type: str
    unit: str
    tags: str
    start: int
    length: int
    n: int
    line: bytes


@dataclass(slots=True)
class Checked:
    """A batch ready to be stored, unless ``refusal`` says why it cannot be."""

    id: str
    type: str = ""
    agent: str = ""
    host: str = ""
    made: int = 0
    digest: bytes = b""
    refusal: Refusal | None = None
    refused: list[Refusal] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    cover: Cover | None = None
    ordinal: int = 0
    books: list[bytes] = field(default_factory=list)


class _Header(msgspec.Struct):
    agent: Agent
    made: Number
    host: Annotated[str, Meta(max_length=200)] = ""
    covers: tuple[Number, Number, Number, Number] | None = None
    ordinal: Number | None = None


def check_batches(batches: Iterable[Batch]) -> list[Checked]:
    """Look at every line. Raises ``BodyError`` when more of them are wrong than an answer can name."""
    checked: list[Checked] = []
    left = MOST_REFUSED
    for batch in batches:
        checked.append(check_batch(batch, left))
        left -= len(checked[-1].refused)
    return checked


def check_batch(batch: Batch, most_refused: int = MOST_REFUSED) -> Checked:
    """Look at every line of a batch. Raises ``BodyError`` when more than ``most_refused`` of them are wrong."""
    checked = Checked(batch.id)
    schema, kind = batch.header.get("schema"), batch.header.get("type")
    if schema != 1 or isinstance(schema, bool):
        checked.refusal = Refusal(0, None, "schema_unknown", f"schema: {schema!r:.50} is not 1; upgrade the gateway")
        return checked
    if kind not in ("events", "snapshot", "ledger"):
        checked.refusal = Refusal(0, None, "type_unknown", f"type: {kind!r:.50} is not events, snapshot or ledger")
        return checked
    try:
        header = msgspec.convert(batch.header, _Header)
        _fill(checked, str(kind), header)
    except (msgspec.ValidationError, LineError) as error:
        checked.refusal = Refusal(0, None, "invalid", f"header: {events.plain(str(error))}")
        return checked
    checked.digest = events.digest(checked.type.encode(), *batch.lines)
    take = {"events": _take_event, "snapshot": _take_window, "ledger": _take_book}[checked.type]
    for number, line in enumerate(batch.lines, 1):
        if len(line) > DEFAULT.line:
            checked.refused.append(
                Refusal(number, None, "too_long", f"{len(line):,} bytes; a line has at most {DEFAULT.line:,}")
            )
        else:
            try:
                take(checked, line)
            except LineError as error:
                checked.refused.append(Refusal(number, error.id, "invalid", str(error)))
        if len(checked.refused) > most_refused:
            raise _too_many_wrong(batch.id, checked.refused[-1])
    return checked


def _too_many_wrong(batch: str, last: Refusal) -> BodyError:
    detail = f"more than {MOST_REFUSED:,}, up to line {last.line} of batch {batch[:200]}: {last.detail}"
    return BodyError(422, "Too many lines are wrong", detail, "send the batches one by one, then in halves")


def _fill(checked: Checked, kind: str, header: _Header) -> None:
    checked.type, checked.agent, checked.host, checked.made = kind, header.agent, header.host, header.made
    if kind == "snapshot":
        if header.covers is None:
            raise LineError("covers: missing")
        checked.cover = Cover(*header.covers)
        if checked.cover.last < checked.cover.first:
            raise LineError("covers: the last window lies before the first")
    if kind == "ledger":
        if header.ordinal is None:
            raise LineError("ordinal: missing")
        checked.ordinal = header.ordinal


def _take_event(checked: Checked, line: bytes) -> None:
    checked.events.append(events.check(line))


def _take_window(checked: Checked, line: bytes) -> None:
    try:
        series = decode(line)
    except SnapshotError as error:
        raise LineError(str(error)) from error
    identity = (series.name, series.type, series.unit, series.tags_text)
    window = Window(*identity, series.start_ms, series.length_ms, series.value.n, series.encode())
    checked.windows.append(window)


def _take_book(checked: Checked, line: bytes) -> None:
    books.check(line)
    checked.books.append(line)
