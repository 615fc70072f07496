"""Who takes in what comes to a `ZmqInput`: the agent, or the gateway for many customers; and what is counted there."""

from dataclasses import dataclass
from typing import Protocol

from sendoff_server.inputs.contract import Link, Session


class Reception(Protocol):
    """Who takes in what peers send. Nothing here waits or raises. `user` is the User-Id, "" without CURVE."""

    lines: bool
    """Whether lines are taken, or refused."""

    def connected(self, link: Link, user: str) -> Session | float:
        """A peer has said hello, or sent lines. A number: not now, it may come again after so many seconds."""
        ...

    def admit(self, user: str, size: int) -> float | None:
        """Before so many bytes are looked at. A number: too much, the peer is to come again after so many seconds."""
        ...

    def batch(self, link: Link, user: str, data: bytes) -> bool:
        """A frame of kind batch, as it came; it needs no hello before it. False: batches are not taken here."""
        ...

    def met(self, user: str) -> None:
        """A connection of this key has said something for the first time."""
        ...

    def distrust(self, user: str, why: str, *, forged: bool) -> None:
        """A peer with this key did what no client does; `forged`: nor anybody else who means no harm."""
        ...


@dataclass(slots=True)
class ZmqCounts:
    """Running totals. `refused`: connections beyond the limit; `evicted`: silent peers that gave way; `again`: told to
    come again; `stalled`: cut off because they read no answer, said nothing or sent no end; `garbage`: messages that
    are no frame and no lines, or come from a peer that chose its routing id.
    """

    accepted: int = 0
    refused: int = 0
    evicted: int = 0
    again: int = 0
    stalled: int = 0
    garbage: int = 0
    messages: int = 0
    bytes: int = 0
