"""One agent, in the order of its life: start, tick, watch, stop.

It owns no logic of its own: what comes in is the intake's business, what goes to the disk the committer's and the
spool's, what goes out the delivery's.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sendoff_server.agent.backlog import Backlog
from sendoff_server.agent.chores import Chores
from sendoff_server.agent.control import Control, Reload
from sendoff_server.agent.handover import State, pack
from sendoff_server.agent.place import control_path, limits_of, open_there
from sendoff_server.agent.rates import Rates
from sendoff_server.agent.status import Status
from sendoff_server.agent.web import Web
from sendoff_server.agent.windows import Windows
from sendoff_server.aggregate import Limits, make_core
from sendoff_server.delivery import Delivery
from sendoff_server.inputs import (
    DatagramInput,
    Inherited,
    Input,
    StreamInput,
    assign,
    give_up,
    go_on,
    open_inputs,
)
from sendoff_server.intake.clients import Clients
from sendoff_server.intake.commit import Committer
from sendoff_server.intake.intake import Intake
from sendoff_server.intake.storms import Storms
from sendoff_server.ledger import Books
from sendoff_server.outputs import build
from sendoff_server.process import Handover, Refused
from sendoff_server.settings import Settings
from sendoff_server.spool import OutputSpec, Spool
from sendoff_server.version import __version__

if TYPE_CHECKING:
    from sendoff_server.inputs.zmq.agent import AgentInput

log = logging.getLogger(__name__)

TICK_S = 1.0
STATES_A_TICK = 500
"""Clients whose state is stored with one tick; the others follow with the next ones."""
FOLD_EVERY = 10
"""Ticks between two looks for clients that ended long ago."""
READ_S = 1.0
"""How long a flood is read at a stretch at the end."""
LAST_WORD_S = 2.0
"""What storing the end of everything gets at least, when no time to drain was given."""

SETTLE_S = 3.0
"""How long a reload may wait for the disk, with nothing being read, before it is refused."""
HEAR_S = 1.5
"""How long what ZeroMQ has read may take to be heard: it lies in this process, and would go with it."""
HAND_OVER_S = 0.3
"""How long requests under way may go on then; what they carried is sent again under the same id."""


class AgentFailed(Exception):
    """A part of the agent ended that must not end. The text names it."""


class Agent:
    """Takes in, aggregates, keeps, delivers. `clock` gives Unix ms, `running` monotonic seconds.

    `before`: what the run before left. `activated`: systemd's sockets, with their names. `reload`: begins a new run.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        before: State | None = None,
        activated: Sequence[tuple[str, socket.socket]] = (),
        reload: Reload | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        running: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._before = before
        self._activated = activated
        self._reload = reload
        self._clock = clock
        self._running = running
        self._inputs: list[Input] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking = asyncio.Lock()
        self._kernel_dropped_at: dict[str, float] = dict(before.kernel_dropped_at) if before else {}
        self._web: Web | None = None
        self._spool: Spool | None = None
        self._stopped = False
        self.phase = "starting"
        self.first_look = False
        self.addresses: dict[str, str] = {}
        """Where it listens, by input, and `web` and `control`. Known after `start`."""

    def __repr__(self) -> str:
        return f"<Agent {self.phase} {self.addresses}>"

    # ---- start ----

    async def start(self) -> None:
        """Start everything, or nothing. Raises SpoolError or InputError, whose text says what to do."""
        try:
            await self._start()
        except BaseException:
            await self._abort()
            raise

    async def _start(self) -> None:
        settings, before = self._settings, self._before
        inherited = before.inherited() if before else Inherited(assign(self._activated, settings))
        outputs = [build(name, output) for name, output in settings.outputs.items()]
        specs = [OutputSpec(each.name, each.interval_ms, gather=each.max_batches == 1) for each in outputs]
        limits = Limits(max_series=settings.agent.max_series, gauge_minus=settings.agent.gauge_minus)

        def open_in(folder: Path, lock: int | None) -> Spool:
            return Spool.open(
                folder,
                specs,
                merge=make_core(limits).merge,  # a core of its own: it runs in the spool's thread
                host=settings.agent.host,
                now_ms=self._clock(),
                limits=limits_of(settings.spool),
                clock=self._clock,
                running=self._running,
                kept_lock=lock,
            )

        self._spool = spool = open_there(settings.agent.data_dir / "agent", before, open_in)
        self.core = make_core(limits, spool.gauges, (spool.epoch, spool.next_window))
        self.clients = Clients(spool.clients.values(), self._running())
        if before:
            self.clients.resume(before.clients, self._running())
            self.clients.in_kernel.update(before.in_kernel)
        self.delivery = Delivery(spool, outputs, books=self.books)
        self.committer = Committer(spool, self._on_pressure, self.delivery.wake)
        self.windows = Windows(self.core, spool)
        self.storms = Storms(settings.spool.storm, spool.epoch)
        self.chores = Chores(spool, self.clients, self.storms, self.committer, self.delivery, self._running)
        self.intake = Intake(
            self.core,
            self.clients,
            self.committer,
            host=settings.agent.host,
            storms=self.storms,
            clock=self._clock,
            running=self._running,
        )
        books = await spool.books()
        self.intake.know_sources({*(book.source for book in books.events), *(book.source for book in books.points_in)})
        self._inputs = open_inputs(settings.inputs, self.intake, self._running, inherited, folder=spool.path)
        self.rates = Rates(self._running)
        self.status_of = Status(self, spool, self._inputs, self._settings)
        control = Control(spool, self.committer, self.delivery.wake, self._reload)
        self._web = Web(self.status_of, control)
        self.rates.note(self.status_of.totals())
        self.addresses = {each.name: each.address for each in self._inputs}
        self.addresses |= await self._web.start(
            settings.web.listen, control_path(self.addresses.get("unix"), settings.inputs.unix.path), inherited
        )
        self._spawn(self.committer.run(), "commit")
        self._spawn(self._tick_for_ever(), "tick")
        self._spawn(Backlog(spool, make_core(limits).merge, self._running).run(), "backlog")
        self.delivery.start()
        for each in self._inputs:
            each.start()
        go_on(self._inputs, self.intake, self._running, inherited, self._for_a_while())
        if before is not None:
            waited = self._running() * 1000 - before.held_ms
            log.info(
                "reloaded: version %s goes on after %s; nothing was read for %d ms", __version__, before.code, waited
            )
        self.phase = "running"

    def _spawn(self, work: Any, name: str) -> None:
        self._tasks.add(asyncio.create_task(work, name=name))

    async def _abort(self) -> None:
        for task in self._tasks:
            task.cancel()
        for each in self._inputs:
            each.close()
        if self._web is not None:
            await self._web.stop()
        if self._spool is not None:
            self._spool.close()

    # ---- while it runs ----

    async def watch(self) -> None:
        """Returns when the agent has been stopped. Raises AgentFailed as soon as one of its tasks has ended."""
        while not self._stopped:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled():
                    raise AgentFailed(f"the agent's task {task.get_name()!r} ended") from task.exception()
            return

    async def _tick_for_ever(self) -> None:
        due = self._running()
        number = 0
        while True:
            due = max(due + TICK_S, self._running())  # after a long stop there is nothing to make up for
            await asyncio.sleep(max(0.0, due - self._running()))
            number += 1
            await self.tick(fold=number % FOLD_EVERY == 0)

    async def tick(self, *, fold: bool = False) -> None:
        """What happens once a second. First what only this process needs, then what waits for the disk."""
        async with self._ticking:
            for each in self._inputs[:]:
                if isinstance(each, DatagramInput):
                    self._poll_kernel(each)
                else:
                    each.sweep()
                if each.over:
                    self._inputs.remove(each)
            self.clients.tick(self._running(), self._kernel_dropped_at)
            self.rates.note(self.status_of.totals())
            await self.windows.turn(self._clock())
            await self.chores.unfold()
            self.delivery.wake()
            await self.chores.store_clients(STATES_A_TICK, fold=fold)
            if fold:
                await self.chores.remember()

    def _poll_kernel(self, each: DatagramInput) -> None:
        if each.poll_kernel():
            self._kernel_dropped_at[each.name] = self._running()

    def _on_pressure(self, pressed: bool) -> None:
        for each in self._inputs:
            if not isinstance(each, DatagramInput) and self.phase in ("starting", "running"):
                if pressed:
                    each.pause()
                else:
                    each.resume()

    async def books(self) -> Books:
        """The spool's books, and what only the agent knows. Raises SpoolFailed."""
        assert self._spool is not None
        books = await self._spool.books()
        books.frames = {origin: dict(counts) for origin, counts in self.intake.refused.items()}
        books.kernel = self.status_of.kernel_drops()
        books.in_kernel = dict(self.clients.in_kernel)
        return books

    async def status(self) -> dict[str, Any]:
        """The object of `/status.json`; see `status.Status`."""
        return await self.status_of.read()

    # ---- hand over ----

    async def settle(self) -> None:
        """Read nothing more, and bring to the disk what is in memory. Raises Refused, and goes on as before then."""
        if self.phase != "running":
            raise Refused(f"the agent is {self.phase}")
        if self.committer.blocked is not None:
            raise Refused(f"the spool takes nothing now: {self.committer.blocked}")
        self.phase, self._held_ms = "handing over", int(self._running() * 1000)
        for each in self._inputs:
            each.hold()
        try:
            ahead = [each for each in self._inputs if not isinstance(each, StreamInput | DatagramInput)]
            await self._drain(ahead, self._running() + HEAR_S)
            await self._store_in_time()
        except BaseException:
            self.phase = "running"
            for each in self._inputs:
                each.go_on()
                if not isinstance(each, DatagramInput) and not self.committer.pressed:
                    each.resume()
            raise

    async def _store_in_time(self) -> None:
        """Raises Refused if the disk does not take what is in memory, or takes too long for it."""
        end = self._running() + SETTLE_S
        slow = f"the spool did not take what is in memory within {SETTLE_S:g} s"
        if not await self.committer.flush(SETTLE_S):
            raise Refused(f"{slow}: {self.committer.blocked or 'its disk is slow'}")
        # Never cancelled: the disk may have it by then, and what is not known to be stored would be stored again.
        storing = asyncio.create_task(self._store_memory(), name="settle")
        if not (await asyncio.wait({storing}, timeout=max(0.0, end - self._running())))[0]:
            raise Refused(f"{slow}: its disk is slow")
        if not storing.result():
            raise Refused("the spool does not take what is in memory; the log says why")

    async def _store_memory(self) -> bool:
        async with self._ticking:
            if self.phase != "handing over":  # given up while a tick had the disk
                return False
            await self.windows.turn(self._clock(), everything=True)
            return not self.windows.held and await self.chores.store_clients(len(self.clients), fold=True)

    async def let_go(self) -> Handover:
        """After `settle`: end all but the sockets, the connections and the lock, for the next run."""
        assert self._web is not None
        assert self._spool is not None
        self._stopped = True
        await self._end_tasks()
        await self.delivery.stop(HAND_OVER_S)
        web = await self._web.give_up()
        for each in self._inputs:
            if isinstance(each, DatagramInput):
                self._poll_kernel(each)
        sockets, connections = give_up(self._inputs)
        lock = await asyncio.to_thread(self._spool.close, keep_lock=True)
        self.phase = "stopped"
        clients = self.clients.keep(self._running())
        return pack(
            State(
                held_ms=self._held_ms,
                lock=lock,
                spool=str(self._spool.path),
                sockets=sockets + web,
                connections=connections,
                clients=clients,
                in_kernel=dict(self.clients.in_kernel),
                kernel_dropped_at=self._kernel_dropped_at,
            )
        )

    # ---- stop ----

    async def stop(self, drain_s: float = 10.0) -> None:
        """Read what is there, store it, deliver for at most `drain_s` seconds, close. The rest stays on the disk."""
        if self._stopped or self._spool is None:
            return
        self._stopped, self.phase = True, "stopping"
        end = self._running() + drain_s
        await self._read_the_rest(self._running() + max(LAST_WORD_S, drain_s / 2))
        await self._end_tasks()
        for each in self._inputs:
            each.close()  # lines that have no end count as cut off, in the last of the windows
        await self.windows.turn(self._clock(), everything=True)
        self.clients.settle(inf, self._kernel_dropped_at)
        await self.chores.store_clients(len(self.clients))
        await self.chores.unfold_all()
        await self.delivery.stop(max(0.0, end - self._running()))
        self.committer.give_up()
        self.windows.give_up()
        if self._web is not None:
            await self._web.stop()
        await asyncio.to_thread(self._spool.close)
        self.phase = "stopped"

    async def _read_the_rest(self, until: float) -> None:
        """Read and store, a piece at a time, what the kernel holds: of a client that has died nobody else has it."""
        streams: list[StreamInput | AgentInput] = []
        for each in self._inputs:
            if isinstance(each, DatagramInput):
                each.drain(self._for_a_while())
                self._poll_kernel(each)
                each.close()
            else:
                each.stop_accepting()
                each.last_call()  # from now on it is read here only; acknowledgements still go out
                streams.append(each)
        await self._drain(streams, until)

    async def _drain(self, streams: "Sequence[StreamInput | AgentInput]", until: float) -> None:
        while True:
            may_go_on = self._for_a_while()
            left = [each for each in streams if not each.drain(may_go_on)]
            if not await self.committer.flush(until - self._running()):
                log.error("%d frames could not be stored; their clients still hold them", self.committer.waiting)
                return
            if not left or self._running() >= until:
                return
            await asyncio.sleep(0.001)  # for who writes what is to be read

    def _for_a_while(self) -> Callable[[], bool]:
        """Tells how long a flood may be read without a pause: the loop hears nothing else meanwhile."""
        end = self._running() + READ_S
        return lambda: self._running() < end and not self.committer.pressed

    async def _end_tasks(self) -> None:
        # Not while the spool is storing something of theirs: that would be stored, and its answer never heard.
        async with self._ticking, self.committer.storing:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
