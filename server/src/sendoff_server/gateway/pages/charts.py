"""Charts as SVG, drawn here, without style or script: only numbers and our own words get into the markup. Pure.

Places are per cent or a box of 1000 × 100 that is stretched; texts never are. Where nothing is known nothing is drawn:
no line bridges a gap and no bar stands for an unknown zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sendoff_server.gateway.pages import words

W, H = 1_000, 100


@dataclass(frozen=True, slots=True)
class Line:
    """One line: ``points`` are (time, length, value) of known windows."""

    label: str
    points: Sequence[tuple[int, int, float]]


def spark(values: Sequence[int], label: str, *, hot: bool = False) -> Markup:
    """Small bars without axes. Counts of events are known, so a zero is one."""
    path = _bars([(i, 1, n) for i, n in enumerate(values)], 0, len(values), max(values, default=0))
    shape = Markup('<path class="barx{}" d="{}"/><path class="base" d="M0 100H1000"/>').format(
        " hot" if hot else "", path
    )
    return _box("spark", label, shape)


def histogram(values: Sequence[int], start: int, length: int, label: str) -> Markup:
    """Bars of counts over a range, with its greatest count and a time axis."""
    most = max(values, default=0)
    step = length / max(len(values), 1)
    path = _bars([(i, 1, n) for i, n in enumerate(values)], 0, len(values), most)
    note = f"{words.count(most)} per {words.span(step)}" if most else ""
    body = Markup('<line class="grid" x1="0" x2="100%" y1="5%" y2="5%"/>{}<text x="0" y="-3">{}</text>').format(
        _stretched(Markup('<path class="barx" d="{}"/><path class="base" d="M0 100H1000"/>').format(path)), note
    )
    return _plot(body, label) + axis(start, length)


def bars(points: Sequence[tuple[int, int, float]], start: int, end: int, label: str, unit: str = "") -> Markup:
    """Bars of known windows with a value axis."""
    top = _round_up(max((value for *_, value in points), default=0))
    low = -_round_up(-min((value for *_, value in points), default=0))
    path = _bars(points, start, end, top, low)
    zero = _y(0, low, top)
    shape = Markup('<path class="barx s1" d="{}"/><path class="base" d="M0 {}H1000"/>').format(path, zero)
    return _plot(_grid(low, top, unit) + _stretched(shape), label, tall=True) + axis(start, end - start)


def lines(series: Sequence[Line], start: int, end: int, label: str, unit: str = "") -> Markup:
    """Lines of known windows with a value axis from zero, broken where nothing is known."""
    values = [value for line in series for *_, value in line.points]
    top = _round_up(max(values, default=0))
    low = -_round_up(-min([*values, 0]))
    shape = Markup("").join(
        Markup('<path class="line s{}" d="{}"/>').format(i % 5 + 1, _line(line.points, start, end, low, top))
        for i, line in enumerate(series)
    )
    base = Markup('<path class="base" d="M0 {}H1000"/>').format(_y(0, low, top))
    return _plot(_grid(low, top, unit) + _stretched(base + shape), label, tall=True) + axis(start, end - start)


def track(points: Sequence[tuple[int, int, float]], start: int, end: int, label: str, *, line: bool) -> Markup:
    """One row of a page's clock: no axis of its own, from zero to its greatest value."""
    most = max((value for *_, value in points), default=0)
    if line:
        shape = Markup('<path class="line s1" d="{}"/>').format(_line(points, start, end, 0, most or 1))
    else:
        shape = Markup('<path class="barx" d="{}"/>').format(_bars(points, start, end, most))
    return _plot(_stretched(shape + Markup('<path class="base" d="M0 100H1000"/>')), label)


def axis(start: int, length: int, marks: int = 8) -> Markup:
    """A time axis: labels at equal steps, every second of them hidden on narrow screens."""
    parts = []
    for i in range(marks + 1):
        anchor = "start" if i == 0 else "end" if i == marks else "middle"
        text = words.clock(start + length * i // marks, length)
        hide = Markup(' class="hide"') if i % 4 else ""
        parts.append(
            Markup('<text x="{:g}%" y="15" text-anchor="{}"{}>{}</text>').format(100 * i / marks, anchor, hide, text)
        )
    return Markup('<svg class="plot axis" height="20" aria-hidden="true">{}</svg>').format(Markup("").join(parts))


def ledger_bar(parts: Sequence[tuple[str, int]], label: str) -> Markup:
    """Delivered, pending, lost as one bar. The smallest part is widened so that it can be seen."""
    present = [(name, n) for name, n in parts if n > 0]
    total = sum(n for _, n in present)
    widths = [max(n / total * 100, 1.2) for _, n in present] if total else []
    scale = 100 / sum(widths) if widths else 0
    body, at = Markup(""), 0.0
    for (name, _), width in zip(present, widths, strict=True):
        body += Markup('<rect class="{}" x="{:.2f}%" width="{:.2f}%" height="100%"/>').format(name, at, width * scale)
        at += width * scale
    return Markup('<svg class="ledger-bar" role="img" aria-label="{}">{}</svg>').format(label, body)


def of_series(points: Sequence[dict[str, Any]], field: str) -> list[tuple[int, int, float]]:
    """Points of the JSON API as points to draw."""
    return [(point["t"], point["length"], point[field]) for point in points]


def _bars(points: Sequence[tuple[int, int, float]], start: int, end: int, top: float, low: float = 0) -> str:
    if top <= low or end <= start:
        return ""
    zero = _y(0, low, top)
    path = []
    for at, length, value in points:
        if value == 0:
            continue
        left, right = _x(at, start, end), _x(at + length, start, end)
        wide = max((right - left) * 0.8, 0.8)
        y = _y(value, low, top)
        # A bar that is there must be seen.
        y = min(y, zero - 2) if value > 0 else max(y, zero + 2)
        path.append(f"M{left:.1f} {zero:.1f}V{y:.1f}h{wide:.1f}V{zero:.1f}z")
    return "".join(path)


def _line(points: Sequence[tuple[int, int, float]], start: int, end: int, low: float, top: float) -> str:
    """Through the middles of windows that follow each other; a window that stands alone is drawn as wide as it is."""
    path: list[str] = []
    run: list[tuple[int, int, float]] = []
    for point in [*points, None]:
        if run and (point is None or point[0] > run[-1][0] + run[-1][1]):
            path.append(_run(run, start, end, low, top))
            run = []
        if point is not None:
            run.append(point)
    return "".join(path)


def _run(run: list[tuple[int, int, float]], start: int, end: int, low: float, top: float) -> str:
    if len(run) == 1:
        ((at, length, value),) = run
        return f"M{_x(at, start, end):.1f} {_y(value, low, top):.1f}H{max(_x(at + length, start, end), 1):.1f}"
    places = [f"{_x(at + length / 2, start, end):.1f} {_y(value, low, top):.1f}" for at, length, value in run]
    return "M" + "L".join(places)


def _grid(low: float, top: float, unit: str) -> Markup:
    if top <= low:
        return Markup("")
    values = [top / 3 * i for i in (1, 2, 3)] if low == 0 else [low, top]
    mark = Markup(
        '<line class="grid" x1="0" x2="100%" y1="{0:.1f}%" y2="{0:.1f}%"/>'
        '<text x="-8" y="{0:.1f}%" dy="4" text-anchor="end">{1}</text>'
    )
    return Markup("").join(mark.format(_y(value, low, top), words.quantity_text(value, unit)) for value in values)


def _round_up(value: float) -> float:
    """A little above, and divisible by three, so that the grid has round numbers."""
    if value <= 0 or not math.isfinite(value):
        return 0.0
    size = 10.0 ** math.floor(math.log10(value))
    return next((step * size for step in (1.2, 1.5, 1.8, 2.4, 3, 4.5, 6, 7.5, 9, 12) if step * size >= value), value)


def _x(at: float, start: int, end: int) -> float:
    return min(max((at - start) / (end - start), 0.0), 1.0) * W


def _y(value: float, low: float, top: float) -> float:
    return (1 - (value - low) / (top - low)) * H if 0 < top - low < math.inf else H


def _plot(body: Markup, label: str, *, tall: bool = False) -> Markup:
    kind = "plot tall" if tall else "plot"
    return Markup('<svg class="{}" role="img" aria-label="{}">{}</svg>').format(kind, words.plain(label, 300), body)


def _stretched(body: Markup) -> Markup:
    return Markup('<svg viewBox="0 0 1000 100" preserveAspectRatio="none" width="100%" height="100%">{}</svg>').format(
        body
    )


def _box(kind: str, label: str, body: Markup) -> Markup:
    return Markup(
        '<svg class="{}" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(kind, words.plain(label, 300), body)
