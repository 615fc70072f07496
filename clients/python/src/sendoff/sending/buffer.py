"""The client's memory of what is not yet safe: durable frames until they are acknowledged, metrics until they are
written, or stored where the peer says so.

Both share one limit in bytes, of which metrics may take a quarter, so that a long absence of the agent costs numbers
before it costs events. Pure data, used by the holder of the client's lock only. Every change is ordered so that an
exception raised by a signal handler in the middle leaves a frame twice (which the agent recognises) rather than not
at all.
"""

from __future__ import annotations

from collections import deque

from sendoff.receipt import DROPPED, REFUSED, SPOOLED, UNKNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sendoff.frame import Ack
    from sendoff.receipt import Receipt

    Entry = tuple[int, bytes, Receipt | None]

RESENDS = 3
"""How often the lowest held frame is sent again without an acknowledgement that moves on, before it is given up."""
OVERHEAD = 200
"""Bytes that a frame or a parcel costs beside its own: the objects around it."""
ADMISSION = OVERHEAD + 256
"""The same for an event that has no header yet: at least what it will cost, so that who was let in is not sent away."""


class Held:
    """Durable frames, numbered from 1: first those written and not acknowledged (`sent`), then those still to write.
    Each is kept as (seq, frame, the receipt that somebody wants or None).
    """

    __slots__ = ("_next", "bytes", "patient", "sent", "to_write", "tries", "tries_of", "whole", "written_upto")

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        """Whether only what was refused by an answer counts as a try (`blame`), and not each time it was written."""
        self.sent: deque[Entry] = deque()
        self.to_write: deque[Entry] = deque()
        self.bytes = 0
        self.written_upto = 0
        self.whole = 0
        """The highest number that was wholly written, once."""
        self.tries = 0
        self.tries_of = 0
        self._next = 1

    @property
    def next_seq(self) -> int:
        """The number of the next frame: beyond every frame there is, also one that `add` was interrupted after."""
        last = self.to_write[-1][0] if self.to_write else self.sent[-1][0] if self.sent else self.written_upto
        self._next = max(self._next, last + 1)
        return self._next

    def add(self, frame: bytes, receipt: Receipt | None = None) -> None:
        """Keep the frame that was made for `next_seq`."""
        self.bytes += len(frame) + OVERHEAD
        self.to_write.append((self.next_seq, frame, receipt))

    def restore(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Hold frames that have their numbers already, each higher than all before."""
        for seq, frame in frames:
            self.bytes += len(frame) + OVERHEAD
            self.to_write.append((seq, frame, None))

    @property
    def lowest(self) -> int:
        """The lowest number not acknowledged, or the next one: `resume_from` of a hello."""
        if self.sent:
            return self.sent[0][0]
        return self.to_write[0][0] if self.to_write else self.next_seq

    @property
    def unfinished(self) -> int:
        """How many frames are held."""
        return len(self.sent) + len(self.to_write)

    def rewind(self) -> int:
        """The connection is gone: all of `sent` is to be written again. Returns how many that are."""
        again = len(self.sent)
        while self.sent:
            if not self.to_write or self.to_write[0][0] != self.sent[-1][0]:
                self.to_write.appendleft(self.sent[-1])
            self.sent.pop()
        self.bytes = sum(len(frame) + OVERHEAD for _, frame, _ in self.to_write)
        return again

    def give_up(self) -> bool:
        """Before a hello: drop the lowest frame if it was re-sent often enough. True if one was dropped."""
        if not self.to_write or self.to_write[0][0] != self.tries_of or self.tries <= RESENDS:
            return False
        _, frame, receipt = self.to_write[0]
        if receipt is not None:
            receipt.settle(DROPPED, "unacceptable")
        self.bytes -= len(frame) + OVERHEAD
        self.to_write.popleft()
        self.tries = 0
        return True

    def writing(self, seq: int) -> None:
        """The first byte of frame `seq` is about to be written."""
        self.written_upto = max(self.written_upto, seq)
        if not self.patient:
            self.blame(seq)

    def blame(self, seq: int) -> None:
        """Frame `seq` may be why there is no acknowledgement; if it is the lowest, that is a try."""
        if seq == self.lowest:
            self.tries = self.tries + 1 if self.tries_of == seq else 1
            self.tries_of = seq

    def wrote(self, seq: int) -> None:
        """Frame `seq`, the first of `to_write`, is wholly written. Saying so twice does no harm."""
        self.whole = max(self.whole, seq)
        if self.to_write and self.to_write[0][0] == seq:
            if not self.sent or self.sent[-1][0] != seq:
                self.sent.append(self.to_write[0])
            self.to_write.popleft()

    def settle(self, ack: Ack) -> tuple[int, dict[str, int]]:
        """Let go of what `ack` covers. Returns how many frames are safe, and how many were refused, by reason."""
        upto = min(ack.upto, self.written_upto)
        safe = 0
        refused: dict[str, int] = {}
        lowest = self.lowest
        for queue in (self.sent, self.to_write):
            while queue and queue[0][0] <= upto:
                reason = ack.refused.pop(queue[0][0], None)
                if reason is None:
                    safe += 1
                else:
                    refused[reason] = refused.get(reason, 0) + 1
                self._let_go(queue[0], reason)
                queue.popleft()
        early = {seq: reason for seq, reason in ack.refused.items() if upto < seq <= self.written_upto}
        for queue in (self.sent, self.to_write) if early else ():
            for held in [held for held in queue if held[0] in early]:
                self._let_go(held, early[held[0]])
                queue.remove(held)
                refused[early[held[0]]] = refused.get(early[held[0]], 0) + 1
        if self.lowest != lowest:
            self.tries = 0
        if not self.sent and not self.to_write:
            self.bytes = 0
        return safe, refused

    def _let_go(self, entry: Entry, refused: str | None) -> None:
        self.bytes -= len(entry[1]) + OVERHEAD
        if entry[2] is not None:
            entry[2].settle(SPOOLED if refused is None else REFUSED, refused or "")

    def end(self, kept: Collection[int] = ()) -> int:
        """Nothing will be written any more. Returns how many frames never were; of the others nothing will be known.
        Those that are `kept` in a file are another process's to send.
        """
        never = 0
        for queue in (self.sent, self.to_write):
            for seq, _, receipt in queue:
                if seq in kept:
                    if receipt is not None:
                        receipt.settle(UNKNOWN, "kept")
                    continue
                unwritten = seq > self.written_upto
                never += unwritten
                if receipt is not None:
                    receipt.settle(DROPPED if unwritten else UNKNOWN, "closed")
        return never

    def __repr__(self) -> str:
        return f"Held(lowest={self.lowest}, next_seq={self.next_seq}, unfinished={self.unfinished}, bytes={self.bytes})"


class Parcel:
    """Metric lines packed for one frame, and when they were packed (Unix ms). `n` is the number of points before it,
    once it was written and as long as it may have to be written again; -1 before. `tries`: how often it was refused.
    """

    __slots__ = ("made", "n", "payload", "points", "tries")

    def __init__(self, payload: bytes, points: int, made: int) -> None:
        self.payload = payload
        self.points = points
        self.made = made
        self.n = -1
        self.tries = 0


class Waiting:
    """Packed metrics, oldest first: those to be written (`parcels`), and those that were written to a peer which says
    when it has stored them (`sent`).
    """

    __slots__ = ("bytes", "parcels", "points", "sent")

    def __init__(self) -> None:
        self.parcels: deque[Parcel] = deque()
        self.sent: deque[Parcel] = deque()
        self.bytes = 0
        self.points = 0
        """Points never written. Those of `sent`, or written again, are not among them."""

    def add(self, parcel: Parcel) -> None:
        """Keep `parcel` until it is written. Saying so twice does no harm."""
        if not self.parcels or self.parcels[-1] is not parcel:
            self.bytes += len(parcel.payload) + OVERHEAD
            self.points += parcel.points
            self.parcels.append(parcel)

    def done(self, parcel: Parcel) -> None:
        """`parcel`, the oldest, is written or lost: let go of it. Saying so twice does no harm."""
        if self.parcels and self.parcels[0] is parcel:
            self._let_go(parcel)
            self.parcels.popleft()
        self._tidy()

    def wrote(self, parcel: Parcel, n: int) -> None:
        """`parcel`, the first, is written with `n` points before it: keep it until `settle`. Saying so twice does no
        harm.
        """
        if self.parcels and self.parcels[0] is parcel:
            if parcel.n < 0:
                parcel.n = n
                self.points -= parcel.points
            if not self.sent or self.sent[-1] is not parcel:
                self.sent.append(parcel)
            self.parcels.popleft()

    def settle(self, n: int | None) -> int:
        """Every point before `n` is stored; None: whatever was written is done. Returns how many points that are."""
        points = 0
        for queue in (self.sent, self.parcels):
            while queue and (queue[0].n >= 0 if n is None else 0 <= queue[0].n <= n - queue[0].points):
                points += queue[0].points
                self._let_go(queue[0])
                queue.popleft()
        self._tidy()
        return points

    def rewind(self) -> int:
        """The connection is gone: all of `sent` is to be written again, as it was. Returns how many that are."""
        again = len(self.sent)
        while self.sent:
            if not self.parcels or self.parcels[0] is not self.sent[-1]:
                self.parcels.appendleft(self.sent[-1])
            self.sent.pop()
        return again

    def unwrite(self, n: int) -> None:
        """Of what was written, the parcels from number `n` on were not, after all: they lose their numbers."""
        for queue in (self.sent, self.parcels):
            for parcel in queue:
                if parcel.n >= n:
                    parcel.n = -1
                    self.points += parcel.points

    def give_up(self) -> int:
        """Drop the first parcel if it was refused often enough. Returns its points."""
        if not self.parcels or self.parcels[0].tries <= RESENDS:
            return 0
        points = self.parcels[0].points
        self.done(self.parcels[0])
        return points

    def _let_go(self, parcel: Parcel) -> None:
        self.bytes -= len(parcel.payload) + OVERHEAD
        if parcel.n < 0:
            self.points -= parcel.points

    def _tidy(self) -> None:
        """After an interruption the sums may be off; where nothing is kept they are right again."""
        if not self.parcels and not self.sent:
            self.bytes = self.points = 0

    def __repr__(self) -> str:
        sent = len(self.sent)
        return f"Waiting(parcels={len(self.parcels)}, sent={sent}, points={self.points}, bytes={self.bytes})"
