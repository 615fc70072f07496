"""The one thread of a process: started when first needed, a daemon, a real thread also where threads are patched into
greenlets.

It packs and writes metrics, reads acknowledgements, finishes cut-off writes, reconnects. It sleeps in `poll` on the
connection and on a socket pair by which callers wake it; while there is nothing to do it does not wake up at all.
"""

from __future__ import annotations

import _socket
import select
import sys
import time
import weakref

from sendoff import guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sendoff.sending.outbox import Outbox

NAP = 0.002
"""Seconds that the thread leaves to the callers after one has woken it, where they hand everything over: its own work
would hold up theirs, and so it finds more to do at once.
"""
SPOOL_NAP = 0.0003
"""The same where there is a spool: an event is to be in its file soon after its call."""
TROUBLE_PAUSE = 0.2
"""Seconds to wait after an error of our own, so that a lasting one costs no CPU."""


def native(module: str, name: str) -> Any:
    """`module.name` as it was before gevent patched it, if it did."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(sys.modules[module] if module in sys.modules else __import__(module), name)


class Waker:
    """A socket pair, opened for the thread: one byte ends its sleep. Closing it is safe from anywhere, as the objects
    know that they are closed.
    """

    __slots__ = ("_pair",)

    def __init__(self) -> None:
        self._pair: tuple[_socket.socket, _socket.socket] | None = None

    def open(self) -> None:
        """Open the pair unless that was done. Raises `OSError` where no descriptors are left."""
        if self._pair is None:
            here, there = _socket.socketpair()
            here.setblocking(False)
            there.setblocking(False)
            self._pair = here, there

    @property
    def fileno(self) -> int:
        """The descriptor to poll, -1 when closed."""
        return self._pair[0].fileno() if self._pair else -1

    def wake(self) -> None:
        """End the sleep that is, or the next one."""
        try:
            if self._pair:
                self._pair[1].send(b"\0")
        except OSError:
            return  # full: it will wake anyway; closed: nobody sleeps

    def drain(self) -> None:
        """Forget the wake-ups so far."""
        try:
            if self._pair:
                self._pair[0].recv(4096)
        except OSError:
            return

    def close(self) -> None:
        """Close both ends."""
        for end in self._pair or ():
            end.close()


def start(outbox: Outbox) -> None:
    """Start the thread for `outbox`. Raises `RuntimeError` where no thread can be started, `OSError` without
    descriptors.
    """
    _close_with_multiprocessing(outbox)
    start_new_thread = native("_thread", "start_new_thread")
    waker = outbox.waker
    waker.open()
    ref = weakref.ref(outbox, lambda _: waker.wake())  # an outbox that is merely forgotten ends its thread, too
    start_new_thread(_run, (ref, waker, native("select", "poll"), native("time", "sleep")))


def _close_with_multiprocessing(outbox: Outbox) -> None:
    """A forked child of `multiprocessing` ends by `os._exit`, which no `atexit` sees, but runs finalizers before."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if outbox.closes_with_process or process is None or util is None:
        return
    if process.parent_process() is not None:
        outbox.closes_with_process = True
        util.Finalize(None, _close, args=(weakref.ref(outbox),), exitpriority=-100)


def _close(ref: weakref.ref[Outbox]) -> None:
    outbox = ref()
    if outbox is not None:
        outbox.close(outbox.linger)


def _run(ref: weakref.ref[Outbox], waker: Waker, make_poll: Any, sleep: Any) -> None:
    try:
        while True:
            outbox = ref()
            if outbox is None or outbox.ended:
                break
            outbox.thread_runs = True
            try:
                timeout, watch = outbox.turn()
            except Exception as error:  # noqa: BLE001 - the thread must live on; the error is counted
                guard.keep(error, outbox.tally)
                timeout, watch = TROUBLE_PAUSE, ()
            nap = 0.0 if not outbox.route.hands_over else NAP if outbox.channel.keep is None else SPOOL_NAP
            tally = outbox.tally
            del outbox  # or the thread would keep it alive while asleep
            try:
                doze(make_poll, waker, timeout, watch, sleep, nap)
            except Exception as error:  # noqa: BLE001 - as above: nobody would take the place of this thread
                guard.keep(error, tally)
                sleep(TROUBLE_PAUSE)
    finally:
        waker.close()


def doze(
    make_poll: Any, waker: Waker, timeout: float | None, watch: tuple[tuple[int, bool], ...], sleep: Any, nap: float
) -> None:
    """Sleep at most `timeout` seconds (None: for ever), or until the waker or a descriptor ends it; then `nap` seconds
    more, so that what comes in meanwhile is done in one go.
    """
    poll = make_poll()
    if waker.fileno < 0:
        return
    poll.register(waker.fileno, select.POLLIN)
    for fileno, want_write in watch:
        poll.register(fileno, select.POLLIN | (select.POLLOUT if want_write else 0))
    began = time.monotonic()
    try:
        ready = poll.poll(None if timeout is None else max(0, int(timeout * 1000) + 1))
    except OSError:  # a descriptor was closed meanwhile
        ready = []
    woken = any(found == waker.fileno for found, _ in ready)
    if woken and nap:
        sleep(nap)
    elif ready and time.monotonic() - began < 0.0005:
        sleep(0.0005)  # no busy loop, whatever a descriptor says
    if woken:
        waker.drain()
