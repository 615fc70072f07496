"""The connection to the agent or a gateway: connecting, hello, numbering, handing over, re-sending, acknowledgements
(protocol/wire-format.md, section 3), whatever carries it (`contract.py`).

Used by the holder of the client's lock only; never waits. Time and randomness are passed in. The channel also carries
the metrics, but beside UDP, where it carries events alone.
"""

from __future__ import annotations

from sendoff import frame
from sendoff.sending.buffer import Held, Waiting
from sendoff.sending.contract import Absent, Answered, Gone, Job, Torn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sendoff.frame import Ack
    from sendoff.receipt import Receipt
    from sendoff.sending.buffer import Parcel
    from sendoff.sending.contract import Stream
    from sendoff.sending.keep import Keep
    from sendoff.tally import Tally

BACKOFF = 0.05
"""Seconds: the longest first wait; doubles with each failure."""
STEADY = 1.0
"""Seconds after which a connection counts as one that worked."""
LONGEST_ASKED = 300.0
"""Seconds that a peer may ask to be left alone, at most."""
SPREAD = 30.0
"""Seconds at most by which clients that were told to come back later do so at different times."""
HELD_BACK_MS = 2_000
"""Metrics that waited longer say when they were counted."""


class Channel:
    """One client id, its durable frames, and the connection of the moment if there is one."""

    def __init__(
        self,
        open_stream: Callable[[], Stream],
        client: str,
        who: Mapping[str, str],
        pid: int,
        tally: Tally,
        rng: Callable[[], float],
        *,
        longest_wait: float,
        reasons: str = "",
        patient: bool = False,
        keeps_points: bool = False,
    ) -> None:
        """`patient`: nothing but a refusal is held against a frame, as behind a network anything may be to blame.
        `keeps_points`: the peer may say which points it has stored; until it is known that it does not, they are kept.
        """
        self._open = open_stream
        self.client = client
        self._who = who
        self._pid = pid
        self._tally = tally
        self._rng = rng
        self._longest_wait = longest_wait
        self._reasons = reasons
        self._totals: tuple[int, dict[str, int]] = (0, {})
        self.reported = 0
        self.patient = patient
        self._may_keep_points = keeps_points
        self.keeps_points = keeps_points
        """Whether metrics that were written are kept until the peer has stored them."""
        self.held = Held(patient=patient)
        self.keep: Keep | None = None
        """The spool of this client, where it has one."""
        self._waiting = Waiting()
        """The metrics that this channel carries, from the first `pump` on."""
        self._first: Job | None = None
        """The first frame after the hello of this connection."""
        self._before = 0, 0
        """What was written when this connection began: the highest number of a frame, and how many points."""
        self.n = 0
        self._receiving = False
        """Whether somebody is at the answers, or was interrupted there."""
        self.stream: Stream | None = None
        self.since = 0.0
        self.retry_at = 0.0
        self.failures = 0
        self.worked = False
        """Whether anything was settled on this connection."""
        self.answered = False
        self.in_order = False
        """Whether the last connection ended by its answer, so that the next one is as good as there."""
        self.acked = 0
        self.points_acked = 0
        self.resent = 0
        self.connects = 0
        self.refused: dict[str, int] = {}
        self.trouble = ""
        self.absent = False
        """No agent's socket exists, and there never was a connection: nobody to wait for."""

    @property
    def busy(self) -> bool:
        """Whether a unit is on its way."""
        return self.stream is not None and self.stream.job is not None

    @property
    def report_due(self) -> bool:
        """Whether there are drops that no frame has reported, and a connection to report them on."""
        return self.stream is not None and self.reported != self._tally.version

    def dropped(self) -> dict[str, int]:
        """Running totals of what was dropped, as frames report them."""
        version = self._tally.version
        if self._totals[0] != version:
            self._totals = (version, self._tally.totals(self._reasons))
        self.reported = version
        return self._totals[1]

    def add(self, kind: str, event_id: str, t: int, payload: bytes, receipt: Receipt | None) -> None:
        """Number a durable frame and keep it; the caller has made sure that there is room."""
        seq, dropped = self.held.next_seq, self.dropped()
        confirm = receipt is not None
        words = frame.durable(self.client, kind, seq, event_id, t, payload, dropped, confirm=confirm)
        self.held.add(words, receipt)
        if self.keep is not None:
            self.keep.add(seq, words)

    def pump(self, now: float, wall_ms: int, waiting: Waiting, at_most: int) -> None:
        """Write what there is to write, at most `at_most` frames of it, connecting first if need be and due."""
        self._waiting = waiting
        for _ in range(2):  # again if the peer was found gone: perhaps it is back already
            if self.stream is None and not self._connect(now):
                return
            try:
                self._write(wall_ms, waiting, at_most)
                return
            except Gone as gone:
                self.lost(now, gone)

    def receive(self, now: float) -> None:
        """Take the answers that have come."""
        if self.stream is None:
            return
        try:
            if self._receiving:
                raise Torn("an exception from a signal handler came between: what was answered is asked for again")
            self._receiving = True
            for ack in self.stream.read():
                if ack.again is not None:
                    raise Gone("the peer takes nothing more on this connection", wait=ack.again)
                self._settle(ack)
        except Gone as gone:
            self.lost(now, gone)
        self._receiving = False

    def _settle(self, ack: Ack) -> None:
        safe, refused = self.held.settle(ack)
        if self.keep is not None:
            self.keep.settle(self.held.lowest - 1)
        self.acked += safe
        for reason, count in refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + count
        points = 0
        if self._may_keep_points:
            self.keeps_points = ack.n is not None
            points = self._waiting.settle(None if ack.n is None else min(ack.n, self.n))
            self.points_acked += points if ack.n is not None else 0
        self.answered = True
        self.worked = self.worked or safe > 0 or bool(refused) or points > 0

    def _connect(self, now: float) -> bool:
        if now < self.retry_at or not (self.held.unfinished or self._waiting.parcels or self._waiting.sent):
            return False
        return self.connect(now)

    def connect(self, now: float) -> bool:
        """Begin a connection with a hello. False if there is none."""
        try:
            stream = self._open()
        except Gone as gone:
            self.absent = self.connects == 0 and isinstance(gone, Absent)
            self._failed(now, gone)
            return False
        self.resent += self.held.rewind()  # what is left, if `lost` was interrupted
        self._waiting.rewind()
        if self.held.give_up():
            self._tally.many("event.unacceptable", 1)
        if unacceptable := self._waiting.give_up():
            self._tally.many("metric.unacceptable", unacceptable)
        self.since = now
        self.worked = self.answered = self.absent = False
        self.connects += 1
        self.keeps_points = self._may_keep_points
        self._first = None
        self._before = self.held.written_upto, self.n
        stream.job = Job(frame.hello(self.client, self._who, self._pid, self.held.lowest, self.dropped()))
        self.stream = stream
        return True

    def _write(self, wall_ms: int, waiting: Waiting, at_most: int) -> None:
        stream, held = self.stream, self.held
        assert stream is not None
        for _ in range(at_most + 1):
            if stream.job is not None:
                if not stream.go_on():
                    break
                self._book(stream.job, waiting)
                stream.job = None
            if held.to_write:
                seq, durable, _ = held.to_write[0]
                held.writing(seq)
                stream.job = Job(durable, seq=seq)
            elif waiting.parcels:
                stream.job = self._metrics(waiting.parcels[0], wall_ms)
            else:
                break
            self._first = self._first or stream.job
        stream.ship()

    def _metrics(self, parcel: Parcel, wall_ms: int) -> Job:
        t = parcel.made if wall_ms - parcel.made > HELD_BACK_MS else None
        n = self.n if parcel.n < 0 else parcel.n
        words = frame.metrics(self.client, n, parcel.payload, t=t, dropped=self.dropped())
        return Job(words, parcel=parcel, n=n + parcel.points)

    def _book(self, job: Job, waiting: Waiting) -> None:
        """A job is done: count it. Interrupted and done again, it must come to the same."""
        if job.seq:
            self.held.wrote(job.seq)
        elif job.parcel is not None:
            self.n = max(self.n, job.n)
            if self.keeps_points:
                waiting.wrote(job.parcel, job.n - job.parcel.points)
            else:
                waiting.done(job.parcel)

    def report(self) -> bool:
        """With nothing else to write: an empty metrics frame whose header says what was dropped. Raises `Gone`."""
        if self.busy or not self.report_due:
            return False
        self._say(frame.metrics(self.client, self.n, b"", t=None, dropped=self.dropped()))
        return True

    def say_bye(self, now: float) -> None:
        """Begin the last frame; on a connection made for it if the last one ended in order, and nothing is held. Raises
        `Gone`.
        """
        if self.stream is None and self.in_order and not self.held.unfinished and self.connect(now):
            assert self.stream is not None
            if self.stream.go_on():
                self.stream.job = None  # the hello
        if self.stream is not None and not self.busy:
            self._say(frame.bye(self.client, self.held.written_upto, self.n, self.dropped()))

    def _say(self, words: bytes) -> None:
        assert self.stream is not None
        self.stream.job = Job(words)
        if self.stream.go_on():
            self.stream.job = None
        self.stream.ship()

    def lost(self, now: float, gone: Gone) -> None:
        """The connection is of no use any more. One that worked is replaced at once, others after a wait that grows."""
        assert self.stream is not None
        written = not self.unwrite()
        self.stream.close()
        self.stream = None
        again = self.held.rewind()
        self.resent += again if written else 0
        again += self._waiting.rewind()
        self.in_order = isinstance(gone, Answered)
        if self.in_order:
            good = self.worked or not again  # an answer that takes nothing of what was sent is none
        else:
            good = self.worked or (now - self.since >= STEADY and (self.answered or not self.patient))
        if isinstance(gone, Torn):
            self.held.tries = 0  # neither the peer nor the frame is to blame
            good = True
        elif gone.blames and self.patient:
            self._blame()
        if not good or gone.wait:
            self._failed(now, gone)
            return
        self.failures = 0
        self.retry_at = now
        self.trouble = str(gone)

    def unwrite(self) -> bool:
        """If nothing of what the connection has taken can have left it, what it took first was never written. True if
        that is so.
        """
        if self.stream is None or not self.stream.untouched:
            return False
        self.held.written_upto, self.n = self._before
        self._waiting.unwrite(self.n)
        return True

    def _blame(self) -> None:
        first = self._first
        if first is not None and first.seq:
            self.held.blame(first.seq)
        elif first is not None and first.parcel is not None:
            first.parcel.tries += 1

    def _failed(self, now: float, gone: Gone) -> None:
        """Exponential backoff with full jitter; or what the peer asked for, within reason."""
        self.trouble = str(gone)
        wait = self._rng() * min(self._longest_wait, BACKOFF * 2 ** min(self.failures, 20))
        if gone.wait:
            asked = min(gone.wait, LONGEST_ASKED)
            wait = max(wait, asked + self._rng() * min(asked, SPREAD))
        self.failures += 1
        self.retry_at = now + wait

    def __repr__(self) -> str:
        return f"Channel(client={self.client}, stream={self.stream}, held={self.held}, n={self.n})"
