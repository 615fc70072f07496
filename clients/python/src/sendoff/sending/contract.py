"""What the channel asks of a connection, whatever carries it: a socket's stream, ZeroMQ, requests of HTTP.

A connection begins with a hello, takes frames one after the other, and gives acknowledgements. It never waits. All
calls come from the holder of the client's lock, which may be another thread each time.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from sendoff.frame import Ack
    from sendoff.sending.buffer import Parcel

    class Stream(Protocol):
        """A connection that is there, or being made."""

        job: Job | None
        """The frame being handed over. Whoever set it takes it away when it is done and booked."""

        def go_on(self) -> bool:
            """Hand over what is left of `job`. False: not now, `watch` says when to try again. Raises `Gone`.

            True means that the connection has taken the frame for good or for nothing: what becomes of it is only
            known from an acknowledgement.
            """

        def ship(self) -> None:
            """Nothing more is to be handed over now: what was taken goes on its way. Raises `Gone`."""

        def read(self) -> list[Ack]:
            """The acknowledgements that have come; does whatever else is due (a handshake, a deadline). Raises
            `Gone`, after giving all acknowledgements there were: `Answered` if this is the orderly end.
            """

        def watch(self) -> tuple[tuple[int, bool], ...]:
            """Descriptors to sleep on, each for reading, and for writing as well where True."""

        @property
        def due_at(self) -> float | None:
            """When (monotonic) `read` must be called although no descriptor says so; None: never."""

        def end_writing(self) -> None:
            """Tell the peer that nothing follows."""

        def close(self) -> None:
            """Let go of everything, without a word."""

        def forget(self) -> None:
            """In the child after a fork: let go of what was inherited, so that the parent's connection is not
            disturbed and does not outlive the parent.
            """


class Job:
    """A frame being handed over, and what is to be booked when it is done.

    `seq` of a durable frame, `parcel` of a metrics frame with `n`, the points that will have been sent then; neither
    for any other. `rest` is the stream's own: what is left to be written.
    """

    __slots__ = ("frame", "n", "parcel", "rest", "seq")

    def __init__(self, frame: bytes, *, seq: int = 0, parcel: Parcel | None = None, n: int = 0) -> None:
        self.frame = frame
        self.rest: memoryview | None = None
        self.seq = seq
        self.parcel = parcel
        self.n = n


class Gone(Exception):
    """The connection has ended, or is of no use.

    `wait`: seconds before which the peer wants no other (Retry-After, `again`), or that its nature asks for (a key
    that is not known). `blames`: the peer refused what it was sent, so the lowest frame may be the cause; over a
    network nothing else counts as a try of that frame.
    """

    def __init__(self, words: str = "", *, wait: float | None = None, blames: bool = False) -> None:
        super().__init__(words)
        self.wait = wait
        self.blames = blames


class Answered(Gone):
    """The connection has ended in order, as it does after its answer over HTTP: no failure, and no reason to wait."""


class Torn(Gone):
    """It is unknown how much of a frame went out, through no fault of the peer's."""


class Absent(Gone):
    """There is nobody's socket to connect to."""
