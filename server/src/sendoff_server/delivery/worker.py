"""Delivers to one output: ``step`` does one round and says how long to wait; ``run`` is the loop around it.

A round: settle what is still owed, lease, choose, send, decide, settle. A worker knows nothing of other outputs, so
none can hold up another. What it keeps in memory is only how to go on; what was delivered is what the spool says.
"""

import asyncio
import logging
from collections.abc import Sequence
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
        self, output: str, now_ms: int, *, max_batches: int = 64, max_bytes: int = MAX_BYTES
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


class Worker:
    """One output's delivery."""

    def __init__(self, output: Output, spool: Leases, clock: Clock, chance: Chance) -> None:
        self.output = output
        self.oldest_ms: int | None = None
        """When the oldest of what was leased last was made, Unix ms; None when nothing was waiting."""
        self.last_error = ""
        self.last_error_ms: int | None = None
        self.counters = Counters()
        self._spool = spool
        self._clock = clock
        self._chance = chance
        self._parked = False
        self._attempt = 0
        self._not_before = 0.0
        self._window = self._limit = output.max_batches * output.lanes
        self._suspects = Suspects()
        self._owed: list[Settlement] = []
        self._woken = asyncio.Event()
        self._round = asyncio.Lock()
        self._finishing = False

    def __repr__(self) -> str:
        return f"<Worker {self.output.name} {self.state} attempt {self._attempt} window {self._window}>"

    @property
    def state(self) -> State:
        """Parked: its set-up needs a human. Waiting: it will be tried again by itself."""
        if self._parked:
            return "parked"
        return "waiting" if self._attempt or self._suspects.count else "flowing"

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
            self._woken.clear()
            async with self._round:
                wait = await self._guarded_step()
            if wait > 0:
                await self._sleep(wait)

    async def finish_round(self) -> None:
        """Begin no further round; returns when the one under way has ended."""
        self._finishing = True
        async with self._round:
            pass

    async def drain(self) -> None:
        """Deliver until nothing is left to send or the destination has to be waited for."""
        while await self._guarded_step() <= 0:
            pass

    async def close(self) -> None:
        """After the last round, which may have been cut off: what has an answer is settled, whatever else hangs."""
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
        return PAUSE_S

    async def _sleep(self, wait: float) -> None:
        if self._not_before > self._clock.running_s():
            await asyncio.sleep(wait)
            return
        try:
            async with asyncio.timeout(wait):
                await self._woken.wait()
        except TimeoutError:
            return

    async def step(self) -> float:
        """One round. Seconds to wait before the next one: 0 if there may be more to do at once.

        Raises ``SpoolError``; then nothing is lost and the same is done again.
        """
        await self._settle_owed()
        if self.next_try_s > 0:
            return self.next_try_s
        requests = await self._choose()
        if not requests:
            return self._idle_s()
        self.counters.requests += len(requests)
        await asyncio.gather(*(self._exchange(request) for request in requests))
        await self._settle_owed()
        return self.next_try_s

    async def _exchange(self, request: list[Sealed]) -> None:
        self._digest(request, await self.output.send(request))

    async def _settle_owed(self) -> None:
        """What the destination has said is kept until the spool has it, or it would all be sent again."""
        if self._owed:
            await self._spool.settle(self.output.name, self._owed)
            self._owed = []

    async def _choose(self) -> list[list[Sealed]]:
        """The next requests: a suspect alone; while parked or after a failure a single batch; else what fits."""
        most = self._window + self._suspects.count
        leased = await self._spool.lease(
            self.output.name, self._clock.wall_ms(), max_batches=most, max_bytes=MAX_BYTES * self.output.lanes
        )
        self.oldest_ms = min((batch.made_ms for batch in leased), default=None)
        if not leased:
            self._suspects.forget()
        chosen = self._suspects.choose(leased, self._window, self._clock.running_s(), parked=self._parked)
        size = self.output.max_batches
        return [chosen[at : at + size] for at in range(0, len(chosen), size)]

    def _idle_s(self) -> float:
        """Until the interval under way is over and its metrics can be sent, or a batch set aside is tried again."""
        interval = self.output.interval_ms
        rest = (interval - (self._clock.wall_ms() - INTERVAL_GRACE_MS) % interval) / 1000
        return min(rest, self._suspects.next_s(self._clock.running_s()))

    def _digest(self, request: list[Sealed], outcome: Outcome) -> None:
        """Take down what is definite, decide on the rest, and go on or stop accordingly."""
        missing = [batch for batch in request if batch.id not in outcome.results]
        for batch in request:
            if batch.id in outcome.results:
                self._take_down(batch, outcome.results[batch.id])
        if len(missing) < len(request):
            self._flow()
        if not missing:
            return
        trouble = outcome.trouble
        if trouble is None and len(missing) < len(request):
            self._suspects.send_alone(batch.id for batch in missing)
            return
        self._decide(missing, trouble or Trouble("the answer says nothing about the batches that were sent"))

    def _take_down(self, batch: Sealed, result: Result) -> None:
        if not result.stored:
            self._dead(batch, 200, result.code, result.detail.encode())
            return
        self.counters.batches += 1
        self.counters.lines += batch.lines - len(result.refused)
        if result.refused:
            self.counters.dead_letters += len(result.refused)
            log.error("output %s refused %d lines of %s", self.output.name, len(result.refused), batch.id)
        self._owed.append(Delivered(batch, result.refused))
        self._suspects.accepted(batch)

    def _decide(self, missing: list[Sealed], trouble: Trouble) -> None:
        first = missing[0]
        situation = Situation(
            status=trouble.status,
            retry_after_s=trouble.retry_after_s,
            attempt=max(self._attempt, self._suspects.times(first)),
            batches=len(missing),
            lines=first.lines,
            half=first.half,
            proven=self._suspects.proven(first),
            aside=self._suspects.aside_beside(first),
            parked=self._parked,
        )
        decision = decide(situation, self._chance.random())
        self.counters.failed_requests += 1
        self._note(trouble.words)
        match decision.action:
            case "alone":
                self._suspects.send_alone(batch.id for batch in missing)
            case "split":
                self.counters.splits += 1
                self._suspects.refused(first)
                self._suspects.settled(first)
                self._suspects.send_alone(name for name, _, _ in first.halves())
                self._owed.append(Split(first))
            case "dead":
                self._dead(first, trouble.status or 0, "refused", trouble.excerpt or trouble.words.encode())
            case "aside":
                self._suspects.set_aside(first, self._clock.running_s() + decision.wait_s)
            case "park":
                if len(missing) == 1 and trouble.status in BODY_REFUSED:
                    self._suspects.set_aside(first, self._clock.running_s() + decision.wait_s)
                self._block(decision)
            case "wait":
                self._block(decision)

    def _dead(self, batch: Sealed, status: int, code: str, excerpt: bytes) -> None:
        self.counters.dead_letters += batch.lines
        self._owed.append(Dead(batch, status, code, excerpt))
        self._suspects.settled(batch)
        log.error("output %s refused %s for good (%s): it is kept as a dead letter", self.output.name, batch.id, code)

    def _block(self, decision: Decision) -> None:
        """Leave the whole destination alone for a while, and then begin with a single batch."""
        if decision.action == "park" and not self._parked:
            log.error("output %s is parked: %s. It is probed from time to time", self.output.name, self.last_error)
            self._parked = True
            self._attempt = 0
        # A parked output that cannot be reached now stays parked: nothing has said that its set-up is right.
        self._attempt += 1
        self._window = 1
        self._not_before = max(self._not_before, self._clock.running_s() + decision.wait_s)

    def _flow(self) -> None:
        """The destination took something: go on, with twice as much at once after each success."""
        if self._parked or self._attempt:
            log.warning("output %s answers again", self.output.name)
        self._parked = False
        self._attempt = 0
        self._window = min(self._limit, self._window * 2)

    def _note(self, words: str) -> None:
        self.last_error = words
        self.last_error_ms = self._clock.wall_ms()
