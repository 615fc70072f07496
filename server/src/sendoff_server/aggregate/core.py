"""The Python core: lines in, windows of one second, snapshots out. The reference that other cores are measured by.

Three things are kept. *Windows* hold the aggregates of a second until it is over; points with a time of their own open
further ones. *Series* are remembered beyond their windows, to hold their number to its limit. *Gauge states* are the
last values, which relative gauges start from.

Invariants: a line is accepted or rejected whole; every point of an accepted line is in exactly one window or is lost
under a reason; nothing grows without a bound, whatever is fed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sendoff_server.aggregate import snapshot, statsd
from sendoff_server.aggregate.contract import DATAGRAM_SOURCES, Found, Limits, Rotation, Stats
from sendoff_server.aggregate.events import is_event, read_event
from sendoff_server.aggregate.gauges import GaugeStates
from sendoff_server.aggregate.histogram import Distribution
from sendoff_server.aggregate.hyperloglog import Distinct
from sendoff_server.aggregate.scalar import Counter, Gauge
from sendoff_server.aggregate.scrub import scrub
from sendoff_server.aggregate.series import Key, Known, SeriesTable
from sendoff_server.aggregate.statsd import GAUGE, MAX_LINE, MAX_VALUE, SET, Rejected, Shape, is_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SECOND_MS = 1_000
MAX_PLANS = 65_536
MAX_PLANNED = 1_024  # bytes of head and tail; longer ones are read anew each time
WINDOWS_FULL = 4  # times the limit of series: how many aggregates all open windows together may hold

NEW: dict[str, type[Counter] | type[Distribution] | type[Distinct]] = {
    "counter": Counter,
    "distribution": Distribution,
    "set": Distinct,
}
_UNFIT = re.compile(r"[\x00-\x1f\x7f|,\ud800-\udfff]")  # what no tag may hold, from names given in a hello

Add = Callable[[float, float], None]
Scope = tuple[tuple[str, str], ...]  # the tags that a source gives its points


@dataclass(slots=True, eq=False)
class Window:
    """One second. `bound` leads from head and tail of a line straight to where its value is added."""

    start: int
    stamped: bool
    series: dict[Key, tuple[Known, snapshot.Aggregate]] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    bound: dict[Scope, dict[tuple[bytes, bytes], tuple[Add, float]]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Plan:
    """A shape, and the series of each of its samples within one scope."""

    shape: Shape
    keys: list[Key]


@dataclass(slots=True, eq=False)
class Feed:
    """What the lines of one call have in common. `home` is their window; None when their time is not acceptable."""

    source: str
    scope: Scope
    now_ms: int
    t: int | None
    framed: bool
    home: Window | None
    found: list[Found] = field(default_factory=list)
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)


class PythonCore:
    """See `contract.Core`."""

    name = "python"

    def __init__(self, limits: Limits, gauges: Iterable[bytes] = (), ord: tuple[int, int] = (0, 0)) -> None:
        self._limits = limits
        self._epoch, self._next = ord
        self._gauges = GaugeStates(gauges, limits.max_series, limits.gauge_minus)
        self._windows: dict[int, Window] = {}
        self._stamped = 0  # windows opened by timestamps
        self._open = 0  # aggregates in open windows
        self._bound = 0  # entries of their `bound`
        self._series = SeriesTable(limits)
        self._plans: dict[tuple[bytes, bytes, Scope], Plan] = {}
        self._lost: dict[str, dict[str, int]] = {}
        self._received: dict[str, int] = {}
        self._rejected: dict[str, dict[str, int]] = {}
        self._notes: dict[str, int] = {}
        self._last_rejected: tuple[str, bytes] | None = None

    # ---- feeding: the way of a line ----

    def feed(
        self,
        lines: bytes,
        source: str,
        tags: Sequence[tuple[str, str]],
        now_ms: int,
        *,
        framed: bool = False,
        cut: bool = False,
        t: int | None = None,
    ) -> list[Found]:
        scope = tuple(tags)
        home = self._window(now_ms, stamped=False) if t is None else self._stamped_window(t, now_ms)
        feed = Feed(source, scope, now_ms, t, framed, home)
        bound = home.bound.setdefault(scope, {}) if home else {}
        quick = 0
        for line in self._split(lines, feed, cut):
            head, _, rest = line.partition(b":")
            raw, _, tail = rest.partition(b"|")
            target = bound.get((head, tail))
            if target is not None and (raw.isdigit() or is_number(raw)):
                add, rate = target
                value = float(raw)
                if -MAX_VALUE <= value / rate <= MAX_VALUE:
                    add(value, rate)
                    quick += 1
                    continue
            if line:
                self._line(line, feed)
        if home and quick:
            home.points[source] = home.points.get(source, 0) + quick
        self._book_lines(feed, quick)
        return feed.found

    def _split(self, lines: bytes, feed: Feed, cut: bool) -> list[bytes]:
        """The lines of a payload, without those that are rejected for how they came."""
        if lines and feed.source in DATAGRAM_SOURCES and statsd.is_binary(lines):
            self._reject(lines, "foreign_protocol", feed)
            return []
        split = lines.split(b"\n")
        if cut and (rest := split.pop()):
            self._reject(rest, "cut_off", feed)
        if b"\r" in lines:
            split = [line.removesuffix(b"\r") for line in split]
        if len(lines) > MAX_LINE:
            for line in split:
                if len(line) > MAX_LINE:
                    self._reject(line, "line_too_long", feed)
            split = [line for line in split if len(line) <= MAX_LINE]
        return split

    def _line(self, line: bytes, feed: Feed) -> None:
        """Take one line the long way."""
        notes: set[str] = set()
        try:
            if is_event(line):
                event = read_event(line, notes)
                if feed.home is None:
                    raise Rejected("timestamp_invalid")
                feed.found.append(event)
            else:
                self._metric(line, feed, notes)
        except Rejected as error:
            self._reject(line, error.reason, feed)
            return
        feed.accepted += 1
        for note in notes:
            self._notes[note] = self._notes.get(note, 0) + 1

    def _metric(self, line: bytes, feed: Feed, notes: set[str]) -> None:
        head, colon, rest = line.partition(b":")
        raw, bar, tail = rest.partition(b"|")
        plan = self._plans.get((head, tail, feed.scope))
        if plan is None:
            statsd.check_protocol(line)
            if not colon or b"|" in head:
                raise Rejected("no_value")
            if not bar:
                raise Rejected("no_type")
            plan = self._plan(head, tail, feed)
        shape = plan.shape
        read = [
            statsd.read_member(text) if sample.type == SET else statsd.read_values(text, sample, notes)
            for sample, text in zip(shape.samples, (raw, *(sample.values for sample in shape.samples[1:])), strict=True)
        ]
        window = self._window_of(shape, feed)
        notes |= shape.notes
        for sample, key, values in zip(shape.samples, plan.keys, read, strict=True):
            if isinstance(values, bytes):
                self._add_member(key, values, window, feed)
            elif sample.type == GAUGE:
                self._set_gauge(key, values, window, shape.t, feed, notes)
            else:
                add = self._add_values(key, values, sample.rate, window, feed)
                if len(plan.keys) == 1 and window is feed.home and not shape.notes:
                    self._bind((head, tail), add, sample.rate, feed)

    def _plan(self, head: bytes, tail: bytes, feed: Feed) -> Plan:
        shape = statsd.read_shape(head, tail, feed.now_ms)
        text = _tags_text(shape.tags, feed.scope)
        plan = Plan(shape, [(shape.name, sample.type, sample.unit, text) for sample in shape.samples])
        if shape.t is None and shape.late is None and len(head) + len(tail) <= MAX_PLANNED:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[head, tail, feed.scope] = plan
        return plan

    def _window_of(self, shape: Shape, feed: Feed) -> Window:
        """The window that a line's points belong to. Raises what ranks after the faults of values."""
        if shape.late in ("rate_invalid", "timestamp_invalid"):
            raise Rejected(shape.late)
        window = feed.home if shape.t is None else self._stamped_window(shape.t, feed.now_ms)
        if window is None:
            raise Rejected("timestamp_invalid")
        if shape.late is not None:
            raise Rejected(shape.late)
        return window

    def _bind(self, line: tuple[bytes, bytes], add: Add, rate: float, feed: Feed) -> None:
        """Let further lines of this head and tail be added to this window without being read."""
        if feed.home and self._bound < MAX_PLANS and len(line[0]) + len(line[1]) <= MAX_PLANNED:
            feed.home.bound[feed.scope][line] = (add, rate)
            self._bound += 1

    # ---- adding ----

    def _add_values(self, key: Key, values: list[tuple[bytes, float]], rate: float, window: Window, feed: Feed) -> Add:
        aggregate = self._aggregate(key, window, feed.now_ms)
        assert isinstance(aggregate, Counter | Distribution)
        for _, value in values:
            aggregate.add(value, rate)
        _count(window.points, feed.source, len(values))
        return aggregate.add

    def _add_member(self, key: Key, member: bytes, window: Window, feed: Feed) -> None:
        aggregate = self._aggregate(key, window, feed.now_ms)
        assert isinstance(aggregate, Distinct)
        aggregate.add(member)
        _count(window.points, feed.source, 1)

    def _aggregate(self, key: Key, window: Window, now_ms: int) -> snapshot.Aggregate:
        """Where the points of a series go in a window: its own aggregate, or beyond the limit the overflow's."""
        entry = window.series.get(key)
        if entry is None:
            known = self._admit(key, now_ms) or self._series.overflow(key, now_ms)
            entry = window.series.get(known.key)
            if entry is None:
                entry = window.series[known.key] = (known, NEW[key[1]]())
                self._open += 1
        return entry[1]

    def _admit(self, key: Key, now_ms: int) -> Known | None:
        """The series, if it may have an aggregate of its own."""
        is_full = self._open >= WINDOWS_FULL * self._limits.max_series
        return None if is_full else self._series.admit(key, now_ms)

    def _set_gauge(
        self,
        key: Key,
        steps: list[tuple[bytes, float]],
        window: Window,
        t: int | None,
        feed: Feed,
        notes: set[str],
    ) -> None:
        entry = window.series.get(key)
        known = entry[0] if entry else self._admit(key, feed.now_ms)
        if known is None:
            _count(self._lost.setdefault(feed.source, {}), "series_limit", len(steps))
            self._series.offend(key[0], len(steps))
            return
        resolved = self._gauges.resolve(known.identity, steps, feed.framed)
        if resolved.unknown:
            notes.add("gauge_base_unknown")
        at = next(time for time in (t, feed.t, feed.now_ms) if time is not None)
        if resolved.relative:  # it adds to the newest value, so it belongs to now
            window, at = self._window(feed.now_ms, stamped=False), feed.now_ms
            if t is not None:
                notes.add("field_ignored")
        if key not in window.series:
            first = resolved.values[0]
            window.series[key] = (known, Gauge(first, at, first, first, 0))
            self._open += 1
        gauge = window.series[key][1]
        assert isinstance(gauge, Gauge)
        for value in resolved.values:
            gauge.set(value, at)
        stamped = (t is not None or feed.t is not None) and not resolved.relative
        self._gauges.settle(known.identity, resolved, at, stamped=stamped)
        _count(window.points, feed.source, len(steps))

    # ---- windows ----

    def _window(self, t: int, *, stamped: bool) -> Window:
        start = t - t % SECOND_MS
        window = self._windows.get(start)
        if window is None:
            window = self._windows[start] = Window(start, stamped)
            self._stamped += stamped
        elif window.stamped and not stamped:
            window.stamped = False
            self._stamped -= 1
        return window

    def _stamped_window(self, t: int, now_ms: int) -> Window | None:
        """The window of a point that brings its own time; None if that is too far away or there are too many."""
        is_open = t - t % SECOND_MS in self._windows
        if not statsd.in_range(t, now_ms) or not (is_open or self._stamped < self._limits.stamped_windows):
            return None
        return self._window(t, stamped=True)

    def rotate(self, now_ms: int, *, everything: bool = False) -> Rotation:
        # A window of arrival that lies ahead was opened before the clock was set back: it is over, too.
        over = [
            window
            for window in self._windows.values()
            if everything or window.start + SECOND_MS <= now_ms or (window.start > now_ms and not window.stamped)
        ]
        rotation = Rotation((self._epoch, self._next), now_ms, lost=self._lost)
        rotation.lines_received, rotation.lines_rejected = self._received, self._rejected
        self._lost, self._received, self._rejected = {}, {}, {}
        entries: list[tuple[Key, int, Known, snapshot.Aggregate]] = []
        for window in over:
            self._close(window, rotation)
            entries += [(key, window.start, *entry) for key, entry in window.series.items()]
        entries.sort(key=lambda entry: entry[:2])
        rotation.lines = [
            snapshot.encode(known.identity, (start, SECOND_MS), rotation.ord, value)
            for _, start, known, value in entries
        ]
        rotation.gauges = self._gauges.rows({known.identity for key, _, known, _ in entries if key[1] == GAUGE})
        self._next += bool(rotation.lines)
        self._series.sweep(now_ms)
        return rotation

    def _close(self, window: Window, rotation: Rotation) -> None:
        del self._windows[window.start]
        self._stamped -= window.stamped
        self._open -= len(window.series)
        self._bound -= sum(map(len, window.bound.values()))
        window.bound.clear()
        for source, points in window.points.items():
            _count(rotation.points, source, points)
        for known, value in window.series.values():
            if known.overflow:
                self._series.offend(known.key[0], value.n)

    # ---- lines and notes ----

    def _reject(self, line: bytes, reason: str, feed: Feed) -> None:
        _count(feed.rejected, reason, 1)
        self._last_rejected = (reason, line[:MAX_PLANNED])

    def _book_lines(self, feed: Feed, quick: int) -> None:
        received = quick + feed.accepted + sum(feed.rejected.values())
        if received:
            _count(self._received, feed.source, received)
        for reason, n in feed.rejected.items():
            _count(self._rejected.setdefault(feed.source, {}), reason, n)

    # ---- beside the lines ----

    def merge(self, snapshots: Iterable[Iterable[bytes]], length_ms: int) -> list[bytes]:
        return snapshot.merge(snapshots, length_ms)

    def decode(self, line: bytes) -> snapshot.Series:
        return snapshot.decode(line)

    def stats(self) -> Stats:
        rejected = self._last_rejected
        return Stats(
            core=self.name,
            series=len(self._series),
            gauges=len(self._gauges),
            windows=len(self._windows),
            overflow=self._series.worst(),
            notes=dict(self._notes),
            last_rejected=(rejected[0], scrub(rejected[1])) if rejected else None,
        )


def _count(counts: dict[str, int], key: str, n: int) -> None:
    counts[key] = counts.get(key, 0) + n


def _tags_text(tags: statsd.Tags, scope: Scope) -> str:
    """Tags as written in a snapshot: the line's own, and those of the scope whose key it does not use."""
    merged: dict[str, list[str]] = {}
    for key, value in tags:  # sorted, each once
        merged.setdefault(key, []).append(value)
    for key, value in scope:
        tag = statsd.limit_tag(_UNFIT.sub("_", f"{key}:{value}"), set())
        key, _, value = tag.partition(":")
        if key and value:
            merged.setdefault(key, [value])
    return snapshot.tags_json({key: values[0] if len(values) == 1 else values for key, values in merged.items()})
