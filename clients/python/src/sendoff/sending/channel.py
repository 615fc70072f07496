"""The stream to the agent: connecting, hello, numbering, writing, re-sending, acknowledgements
(protocol/wire-format.md, section 3).

Used by the holder of the client's lock only; never waits. Time and randomness are passed in. On a Unix socket the
channel also carries the metrics; beside UDP it carries events alone.
"""

from __future__ import annotations

from sendoff import frame
from sendoff.sending.buffer import Held, Waiting
from sendoff.sending.stream import Absent, Gone, Job, Torn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sendoff.receipt import Receipt
    from sendoff.sending.stream import Stream
    from sendoff.tally import Tally

BACKOFF = 0.05
"""Seconds: the longest first wait; doubles with each failure."""
STEADY = 1.0
"""Seconds after which a connection counts as one that worked."""
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
    ) -> None:
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
        self.held = Held()
        self.n = 0
        self.stream: Stream | None = None
        self.since = 0.0
        self.retry_at = 0.0
        self.failures = 0
        self.worked = False
        self.acked = 0
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
        self.held.add(frame.durable(self.client, kind, seq, event_id, t, payload, dropped, confirm=confirm), receipt)

    def pump(self, now: float, wall_ms: int, waiting: Waiting, at_most: int) -> None:
        """Write what there is to write, at most `at_most` frames of it, connecting first if need be and due."""
        for _ in range(2):  # again if the peer was found gone: perhaps it is back already
            if self.stream is None and not self._connect(now, waiting):
                return
            try:
                self._write(wall_ms, waiting, at_most)
                return
            except Gone as gone:
                self.lost(now, gone)

    def receive(self, now: float) -> None:
        """Take the acknowledgements that have come."""
        if self.stream is None:
            return
        try:
            for ack in self.stream.read():
                safe, refused = self.held.settle(ack)
                self.acked += safe
                for reason, count in refused.items():
                    self.refused[reason] = self.refused.get(reason, 0) + count
                self.worked = self.worked or safe > 0 or bool(refused)
        except Gone as gone:
            self.lost(now, gone)

    def _connect(self, now: float, waiting: Waiting) -> bool:
        if now < self.retry_at or not (self.held.unfinished or waiting.parcels):
            return False
        try:
            stream = self._open()
        except Gone as gone:
            self.absent = self.connects == 0 and isinstance(gone, Absent)
            self._failed(now, str(gone))
            return False
        self.resent += self.held.rewind()  # what is left, if `lost` was interrupted
        if self.held.give_up():
            self._tally.many("event.unacceptable", 1)
        self.since = now
        self.worked = False
        self.connects += 1
        self.absent = False
        stream.job = Job(frame.hello(self.client, self._who, self._pid, self.held.lowest, self.dropped()))
        self.stream = stream
        return True

    def _write(self, wall_ms: int, waiting: Waiting, at_most: int) -> None:
        stream, held = self.stream, self.held
        assert stream is not None
        for _ in range(at_most + 1):
            if stream.job is not None:
                if not stream.go_on():
                    return
                self._book(stream.job, waiting)
                stream.job = None
            if held.to_write:
                seq, durable, _ = held.to_write[0]
                held.writing(seq)
                stream.job = Job(durable, seq=seq)
            elif waiting.parcels:
                parcel = waiting.parcels[0]
                t = parcel.made if wall_ms - parcel.made > HELD_BACK_MS else None
                metrics = frame.metrics(self.client, self.n, parcel.payload, t=t, dropped=self.dropped())
                stream.job = Job(metrics, parcel=parcel, n=self.n + parcel.points)
            else:
                return

    def _book(self, job: Job, waiting: Waiting) -> None:
        """A job is done: count it. Interrupted and done again, it must come to the same."""
        if job.seq:
            self.held.wrote(job.seq)
        elif job.parcel is not None:
            self.n = job.n
            waiting.done(job.parcel)

    def report(self) -> bool:
        """With nothing else to write: an empty metrics frame whose header says what was dropped. Raises `Gone`."""
        if self.busy or not self.report_due:
            return False
        self._say(frame.metrics(self.client, self.n, b"", t=None, dropped=self.dropped()))
        return True

    def say_bye(self) -> None:
        """Begin the last frame. Raises `Gone`."""
        if self.stream is not None and not self.busy:
            self._say(frame.bye(self.client, self.held.written_upto, self.n, self.dropped()))

    def _say(self, words: bytes) -> None:
        assert self.stream is not None
        self.stream.job = Job(words)
        if self.stream.go_on():
            self.stream.job = None

    def lost(self, now: float, gone: Gone) -> None:
        """The connection is of no use any more. One that worked is replaced at once, others after a wait that grows."""
        assert self.stream is not None
        self.stream.close()
        self.stream = None
        self.resent += self.held.rewind()
        if isinstance(gone, Torn):
            self.held.tries = 0  # neither the peer nor the frame is to blame
        elif self.worked or now - self.since >= STEADY:
            self.failures = 0
        else:
            self._failed(now, str(gone))
            return
        self.retry_at = now
        self.trouble = str(gone)

    def _failed(self, now: float, why: str) -> None:
        """Exponential backoff with full jitter."""
        self.trouble = why
        wait = self._rng() * min(self._longest_wait, BACKOFF * 2 ** min(self.failures, 20))
        self.failures += 1
        self.retry_at = now + wait

    def __repr__(self) -> str:
        return f"Channel(client={self.client}, stream={self.stream}, held={self.held}, n={self.n})"
