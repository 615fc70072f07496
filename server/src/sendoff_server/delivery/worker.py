"""Delivers to one output: ``step`` does what there is to do now and says how long to wait; ``run`` loops around it.

A step: settle what is owed, lease, choose, start requests in the lanes that are free, and wait until one of them is
over (or something new came). A lane sends, and takes the answer down by itself; nobody waits for the slowest. A worker
knows nothing of other outputs, so none can hold up another. What it keeps in memory is only how to go on; what was
delivered is what the spool says.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sendoff_server.delivery.outcome import Outcome, Output, Result, Trouble
from sendoff_server.delivery.retry import BODY_REFUSED, Decision, Situation, decide
from sendoff_server.delivery.suspects import Suspects
from sendoff_server.spool import Dead, Delivered, Sealed, Settlement, Split, SpoolError

log = logging.getLogger(__name__)

State = Literal["flowing", "waiting", "parked"]
PAUSE_S = 5.0
"""After something unexpected, so that a defect does not become a busy loop."""
INTERVAL_GRACE_MS = 300
"""A journal row is written a little after its second ended."""
MAX_BYTES = 8 * 1024 * 1024


class Clock(Protocol):
    """Both clocks: Unix time in ms for what is stored, running seconds for every duration."""

    def wall_ms(self) -> int: ...
    def running_s(self) -> float: ...


class Chance(Protocol):
    """A source of random numbers in [0, 1), such as ``random.Random``."""

    def random(self) -> float: ...


class Leases(Protocol):
    """What a worker needs of the spool."""

    async def lease(
        self,
        output: str,
        now_ms: int,
        *,
        max_batches: int = 64,
        max_bytes: int = MAX_BYTES,
        without: Collection[int] = (),
    ) -> list[Sealed]: ...
    async def settle(self, output: str, results: Sequence[Settlement]) -> None: ...


@dataclass(slots=True)
class Counters:
    """What a worker did since it began."""

    requests: int = 0
    failed_requests: int = 0
    batches: int = 0
    lines: int = 0
    dead_letters: int = 0
    splits: int = 0
    crashes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """One under way. ``number``: its place among all requests of this worker, in the order they began."""

    number: int
    batches: list[Sealed]


class Worker:
    """One output's delivery."""

    def __init__(self, output: Output, spool: Leases, clock: Clock, chance: Chance) -> None:
        self.output = output
        self.oldest_ms: int | None = None
        """When the oldest of what was leased or held back last was made, Unix ms; None when nothing was waiting."""
        self.last_error = ""
        self.last_error_ms: int | None = None
        self.counters = Counters()
        self._spool = spool
        self._clock = clock
        self._chance = chance
        self._parked = False
        self._attempt = 0
        self._not_before = 0.0
        self._blocked_at = 0
        """The number of the last request begun when the destination was left alone last."""
        self._window = self._limit = output.max_batches * output.lanes
        """Batches that may be under way at once, over all lanes."""
        self._suspects = Suspects()
        self._lanes: dict[asyncio.Task[None], _Request] = {}
        self._owed: list[Settlement] = []
        self._woken = asyncio.Event()
        self._stepping = asyncio.Lock()
        self._finishing = False

    def __repr__(self) -> str:
        return f"<Worker {self.output.name} {self.state} attempt {self._attempt} window {self._window}>"

    @property
    def state(self) -> State:
        """Parked: its set-up needs a human. Waiting: it will be tried again by itself."""
        if self._parked:
            return "parked"
        return "waiting" if self._attempt or self._suspects.aside else "flowing"

    @property
    def shelved(self) -> int:
        """Batches that the destination fails on while it takes others; each is tried again in its own time."""
        return self._suspects.shelved

    @property
    def next_try_s(self) -> float:
        """Seconds until the destination is tried again; 0 when nothing keeps it from being tried."""
        return max(0.0, self._not_before - self._clock.running_s())

    def wake(self) -> None:
        """Something was put into the spool. A worker that waits for its destination goes on waiting."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver until cancelled. Whatever goes wrong is logged and counted, and the worker goes on."""
        while not self._finishing:
            async with self._stepping:
                wait = await self._guarded_step()
            if wait > 0:
                await self._sleep(wait)

    async def finish_step(self) -> None:
        """Begin no further step; returns when the one under way has ended. Requests under way go on."""
        self._finishing = True
        self._woken.set()
        async with self._stepping:
            pass

    async def drain(self) -> None:
        """Deliver until nothing is left to send or the destination has to be waited for."""
        while await self._guarded_step() <= 0:
            pass

    async def close(self) -> None:
        """Cut off what is still under way. What has an answer is settled, whatever else hangs."""
        lanes = list(self._lanes)
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
        try:
            await self._settle_owed()
        except SpoolError as error:
            log.warning("output %s: what it took last will be sent again: %s", self.output.name, error)
        await self.output.close()

    async def _guarded_step(self) -> float:
        try:
            return await self.step()
        except SpoolError as error:
            self._note(f"the spool: {error}")
            log.warning("output %s: %s", self.output.name, error)
        except Exception as error:
            self.counters.crashes += 1
            self._note(f"a defect of Sendoff's: {error!r}")
            log.exception("the worker of output %s failed and goes on in %g s", self.output.name, PAUSE_S)
        self._not_before = max(self._not_before, self._clock.running_s() + PAUSE_S)
        return self.next_try_s

    async def _sleep(self, wait: float) -> None:
        if self._not_before > self._clock.running_s():
            await asyncio.sleep(wait)
        else:
            await self._stirred(wait)

    async def _stirred(self, wait: float) -> None:
        """Until a lane is free, something was put, or it is time."""
        try:
            async with asyncio.timeout(wait if wait < float("inf") else None):
                await self._woken.wait()
        except TimeoutError:
            return

    async def step(self) -> float:
        """One step. Seconds to wait before the next one: 0 if there may be more to do at once.

        Raises ``SpoolError``; then nothing is lost and the same is done again.
        """
        self._woken.clear()
        self._reap()
        await self._settle_owed()
        wait = self.next_try_s or await self._start()
        if not self._lanes:
            return wait
        await self._stirred(wait)
        self._reap()
        await self._settle_owed()
        return 0.0 if self._lanes else self.next_try_s

    async def _start(self) -> float:
        """Start requests in free lanes. Seconds until it makes sense to look again, if no lane ends before."""
        lanes = self.output.lanes - len(self._lanes)
        room = self._window - sum(len(request.batches) for request in self._lanes.values())
        if lanes <= 0 or room <= 0:
            return float("inf")
        blocked_at = self._blocked_at
        requests = await self._choose(lanes, room)
        if blocked_at != self._blocked_at:
            return self.next_try_s  # While it was leased, a lane found out that the destination is ill.
        for batches in requests[:lanes]:
            self.counters.requests += 1
            request = _Request(self.counters.requests, batches)
            name = f"send to {self.output.name}"
            self._lanes[asyncio.create_task(self._exchange(request), name=name)] = request
        return self._idle_s() if len(self._lanes) < self.output.lanes else float("inf")

    async def _exchange(self, request: _Request) -> None:
        try:
            outcome = await self.output.send(request.batches)
            self._digest(request, outcome)
        finally:
            self._woken.set()

    def _reap(self) -> None:
        """Free the lanes that ended. Raises what one ended with, if that is a defect."""
        for lane in [lane for lane in self._lanes if lane.done()]:
            del self._lanes[lane]
            if not lane.cancelled():
                lane.result()

    async def _settle_owed(self) -> None:
        """What the destination has said is kept until the spool has it, or it would all be sent again."""
        while self._owed:
            owed = list(self._owed)
            await self._spool.settle(self.output.name, owed)
            del self._owed[: len(owed)]  # lanes may have added to it meanwhile

    async def _choose(self, lanes: int, room: int) -> list[list[Sealed]]:
        """The next requests: a suspect alone; while parked or after a failure a single batch; else what fits."""
        size = self.output.max_batches
        leased: list[Sealed] = []
        busy = self._busy()
        for last in self._suspects.passes(self._clock.running_s(), busy, parked=self._parked):
            leased = await self._spool.lease(
                self.output.name,
                self._clock.wall_ms(),
                max_batches=1 if self._parked or last.single else min(room, size * lanes),
                max_bytes=MAX_BYTES * lanes,
                without=last.without | busy,
            )
            if leased:
                break
        else:
            self._suspects.nothing_left(last, busy)
        made = [batch.made_ms for request in self._lanes.values() for batch in request.batches]
        made += [batch.made_ms for batch in leased]
        made += [] if self._suspects.oldest_ms is None else [self._suspects.oldest_ms]
        self.oldest_ms = min(made, default=None)
        return self._suspects.group(leased, size, MAX_BYTES, self.output.weigh)

    def _busy(self) -> set[int]:
        """Items that are under way, or whose answer is not in the spool yet."""
        under_way = {batch.item for request in self._lanes.values() for batch in request.batches}
        return under_way | {settlement.batch.item for settlement in self._owed}

    def _idle_s(self) -> float:
        """Until the interval under way is over and its metrics can be sent, or a batch held back is tried again."""
        interval = self.output.interval_ms
        rest = (interval - (self._clock.wall_ms() - INTERVAL_GRACE_MS) % interval) / 1000
        return min(rest, self._suspects.next_s(self._clock.running_s()))

    def _digest(self, request: _Request, outcome: Outcome) -> None:
        """Take down what is definite, decide on the rest, and go on or stop accordingly."""
        batches = request.batches
        missing = [batch for batch in batches if batch.id not in outcome.results]
        for batch in batches:
            if batch.id in outcome.results:
                self._take_down(batch, outcome.results[batch.id], request.number)
        if len(missing) < len(batches):
            self._flow(request.number)
        if not missing:
            return
        trouble = outcome.trouble
        if trouble is None and len(missing) < len(batches):
            self._suspects.send_alone(batch.id for batch in missing)
            return
        trouble = trouble or Trouble("the answer says nothing about the batches that were sent")
        self.counters.failed_requests += 1
        self._note(trouble.words)
        self._carry_out(decide(self._situation(missing, trouble), self._chance.random()), missing, trouble, request)

    def _take_down(self, batch: Sealed, result: Result, number: int) -> None:
        if not result.stored:
            self._dead(batch, 200, result.code, result.detail.encode())
            return
        self.counters.batches += 1
        self.counters.lines += batch.lines - len(result.refused)
        if result.refused:
            self.counters.dead_letters += len(result.refused)
            log.error("output %s refused %d lines of %s", self.output.name, len(result.refused), batch.id)
        self._owed.append(Delivered(batch, result.refused))
        self._suspects.accepted(batch, number)

    def _situation(self, missing: list[Sealed], trouble: Trouble) -> Situation:
        first, suspects = missing[0], self._suspects
        return Situation(
            status=trouble.status,
            retry_after_s=trouble.retry_after_s,
            attempt=max(self._attempt, suspects.times(first)),
            batches=len(missing),
            lines=first.lines,
            proven=suspects.proven(first),
            aside=suspects.aside_beside(first),
            parked=self._parked,
            reached=trouble.reached,
            failures=suspects.failures(first),
            turning=suspects.turning,
            blamed=suspects.blamed(first),
            shelved=suspects.shelved,
        )

    def _carry_out(self, decision: Decision, missing: list[Sealed], trouble: Trouble, request: _Request) -> None:
        first, begun, now_s = missing[0], self.counters.requests, self._clock.running_s()
        match decision.action:
            case "alone":
                self._suspects.send_alone(batch.id for batch in missing)
            case "split":
                self.counters.splits += 1
                self._suspects.refused(first, begun)
                self._suspects.settled(first)
                self._suspects.send_alone(name for name, _, _ in first.halves())
                self._owed.append(Split(first))
            case "dead":
                self._dead(first, trouble.status or 0, "refused", trouble.excerpt or trouble.words.encode())
            case "aside":
                self._suspects.set_aside(first, begun, now_s + decision.wait_s)
            case "shelve":
                if self._suspects.shelve(first, begun, now_s + decision.wait_s):
                    log.warning(
                        "output %s takes others, but fails on %s: %s", self.output.name, first.id, trouble.words
                    )
                self._not_before = max(self._not_before, now_s + decision.pause_s)
            case "again" | "turn":
                self._suspects.failed(first, begun, now_s, turn=decision.action == "turn")
                self._block(decision, request.number)
            case "park":
                if len(missing) == 1 and trouble.status in BODY_REFUSED:
                    self._suspects.set_aside(first, begun, now_s + decision.wait_s)
                self._block(decision, request.number)
            case "wait":
                self._block(decision, request.number)

    def _dead(self, batch: Sealed, status: int, code: str, excerpt: bytes) -> None:
        self.counters.dead_letters += batch.lines
        self._owed.append(Dead(batch, status, code, excerpt))
        self._suspects.settled(batch)
        log.error("output %s refused %s for good (%s): it is kept as a dead letter", self.output.name, batch.id, code)

    def _block(self, decision: Decision, number: int) -> None:
        """Leave the whole destination alone for a while, and then begin with a single batch."""
        if decision.action == "park" and not self._parked:
            log.error("output %s is parked: %s. It is probed from time to time", self.output.name, self.last_error)
            self._parked = True
            self._attempt = 0
        # A parked output that cannot be reached now stays parked: nothing has said that its set-up is right.
        if number > self._blocked_at:  # Else it was under way when another one failed: that is the same failure.
            self._attempt += 1
        self._blocked_at = self.counters.requests
        self._window = 1
        self._not_before = max(self._not_before, self._clock.running_s() + decision.wait_s)

    def _flow(self, number: int) -> None:
        """The destination took something: go on, with twice as much at once after each success."""
        if number <= self._blocked_at:
            return  # It was under way before the failure, and says nothing about what is after it.
        if self._parked or self._attempt:
            log.warning("output %s answers again", self.output.name)
        self._parked = False
        self._attempt = 0
        self._window = min(self._limit, self._window * 2)

    def _note(self, words: str) -> None:
        self.last_error = words
        self.last_error_ms = self._clock.wall_ms()
