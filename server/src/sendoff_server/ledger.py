"""The books: every count there is, what it means, and the proof that nothing went missing between two of them.

Three kinds of book, each of which balances at every moment (``Books.balance``); a fourth for lines. *Pending* is asked
of the spool's rows; every other number was committed together with what it counts, so a crash cannot part them. Memos
stand beside the books: what is known of clients, frames and the kernel, with nothing to balance against.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

LOST: Mapping[str, str] = {
    "series_limit": "a gauge beyond the limit of series: it cannot be folded into an overflow series",
    "spool_full": "the spool had reached spool.events.limit or spool.metrics.limit",
    "disk_failed": "the disk refused to take it, or gave it back damaged",
    "output_removed": "it waited for an output that is no longer configured",
    "expired": "it had waited longer than spool.events.age or spool.metrics.age",
    "purged": "somebody threw it away with `sendoff spool purge`",
    "damaged": "it stood in a part of a damaged spool that could not be rescued",
}
"""Why the agent loses events or points."""

REJECTED: Mapping[str, str] = {
    "cut_off": "the line was cut off",
    "line_too_long": "the line is longer than its limit",
    "foreign_protocol": "the line belongs to another protocol",
    "no_value": "there is no colon and value after the name",
    "no_type": "there is no type after the value",
    "name_empty": "the name is empty",
    "name_too_long": "the name is longer than its limit",
    "name_not_utf8": "the name is not UTF-8",
    "control_character": "there is a control character in the name or a tag",
    "type_unknown": "the type is not one of c, g, ms, h, d, s, m",
    "value_empty": "the value is empty",
    "value_not_a_number": "the value is not a number",
    "value_not_finite": "the value is not finite",
    "value_out_of_range": "the value divided by its rate is beyond 1e200",
    "rate_invalid": "the rate is malformed or below 1e-6",
    "timestamp_invalid": "the timestamp is malformed, too far away, or opens one window too many",
    "too_many_tags": "there are more tags than the limit",
    "event_invalid": "the event line is malformed",
    "check_invalid": "the check line is malformed",
}
"""Why a line is rejected (wire format, section 9)."""


@dataclass(slots=True)
class EventsBook:
    """Events of one source for one output."""

    source: str
    output: str
    received: int = 0
    delivered: int = 0
    folded: int = 0
    pending: int = 0
    dead: int = 0
    not_routed: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def gone(self) -> int:
        return self.delivered + self.folded + self.pending + self.dead + self.not_routed + sum(self.lost.values())


@dataclass(slots=True)
class PointsInBook:
    """Metric points of one source, up to the journal."""

    source: str
    received: int = 0
    journaled: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def gone(self) -> int:
        return self.journaled + sum(self.lost.values())


@dataclass(slots=True)
class PointsOutBook:
    """Metric points for one output, from the journal on."""

    output: str
    journaled: int = 0
    delivered: int = 0
    pending: int = 0
    dead: int = 0
    not_routed: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def gone(self) -> int:
        return self.delivered + self.pending + self.dead + self.not_routed + sum(self.lost.values())


@dataclass(slots=True)
class LinesBook:
    """Metric lines of one source."""

    source: str
    received: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    def gone(self) -> int:
        return self.accepted + sum(self.rejected.values())


@dataclass(slots=True)
class ClientMemo:
    """One client, or (``client`` empty, state ``folded``) the totals of a service's clients that ended long ago."""

    client: str
    service: str = ""
    env: str = ""
    release: str = ""
    host: str = ""
    pid: int = 0
    lib: str = ""
    state: str = "live"
    since: int = 0
    seen: int = 0
    events: int = 0
    points: int = 0
    gap: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Books:
    """All books and memos of one moment."""

    events: list[EventsBook] = field(default_factory=list)
    points_in: list[PointsInBook] = field(default_factory=list)
    points_out: list[PointsOutBook] = field(default_factory=list)
    lines: list[LinesBook] = field(default_factory=list)
    clients: list[ClientMemo] = field(default_factory=list)
    folded_clients: list[ClientMemo] = field(default_factory=list)
    frames: dict[str, dict[str, int]] = field(default_factory=dict)
    """Refused frames by input and reason: filled in by the agent."""
    kernel: dict[str, int] = field(default_factory=dict)
    """Datagrams the kernel dropped, by socket: filled in by the agent."""
    in_kernel: dict[str, int] = field(default_factory=dict)
    """Points in them that are in the gaps of Sendoff's clients as well, by socket: the same loss, not another one."""

    def balance(self) -> list[str]:
        """What does not balance, one sentence each. Anything in here is a defect of Sendoff's."""
        wrong = [
            f"events of {book.source} for {book.output}: {book.received} received, {book.gone()} accounted for"
            for book in self.events
            if book.received != book.gone()
        ]
        wrong += [
            f"points of {book.source}: {book.received} received, {book.gone()} accounted for"
            for book in self.points_in
            if book.received != book.gone()
        ]
        wrong += [
            f"points for {book.output}: {book.journaled} journaled, {book.gone()} accounted for"
            for book in self.points_out
            if book.journaled != book.gone()
        ]
        wrong += [
            f"lines of {book.source}: {book.received} received, {book.gone()} accounted for"
            for book in self.lines
            if book.received != book.gone()
        ]
        return wrong

    def wire(self) -> list[bytes]:
        """The lines of a ledger batch (wire format, section 6)."""
        out = [_line("book", "events", book) for book in self.events]
        out += [_line("book", "points_in", book) for book in self.points_in]
        out += [_line("book", "points_out", book) for book in self.points_out]
        out += [_line("book", "lines", book) for book in self.lines]
        out += [_line("memo", "client", memo) for memo in self.clients]
        encode = msgspec.json.encode
        out += [encode({"memo": "frames", "input": name, "refused": refused}) for name, refused in self.frames.items()]
        for name, n in self.kernel.items():
            out.append(encode({"memo": "kernel", "socket": name, "dropped": n, "points": self.in_kernel.get(name, 0)}))
        return out


@dataclass(frozen=True, slots=True)
class Count:
    """One number of a book: the book and its field, and how it is called and explained outside."""

    book: str
    field: str
    metric: str
    help: str
    labels: tuple[str, ...]
    reasons: Mapping[str, str] | None = None
    """The closed list of reasons, where the number is kept by reason."""

    @property
    def rises(self) -> bool:
        """Whether it is a running total."""
        return self.field != "pending"


_EVENTS, _IN, _OUT, _LINES = ("source", "output"), ("source",), ("output",), ("source",)
COUNTS: tuple[Count, ...] = (
    Count("events", "received", "sendoff_events_received", "Events that the agent took responsibility for", _EVENTS),
    Count("events", "delivered", "sendoff_events_delivered", "Events that the output has for good", _EVENTS),
    Count("events", "folded", "sendoff_events_folded", "Repeats that a delivered count stands for", _EVENTS),
    Count("events", "pending", "sendoff_events_pending", "Events waiting in the spool", _EVENTS),
    Count("events", "dead", "sendoff_events_dead", "Events that the output refused for good: dead letters", _EVENTS),
    Count("events", "not_routed", "sendoff_events_not_routed", "Events that the output does not want", _EVENTS),
    Count("events", "lost", "sendoff_events_lost", "Events lost in the agent", _EVENTS, LOST),
    Count("points_in", "received", "sendoff_points_received", "Metric points accepted", _IN),
    Count("points_in", "journaled", "sendoff_points_journaled", "Metric points kept on the disk", _IN),
    Count("points_in", "lost", "sendoff_points_lost", "Metric points lost before the journal", _IN, LOST),
    Count("points_out", "journaled", "sendoff_output_points_journaled", "Points kept for the output", _OUT),
    Count("points_out", "delivered", "sendoff_output_points_delivered", "Points that the output has for good", _OUT),
    Count("points_out", "pending", "sendoff_output_points_pending", "Points waiting in the spool", _OUT),
    Count("points_out", "dead", "sendoff_output_points_dead", "Points that the output refused for good", _OUT),
    Count("points_out", "not_routed", "sendoff_output_points_not_routed", "Points that the output does not want", _OUT),
    Count("points_out", "lost", "sendoff_output_points_lost", "Points lost after the journal", _OUT, LOST),
    Count("lines", "received", "sendoff_lines_received", "Metric lines received", _LINES),
    Count("lines", "accepted", "sendoff_lines_accepted", "Metric lines accepted", _LINES),
    Count("lines", "rejected", "sendoff_lines_rejected", "Metric lines rejected", _LINES, REJECTED),
)
"""Every count of every book."""


def families(books: Books) -> "Iterator[Metric]":
    """The books as metric families of ``prometheus_client``, which is loaded with the first scrape.

    Called by a custom collector: the numbers stay here, there is no second set of counters.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for count in COUNTS:
        labels = [*count.labels, "reason"] if count.reasons else list(count.labels)
        kind = CounterMetricFamily if count.rises else GaugeMetricFamily
        family = kind(count.metric, count.help, labels=labels)
        for book in getattr(books, count.book):
            value, own = getattr(book, count.field), [getattr(book, label) for label in count.labels]
            for reason, n in value.items() if count.reasons else [(None, value)]:
                family.add_metric(own if reason is None else [*own, reason], n)
        yield family
    yield from _memo_families(books)


def _memo_families(books: Books) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    frames = CounterMetricFamily("sendoff_frames_refused", "Frames refused", labels=["input", "reason"])
    for name, reasons in books.frames.items():
        for reason, n in reasons.items():
            frames.add_metric([name, reason], n)
    kernel = CounterMetricFamily("sendoff_kernel_dropped", "Datagrams that the kernel dropped", labels=["socket"])
    for name, n in books.kernel.items():
        kernel.add_metric([name], n)
    points = CounterMetricFamily(
        "sendoff_kernel_dropped_points", "Points in them that are in the gap of their client, too", labels=["socket"]
    )
    for name, n in books.in_kernel.items():
        points.add_metric([name], n)
    missing: dict[str, int] = {}
    dropped: dict[tuple[str, str], int] = {}
    for memo in (*books.clients, *books.folded_clients):
        missing[memo.service] = missing.get(memo.service, 0) + memo.gap
        for reason, n in memo.dropped.items():
            dropped[memo.service, reason] = dropped.get((memo.service, reason), 0) + n
    gaps = CounterMetricFamily("sendoff_client_gap", "Points that clients sent and that never came", labels=["service"])
    for service, n in missing.items():
        gaps.add_metric([service], n)
    drops = CounterMetricFamily("sendoff_client_dropped", "What clients dropped", labels=["service", "reason"])
    for (service, reason), n in dropped.items():
        drops.add_metric([service, reason], n)
    balanced = GaugeMetricFamily("sendoff_books_balanced", "1 while every book balances", value=not books.balance())
    yield from (frames, kernel, points, gaps, drops, balanced)


Row = tuple[str, str, str, str, str, int]
"""book, source, output, name, reason, n: a running total as the spool keeps it."""


def assemble(counts: Iterable[Row], pending: Iterable[tuple[bool, str, str, int]], clients: list[ClientMemo]) -> Books:
    """Books from running totals and from what is pending: (is it events?, output, source, n)."""
    events: dict[tuple[str, str], EventsBook] = {}
    points_in: dict[str, PointsInBook] = {}
    points_out: dict[str, PointsOutBook] = {}
    lines: dict[str, LinesBook] = {}
    folded: dict[str, ClientMemo] = {}
    for book, source, output, name, reason, n in counts:
        target: Any
        match book:
            case "events":
                target = events.setdefault((source, output), EventsBook(source, output))
            case "points_in":
                target = points_in.setdefault(source, PointsInBook(source))
            case "points_out":
                target = points_out.setdefault(output, PointsOutBook(output))
            case "lines":
                target = lines.setdefault(source, LinesBook(source))
            case _:
                target = folded.setdefault(source, ClientMemo("", source, state="folded"))
        if reason:
            reasons = getattr(target, name)
            reasons[reason] = reasons.get(reason, 0) + n
        else:
            setattr(target, name, getattr(target, name) + n)
    for is_events, output, source, n in pending:
        if is_events:
            events.setdefault((source, output), EventsBook(source, output)).pending += n
        else:
            points_out.setdefault(output, PointsOutBook(output)).pending += n
    return Books(
        [events[key] for key in sorted(events)],
        [points_in[key] for key in sorted(points_in)],
        [points_out[key] for key in sorted(points_out)],
        [lines[key] for key in sorted(lines)],
        clients,
        [folded[key] for key in sorted(folded)],
    )


def _line(word: str, name: str, value: Any) -> bytes:
    return msgspec.json.encode({word: name, **msgspec.to_builtins(value)})
