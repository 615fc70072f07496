"""Reload and upgrade are one thing: new code, or new settings, in the same process and with the same descriptors.

Asked for by SIGHUP or through the control socket. First a process of its own looks whether the new code loads and its
settings are right; then the part makes sure that all it holds is on the disk. If either fails, that is said and nothing
has changed. Only then the process is replaced.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Protocol

from sendoff_server.process.handover import Handover, command, replace_process
from sendoff_server.process.notify import notify

log = logging.getLogger(__name__)

CHECK_S = 60.0
"""How long the new code may take to load and to read its settings."""
LONGEST_WORDS = 4_000


class Refused(Exception):
    """The part cannot hand itself over now. The text says why; it goes on as before."""


class Renewable(Protocol):
    """A part that can be gone on with by another run. ``let_go`` comes after ``settle`` only, and does not fail."""

    async def start(self) -> None: ...
    async def stop(self, drain_s: float) -> object: ...
    async def watch(self) -> object: ...

    async def settle(self) -> None:
        """Stop taking in, and put on the disk what is in memory. Raises `Refused`, and goes on as before then."""
        ...

    async def let_go(self) -> Handover:
        """End everything but what the next run goes on with."""
        ...


class Renewal:
    """Replaces the process of one part. ``make`` builds it: from what was handed over, or from nothing."""

    def __init__(self, make: Callable[[Handover | None], Renewable], handover: Handover | None) -> None:
        self._make = make
        self.part = make(handover)
        self.goes_on = handover is not None
        """A run was there before, and left what it had."""
        self.agreed = asyncio.Event()
        """It has been checked and settled: the process is to be replaced."""
        self.started = asyncio.Event()
        """The part runs. Set by who starts it."""
        self._busy = self._closed = False
        self._settling = asyncio.Lock()

    async def ask(self) -> str | None:
        """Check and settle. None when the process is going to be replaced, else why everything stays as it is.

        Before the part has started this waits: what it has is not whole, and systemd is still to hear READY.
        """
        if self._busy or self.agreed.is_set():
            return "a reload is under way already"
        self._busy = True
        try:
            await self.started.wait()
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", os.environ)
            fault = await self._agree()
        finally:
            self._busy = False
        if fault is None:
            log.info("reloading: everything is on the disk, the process is replaced now")
            return None
        log.error("not reloaded, everything goes on as before: %s", fault)
        if not self._closed:
            notify("READY=1\nSTATUS=running; the last reload was refused, see the log", os.environ)
        return fault

    async def _agree(self) -> str | None:
        """Why not, or None."""
        try:
            fault = await check([*command(), "--check"])
            async with self._settling:
                if self._closed:
                    return "it was told to stop"
                if fault is None:
                    await self.part.settle()
                    self.agreed.set()
                return fault
        except Refused as error:
            return str(error)
        except Exception as error:
            log.exception("the reload failed, and that is a fault in Sendoff")
            return f"a fault in Sendoff: {error!r}"

    async def close(self) -> bool:
        """Agree to nothing any more; whether it has been agreed."""
        self._closed = True
        async with self._settling:
            return self.agreed.is_set()

    def replace(self, handover: Handover) -> str:
        """Run the new code in this process. Returns, with the reason, only where that fails: then `part` goes on."""
        arguments = command()
        try:
            replace_process(handover, arguments, os.environ)
        except OSError as error:
            failure = f"{arguments[0]}: {error.strerror}"
        self.agreed, self.started, self._settling = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        self._closed = False
        self.goes_on = True
        self.part = self._make(handover)
        return failure


async def check(arguments: list[str], seconds: float = CHECK_S) -> str | None:
    """What the new code says is wrong, in one line; None if nothing is."""
    try:
        child = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        return f"{arguments[0]} cannot be run: {error.strerror}"
    try:
        async with asyncio.timeout(seconds):
            said, _ = await child.communicate()
    except TimeoutError:
        return f"the new code did not load and check its settings within {seconds:g} s"
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode == 0:
        return None
    words = " ".join(said[-LONGEST_WORDS:].decode(errors="replace").split())
    return words.removeprefix("sendoff: ") or f"the check of the new code ended with {child.returncode}"
