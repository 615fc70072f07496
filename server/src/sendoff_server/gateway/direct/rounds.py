"""Rounds: what waits is stored together, in one transaction of the gateway's writer, and only then acknowledged.

A round has events, the windows that the core had open (all of them, or who waits for points to be acknowledged would
wait for the second to end), gauges, and what is known of the clients as of exactly these events and points. Events
begin a round at once, or with the end of the one before; points at most every METRICS_S, less often where storing them
takes long.

A round that could not be stored is kept as it is and tried again, under its number, by which the store knows it if it
was stored after all. What comes in meanwhile waits behind it, within the allowance of the project.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sendoff_server.aggregate import Core, Rotation
from sendoff_server.gateway.check import Window
from sendoff_server.gateway.direct.client import Covered, DirectClient, DirectState
from sendoff_server.gateway.direct.limits import Allowance
from sendoff_server.gateway.events import EventRow, LineError, check
from sendoff_server.gateway.store import Busy, DiskFailed
from sendoff_server.intake.client import Client
from sendoff_server.spool import EventIn

log = logging.getLogger(__name__)

METRICS_S = 0.25
METRICS_SHARE = 4.0
"""Points wait so many times as long as storing them took: they may not keep the one writer busy for themselves."""
GROUP_EVENTS = 1_000
GROUP_BYTES = 4 * 1024 * 1024
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0
ENTRY_COSTS = 512
"""About what an event costs in memory beside its line."""
SERIES_COSTS = 1_024
"""The same for a window of a series, which takes the store longer: it has to be merged with what is there."""
OPEN_BYTES = 131_072
"""Bytes fed to the core from which on it is emptied, not waiting for the round: that stops everybody, so it is to be
over soon.
"""
Tally = Counter[tuple[str, str, str]]
"""What is added to the books: book, source, name."""


@dataclass(slots=True)
class Round:
    """What is stored together. `events`: each with its source. `folded`: clients whose numbers go into the totals of
    their service. `chored`: it has states or folds that nobody else waits for. `uptos`: of each client that has entries
    here, what it is acknowledged; `sent`: how many of them are events.
    """

    number: int
    events: list[tuple[str, EventRow]]
    states: list[DirectState]
    rotations: list[Rotation]
    tally: Tally
    folded: list[DirectState]
    chored: bool
    keys: set[int]
    uptos: dict[DirectClient, int]
    sent: Counter[DirectClient]
    covered: dict[DirectClient, Covered]
    entries: int
    size: int
    windows: list[Window] | None = None
    """The rotations merged, made by whoever stores them."""


@dataclass(slots=True)
class _Entry:
    event: EventRow | None
    client: DirectClient | None
    upto: int
    source: str = ""

    @property
    def size(self) -> int:
        return ENTRY_COSTS + (len(self.event.line) if self.event else 0)


Put = Callable[[Round], "asyncio.Future[None]"]


@dataclass(slots=True)
class Chores:
    """What the next round stores besides: of these clients what is known then, of those in `folded` what was known."""

    changed: list[DirectClient] = field(default_factory=list)
    folded: list[DirectState] = field(default_factory=list)
    tally: Tally = field(default_factory=Counter)
    keys: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.changed or self.folded or self.tally)


class Rounds:
    """Of one project. `put` stores a round, `on_stored` and `on_failed` are told what became of it. `clock` gives Unix
    ms, `running` monotonic seconds.
    """

    def __init__(
        self,
        core: Core,
        allowance: Allowance,
        put: Put,
        on_stored: Callable[[Round], None],
        on_failed: Callable[[], None],
        *,
        clock: Callable[[], int],
        running: Callable[[], float],
    ) -> None:
        self._core = core
        self._allowance = allowance
        self._put = put
        self._on_stored = on_stored
        self._on_failed = on_failed
        self._clock = clock
        self._running = running
        self._queue: deque[_Entry] = deque()
        self._pointed: dict[DirectClient, None] = {}
        self._fed = self._open = 0
        self._rotations: list[Rotation] = []
        self._rotations_size = 0
        self._metrics_at = 0.0
        self._number = self._given = self._stored_entries = 0
        self._wake = asyncio.Event()
        self._round: Round | None = None
        self.chores = Chores()
        self.blocked: str | None = None
        """Why nothing can be stored at the moment, or None."""

    def __repr__(self) -> str:
        blocked = f", blocked: {self.blocked}" if self.blocked else ""
        return f"<Rounds {self._number} stored, {len(self._queue)} entries wait, {self._allowance.held} bytes{blocked}>"

    @property
    def idle(self) -> bool:
        """Nothing waits to be stored."""
        waits = self._queue or self._fed or self._rotations or self._pointed or self._round or self.chores
        return not waits

    def has_stored(self, client: DirectClient, given: int, n: int) -> bool:
        """Whether what was `given` of a client is stored, and its points before `n`."""
        return given <= self._stored_entries and client.covered.n >= n

    @property
    def storing_chores(self) -> bool:
        """States or folds are on their way to the store."""
        return self._round is not None and bool(self._round.chored)

    # ---- what comes in ----

    def add(self, event: EventIn, client: Client) -> str | None:
        """An event that is acknowledged once it is stored. What is wrong with it, as the store would see it."""
        assert isinstance(client, DirectClient)
        try:
            row = check(event.line)
        except LineError as error:
            return str(error)
        self._append(_Entry(row, client, client.received, event.source))
        return None

    def add_unacknowledged(self, event: EventIn) -> None:
        """An event that was found among lines."""
        try:
            self._append(_Entry(check(event.line), None, 0, event.source))
        except LineError:
            self.chores.tally["frames", event.source, "payload_invalid"] += 1

    def touch(self, client: Client, refusal: object = None) -> None:
        """What is known of a client changed in a way that is acknowledged once it is stored."""
        assert isinstance(client, DirectClient)
        self._append(_Entry(None, client, client.received))
        self._pointed[client] = None

    def points(self, client: DirectClient, size: int) -> None:
        """The core was fed `size` bytes of a client's points."""
        self._pointed[client] = None
        self.lines(size)

    def lines(self, size: int) -> None:
        """The core was fed so many bytes."""
        size += ENTRY_COSTS
        self._fed += size
        self._open += size
        self._allowance.hold(size)
        self._wake.set()
        if self._open >= OPEN_BYTES:
            self.rotate()

    def recount(self, client: DirectClient) -> None:
        """Points of a client are given up: it may be acknowledged more."""
        self._pointed[client] = None
        self._wake.set()

    def rotate(self) -> None:
        """Take over what the core has open."""
        self._open = 0
        rotation = self._core.rotate(self._clock(), everything=True)
        if rotation:
            size = sum(map(len, rotation.lines)) + sum(map(len, rotation.gauges))
            size += ENTRY_COSTS + SERIES_COSTS * len(rotation.lines)
            self._rotations.append(rotation)
            self._rotations_size += size
            self._allowance.hold(size)

    def remind(self) -> None:
        """There are chores."""
        if self.chores:
            self._wake.set()

    # ---- storing ----

    async def run(self) -> None:
        """For ever: store what there is. Ends only by cancellation."""
        delay = RETRY_FIRST_S
        while True:
            round_ = self._round or await self._next()
            self._round = round_
            began = self._running()
            try:
                await self._put(round_)
            except (Busy, DiskFailed) as error:
                self._hold(str(error))
            except Exception as error:
                if self.blocked is None:  # else it was said
                    log.exception("a round could not be stored; it is kept and tried again")
                self._hold(f"{type(error).__name__}: {error}")
            else:
                self._round = None
                delay = RETRY_FIRST_S
                self._stored(round_)
                if round_.rotations:
                    now = self._running()
                    self._metrics_at = now + max(METRICS_S, METRICS_SHARE * (now - began))
                continue
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_MOST_S)

    async def flush(self, seconds: float) -> bool:
        """Wait until everything is stored; False if it was not in time."""
        self._metrics_at = 0.0
        self._wake.set()
        end = self._running() + seconds
        while not self.idle:
            if self._running() >= end:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _next(self) -> Round:
        """The next round, when there is something for it to store."""
        while True:
            self._wake.clear()
            metrics = self._fed or self._rotations or self._pointed
            wait = self._metrics_at - self._running() if metrics else None
            due = wait is not None and wait <= 0
            if due or self._queue or self.chores:
                return self._make(with_points=due)
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _make(self, *, with_points: bool) -> Round:
        entries, size = self._group()
        rotations: list[Rotation] = []
        covered: dict[DirectClient, Covered] = {}
        if with_points:
            self.rotate()
            rotations, self._rotations = self._rotations, []
            size += self._rotations_size + self._fed
            self._rotations_size = self._fed = 0
            covered = {client: client.live() for client in self._pointed}
            self._pointed.clear()
        uptos = {entry.client: entry.upto for entry in entries if entry.client}
        sent = Counter(entry.client for entry in entries if entry.client and entry.event)
        chores, self.chores = self.chores, Chores()
        newer = {client.state.client for client in (*uptos, *covered)}
        folded = [state for state in chores.folded if state.client not in newer]
        names = {state.client for state in folded}
        changed = [client for client in chores.changed if client.state.client not in names]
        states = []
        for client in dict.fromkeys((*uptos, *covered, *changed)):
            upto, events = uptos.get(client, client.state.upto), client.events_stored + sent[client]
            states.append(client.as_of(upto, events, covered.get(client, client.covered)))
        self._number += 1
        return Round(
            self._number,
            [(entry.source, entry.event) for entry in entries if entry.event],
            states,
            rotations,
            chores.tally + _tally(entries, rotations),
            folded,
            bool(changed or folded),
            chores.keys,
            uptos,
            sent,
            covered,
            len(entries),
            size,
        )

    def _append(self, entry: _Entry) -> None:
        self._queue.append(entry)
        self._given += 1
        if entry.client is not None:
            entry.client.given = self._given
        self._allowance.hold(entry.size)
        self._wake.set()

    def _group(self) -> tuple[list[_Entry], int]:
        """The front of the queue, as much as one transaction should hold."""
        group: list[_Entry] = []
        size = 0
        while self._queue and len(group) < GROUP_EVENTS and size < GROUP_BYTES:
            entry = self._queue.popleft()
            group.append(entry)
            size += entry.size
        return group, size

    def _hold(self, why: str) -> None:
        if self.blocked is None:
            log.error("nothing is acknowledged until it can be stored: %s", why)
        self.blocked = why
        self._on_failed()

    def _stored(self, round_: Round) -> None:
        if self.blocked is not None:
            log.warning("it can be stored again")
            self.blocked = None
        self._allowance.release(round_.size)
        self._stored_entries += round_.entries
        for client, upto in round_.uptos.items():
            client.state.upto = max(client.state.upto, upto)
            client.events_stored += round_.sent[client]
        for client, covered in round_.covered.items():
            client.covered = covered
        self._on_stored(round_)


def _tally(entries: Iterable[_Entry], rotations: Sequence[Rotation]) -> Tally:
    """What events and rotations add to the books. What of it is delivered is counted by whoever stores it."""
    tally: Tally = Counter()
    for entry in entries:
        if entry.event:
            tally["events", entry.source, "received"] += entry.event.weight
    for rotation in rotations:
        for source, n in rotation.points.items():
            tally["points_in", source, "received"] += n
            tally["points_in", source, "journaled"] += n
        for source, reasons in rotation.lost.items():
            for reason, n in reasons.items():
                tally["points_in", source, "received"] += n
                tally["points_in", source, f"lost.{reason}"] += n
        for source, n in rotation.lines_received.items():
            tally["lines", source, "received"] += n
            tally["lines", source, "accepted"] += n - sum(rotation.lines_rejected.get(source, {}).values())
        for source, reasons in rotation.lines_rejected.items():
            for reason, n in reasons.items():
                tally["lines", source, f"rejected.{reason}"] += n
    return tally
