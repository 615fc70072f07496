"""Which connections say nothing for too long, and which hold too much that nobody has read. No I/O."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sendoff_server.inputs.zmq.monitor import Connection

HELLO_AFTER = 20.0
"""Seconds in which a connection must have said something …"""
PROGRESS = 65_536
"""… or have brought so many bytes of its first message: a large one takes its time on a slow line."""
OF_ALL = 512 * 1024 * 1024
"""Bytes of all connections that libzmq and the kernel may hold unread; beyond, some are ended."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one connection has brought, in bytes: `received` ever, `unread` of that not taken yet. `user`: whose it is,
    "" where nobody is asked, or where it has not said anything yet.
    """

    connection: Connection
    received: int
    user: str

    @property
    def unread(self) -> int:
        return max(0, self.received - self.connection.taken)


def is_mute(held: Held, now: float) -> bool:
    """Whether a connection has said nothing for too long. Takes note of how far its first message is."""
    connection = held.connection
    if connection.identity:
        return False
    if held.received - connection.brought >= PROGRESS:
        connection.brought, connection.since = held.received, now
    return now - connection.since > HELLO_AFTER


def beyond(all_held: Sequence[Held], most: int = OF_ALL) -> Iterator[Connection]:
    """The connections to end, so that the others hold no more than `most`.

    First those that have shown no key, then those of the user whose connections together hold most: who opens many
    gets nobody else's ended.
    """
    total = sum(each.unread for each in all_held)
    if total <= most:
        return
    of_user: Counter[str] = Counter()
    for each in all_held:
        of_user[each.user] += each.unread
    for each in sorted(all_held, key=lambda each: (each.connection.let_in, -of_user[each.user], -each.unread)):
        if total <= most:
            return
        total -= each.unread
        yield each.connection
