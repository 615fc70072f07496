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

        @property
        def untouched(self) -> bool:
            """Whether nothing that it has taken has left, nor may have: those frames were not written after all."""

        def go_on(self) -> bool:
            """Hand over what is left of `job`. False: not now, `watch` says when to try again. Raises `Gone`.

            True means that the connection has taken the frame for good or for nothing: what becomes of it is only
            known from an acknowledgement. Called once more for a job that is done already (an exception from a signal
            handler came in between) it says True and does nothing: `Job.rest` is for remembering that.
            """

        def ship(self) -> None:
            """Nothing more is to be handed over now: what was taken goes on its way. Raises `Gone`. Called often, also
            when nothing was handed over since the last time.
            """

        def read(self) -> list[Ack]:
            """The answers that have come (`frame.answer` reads one); does whatever else is due (a handshake, a
            deadline). Raises `Gone`, after giving all answers there were: `Answered` if this is the orderly end.
            """

        def watch(self) -> tuple[tuple[int, bool], ...]:
            """Descriptors to sleep on, each for reading, and for writing as well where True."""

        @property
        def due_at(self) -> float | None:
            """When (monotonic) `read` must be called although no descriptor says so; None: never."""

        def end_writing(self) -> None:
            """Tell the peer that nothing follows: the last frame was handed over."""

        def close(self) -> None:
            """Let go of everything, without a word, at once. After `end_writing` what is on its way may still leave."""

        def forget(self) -> None:
            """In the child after a fork: let go of what was inherited, so that the parent's connection is not
            disturbed and does not outlive the parent.
            """

    class Opener(Protocol):
        """Makes the connections of a direct route, and keeps what outlives one of them (a context of ZeroMQ; a
        connection of TCP and TLS that one request leaves to the next). One for each process: the child of a fork makes
        its own. Made in `sendoff.init`, so it may raise `SettingError` there (pyzmq is not installed).
        """

        @property
        def reaches(self) -> tuple[str, int]:
            """Host and port that connections really go to, whose name the route looks up: the address's, or a proxy's.
            The host is empty where the address has a path.
            """

        @property
        def ready(self) -> bool:
            """Whether what `prepare` does is done."""

        def prepare(self) -> None:
            """What takes time before a connection can be made (loading `ssl`). Called often, as `Route.prepare`."""

        def open(self, host: str, family: int) -> Stream:
            """Begin a connection, without waiting. `host` is a numeric address of `family` for the host of `reaches`,
            as the route has looked it up; empty where that is. Raises `Gone`. Called under the lock.
            """

        def close(self, left: float) -> None:
            """The end: let go of everything. What is on its way may take up to `left` seconds to leave, no more."""

        def forget(self) -> None:
            """In the child after a fork: as `Stream.forget`, for what is kept between connections."""


class Job:
    """A frame being handed over, and what is to be booked when it is done.

    `seq` of a durable frame, `parcel` of a metrics frame with `n`, the points that will have been sent then; neither
    for any other. `rest` is the stream's own: None until it has begun, then what is left to be handed over.
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
    that is not known): the channel waits as long and up to as much again, but at most 30 s more, so that not all
    clients come back at once. None or 0: its own backoff decides. `blames`: the peer refused, for good and by an
    answer, what this connection began with (the first frame after the hello, with nothing else); over a network nothing
    else counts as a try of that frame.
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
