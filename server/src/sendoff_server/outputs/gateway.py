"""A Sendoff gateway: many batches a request, an answer for each, and the agent's books every ten seconds."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from sendoff_server.delivery.outcome import Outcome, Result, Trouble
from sendoff_server.outputs.http import EXCERPT_BYTES, Answer, Client, body, weigh
from sendoff_server.outputs.words import plain_url
from sendoff_server.settings import OutputSettings
from sendoff_server.spool import RefusedLine, Sealed
from sendoff_server.wire.batch import encode_batch

log = logging.getLogger(__name__)

PATH = "/v1/batches"


class _Refused(msgspec.Struct):
    line: int
    code: str = ""
    detail: str = ""


class _Result(msgspec.Struct):
    batch: str
    status: Literal["stored", "duplicate", "refused"]
    refused: list[_Refused] = []
    code: str = ""
    detail: str = ""


class _Answer(msgspec.Struct):
    results: list[_Result]
    dedupe_s: int = 0


class GatewayOutput:
    """One gateway."""

    type = "gateway"
    max_batches = 64
    lanes = 2
    """One more than throughput needs: a batch that the gateway hangs on does not hold up the others."""

    def __init__(self, name: str, settings: OutputSettings) -> None:
        address = settings.url.rstrip("/")
        address = address if address.endswith(PATH) else address + PATH
        self.name = name
        self.url = plain_url(address)
        self.interval_ms = round(settings.interval * 1000)
        self.dedupe_s: int | None = None
        """How long the gateway said that it recognises repeats; None before its first answer."""
        self._compression = settings.compression
        self._client = Client(address, settings, self.lanes)

    def __repr__(self) -> str:
        return f"<GatewayOutput {self.name} {self.url}>"

    def weigh(self, batch: Sealed) -> int:
        return weigh(batch, self._compression)

    async def send(self, batches: Sequence[Sealed]) -> Outcome:
        """Send up to 64 batches."""
        answer = await self._client.post(await body(batches, self._compression))
        if isinstance(answer, Trouble):
            return Outcome(trouble=answer)
        if answer.status != 200:
            return Outcome(trouble=self._client.trouble(answer))
        return self._read(answer, batches)

    async def send_ledger(self, header: dict[str, Any], lines: Sequence[bytes]) -> None:
        """Send the agent's books. One that does not arrive is replaced by the next."""
        answer = await self._client.post(encode_batch(header, lines, self._compression))
        if isinstance(answer, Trouble):
            log.info("the ledger did not reach output %s: %s", self.name, answer.words)
        elif answer.status != 200:
            log.info("output %s did not take the ledger: %s", self.name, self._client.trouble(answer).words)

    async def close(self) -> None:
        await self._client.close()

    def _read(self, answer: Answer, batches: Sequence[Sealed]) -> Outcome:
        """Results of the batches that were sent. One that contradicts itself is no answer."""
        try:
            decoded = msgspec.json.decode(answer.body, type=_Answer)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            words = f"{self.url} answered 200, but not as a Sendoff gateway does ({error}): is the url right?"
            return Outcome(trouble=Trouble(words, 200, answer.body[:EXCERPT_BYTES]))
        self.dedupe_s = decoded.dedupe_s
        sent = {batch.id: batch for batch in batches}
        results: dict[str, Result] = {}
        for found in decoded.results:
            batch = sent.get(found.batch)
            if batch is None:
                continue
            result = _result(found, batch)
            if result is None or results.get(batch.id, result) != result:
                words = f"{self.url} contradicts itself about batch {batch.id}"
                return Outcome(trouble=Trouble(words, 200, answer.body[:EXCERPT_BYTES]))
            results[batch.id] = result
        return Outcome(results)


def _result(found: _Result, batch: Sealed) -> Result | None:
    """What one result means; None if it makes no sense."""
    lines = [RefusedLine(line.line, line.code, line.detail) for line in found.refused]
    numbers = {line.line for line in lines}
    if len(numbers) < len(lines) or not all(1 <= number <= batch.lines for number in numbers):
        return None
    if found.status == "refused" and not lines:
        return Result(stored=False, code=found.code or "refused", detail=found.detail)
    return Result(stored=True, refused=tuple(lines))
