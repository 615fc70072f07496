"""For tests of your own application: what would have been sent, in memory, without a socket or a thread.

    from sendoff.testing import recording

    def test_an_order_is_counted():
        with recording() as sent:
            place_order("kettle")
        assert sent.total("orders.placed", country="PL") == 1
        assert sent.one("order.placed")["fields"]["article"] == "kettle"

As a pytest fixture: `@pytest.fixture` over a function that does `with recording() as sent: yield sent`.
Names, tags, numbers and payloads go through the same code as in production, so what could not be sent is in `dropped`
here too.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager

from sendoff import current
from sendoff.client import Client
from sendoff.content.render import word
from sendoff.metrics import tag
from sendoff.receipt import SPOOLED
from sendoff.sending.holder import Durable
from sendoff.sending.outbox import Outbox
from sendoff.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sendoff.metrics import Series
    from sendoff.receipt import Receipt


class Point:
    """One recorded metric point. `kind` is the type as on the wire: `c`, `g`, `d`, `ms` or `s`."""

    __slots__ = ("kind", "name", "rate", "tags", "value")

    def __init__(self, series: Series, value: float | str) -> None:
        self.name = series.name
        self.kind = series.kind
        self.rate = series.rate
        self.tags = series.tags
        self.value = value

    def __repr__(self) -> str:
        return f"Point({self.name}:{self.value}|{self.kind}|#{','.join(self.tags)})"


class _Kept(Outbox):
    """An outbox whose points and frames stay where they are."""

    def point(self, line: Series | None, value: object) -> None:
        """Count one point, and keep it."""
        super().point(line, value)
        queue = self.points.queue
        while queue:
            self.points.taken.append(queue.popleft())

    def _wake(self) -> None:
        """No thread."""

    def _enter(self, pack: bool) -> bool:
        """No socket."""
        return True


class Recorder(Client):
    """A client that keeps everything."""

    def _start(self) -> None:
        self._events: list[dict[str, Any]] = []
        self.confirmed_ids: list[str] = []
        """Ids of the events that were sent with `confirm=True`; their receipts say \"spooled\"."""
        self._random = lambda: 0.0  # below every rate: nothing is sampled away
        self.outbox = _Kept(self._route, self.settings.buffer, self._random, 0.0)
        self.point = self.outbox.point
        self.named = self.outbox.named

    def _submit(self, kind: str, body: bytes, receipt: Receipt | None = None) -> str | None:
        durable = Durable(kind, f"00000000-0000-7000-8000-{len(self._events) + 1:012x}", 0, body)
        self._events.append({"kind": kind, "id": durable.event_id, **json.loads(body)})
        if receipt is not None:
            receipt.belongs_to(self.outbox, durable.event_id)
            receipt.settle(SPOOLED)
            self.confirmed_ids.append(durable.event_id)
        return durable.event_id

    @property
    def points(self) -> list[Point]:
        """All points, in order."""
        return [Point(*point) for point in self.outbox.points.taken]

    def find(self, name: str, /, **tags: object) -> list[Point]:
        """The points of a metric that have at least these tags."""
        wanted = {tag(key, word(value)) for key, value in tags.items()}
        return [point for point in self.points if point.name == name and wanted <= set(point.tags)]

    def total(self, name: str, /, **tags: object) -> float:
        """What a counter adds up to, over all series that have at least these tags."""
        return sum(float(point.value) for point in self.find(name, **tags) if point.kind == "c")

    @property
    def events(self) -> list[dict[str, Any]]:
        """The business events: `id`, `name`, `fields`, `tags`, `user`."""
        return [event for event in self._events if event["kind"] == "event"]

    @property
    def exceptions(self) -> list[dict[str, Any]]:
        """The exceptions: `id`, `name`, `chain`, `fingerprint`, `request` and the rest of their payload."""
        return [event for event in self._events if event["kind"] == "exception"]

    def one(self, name: str) -> dict[str, Any]:
        """The one event or exception of that name; `AssertionError` if there is none, or more than one."""
        found = [event for event in self._events if event["name"] == name]
        names = dict(Counter(event["name"] for event in self._events))
        assert len(found) == 1, f"{len(found)} times {name!r}; recorded are {names}"
        return found[0]

    @property
    def dropped(self) -> dict[str, int]:
        """What could not have been sent, by reason."""
        return self.outbox.tally.totals()

    def flush(self, timeout: float) -> bool:
        """Nothing to wait for."""
        return True

    def close(self, timeout: float | None) -> None:
        """Nothing to close but the unused waker."""
        self.outbox.abandon()


@contextmanager
def recording() -> Iterator[Recorder]:
    """Take the client's place for a while, in all threads."""
    recorder = Recorder(Settings({}, {}))
    before, current.client = current.client, recorder
    try:
        yield recorder
    finally:
        current.client = before
        recorder.close(0)
