"""A Sendoff gateway: many batches a request, an answer for each, and the agent's books every ten seconds."""

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from sendoff_server.delivery.outcome import Outcome, Trouble
from sendoff_server.outputs.http import EXCERPT_BYTES, Answer, Client, body, weigh
from sendoff_server.outputs.results import Senseless, Stored, read_results
from sendoff_server.outputs.words import plain_url
from sendoff_server.settings import OutputSettings
from sendoff_server.spool import Sealed
from sendoff_server.wire.batch import encode_batch

log = logging.getLogger(__name__)

PATH = "/v1/batches"


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
            decoded = msgspec.json.decode(answer.body, type=Stored)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            words = f"{self.url} answered 200, but not as a Sendoff gateway does ({error}): is the url right?"
            return Outcome(trouble=Trouble(words, 200, answer.body[:EXCERPT_BYTES]))
        self.dedupe_s = decoded.dedupe_s
        try:
            return Outcome(read_results(decoded, batches))
        except Senseless as error:
            words = f"{self.url} contradicts itself about batch {error}"
            return Outcome(trouble=Trouble(words, 200, answer.body[:EXCERPT_BYTES]))
