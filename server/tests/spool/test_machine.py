"""A random life of a spool beside a simple model of it: the books always balance, nothing is lost or doubled.

The model knows, for each output, which events and how many points are not delivered yet. Steps put, journal, lease,
settle in every way, merge the backlog, let time pass, reopen, and fail commits; the real spool on a real disk must
agree after each. One output gathers; the limits are wide or narrow, with any policy. What the spool gives up for its
limits is its choice; that as many are gone from the rows as the books say is not.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.spool import (
    ClassLimit,
    ClientState,
    Dead,
    Delivered,
    EventIn,
    OutputSpec,
    RefusedLine,
    Sealed,
    Settlement,
    Split,
    Spool,
    SpoolFailed,
    SpoolFull,
    SpoolLimits,
)
from sendoff_server.wire.batch import decode_body

from .conftest import NOW, event, rotation

T = TypeVar("T")
OUTPUTS = [
    OutputSpec("main", 10_000),
    OutputSpec("slow", 60_000, gather=True),
    OutputSpec("numbers", 10_000, events=False),
]
HOUR = 3_600.0
LIMITS = {
    "wide": SpoolLimits(),
    "hold": SpoolLimits(ClassLimit(6_000, HOUR, "hold"), ClassLimit(6_000, HOUR, "drop_new")),
    "drop": SpoolLimits(ClassLimit(6_000, HOUR, "drop_oldest"), ClassLimit(6_000, HOUR, "drop_oldest")),
}
SOURCES = st.sampled_from(["shop", "till", "statsd/udp"])
NAMES = st.sampled_from([output.name for output in OUTPUTS])


class SpoolMachine(RuleBasedStateMachine):
    """One spool, its whole life."""

    @initialize(limits=st.sampled_from(sorted(LIMITS)))
    def begin(self, limits: str) -> None:
        self.limits = LIMITS[limits]
        self.running = 0.0
        self.lost: Counter[str] = Counter()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.merge = make_core(Limits(), (), (1, 1)).merge
        self.now = NOW
        self.events = self.points = 0
        self.left: dict[str, set[str]] = {output.name: set() for output in OUTPUTS if output.events}
        self.left_points = dict.fromkeys((output.name for output in OUTPUTS), 0)
        self.open()

    def open(self) -> None:
        self.window = 0
        self.spool = Spool.open(
            self.folder,
            OUTPUTS,
            merge=self.merge,
            host="h",
            now_ms=self.now,
            limits=self.limits,
            running=lambda: self.running,
        )

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
            self.loop.close()
            shutil.rmtree(self.folder)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(sources=st.lists(SOURCES, min_size=1, max_size=6))
    def put(self, sources: list[str]) -> None:
        events = self.new_events(sources)
        try:
            self.do(self.spool.put(events, [ClientState("c" * 32, upto=self.events)]))
        except SpoolFull:
            assert self.full("events")
        else:
            self.keep(events)
            self.notice_losses()

    @rule(groups=st.lists(st.lists(SOURCES, max_size=3), min_size=2, max_size=4))
    def put_together(self, groups: list[list[str]]) -> None:
        puts = [self.new_events(sources) for sources in groups]

        async def together() -> None:
            answers = await asyncio.gather(*(self.spool.put(events, []) for events in puts), return_exceptions=True)
            for events, answer in zip(puts, answers, strict=True):
                if answer is None:
                    self.keep(events)
                else:
                    assert isinstance(answer, SpoolFull | SpoolFailed), answer
                    assert self.full("events")

        self.do(together())
        self.notice_losses()

    @rule(sources=st.lists(SOURCES, min_size=1, max_size=3), late=st.booleans())
    def put_while_the_disk_fails(self, sources: list[str], late: bool) -> None:
        writer = self.spool._writer
        store = writer._store

        def fail(*arguments: Any) -> None:
            if late:
                store(*arguments)
            raise apsw.IOError("the disk is broken")

        writer._store = fail
        try:
            self.do(self.spool.put(self.new_events(sources), [ClientState("d" * 32)]))
        except (SpoolFailed, SpoolFull):
            pass
        else:
            raise AssertionError("a put was acknowledged though its commit failed")
        finally:
            writer._store = store

    def new_events(self, sources: list[str]) -> list[EventIn]:
        self.events += len(sources)
        return [event(self.events - n, source) for n, source in enumerate(sources)]

    def keep(self, events: list[EventIn]) -> None:
        for left in self.left.values():
            left.update(one.id for one in events)

    @rule(points=st.integers(1, 9), source=SOURCES, seconds=st.integers(1, 15))
    def journal(self, points: int, source: str, seconds: int) -> None:
        self.now += seconds * 1000
        self.window += 1
        one = rotation(self.spool, self.window, points, source, made_ms=self.now // 1000 * 1000)
        one.lines.append(one.lines[0].replace(b'"sold"', b'"torn"'))
        one.points = {source: 2 * points}
        one.lost = {source: {"series_limit": 1}}
        self.do(self.spool.journal(one))
        journaled = sum(book.journaled for book in self.do(self.spool.books()).points_in) - self.points
        assert journaled == 2 * points or (journaled == 0 and self.full("metrics"))
        self.points += journaled
        for name in self.left_points:
            self.left_points[name] += journaled
        self.notice_losses()

    def full(self, name: Literal["events", "metrics"]) -> bool:
        limit = self.limits.events if name == "events" else self.limits.metrics
        return self.spool._writer.used.of(name) >= limit.bytes and limit.when_full in ("hold", "drop_new")

    @rule(seconds=st.sampled_from([130, 700, 1_900]), clock=st.integers(-10_000, 10_000))
    def wait(self, seconds: int, clock: int) -> None:
        self.running += seconds
        self.now += seconds * 1_000 + clock

    @rule(most=st.integers(1, 3))
    def merge_the_backlog(self, most: int) -> None:
        self.do(self.spool.merge_backlog(self.merge, most))

    @rule()
    def expire(self) -> None:
        self.do(self.spool.expire())
        self.notice_losses()
        rows: list[Any] = self.spool._connection.execute("SELECT coalesce(min(born), 1e18) FROM item").fetchall()
        grace = 600_000 * bool(self.spool._writer.leased)
        assert rows[0][0] >= self.spool._writer.ran_ms() - self.limits.events.age_s * 1000 - grace

    def notice_losses(self) -> None:
        """What is gone from the rows is what the books call lost, for each output."""
        books = self.do(self.spool.books())
        for name in self.left:
            waiting = self.waiting(name)
            assert waiting <= self.left[name]
            gone = len(self.left[name]) - len(waiting)
            lost = sum(sum(book.lost.values()) for book in books.events if book.output == name)
            assert gone == lost - self.lost[f"events {name}"]
            self.left[name], self.lost[f"events {name}"] = waiting, lost
        for point_book in books.points_out:
            lost = sum(point_book.lost.values())
            self.left_points[point_book.output] -= lost - self.lost[point_book.output]
            self.lost[point_book.output] = lost

    def waiting(self, output: str) -> set[str]:
        """The events that wait for an output, read from the rows."""
        query = "SELECT blob FROM item NATURAL JOIN (SELECT item FROM delivery WHERE output = ?) WHERE kind = 0"
        found: list[str] = []
        rows: list[Any] = self.spool._connection.execute(query, (output,)).fetchall()
        for (blob,) in rows:
            found += [line.split(b'"')[3].decode() for line in decode_body(blob, "zstd")[0].lines]
        assert len(found) == len(set(found)), "an event waits twice"
        return set(found)

    @rule(output=NAMES, most=st.integers(1, 9), data=st.data())
    def deliver(self, output: str, most: int, data: st.DataObject) -> None:
        batches = self.do(self.spool.lease(output, self.now, max_batches=most))
        again = self.do(self.spool.lease(output, self.now, max_batches=1_000))
        assert all(batch in again for batch in batches), "what is leased comes again until it is settled"
        if data.draw(st.integers(0, 3)) == 0:
            self.running += 2 * HOUR
            self.expire()
            query = "SELECT item FROM delivery WHERE output = ?"
            here = {item for (item,) in self.spool._connection.execute(query, (output,)).fetchall()}
            self.do(self.spool.settle(output, [Delivered(batch) for batch in batches if batch.item not in here]))
            batches = [batch for batch in batches if batch.item in here]
        settlements: list[Settlement] = []
        for batch in batches:
            match data.draw(st.sampled_from(["keep", "take", "refuse", "bury", "split"])):
                case "take":
                    settlements.append(Delivered(batch))
                    self.take(output, batch, range(1, batch.lines + 1))
                case "refuse":
                    line = data.draw(st.integers(1, batch.lines))
                    settlements.append(Delivered(batch, [RefusedLine(line, "invalid", "why")]))
                    self.take(output, batch, range(1, batch.lines + 1))
                case "bury":
                    settlements.append(Dead(batch, 400, "refused", b"no"))
                    self.take(output, batch, range(1, batch.lines + 1))
                case "split":
                    settlements.append(Split(batch))
        for _ in range(data.draw(st.integers(1, 2))):
            self.do(self.spool.settle(output, settlements))

    def take(self, output: str, batch: Sealed, lines: range) -> None:
        if batch.kind == "snapshot":
            self.left_points[output] -= batch.n
            return
        decoded = decode_body(batch.blob, "zstd")[0].lines
        for number in lines:
            name = decoded[number - 1].split(b'"')[3].decode()
            assert name in self.left[output], f"{name} was offered to {output} again after it was settled"
            self.left[output].remove(name)

    @rule()
    def reopen(self) -> None:
        self.spool.close()
        self.open()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        books = self.do(self.spool.books())
        assert books.balance() == []
        for name, left in self.left.items():
            assert sum(book.pending for book in books.events if book.output == name) == len(left)
        pending = {book.output: book.pending for book in books.points_out}
        assert all(pending.get(name, 0) == n for name, n in self.left_points.items())
        assert sum(book.journaled for book in books.points_in) == self.points


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
