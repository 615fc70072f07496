"""The hot path: points go into a deque without a lock and without a system call, and come out packed as lines.

A point is a (series, value) pair. Any thread may add; only the holder of the client's lock packs. The deque is
bounded by its length: threads that race past the limit at the same moment may exceed it by one each, which is
harmless, and every point that was refused is counted exactly.
"""

from __future__ import annotations

from collections import deque

from sendoff.metrics import decimal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sendoff.metrics import Series

    Value = int | float | str
    Point = tuple[Series, Value]
    Grouped = dict[Series, list[Value]]

LIMIT = 65_536
"""Points waiting to be packed: some 6 MB. Enough for the pauses that the interpreter makes between busy threads."""
EAGER = 1_024
"""Points waiting after which the thread that adds one packs them itself."""
PORTION = 4_096
"""Points that such a thread packs at most."""


class Points:
    """Points on their way into frames."""

    __slots__ = ("queue", "taken")

    def __init__(self) -> None:
        self.queue: deque[Point] = deque()
        self.taken: list[Point] = []
        """Points being packed. Whoever keeps the payloads clears it; what an interruption leaves here is packed
        again.
        """

    def take(self, at_most: int) -> list[Point]:
        """Take points out until `at_most` are in `taken`, and give that."""
        taken, queue = self.taken, self.queue
        try:
            while len(taken) < at_most:
                point = queue[0]  # only the holder of the lock takes out, so it is still the first below
                if not taken or taken[-1] is not point:  # else it was taken already, when this was interrupted
                    taken.append(point)
                queue.popleft()
        except IndexError:
            pass  # all taken
        return taken

    def pack(self, room: int, at_most: int) -> tuple[list[tuple[bytes, int]], int]:
        """Take up to `at_most` points out and pack them into payloads of at most `room` bytes: see `payloads`."""
        return payloads(grouped(self.take(at_most)), room)

    def __repr__(self) -> str:
        return f"Points({len(self.queue)})"


def grouped(points: list[Point]) -> Grouped:
    """Values by series, in the order they came."""
    found: Grouped = {}
    for series, value in points:
        values = found.get(series)
        if values is None:
            found[series] = [value]
        else:
            values.append(value)
    return found


def payloads(grouped: Grouped, room: int) -> tuple[list[tuple[bytes, int]], int]:
    """Payloads of at most `room` bytes, each with its number of points, and how many points were dropped because one
    alone did not fit. Values of a series share a line in the order they came; of a gauge each has its own line, as the
    last one must win with its neighbours counted. The order of different series is not kept: no result depends on it.
    """
    full: list[tuple[bytes, int]] = []
    lines: list[bytes] = []
    size = points = dropped = 0
    for series, values in grouped.items():
        for line, count in _lines(series, values, room):
            if len(line) > room:
                dropped += count
                continue
            if lines and size + len(line) + 1 > room:
                full.append((b"\n".join(lines), points))
                lines, size, points = [], 0, 0
            lines.append(line)
            size += len(line) + 1
            points += count
    if lines:
        full.append((b"\n".join(lines), points))
    return full, dropped


def _lines(series: Series, values: list[Value], room: int) -> list[tuple[bytes, int]]:
    """`values` on as few lines of at most `room` bytes as they need; on one each where they may not share one."""
    head, tail = series.head, series.tail
    texts = [value.encode("utf-8", "replace") if type(value) is str else decimal(value).encode() for value in values]  # type: ignore[arg-type]
    if len(texts) == 1 or series.kind in ("g", "s"):
        return [(head + text + tail, 1) for text in texts]
    fixed = len(head) + len(tail)
    joined = b":".join(texts)
    if fixed + len(joined) <= room:
        return [(head + joined + tail, len(texts))]
    lines: list[tuple[bytes, int]] = []
    some: list[bytes] = []
    size = fixed
    for text in texts:
        if some and size + len(text) + 1 > room:
            lines.append((head + b":".join(some) + tail, len(some)))
            some, size = [], fixed
        some.append(text)
        size += len(text) + 1
    lines.append((head + b":".join(some) + tail, len(some)))
    return lines
