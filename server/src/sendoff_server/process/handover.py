"""New code in the same process: what the old run hands over goes through exec in a memfd, with the descriptors.

The variable SENDOFF_HANDOVER says `PID MEMFD DESCRIPTORS`, so that even where the memfd cannot be read it is known what
to close. Signals are held back from before the exec until the new run hears them: none is lost, or ends the process, in
between.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

log = logging.getLogger(__name__)

VARIABLE = "SENDOFF_HANDOVER"
MAX_STATE = 512 * 1024 * 1024
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Handover:
    """The state, as bytes that only its writer and its reader understand, and the descriptors that go with it."""

    state: bytes
    descriptors: tuple[int, ...]

    def close_but(self, wanted: Iterable[int]) -> None:
        """Close every descriptor that is not wanted."""
        for descriptor in set(self.descriptors).difference(wanted):
            with suppress(OSError):
                os.close(descriptor)


def command() -> list[str]:
    """How this process was started: the interpreter, its options, the program, the arguments."""
    return [sys.executable, *sys.orig_argv[1:]]


def replace_process(handover: Handover, arguments: list[str], environ: MutableMapping[str, str]) -> NoReturn:
    """Run the program anew in this process, with the descriptors. Raises OSError where that cannot be done.

    Then nothing has changed. Signals are to be held back before, and other threads to have ended.
    """
    memory = os.memfd_create("sendoff-handover")
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(handover.state)
        numbers = ",".join(map(str, handover.descriptors))
        for descriptor in (memory, *handover.descriptors):
            os.set_inheritable(descriptor, True)
        handed = {**environ, VARIABLE: f"{os.getpid()} {memory} {numbers}"}
        os.execve(arguments[0], arguments, handed)  # noqa: S606 - what runs already
    finally:  # only if that failed
        os.close(memory)
        for descriptor in handover.descriptors:
            os.set_inheritable(descriptor, False)


def hold_signals() -> None:
    """From now on signals wait, in this thread and in those that it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def hear_signals() -> None:
    """Whatever was held back while the process changed is delivered now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def received(environ: MutableMapping[str, str]) -> Handover | None:
    """What the run before in this process handed over, if there was one. Its state is empty if it cannot be read."""
    written = environ.pop(VARIABLE, "")
    pid, _, rest = written.partition(" ")
    if pid != str(os.getpid()):  # of a parent, which did not mean us
        return None
    memory, _, numbers = rest.partition(" ")
    descriptors = tuple(int(number) for number in numbers.split(",") if number.isdigit())
    for descriptor in descriptors:
        with suppress(OSError):
            os.set_inheritable(descriptor, False)
    try:
        with open(int(memory), "rb") as file:
            file.seek(0)
            state = file.read(MAX_STATE)
    except (OSError, ValueError) as error:
        log.error("what the run before handed over cannot be read: %s", error)
        state = b""
    return Handover(state, descriptors)
