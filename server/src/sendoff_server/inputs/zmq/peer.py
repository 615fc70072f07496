"""One peer of a ROUTER: what its messages mean, and the way back to it; the session's Link.

A connection begins with a hello. To anything else before it the answer is `{"again": 0}`, and what follows on a
connection that was told to come again is not looked at.
"""

from typing import Protocol

from sendoff_server.inputs.contract import Session
from sendoff_server.inputs.zmq.monitor import Connection
from sendoff_server.inputs.zmq.reception import Reception, ZmqCounts
from sendoff_server.wire.batch_frame import is_batch
from sendoff_server.wire.frame import MAX_UNIT, Frame, FrameError, Item, Lines, decode_frame, encode_again

UNREAD_AFTER = 30.0
"""Seconds in which a peer must take an answer."""
AGAIN_AFTER = 5.0
"""Seconds in which a peer that was told to come again must have gone."""
AGAIN_BYTES = 4 * 1024 * 1024
"""What it may send meanwhile: that much can have been on its way."""
QUIET_AFTER = 3_600.0
"""Seconds without a message after which a connection is ended. Its peer comes again when it has something to say."""


class Owner(Protocol):
    """What a peer needs of the input that it belongs to."""

    reception: Reception
    counts: ZmqCounts

    def send(self, peer: "Peer", data: bytes) -> bool: ...
    def now(self) -> float: ...
    def cut(self, peer: "Peer") -> None: ...


class Peer:
    """`user`: the User-Id of the key it showed, "" without CURVE. `enveloped`: an empty part goes before answers."""

    def __init__(self, owner: Owner, identity: bytes, user: str, connection: Connection) -> None:
        self.identity = identity
        self.user = user
        self.connection = connection
        self.enveloped = False
        self.last_read = owner.now()
        self._owner = owner
        self._session: Session | None = None
        self._greeted = self._gone = self._over = False
        self._waiting: bytes | None = None
        self._waits_since = 0.0
        self._dismissed_at: float | None = None
        self._after_again = 0

    def __repr__(self) -> str:
        state = "gone" if self._gone else "told to come again" if self._dismissed_at else repr(self._session)
        return f"<Peer {self.identity.hex()} {self.user} {state}>"

    def take(self, data: bytes, *, enveloped: bool) -> None:
        """One message."""
        self.enveloped = enveloped
        self.last_read = self._owner.now()
        if self._dismissed_at is not None:
            self._after_again += len(data)
            if self._after_again > AGAIN_BYTES:
                self._owner.cut(self)
        elif wait := self._owner.reception.admit(self.user, len(data)):
            self.dismiss(wait)
        elif data[0] != 0x7B:  # "{"
            self._take_lines(data)
        elif is_batch(data) and self._owner.reception.batch(self, self.user, data):
            pass
        else:
            self._take_item(_decoded(data))

    def _take_lines(self, data: bytes) -> None:
        if not self._owner.reception.lines:
            self._take_item(FrameError("header_missing", "lines are not taken here, only frames"))
        elif self._meet() and self._session is not None:
            self._session.take(Lines(data))

    def _take_item(self, item: Item) -> None:
        if isinstance(item, FrameError):
            self._owner.counts.garbage += 1
        elif isinstance(item, Frame) and item.kind == "hello" and self._meet():
            self._greeted = True
        if self._dismissed_at is not None:
            return
        if not self._greeted or self._session is None:
            self.dismiss(0)
            return
        self._session.take(item)

    def _meet(self) -> bool:
        """Have a session, if that may be."""
        if self._session is None:
            got = self._owner.reception.connected(self, self.user)
            if isinstance(got, int | float):
                self.dismiss(got)
                return False
            self._session = got
        return True

    def dismiss(self, seconds: float) -> None:
        """Take nothing more from it, and have it come again after so many seconds."""
        if self._dismissed_at is None:
            self.reply(encode_again(seconds))
            self.mute()

    def reply(self, data: bytes) -> bool:
        if self._waiting is not None:
            return False
        if data.startswith(b'{"again":') and self._dismissed_at is None:
            self._dismissed_at = self._owner.now()
            self._owner.counts.again += 1
        if not self._gone and not self._owner.send(self, data):
            self._waiting, self._waits_since = data, self._owner.now()
        return True

    def send_waiting(self) -> None:
        """Try again what the peer did not take."""
        if self._waiting is not None and (self._gone or self._owner.send(self, self._waiting)):
            self._waiting = None
            if self._session is not None:
                self._session.writable()

    def overstays(self, now: float) -> bool:
        """Whether it is to be cut off."""
        unread = self._waiting is not None and now - self._waits_since > UNREAD_AFTER
        told = self._dismissed_at is not None and now - self._dismissed_at > AGAIN_AFTER
        return unread or told or now - self.last_read > QUIET_AFTER

    def mute(self) -> None:
        """Nothing of it is looked at any more."""
        if self._dismissed_at is None:
            self._dismissed_at = self._owner.now()
        if self._session is not None and not self._over:
            self._over = True
            self._session.ended(orderly=True)

    def end(self) -> None:
        """Its connection has ended. Nothing is sent to its routing id any more: that may be another's soon."""
        self._gone = True
        self.send_waiting()
        self.mute()

    def close(self) -> None:
        """The session has nothing more to say."""
        self._session = None


def _decoded(data: bytes) -> Item:
    if len(data) > MAX_UNIT:
        return FrameError("frame_too_long", f"a message of {len(data)} bytes; at most {MAX_UNIT} are allowed")
    try:
        return decode_frame(data, datagram=False)
    except FrameError as error:
        return error
