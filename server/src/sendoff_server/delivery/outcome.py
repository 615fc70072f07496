"""What an output is to the delivery: a few attributes, ``send`` and ``close``; and what came of one request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sendoff_server.spool import RefusedLine, Sealed


@dataclass(frozen=True, slots=True)
class Result:
    """A definite answer for one batch. ``stored``: but for the refused lines. Else it was refused as a whole."""

    stored: bool
    refused: Sequence[RefusedLine] = ()
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no definite answer for some batches, in words for people."""

    words: str
    status: int | None = None
    """The HTTP status, None if there was none."""
    excerpt: bytes = b""
    """At most 2 KiB of the answer."""
    retry_after_s: float | None = None
    """What the destination asked for."""
    reached: bool = True
    """Whether the destination had anything of the request; False if there was no connection to it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request: results by batch id, and what is the matter with the batches that have none."""

    results: Mapping[str, Result] = field(default_factory=dict)
    trouble: Trouble | None = None


class Output(Protocol):
    """One destination. ``send`` never raises for what a destination or the network does: that is a ``Trouble``."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def url(self) -> str:
        """Where it sends, without secrets."""
        ...

    @property
    def interval_ms(self) -> int: ...
    @property
    def max_batches(self) -> int:
        """How many batches one request takes, at least 1. A request never holds more, nor more than 8 MiB."""
        ...

    @property
    def lanes(self) -> int:
        """How many requests may be under way at once, at least 1: ``send`` is called again while others wait for it.

        Each lane goes on by itself, so the order in which batches arrive is no promise. With two or more, one
        that hangs (on a batch that the destination fails on) does not hold up the others.
        """
        ...

    def weigh(self, batch: Sealed) -> int:
        """Bytes that a batch takes in a request, at most."""
        ...

    async def send(self, batches: Sequence[Sealed]) -> Outcome: ...
    async def close(self) -> None: ...
