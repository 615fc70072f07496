"""The intake: frames and lines from all inputs go to the core and to the committer, acknowledgements go back.

One `StreamSession` a connection knows which client it belongs to and what that was told. Nothing here waits: what takes
time is the committer's.
"""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from sendoff_server.aggregate import Core, Found
from sendoff_server.inputs import Link
from sendoff_server.inputs.kept import KeptSession
from sendoff_server.intake.client import Client
from sendoff_server.intake.clients import Clients
from sendoff_server.intake.events import event_line, found_line, make_id
from sendoff_server.intake.points import count_points
from sendoff_server.intake.storms import Fold, Storms
from sendoff_server.spool import ClientState, EventIn, Refusal
from sendoff_server.wire.frame import DURABLE, Frame, FrameError, Item, Lines, encode_ack

log = logging.getLogger(__name__)

MAX_SOURCES = 1_000
OTHERS = "others"
MAX_LINE = 1_048_576
"""Bytes of one event line in a batch."""
_TELEMETRY = b"datadog.dogstatsd.client.packets_dropped_"
_DROPPED = re.compile(rb"^datadog\.dogstatsd\.client\.packets_dropped_(queue|writer):([0-9]{1,15})\|c", re.MULTILINE)
_DROP_REASONS = {b"queue": "metric.buffer_full", b"writer": "metric.send_failed"}
Tags = tuple[tuple[str, str], ...]


class Store(Protocol):
    """Where it goes, to be acknowledged once it is stored: see `Committer`. `add` says what is wrong with an event that
    cannot be stored.
    """

    def add(self, event: EventIn, client: Client) -> str | None: ...

    def touch(self, client: Client, refusal: Refusal | None = None) -> None: ...

    def add_unacknowledged(self, event: EventIn) -> None: ...


class Intake:
    """See `inputs.Intake`. `clock` gives Unix ms, `running` monotonic seconds, `chance` that many random bytes."""

    def __init__(
        self,
        core: Core,
        clients: Clients,
        committer: Store,
        *,
        host: str,
        storms: Storms,
        clock: Callable[[], int],
        running: Callable[[], float],
        chance: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.core = core
        self.clients = clients
        self.committer = committer
        self.clock = clock
        self.running = running
        self.refused: dict[str, Counter[str]] = {}
        self.frames: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.repeats = 0
        """Durable frames and points' frames that had been here before."""
        self._host = host
        self._storms = storms
        self._chance = chance
        self._sources: set[str] = set()
        self._tags: dict[tuple[str, str], Tags] = {}

    def know_sources(self, names: Iterable[str]) -> None:
        """Sources of earlier runs: they have their books already, and count to the limit."""
        self._sources.update(names)

    def connected(self, origin: str, link: Link, kept: KeptSession | None = None) -> "StreamSession":
        return StreamSession(self, origin, link, kept)

    def datagram(self, item: Item, origin: str) -> None:
        if isinstance(item, Lines):
            self.take_lines(item, origin)
        elif isinstance(item, FrameError):
            self.refuse(item, origin)
        else:
            self.frames[origin] += 1
            client = self.clients.get(item.client, self.clock(), self.running())
            if item.service or item.env or item.release:
                state = client.state
                state.service, state.env, state.release = item.service, item.env, item.release
            self.take_frame(item, client, origin)

    def refuse(self, error: FrameError, origin: str) -> None:
        """Count a refused frame."""
        self.refused.setdefault(origin, Counter())[error.reason] += 1
        log.debug("input %s: %s", origin, error)

    def take_lines(self, lines: Lines, origin: str) -> None:
        """Lines of a StatsD client."""
        source = f"statsd/{origin}"
        self.lines[origin] += 1
        for found in self.core.feed(lines.data, source, (), self.clock(), cut=lines.cut):
            self.keep_found(found, source, None)
        if _TELEMETRY in lines.data:
            self._note_telemetry(lines.data, source)

    def take_frame(self, frame: Frame, client: Client, datagrams: str = "") -> None:
        """A frame of any kind but a durable one, of a stream or of the input `datagrams`."""
        client.drops(frame.dropped)
        if frame.kind == "metrics":
            self.take_metrics(frame, client, datagrams)
        elif frame.kind == "hello":
            client.hello(frame.body or {})
            if not datagrams and client.resumes((frame.body or {}).get("resume_from") or 1):
                self.committer.touch(client)
        elif frame.body is not None:
            client.bye(frame.body, self.running(), datagrams)
            if not datagrams:
                client.wrote(frame.body["last_seq"])
                self.committer.touch(client)

    def take_durable(self, frame: Frame, client: Client) -> FrameError | None:
        """A durable frame of a stream. What is wrong with it, if anything is."""
        if not client.arrives(frame.seq):
            self.repeats += 1
            return None
        client.drops(frame.dropped)
        return self.keep(frame, client)

    def keep(self, frame: Frame, client: Client) -> FrameError | None:
        """Have the event of a durable frame stored, or refuse it."""
        source = self.source(client.state.service)
        fold = self._fold(frame, client, source)
        line = b"" if fold and fold.has_line else event_line(frame, client.state)
        if len(line) > MAX_LINE:
            client.refused.append((frame.seq, "payload_too_long"))
            self.committer.touch(client, _refusal(frame.id if frame.confirm else "", client, "payload_too_long"))
            return FrameError("payload_too_long", f"the event's line would have {len(line)} bytes", seq=frame.seq)
        event = EventIn(line, frame.id, source, frame.confirm, fold.key if fold else "", client=frame.client)
        if fault := self.committer.add(event, client):
            client.refused.append((frame.seq, "payload_invalid"))
            self.committer.touch(client)
            return FrameError("payload_invalid", fault, seq=frame.seq)
        client.state.events += 1
        client.state.source = source
        if fold:
            fold.has_line = True
        return None

    def _fold(self, frame: Frame, client: Client, source: str) -> Fold | None:
        """What an exception is counted under because too many like it came. One that is asked about is always kept."""
        if frame.kind != "exception" or frame.confirm or not frame.body:
            return None
        kind = (source, client.state.service, client.state.env, frame.body["fingerprint"])
        return self._storms.count(kind, self.running())

    def answer(self, client: Client, told: int) -> bytes:
        """The acknowledgement of a client that knows of refusals up to `told`."""
        return encode_ack(client.state.upto, client.refusals(told))

    def left(self, client: Client, origin: str) -> None:
        """A connection of the client on `origin` has ended."""
        self.clients.lost(client)

    def take_metrics(self, frame: Frame, client: Client, datagrams: str) -> None:
        if not client.points(frame.n, count_points(frame.payload), self.running(), datagrams):
            self.repeats += 1
            return
        state = client.state
        state.source = source = self.source(state.service)
        tags = self._tags_of(state)
        for found in self.core.feed(frame.payload, source, tags, self.clock(), framed=True, t=frame.t):
            self.keep_found(found, source, client)

    def keep_found(self, found: Found, source: str, client: Client | None) -> None:
        now_ms = self.clock()
        event_id = self.event_id(found, now_ms, client)
        line = found_line(found, event_id, now_ms, client.state if client else None, self._host)
        self.committer.add_unacknowledged(EventIn(line, event_id, source))

    def event_id(self, found: Found, now_ms: int, client: Client | None) -> str:
        """A new id for an event among the lines."""
        return make_id(now_ms, self._chance(10))

    def source(self, service: str) -> str:
        name = service or "unknown"
        if name not in self._sources:
            if len(self._sources) >= MAX_SOURCES:
                return OTHERS
            self._sources.add(name)
        return name

    def _tags_of(self, state: ClientState) -> Tags:
        """Made once for each service and environment: the core knows series by the tags they are fed with."""
        key = (state.service, state.env)
        tags = self._tags.get(key)
        if tags is None:
            if len(self._tags) >= MAX_SOURCES:
                self._tags.clear()
            tags = self._tags[key] = tuple(pair for pair in zip(("service", "env"), key, strict=True) if pair[1])
        return tags

    def _note_telemetry(self, data: bytes, source: str) -> None:
        """What DogStatsD clients say they dropped, in packets, is shown as one client's loss for each input."""
        name = hashlib.sha256(source.encode()).hexdigest()[:32]
        client = self.clients.get(name, self.clock(), self.running())
        client.state.service, client.state.source, client.state.lib = source, source, "dogstatsd"
        dropped = client.state.dropped
        for kind, value in _DROPPED.findall(data):
            reason = _DROP_REASONS[kind]
            client.drops({reason: dropped.get(reason, 0) + int(value)})


def _refusal(event: str, client: Client, reason: str) -> Refusal | None:
    """What is to be known of a refused event, if its sender asked for that."""
    return Refusal(event, client.state.client, reason) if event else None


class StreamSession:
    """One stream connection. It belongs to the client that its first frame names."""

    def __init__(self, intake: Intake, origin: str, link: Link, kept: KeptSession | None = None) -> None:
        self._intake = intake
        self._origin = origin
        self._link = link
        self._client: Client | None = None
        self._told = kept.told if kept else 0
        self._ack_due = kept.ack_due if kept else False
        self._over = False
        if kept and kept.client:
            self._belongs(kept.client)

    def __repr__(self) -> str:
        return f"<StreamSession {self._origin} {self._client.state.client[:8] if self._client else 'no client yet'}>"

    @property
    def client(self) -> Client | None:
        return self._client

    def take(self, item: Item) -> None:
        if isinstance(item, Lines):
            self._intake.take_lines(item, self._origin)
        elif isinstance(item, FrameError):
            self._take_error(item)
        else:
            self._take_frame(item)

    def writable(self) -> None:
        if self._ack_due:
            self.acknowledge()

    def ended(self, *, orderly: bool) -> None:
        self._over = True
        self._close_when_told()

    def keep(self) -> KeptSession:
        return KeptSession(self._client.state.client if self._client else "", self._told, self._ack_due)

    def acknowledge(self) -> None:
        """Say what is stored, and which refusals were not said yet. If an answer still waits, later."""
        if self._client is None:
            return
        upto = self._client.state.upto
        self._ack_due = not self._link.reply(self._intake.answer(self._client, self._told))
        if not self._ack_due:
            self._told = max(self._told, upto)
        self._close_when_told()

    def _close_when_told(self) -> None:
        """After the end: let go as soon as nothing more can be said."""
        client = self._client
        if not self._over or self._ack_due or (client is not None and client.received > client.state.upto):
            return
        if client is not None:
            client.sessions.discard(self)
            self._intake.left(client, self._origin)
        self._link.close()

    def _take_frame(self, frame: Frame) -> None:
        self._intake.frames[self._origin] += 1
        client = self._belongs(frame.client)
        if client is None:
            error = FrameError("client_mismatch", "the connection belongs to another client", client=frame.client)
            self._intake.refuse(error, self._origin)
        elif frame.kind in DURABLE:
            error_or_none = self._intake.take_durable(frame, client)
            if error_or_none is not None:
                self._intake.refuse(error_or_none, self._origin)
        else:
            self._intake.take_frame(frame, client)
            if frame.kind == "hello":
                self._told = ((frame.body or {}).get("resume_from") or 1) - 1
                self.acknowledge()

    def _take_error(self, error: FrameError) -> None:
        self._intake.refuse(error, self._origin)
        client = self._belongs(error.client) if error.client else None
        if client is not None and error.seq is not None and client.refuse(error.seq, error.reason):
            self._intake.committer.touch(client, _refusal(error.confirmed, client, error.reason))

    def _belongs(self, name: str) -> Client | None:
        """The client of this connection if that is its name."""
        clients, now_ms, now = self._intake.clients, self._intake.clock(), self._intake.running()
        if self._client is None:
            self._client = clients.get(name, now_ms, now)
            self._client.sessions.add(self)
        elif self._client.state.client == name:
            clients.heard(self._client, now_ms, now)
        else:
            return None
        return self._client
