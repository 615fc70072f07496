"""A random life of a delivery: a real spool with little room, a real worker, and a model of a bad destination.

Whatever the weather there, and however often all that is in memory is lost, the books balance; and once the faults end
every event is at the destination once, or a dead letter because it deserved it, and no point is missing or doubled.

``CHAOS_EXAMPLES`` asks for a longer run than the one in `make test`.
"""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.delivery import Worker
from sendoff_server.spool import ClassLimit, EventIn, OutputSpec, Spool, SpoolFull, SpoolLimits
from sendoff_server.wire.batch import decode_body
from server.tests.spool.conftest import rotation

from .conftest import NOW
from .model import WEATHERS, ModelDestination

T = TypeVar("T")
MONTH = 30 * 86_400.0
LIMITS = SpoolLimits(ClassLimit(600_000, MONTH, "hold"), ClassLimit(400_000, MONTH, "drop_oldest"))
WORDS = st.sampled_from(["good"] * 12 + ["poison", "toxic", "large", "cursed"])


class Clock:
    """Moved by the machine; also the spool's."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wall_ms(self) -> int:
        return NOW + round(self.seconds * 1000)

    def running_s(self) -> float:
        return self.seconds


class DeliveryMachine(RuleBasedStateMachine):
    """One delivery, its whole life."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.merge = make_core(Limits(), (), (1, 1)).merge
        self.clock = Clock()
        self.random = Random(seed)
        self.destination = ModelDestination(self.random)
        self.words: dict[str, str] = {}
        self.points = 0
        self.open()

    def open(self) -> None:
        self.window = 0
        self.spool = Spool.open(
            self.folder,
            [OutputSpec("main", 10_000)],
            merge=self.merge,
            host="h",
            now_ms=self.clock.wall_ms(),
            limits=LIMITS,
            clock=self.clock.wall_ms,
            running=self.clock.running_s,
        )
        self.destination.told.clear()
        self.worker = Worker(self.destination, self.spool, self.clock, self.random)

    def teardown(self) -> None:
        if not hasattr(self, "spool"):
            return
        try:
            self.in_the_end_everything_is_where_it_belongs()
        finally:
            self.do(self.worker.close())
            self.spool.close()
            self.loop.close()
            shutil.rmtree(self.folder)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(words=st.lists(WORDS, min_size=1, max_size=9), size=st.sampled_from([10, 10, 2_000]))
    def put(self, words: list[str], size: int) -> None:
        events = []
        for number, word in enumerate(words, len(self.words) + 1):
            line = {"id": f"e{number}", "word": word, "pad": self.random.randbytes(size).hex()}
            events.append(EventIn(json.dumps(line).encode(), f"e{number}", self.random.choice(["shop", "till"])))
        try:
            self.do(self.spool.put(events, []))
        except SpoolFull:
            return
        self.words.update((event.id, word) for event, word in zip(events, words, strict=True))

    @rule(seconds=st.integers(1, 25), points=st.integers(1, 9))
    def journal(self, seconds: int, points: int) -> None:
        for _ in range(seconds):
            self.clock.seconds += 1
            self.window += 1
            one = rotation(self.spool, self.window, points, made_ms=self.clock.wall_ms() // 1000 * 1000)
            self.do(self.spool.journal(one))
            self.points += points

    @rule(weather=st.sampled_from(WEATHERS))
    def change(self, weather: str) -> None:
        self.destination.weather = weather

    @rule(steps=st.integers(1, 12))
    def deliver(self, steps: int) -> None:
        for _ in range(steps):
            wait = self.do(self.worker.step())
            self.clock.seconds += min(wait, 400)

    @rule(seconds=st.sampled_from([1, 30, 4_000]))
    def wait(self, seconds: int) -> None:
        self.clock.seconds += seconds

    @rule(steps=st.integers(0, 2))
    def crash(self, steps: int) -> None:
        """All that is in memory is gone: requests under way, and answers that were not settled."""
        for _ in range(steps):
            self.do(self.lose_a_step())
        self.spool.close()
        self.clock.seconds += 1
        self.open()

    async def lose_a_step(self) -> None:
        """Requests go out, and the process is gone before it has settled what came of them."""
        await self.worker._start()
        await asyncio.sleep(self.random.choice([0, 0, 0.005]))
        lanes = list(self.worker._lanes)
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
        self.worker._lanes.clear()

    @invariant()
    def the_books_balance_and_agree_with_both_ends(self) -> None:
        delivered, pending, dead = self.events_book()
        assert delivered + pending + dead == len(self.words)
        assert delivered <= len(self.destination.events)
        assert dead <= sum(word in ("poison", "toxic") for word in self.words.values()) or self.destination.unjust
        journaled, out, _ = self.points_book()
        assert journaled == self.points
        assert out <= sum(self.destination.points.values())

    def events_book(self) -> tuple[int, int, int]:
        """Delivered, pending, dead."""
        books = self.do(self.spool.books())
        assert books.balance() == []
        assert not any(book.lost or book.folded or book.not_routed for book in books.events)
        return tuple(sum(getattr(book, name) for book in books.events) for name in ("delivered", "pending", "dead"))

    def points_book(self) -> tuple[int, int, int]:
        """Journaled, delivered, pending."""
        books = self.do(self.spool.books()).points_out
        assert self.destination.unjust or not any(book.dead for book in books)
        return tuple(sum(getattr(book, name) for book in books) for name in ("journaled", "delivered", "pending"))

    def dead_events(self) -> list[str]:
        """Ids of the events among the dead letters."""
        rows = self.do(self.spool._looking.run(lambda db: list(db.execute("SELECT blob FROM dead WHERE kind = 0"))))
        return [json.loads(line)["id"] for (blob,) in rows for line in decode_body(blob, "zstd")[0].lines]

    def in_the_end_everything_is_where_it_belongs(self) -> None:
        self.destination.weather, self.destination.cursed = "fine", False
        self.clock.seconds += 4_000
        for _ in range(60):
            self.put(["good"], 10)  # so that there is proof of what is bad
            for _ in range(40):
                wait = self.do(self.worker.step())
                self.clock.seconds += min(wait, 400)
            if self.events_book()[1] == 0 and self.points_book()[2] == 0 and wait > 0:
                break
        delivered, pending, dead = self.events_book()
        assert pending == 0, f"{pending} events never arrive: {self.worker!r} {self.worker.last_error}"
        assert self.points_book()[2] == 0
        stored, buried = set(self.destination.events), self.dead_events()
        assert len(buried) == len(set(buried)) == dead
        assert stored | set(buried) == set(self.words)
        (_, out, _), there = self.points_book(), sum(self.destination.points.values())
        if not self.destination.unjust:
            assert set(buried) == {name for name, word in self.words.items() if word in ("poison", "toxic")}
            assert len(stored) == delivered
            assert out == there
        assert self.worker.state == "flowing"
        assert self.worker.counters.crashes == 0


TestDeliveryMachine = DeliveryMachine.TestCase
TestDeliveryMachine.settings = settings(
    max_examples=int(os.environ.get("CHAOS_EXAMPLES", "15")),
    stateful_step_count=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
