"""What the store knows about metrics: names, series over time, totals. Times are Unix ms.

Windows are merged with the algebra of the wire format's section 5, never averaged: a total over a day is the sum of
the windows of that day, and a percentile comes from the merged distribution. Where windows are longer than the step
asked for (an outage merged them, or they are old), points are as long as their windows: coarser, not wrong.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apsw
import msgspec

from sendoff_server.aggregate.histogram import Distribution
from sendoff_server.aggregate.hyperloglog import Distinct
from sendoff_server.aggregate.scalar import Counter, Gauge
from sendoff_server.aggregate.snapshot import Aggregate, decode
from sendoff_server.gateway import cursor
from sendoff_server.gateway.params import Range
from sendoff_server.gateway.problems import Problem, invalid, not_found
from sendoff_server.gateway.store.sql import LOOK

Json = dict[str, Any]
STEPS = (10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000, 21_600_000, 86_400_000)
POINTS = 2_000
"""Points of one series in an answer at most."""
SERIES_READ = 5_000
WINDOWS_READ = 200_000
GROUPS = 20
BUCKET_ERROR = 0.011
"""Greatest relative error of a percentile: half a bucket of scale 5."""
_MIDDLE = (1 + 2 ** (1 / 32)) / 2


def step_for(within: Range, points: int = 360) -> int:
    """A round step (ms) that gives at most about so many points."""
    return next((step for step in STEPS if within.length // step <= points), STEPS[-1])


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    type: str
    unit: str


@dataclass(slots=True)
class _Point:
    value: Aggregate
    agent: str


@dataclass(slots=True)
class Read:
    """What was read: for each group (the value of ``by``, or None) its points by (start, length)."""

    points: dict[str | None, dict[tuple[int, int], _Point]] = field(default_factory=dict)
    series: int = 0
    windows: int = 0
    longest: int = 0


def metric_names(db: apsw.Connection, project: int, q: str | None, *, limit: int, after: str | None) -> Json:
    """Metrics in the order of their names."""
    place = cursor.decode(after, tuple[str, str, str]) if after else ("", "", "")
    keys = ("name", "type", "unit", "series", "first", "last")
    rows = [
        dict(zip(keys, row, strict=True)) for row in db.execute(LOOK["metric_names"], (project, q, *place, limit + 1))
    ]
    last = rows[limit - 1] if len(rows) > limit else None
    return {"metrics": rows[:limit], "next": last and cursor.encode(last["name"], last["type"], last["unit"])}


def find(db: apsw.Connection, project: int, name: str, kind: str | None, unit: str | None) -> tuple[Metric, list[Json]]:
    """The metric of a name, and the other types and units under the same name. Raises ``Problem`` 404.

    Where a name has several and none is asked for, the one heard of last is taken.
    """
    rows = list(db.execute(LOOK["metric_kinds"], (project, name)))
    for row in rows:
        if kind in (None, row[0]) and unit in (None, row[1]):
            also = [{"type": other[0], "unit": other[1]} for other in rows if other is not row]
            return Metric(name, row[0], row[1]), also
    raise not_found(f"there is no metric {name[:100]!r} of that type and unit", "see /metrics for their names")


def series(
    db: apsw.Connection,
    project: int,
    metric: Metric,
    within: Range,
    *,
    step: int,
    tags: dict[str, str],
    by: str | None,
    percentiles: list[float],
) -> Json:
    """Points of a metric over time, one list for each value of the tag ``by`` (or one for all series together)."""
    if within.length // step > POINTS:
        remedy = f"use a step of {within.length // POINTS + 1} or more"
        raise invalid("step", f"more than {POINTS} points of {step} ms", remedy)
    start = within.start - within.start % step
    read = _read(db, project, metric, start, within.end, step=step, tags=tags, by=by)
    return {
        "from": start,
        "to": within.end,
        "step": step,
        "by": by,
        "tags": tags,
        "series_read": read.series,
        "windows_read": read.windows,
        "longest_window": read.longest,
        "percentile_error": BUCKET_ERROR if metric.type == "distribution" else None,
        "series": [
            {"by": group, "points": [_shown(where, points[where].value, percentiles) for where in sorted(points)]}
            for group, points in sorted(read.points.items(), key=lambda item: item[0] or "")
        ],
    }


def total(
    db: apsw.Connection,
    project: int,
    metric: Metric,
    within: Range,
    *,
    tags: dict[str, str],
    by: str | None,
    percentiles: list[float],
) -> Json:
    """All windows that begin in the range as one, for each value of ``by``. No windows, no total: unknown is not 0."""
    read = _read(db, project, metric, within.start, within.end, step=0, tags=tags, by=by)
    return {
        "from": within.start,
        "to": within.end,
        "by": by,
        "tags": tags,
        "series_read": read.series,
        "windows_read": read.windows,
        "longest_window": read.longest,
        "percentile_error": BUCKET_ERROR if metric.type == "distribution" else None,
        "totals": [
            {"by": group, **_numbers(point.value, percentiles)}
            for group, points in sorted(read.points.items(), key=lambda item: item[0] or "")
            for point in points.values()
        ],
    }


def tag_keys(db: apsw.Connection, project: int, metric: Metric) -> list[str]:
    """Keys of tags that series of a metric have, for grouping by one of them."""
    key = (project, metric.name, metric.type, metric.unit, 0, 2**53, 500)
    return sorted({name for _, text in db.execute(LOOK["series_of"], key) for name in msgspec.json.decode(text)})[:50]


def percentile(value: Distribution, q: float) -> float:
    """The value below which a share ``q`` (0 to 1) of the weight lies, to within ``BUCKET_ERROR``."""
    rest = q * value.weight
    for middle, weight in _buckets(value):
        rest -= weight
        if rest <= 0:
            return min(max(middle, value.min), value.max)
    return value.max


def _buckets(value: Distribution) -> Iterator[tuple[float, float]]:
    """Middles and weights of the buckets by rising value."""
    for index in sorted(value.neg, reverse=True):
        yield -_middle(index), value.neg[index]
    if value.zero:
        yield 0.0, value.zero
    for index in sorted(value.pos):
        yield _middle(index), value.pos[index]


def _middle(index: int) -> float:
    return float(2.0 ** (index / 32) * _MIDDLE)  # infinite at the very top, where max is taken instead


def _read(
    db: apsw.Connection,
    project: int,
    metric: Metric,
    start: int,
    end: int,
    *,
    step: int,
    tags: dict[str, str],
    by: str | None,
) -> Read:
    """Merge the windows of all series that have ``tags`` into points of ``step`` (0: into one point)."""
    read = Read()
    key = (project, metric.name, metric.type, metric.unit, start, end, SERIES_READ + 1)
    for number, text in db.execute(LOOK["series_of"], key):
        own = msgspec.json.decode(text)
        if not all(_has(own, name, wanted) for name, wanted in tags.items()):
            continue
        read.series += 1
        if read.series > SERIES_READ:
            raise _too_much(f"more than {SERIES_READ} series")
        group = None if by is None else _value(own.get(by, ""))
        if group not in read.points and len(read.points) >= GROUPS:
            group = "(others)"
        points = read.points.setdefault(group, {})
        for window in db.execute(LOOK["windows_of"], (number, start, end, WINDOWS_READ + 1 - read.windows)):
            read.windows += 1
            if read.windows > WINDOWS_READ:
                raise _too_much(f"more than {WINDOWS_READ:,} windows")
            _add(points, window, step, read)
    read.points = {group: _coarsen(points) for group, points in read.points.items() if points}
    return read


def _add(points: dict[tuple[int, int], _Point], window: tuple[int, int, str, bytes], step: int, read: Read) -> None:
    start, length, agent, line = window
    read.longest = max(read.longest, length)
    longer = max(length, step)
    where = (start - start % longer, longer) if step else (0, 0)
    _merge(points, where, _Point(decode(line, longest=None).value, agent))


def _coarsen(points: dict[tuple[int, int], _Point]) -> dict[tuple[int, int], _Point]:
    """Where a longer point covers shorter ones (one agent's backlog was merged, another's not) all become one."""
    lengths = sorted({length for _, length in points}, reverse=True)
    if len(lengths) < 2:
        return points
    merged: dict[tuple[int, int], _Point] = {}
    for start, length in sorted(points, key=lambda where: -where[1]):
        home = next(
            (
                (start - start % longer, longer)
                for longer in lengths
                if longer > length and (start - start % longer, longer) in merged
            ),
            (start, length),
        )
        _merge(merged, home, points[start, length])
    return merged


def _merge(points: dict[tuple[int, int], _Point], where: tuple[int, int], new: _Point) -> None:
    old = points.get(where)
    if old is None:
        points[where] = new
        return
    mine, theirs = old.value, new.value
    if isinstance(mine, Gauge) and isinstance(theirs, Gauge):
        # Of the same moment and window, the greater agent's value is the newer one (wire format, section 5).
        if (mine.at, mine.ord, old.agent) < (theirs.at, theirs.ord, new.agent):
            mine.last, mine.at, mine.ord, old.agent = theirs.last, theirs.at, theirs.ord, new.agent
        theirs.at = -1  # decided above; what is left to merge are the extremes and the count
    # One metric has one type, so both sides are of the same.
    merge: Callable[[Any], None] = mine.merge
    merge(theirs)


def _shown(where: tuple[int, int], value: Aggregate, percentiles: list[float]) -> Json:
    start, length = where
    shown = {"t": start, "length": length, **_numbers(value, percentiles)}
    if isinstance(value, Counter):
        shown["rate"] = value.sum / (length / 1000)
    return shown


def _numbers(value: Aggregate, percentiles: list[float]) -> Json:
    if isinstance(value, Counter):
        return {"sum": value.sum, "n": value.n}
    if isinstance(value, Gauge):
        return {"last": value.last, "at": value.at, "min": value.min, "max": value.max, "n": value.n}
    if isinstance(value, Distinct):
        return {"est": value.est, "n": value.n}
    found = {f"p{q * 100:g}": percentile(value, q) for q in percentiles}
    numbers = {"n": value.n, "weight": value.weight, "sum": value.sum, "min": value.min, "max": value.max}
    return numbers | {"mean": value.sum / value.weight} | found


def _has(tags: dict[str, Any], name: str, wanted: str) -> bool:
    own = tags.get(name)
    return wanted in own if isinstance(own, list) else own == wanted


def _value(own: str | list[str]) -> str:
    return own if isinstance(own, str) else ", ".join(own)


def _too_much(what: str) -> Problem:
    return Problem(422, "That is too much to read at once", what, "choose a shorter range or more tags", "from")
