"""What an input hands on, and to whom: the seam between the sockets and the agent.

An input owns sockets and bytes; it decodes, and hands each frame, each piece of lines and each error to one `Intake`,
with the input's name as origin. It knows nothing of clients, acknowledgements or the spool.
"""

from typing import Protocol

from sendoff_server.inputs.kept import KeptSession
from sendoff_server.wire.frame import Item


class InputError(Exception):
    """An input cannot listen. The text says which setting, what happened and what to do."""


class Link(Protocol):
    """The way back to the peer of one connection."""

    def reply(self, data: bytes) -> bool:
        """Write one JSON object, framed as everything on that transport is, without waiting.

        False: earlier bytes still wait, nothing was taken, `Session.writable` will follow.
        A peer that has gone is no error: what it is sent is thrown away, and its connection is read to the end.
        """
        ...

    def close(self) -> None:
        """Nothing more will be said. Only after `Session.ended`."""
        ...


class Session(Protocol):
    """What the intake keeps of one connection."""

    def take(self, item: Item) -> None: ...

    def writable(self) -> None:
        """The bytes of a reply that had to wait have been written, or thrown away with their connection."""
        ...

    def ended(self, *, orderly: bool) -> None:
        """Nothing more will come. The session closes the link, now or after its last reply."""
        ...

    def keep(self) -> KeptSession:
        """What the session of another run needs to go on with this connection."""
        ...


class Intake(Protocol):
    """Takes in what all inputs read. Never blocks and never raises on anything a peer can send."""

    def datagram(self, item: Item, origin: str) -> None: ...

    def connected(self, origin: str, link: Link, kept: KeptSession | None = None) -> Session:
        """A connection is there; `kept`: it was there before, and this is what was known of it."""
        ...
