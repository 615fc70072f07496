"""The life of a long-lived command: start the parts in order, wait, stop them in reverse.

The first SIGTERM or SIGINT lets the parts drain within a limit, the second ends the process at once. SIGHUP replaces
the process where there is a `Renewal`, and is answered in the log where there is none. Handlers that were installed
before come back. How it ended is the exit code:

    0        drained and stopped
    1        a part could not start, died, or failed while stopping
    2        the settings are wrong (the commands' part, before this)
    3        stopped, but not within the limit; what was not delivered stays on disk
    128 + n  forced by a second signal n
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol, runtime_checkable

from sendoff_server.process.handover import Handover, hear_signals, hold_signals
from sendoff_server.process.logs import Logs, logging_to
from sendoff_server.process.notify import notify
from sendoff_server.process.renewal import Renewal

log = logging.getLogger(__name__)

ENDED, FAILED, SETTINGS, CUT_SHORT, FORCED = 0, 1, 2, 3, 128
GRACE_S = 5.0
"""A part that was told to drain for so long gets this much more to close its files before it is left behind."""
LOG_TICK_S = 10.0


class Part(Protocol):
    """Something that runs until it is told to stop. A ``start`` that fails cleans up after itself."""

    async def start(self) -> None: ...
    async def stop(self, drain_s: float) -> object: ...


@runtime_checkable
class Watched(Protocol):
    """A part that can say that it cannot go on: ``watch`` raises then, and otherwise does not return."""

    async def watch(self) -> object: ...


def serve(
    *parts: Part, drain_s: float, announce: Callable[[], None] = lambda: None, renewal: Renewal | None = None
) -> int:
    """Run the parts until a signal or a failure, and return the exit code. ``announce`` is called once all run.

    With a ``renewal`` its part is the one to run, and the process may be replaced: then this does not return.
    """
    failure = None
    while True:
        life = _Life((renewal.part,) if renewal else parts, drain_s, announce, renewal)
        code = _live(life, failure)
        if renewal is None or life.handover is None:
            return code
        if life.asked:  # to stop, while it was too late: the next run hears it first
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        failure = renewal.replace(life.handover)


def _live(life: "_Life", failure: str | None) -> int:
    with logging_to(sys.stderr, os.environ) as logs:
        if failure is not None:
            log.error("the new code could not be run, so the old goes on: %s", failure)
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(life.run(logs))
        except KeyboardInterrupt:  # Before or after our handlers are in place.
            return FORCED + signal.SIGINT


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class _Life:
    def __init__(
        self, parts: tuple[Part, ...], drain_s: float, announce: Callable[[], None], renewal: Renewal | None
    ) -> None:
        self._parts = parts
        self._drain_s = drain_s
        self._announce = announce
        self._renewal = renewal
        self._asking: asyncio.Task[str | None] | None = None
        self._logs: Logs
        self._started: list[Part] = []
        self._asked = asyncio.Event()
        self.handover: Handover | None = None
        """What the next run in this process is to go on with; None when the end is the end."""

    async def run(self, logs: Logs) -> int:
        self._logs = logs
        hold_signals()
        await start_workers(asyncio.get_running_loop())
        with self._signals(asyncio.get_running_loop()):
            code = await self._until_over()
            if self._renewal is not None and await self._renewal.close():
                self.handover = await self._renewal.part.let_go()
                hold_signals()
                return ENDED
            notify("STOPPING=1", os.environ)
            return max(code, await self._stop(), key=_gravity)

    @property
    def asked(self) -> bool:
        """A signal asked to stop."""
        return self._asked.is_set()

    async def _until_over(self) -> int:
        starting = asyncio.create_task(self._start(), name="start")
        if not await self._unless_asked({starting}):
            if self._renewal is None or not self._renewal.goes_on:
                starting.cancel()
            await asyncio.wait({starting})  # what the run before left is taken first, and then drained
            if starting.cancelled() or starting.exception() is None:
                return ENDED
        if starting.exception() is not None:
            _say_why(starting.exception())
            return FAILED
        notify("READY=1", os.environ)
        if self._renewal is not None:
            notify("STATUS=running", os.environ)  # also where the last reload was refused
            self._renewal.started.set()
        self._announce()
        watches = {asyncio.create_task(p.watch(), name=_name(p)) for p in self._parts if isinstance(p, Watched)}
        died = await self._unless_asked(watches)
        for task in watches:
            task.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        for task in died:
            log.error("%s cannot go on, so the process stops", task.get_name(), exc_info=task.exception())
        return FAILED if died else ENDED

    async def _start(self) -> None:
        for part in self._parts:
            await part.start()
            self._started.append(part)

    async def _unless_asked(self, tasks: "set[asyncio.Task[Any]]") -> "set[asyncio.Task[Any]]":
        """The tasks that ended, or none as soon as a signal asked to stop or to replace the process."""
        asked = [asyncio.create_task(self._asked.wait())]
        if self._renewal is not None:
            asked.append(asyncio.create_task(self._renewal.agreed.wait()))
        try:
            while True:
                await asyncio.wait({*asked, *tasks}, timeout=LOG_TICK_S, return_when=asyncio.FIRST_COMPLETED)
                self._logs.tick()
                if any(task.done() for task in asked):
                    return set()
                if done := {task for task in tasks if task.done()}:
                    return done
        finally:
            for task in asked:
                task.cancel()

    async def _stop(self) -> int:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_s
        code = ENDED
        for part in reversed(self._started):
            left = max(0.0, end - loop.time())
            try:
                async with asyncio.timeout(left + GRACE_S):
                    await part.stop(left)
            except TimeoutError:
                log.error("%s did not stop within %g s and is left behind", _name(part), left + GRACE_S)
                code = max(code, CUT_SHORT, key=_gravity)
            except Exception:
                log.exception("%s failed while stopping", _name(part))
                code = FAILED
        return code

    @contextlib.contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            loop.add_signal_handler(number, self._on_hangup if number == signal.SIGHUP else self._on_signal, number)
        hear_signals()
        try:
            yield
        finally:
            if self.handover is None:  # else they are held back, and for the next run
                for number in numbers:
                    loop.remove_signal_handler(number)
                    signal.signal(number, before[number])

    def _on_hangup(self, number: signal.Signals) -> None:
        if self._renewal is None:
            log.warning("SIGHUP changes nothing here: to take new settings, stop it and start it again")
        elif self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._renewal.ask(), name="reload")
        else:
            log.warning("SIGHUP: a reload is under way already")

    def _on_signal(self, number: signal.Signals) -> None:
        if self._asked.is_set():
            log.warning("%s again: ending at once", number.name)
            self._force(number)
        log.info("%s: stopping within %g s; the same again ends at once", number.name, self._drain_s)
        self._asked.set()

    def _force(self, number: signal.Signals) -> NoReturn:
        # Threads that hang cannot be waited for, so nothing is cleaned up but the log. What is on disk is whole.
        self._logs.finish(1)
        os._exit(FORCED + number)


async def start_workers(loop: asyncio.AbstractEventLoop) -> None:
    """Have the threads of libuv started while signals are held back here, so that they are there too.

    They outlive the loop, and one of them would take the signals that wait for the next run.
    """
    with contextlib.suppress(OSError):  # in such a thread it is found to be no number, and nobody is asked
        await loop.getaddrinfo("localhost", None, flags=socket.AI_NUMERICHOST)


def _gravity(code: int) -> int:
    return (ENDED, CUT_SHORT, FAILED).index(code)


def _name(part: object) -> str:
    return type(part).__name__.lower()


def _say_why(error: BaseException | None) -> None:
    """A start that failed for a reason outside gets one sentence; anything else is our fault and gets its traceback."""
    if isinstance(error, OSError):
        hints = {
            errno.EADDRINUSE: "; something listens there already: stop it, or change the address",
            errno.EACCES: "; this user may not do that: change the owner of the place, or the setting",
            errno.EPERM: "; this user may not do that: change the owner of the place, or the setting",
            errno.EADDRNOTAVAIL: "; this machine does not have that address: change the setting",
        }
        log.error("could not start: %s%s", error, hints.get(error.errno or 0, ""))
    elif type(error).__module__.startswith("sendoff_server."):
        log.error("could not start: %s", error)
    else:
        log.error("could not start, and that is a fault in Sendoff", exc_info=error)
