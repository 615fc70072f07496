"""All outputs' workers: started, woken, watched, and stopped; and the ledger that goes out beside them."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

from sendoff_server.delivery.outcome import Output
from sendoff_server.delivery.worker import Chance, Clock, Leases, Worker
from sendoff_server.ledger import Books

log = logging.getLogger(__name__)

LEDGER_EVERY_S = 10.0
LEDGER_FIRST_S = 1.0


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def running_s(self) -> float:
        return time.monotonic()


@runtime_checkable
class TakesLedger(Protocol):
    """An output that also wants the books (wire format, section 6)."""

    async def send_ledger(self, header: dict[str, Any], lines: Sequence[bytes]) -> None: ...


@runtime_checkable
class RecognisesRepeats(Protocol):
    """An output whose destination says for how many seconds it recognises repeats; None until it has."""

    dedupe_s: int | None


class KeepsBooks(Leases, Protocol):
    """What delivery needs of the spool."""

    @property
    def agent_id(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    async def books(self) -> Books: ...


class Delivery:
    """Delivers to outputs from a spool. ``books`` gives what gateways are told: the spool's books if it is left out."""

    def __init__(
        self,
        spool: KeepsBooks,
        outputs: Sequence[Output],
        *,
        books: Callable[[], Awaitable[Books]] | None = None,
        clock: Clock | None = None,
        chance: Chance | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._spool = spool
        self._books = books or spool.books
        self._ledgers = 0
        self._workers = [Worker(output, spool, self._clock, chance or random.SystemRandom()) for output in outputs]
        self._telling: asyncio.Task[None] | None = None
        self._delivering: dict[Worker, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin; needs a running event loop."""
        for worker in self._workers:
            name = f"deliver {worker.output.name}"
            self._delivering[worker] = asyncio.create_task(worker.run(), name=name)
        if any(isinstance(worker.output, TakesLedger) for worker in self._workers):
            self._telling = asyncio.create_task(self._send_ledgers(), name="send ledgers")

    def wake(self) -> None:
        """Something was put into the spool."""
        for worker in self._workers:
            worker.wake()

    async def stop(self, deadline_s: float) -> None:
        """Go on delivering what is there for at most so many seconds, then stop. The rest stays in the spool."""
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.gather(*(self._drain(worker) for worker in self._workers))
                if self._telling:
                    await self._tell()
        except TimeoutError:
            log.warning("not everything was delivered in %g s; it stays in the spool", deadline_s)
        tasks = [*self._delivering.values(), *([self._telling] if self._telling else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self._workers:
            await worker.close()

    async def _drain(self, worker: Worker) -> None:
        """Let the step under way end by itself, then go on until nothing is left."""
        await worker.finish_step()
        if task := self._delivering.get(worker):
            task.cancel()
        await worker.drain()

    def recognised(self) -> dict[str, int]:
        """For how many seconds destinations recognise repeats, by output, as far as they have said."""
        outputs = [worker.output for worker in self._workers]
        return {each.name: each.dedupe_s for each in outputs if isinstance(each, RecognisesRepeats) and each.dedupe_s}

    def status(self) -> list[dict[str, Any]]:
        """One object an output, for the status page: all in words and numbers, no secrets."""
        return [
            {
                "name": worker.output.name,
                "type": worker.output.type,
                "url": worker.output.url,
                "state": worker.state,
                "last_error": worker.last_error,
                "last_error_ms": worker.last_error_ms,
                "next_try_s": round(worker.next_try_s, 3),
                "oldest_pending_ms": worker.oldest_ms,
                "shelved": worker.shelved,
                **asdict(worker.counters),
            }
            for worker in self._workers
        ]

    async def _send_ledgers(self) -> None:
        await asyncio.sleep(LEDGER_FIRST_S)
        while True:
            await self._tell()
            await asyncio.sleep(LEDGER_EVERY_S)

    async def _tell(self) -> None:
        try:
            await self.send_ledger()
        except Exception:
            # Nothing depends on a ledger that did not arrive: the next one says it all again.
            log.exception("the ledger could not be sent")

    async def send_ledger(self) -> None:
        """Tell the gateways that are answering what the books say now. One that asked to be left alone is."""
        takers = [
            worker.output
            for worker in self._workers
            if isinstance(worker.output, TakesLedger) and worker.state == "flowing"
        ]
        if not takers:
            return
        lines = (await self._books()).wire()
        self._ledgers += 1
        # Rises within a run by one, and between runs by far more than a run sends: epochs are times in ms.
        ordinal = self._spool.epoch * 1_024 + self._ledgers
        header = {
            "batch": f"ld-{self._spool.agent_id}-{ordinal}",
            "schema": 1,
            "type": "ledger",
            "count": len(lines),
            "agent": self._spool.agent_id,
            "made": self._clock.wall_ms(),
            "host": self._spool.host,
            "ordinal": ordinal,
        }
        await asyncio.gather(*(taker.send_ledger(header, lines) for taker in takers))
