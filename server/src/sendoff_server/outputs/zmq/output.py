"""A Sendoff gateway over ZeroMQ with CURVE: frames of up to 64 batches, an answer for each frame (wire format, 6).

What an answer means, what an output promises and when to try again are the same as over HTTP. As there, a lane that
sends has a connection to itself, so one that hangs holds up no other, and giving a request up ends its connection.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from sendoff_server.delivery.outcome import Outcome, Result, Trouble
from sendoff_server.outputs.http import EXCERPT_BYTES, weigh
from sendoff_server.outputs.results import Senseless, Stored, read_results
from sendoff_server.outputs.words import explain_status
from sendoff_server.outputs.zmq.line import Heard
from sendoff_server.outputs.zmq.port import Port
from sendoff_server.settings import OutputSettings
from sendoff_server.spool import Sealed
from sendoff_server.wire.batch import DEFAULT, encode_batch, transcode
from sendoff_server.wire.batch_frame import encode_batch_frame

log = logging.getLogger(__name__)


FRAME_BYTES = 1024 * 1024
"""A heartbeat is answered between two frames, and not in one: smaller frames bear slower lines, larger ones bring
nothing more. One batch that is larger by itself needs a line on which it takes less than the gateway's 60 s."""


class _Answer(msgspec.Struct):
    """What may come back: results, or a problem with one batch, or the wish to be left alone for some seconds."""

    results: list[Any] | None = None
    batch: str = ""
    problem: dict[str, Any] | None = None
    retry_after: float | None = None
    again: float | None = None


class ZmqGatewayOutput:
    """One gateway, over ZeroMQ."""

    type = "gateway"
    max_batches = 64
    lanes = 2
    """As over HTTP: a batch that the gateway hangs on does not hold up the others."""

    def __init__(self, name: str, settings: OutputSettings) -> None:
        self.name = name
        self.interval_ms = round(settings.interval * 1000)
        self.dedupe_s: int | None = None
        """How long the gateway said that it recognises repeats; None before its first answer."""
        self._compression = settings.compression
        self._timeout_s = settings.timeout
        self._port = Port(settings, most=self.max_batches)
        self.url = self._port.url
        self._client = secrets.token_hex(16)

    def __repr__(self) -> str:
        return f"<ZmqGatewayOutput {self.name} {self.url}>"

    def weigh(self, batch: Sealed) -> int:
        return weigh(batch, self._compression)

    async def send(self, batches: Sequence[Sealed]) -> Outcome:
        """Send up to 64 batches, as one frame or as few."""
        blobs = await self._blobs(batches)
        if len(batches) == 1 and len(blobs[0]) > DEFAULT.raw:  # the gateway would break off without a word
            words = f"{batches[0].id} has {len(blobs[0]):,} bytes, and {DEFAULT.raw:,} may be sent"
            return Outcome(trouble=Trouble(words, 413))
        groups = _grouped([len(blob) for blob in blobs])
        frames = [
            encode_batch_frame(self._client, batches[part.start].id, self._compression, b"".join(blobs[part]))
            for part in groups
        ]
        gathered = _Gathered(self.url, [batches[part] for part in groups])
        trouble = await self._port.ask(frames, self._timeout_s, gathered.take)
        self.dedupe_s = gathered.dedupe_s or self.dedupe_s
        return Outcome(gathered.results, trouble or gathered.worst())

    async def send_ledger(self, header: dict[str, Any], lines: Sequence[bytes]) -> None:
        """Send the agent's books. One that does not arrive is replaced by the next."""
        said: list[_Answer] = []

        def take(answer: bytes) -> Heard:
            try:
                said.append(msgspec.json.decode(answer, type=_Answer))
            except (msgspec.MsgspecError, ValueError, RecursionError):
                said.append(_Answer())
            return Heard.OVER if said[0].results is None else Heard.ALL

        blob = encode_batch(header, lines, self._compression)
        frame = encode_batch_frame(self._client, header["batch"], self._compression, blob)
        trouble = await self._port.ask([frame], self._timeout_s, take)
        if trouble is not None:
            log.info("the ledger did not reach output %s: %s", self.name, trouble.words)
        elif said[0].results is None:
            log.info("output %s did not take the ledger: %s", self.name, said[0].problem or "it did not say why")

    async def close(self) -> None:
        await self._port.close()

    async def _blobs(self, batches: Sequence[Sealed]) -> list[bytes]:
        """The spooled blobs as they are, unless another compression is wanted."""
        if self._compression == "zstd":
            return [batch.blob for batch in batches]
        return await asyncio.to_thread(lambda: [transcode(each.blob, self._compression) for each in batches])


def _grouped(sizes: Sequence[int]) -> list[slice]:
    """Which blobs share a frame: neighbours, as long as it is not beyond FRAME_BYTES; one that is, is alone."""
    groups: list[slice] = []
    begin, total = 0, 0
    for at, size in enumerate(sizes):
        if at > begin and total + size > FRAME_BYTES:
            groups.append(slice(begin, at))
            begin, total = at, 0
        total += size
    return [*groups, slice(begin, len(sizes))]


class _Gathered:
    """The answers to one request, as they come in."""

    def __init__(self, url: str, groups: Sequence[Sequence[Sealed]]) -> None:
        self.results: dict[str, Result] = {}
        self.dedupe_s = 0
        self._url = url
        self._waiting = {group[0].id: group for group in groups}
        """What each frame holds that was not answered yet, by what it is named after."""
        self._troubles: list[Trouble] = []

    def take(self, answer: bytes) -> Heard:
        """Take one answer down."""
        try:
            found = msgspec.json.decode(answer, type=_Answer)
            stored = None if found.results is None else msgspec.json.decode(answer, type=Stored)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return self._end(
                Trouble(f"{self._url} does not answer as a Sendoff gateway does ({error})", 200, answer[:EXCERPT_BYTES])
            )
        if stored is not None:
            return self._stored(stored, answer)
        if found.again is not None:
            words = explain_status(429, "come again later", self._url)
            return self._end(Trouble(words, 429, retry_after_s=found.again or None))
        if found.problem is None:
            return self._end(
                Trouble(f"{self._url} does not answer as a Sendoff gateway does", 200, answer[:EXCERPT_BYTES])
            )
        return self._problem(found, found.problem)

    def worst(self) -> Trouble | None:
        """What is the matter with the batches that have no result: of several troubles the one that concerns most."""
        return min(self._troubles, key=_concerns, default=None)

    def _stored(self, stored: Stored, answer: bytes) -> Heard:
        self.dedupe_s = stored.dedupe_s
        named = {found.batch for found in stored.results}
        group = next((group for group in self._waiting.values() if not named.isdisjoint(b.id for b in group)), None)
        if group is None:
            words = f"the answer of {self._url} says nothing about the batches that were sent"
            return self._end(Trouble(words, 200, answer[:EXCERPT_BYTES]))
        try:
            results = read_results(stored, group)
        except Senseless as error:
            self.results.clear()
            words = f"{self._url} contradicts itself about batch {error}"
            return self._end(Trouble(words, 200, answer[:EXCERPT_BYTES]))
        self.results |= results
        del self._waiting[group[0].id]
        return Heard.MORE if self._waiting else Heard.ALL

    def _problem(self, found: _Answer, problem: dict[str, Any]) -> Heard:
        status = problem.get("status")
        said = " – ".join(str(problem[key]) for key in ("title", "detail", "remedy") if problem.get(key))
        code = status if type(status) is int and 300 <= status <= 599 else 500
        trouble = Trouble(
            explain_status(code, " ".join(said.split())[:500], self._url),
            code,
            msgspec.json.encode(problem)[:EXCERPT_BYTES],
            found.retry_after,
        )
        self._troubles.append(trouble)
        if self._waiting.pop(found.batch, None) is None:
            return Heard.OVER
        return Heard.MORE if self._waiting else Heard.ALL

    def _end(self, trouble: Trouble) -> Heard:
        self._troubles.append(trouble)
        return Heard.OVER


def _concerns(trouble: Trouble) -> int:
    """The set-up first, then the moment of the whole destination, then single batches."""
    match trouble.status:
        case 400 | 413 | 422:
            return 2
        case None | 408 | 425 | 429:
            return 1
        case status:
            return 1 if status >= 500 or status < 300 else 0
