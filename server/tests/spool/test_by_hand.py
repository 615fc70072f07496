"""A random life of a spool that people put their hands in, in a storm: replayed, purged and folded in any order.

Beside what `test_machine.py` does to a spool, dead letters are sent again, anywhere, and things are thrown away while
they are sent, split, gathered, merged or folded. After each step the books balance, a check finds nothing, what is
listed is what is pending, and each receipt says where its event is.
"""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.spool import (
    Dead,
    Delivered,
    EventIn,
    OutputSpec,
    RefusedLine,
    Sealed,
    Settlement,
    Split,
    Spool,
    SpoolLimits,
)
from sendoff_server.spool.checking import checking
from sendoff_server.spool.keeping import Listing, Purging, Replaying, What, listing

from .conftest import NOW, rotation

T = TypeVar("T")
OUTPUTS = {"main": OutputSpec("main", 10_000), "hook": OutputSpec("hook", 10_000, gather=True)}
NAMES = st.sampled_from(sorted(OUTPUTS))
ANY = st.one_of(st.none(), NAMES)
LATER = NOW + 3_600_000


class Hands(RuleBasedStateMachine):
    """One spool, its whole life."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.core = make_core(Limits(), (), (1, 1))
        self.number = 0
        self.asked: list[str] = []

    @initialize(names=st.sampled_from([["main", "hook"], ["main", "hook"], []]))
    def begin(self, names: list[str]) -> None:
        self.open(names)

    def open(self, names: list[str]) -> None:
        """Without outputs everything waits for those to come."""
        self.ran_s = 0.0
        self.names = names
        self.spool = Spool.open(
            self.folder,
            [OUTPUTS[name] for name in names],
            merge=self.core.merge,
            host="h",
            now_ms=NOW,
            limits=SpoolLimits(),
            clock=lambda: NOW,
            running=lambda: self.ran_s,
        )
        self.window = 0
        self.begun: set[str] = set()
        """Folds of this run that have their line."""
        self.leased: list[tuple[str, Sealed]] = []

    def teardown(self) -> None:
        self.spool.close()
        self.loop.close()
        shutil.rmtree(self.folder)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def event(self, source: str, fold: str = "", *, confirm: bool = False) -> EventIn:
        self.number += 1
        name = f"e{self.number}"
        self.asked += [name] * confirm
        line = b"" if fold in self.begun else json.dumps({"id": name, "repeats": 0}).encode()
        self.begun |= {fold} - {""}
        return EventIn(line, name, source, confirm, fold)

    @rule(sources=st.lists(st.sampled_from("ab"), min_size=1, max_size=4), confirm=st.booleans())
    def put(self, sources: list[str], confirm: bool) -> None:
        self.do(self.spool.put([self.event(source, confirm=confirm) for source in sources], []))

    @rule(n=st.integers(1, 5), over=st.booleans())
    def storm(self, n: int, over: bool) -> None:
        """Of two exceptions at once, so that what goes out for them can be split."""
        events = [self.event(source, f"{self.spool.epoch}-{source}") for source in "ab" for _ in range(n)]
        self.do(self.spool.put(events, []))
        if over:
            self.minute_over()

    @rule()
    def minute_over(self) -> None:
        self.do(self.spool.unfold())
        self.begun.clear()

    @rule(seconds=st.integers(1, 15))
    def journal(self, seconds: int) -> None:
        for _ in range(seconds):
            self.window += 1
            self.do(self.spool.journal(rotation(self.spool, self.window)))
            self.ran_s += 1

    @rule()
    def merge_the_backlog(self) -> None:
        self.ran_s += 700
        self.do(self.spool.merge_backlog(self.core.merge, 3))

    @rule(output=NAMES)
    def lease(self, output: str) -> None:
        """To be settled later, whatever becomes of it until then."""
        if output in self.names:
            self.leased += [(output, batch) for batch in self.do(self.spool.lease(output, LATER))]

    @rule(data=st.data(), output=NAMES, twice=st.booleans())
    def settle(self, data: st.DataObject, output: str, twice: bool) -> None:
        """Also what is not there any more, and what was settled before."""
        self.lease(output)
        if not self.leased:
            return
        output, batch = data.draw(st.sampled_from(self.leased[-8:]))
        lines = data.draw(st.sets(st.integers(1, batch.lines)))
        refused = [RefusedLine(line, data.draw(st.sampled_from(["odd", "old"])), "") for line in sorted(lines)]
        answers: list[Settlement] = [
            Delivered(batch, refused),
            Dead(batch, 400, "bad", b"no"),
            Split(batch),
            Split(batch),
        ]
        answer = data.draw(st.sampled_from(answers))
        for _ in range(1 + twice):
            self.do(self.spool.settle(output, [answer]))

    @rule(output=NAMES, split=st.booleans())
    def refuse(self, output: str, split: bool) -> None:
        self.lease(output)
        for name, batch in self.leased[-8:]:
            answer: Settlement = Split(batch) if split else Dead(batch, 400, "bad", b"no")
            self.do(self.spool.settle(name, [answer]))

    @rule(to=ANY, force=st.booleans())
    def replay(self, to: str | None, force: bool) -> None:
        self.do(self.spool.replay(Replaying(every=True, to=to, force=force)))

    @rule(what=st.sampled_from(["waiting", "dead"]), output=ANY, older=st.sampled_from([600_000, 5_000, None]))
    def purge(self, what: What, output: str | None, older: int | None) -> None:
        would = self.do(self.spool.purge(Purging(what, output, older)))
        assert self.do(self.spool.purge(Purging(what, output, older, yes=True)))["gone"] == would["gone"]

    @rule(numbers=st.lists(st.integers(1, 30), min_size=1, max_size=5))
    def purge_some(self, numbers: list[int]) -> None:
        self.do(self.spool.purge(Purging("waiting", numbers=numbers, yes=True)))

    @rule(names=st.sampled_from([[], ["main", "hook"], ["main"]]))
    def reopen(self, names: list[str]) -> None:
        self.spool.close()
        self.open(names or self.names)

    @invariant()
    def nothing_parts(self) -> None:
        books = self.do(self.spool.books())
        assert books.balance() == []
        found = self.do(self.spool.look(checking))
        assert found["faults"] == []
        totals = self.do(self.spool.look(lambda connection: listing(connection, Listing(), 0)))["totals"]
        listed = sum(each["events"] for each in totals["waiting"] + totals["folding"])
        assert listed == sum(book.pending for book in books.events)

    @invariant()
    def each_receipt_says_where_its_event_is(self) -> None:
        for event in self.asked:
            receipt = self.do(self.spool.receipt(event))
            assert receipt is not None
            assert receipt["outputs"]
            for each in receipt["outputs"]:
                assert (each["item"] is not None) == (each["state"] == "pending")


TestHands = Hands.TestCase
TestHands.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
