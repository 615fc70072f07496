"""HTTP outputs: the requests that all of them make, and the generic one (one batch a request, any service)."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time

import aiohttp
import msgspec

from sendoff_server.delivery.outcome import Outcome, Result, Trouble
from sendoff_server.delivery.retry import parse_retry_after
from sendoff_server.outputs.pace import CONNECT_S, Body, Pace
from sendoff_server.outputs.words import authority_of, explain, explain_late, explain_status, never_reached, plain_url
from sendoff_server.settings import OutputSettings
from sendoff_server.spool import Sealed
from sendoff_server.version import __version__
from sendoff_server.wire.batch import CONTENT_TYPE, Compression, transcode

ANSWER_BYTES = 4 * 1024 * 1024
"""As much of an answer is read. 64 batches with every line refused stay below it in any honest gateway."""
EXCERPT_BYTES = 2_048


class _Problem(msgspec.Struct):
    """What is read of ``application/problem+json``; anything else in it is left alone."""

    title: str = ""
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """POSTs bodies to one address, with every wait bounded. The session is made with the first request."""

    def __init__(self, url: str, settings: OutputSettings, lanes: int) -> None:
        self.url = url
        self._timeout_s = settings.timeout
        self._lanes = lanes
        self._headers = {
            "Content-Type": CONTENT_TYPE,
            "User-Agent": f"sendoff-agent/{__version__}",
            # Answers are small and may come from anyone: there is nothing to unpack, so there is no bomb.
            "Accept-Encoding": "identity",
            **({} if settings.compression == "identity" else {"Content-Encoding": settings.compression}),
            **settings.headers,
        }
        if settings.key is not None:
            self._headers["Authorization"] = f"Bearer {settings.key.get_secret_value()}"
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> Answer | Trouble:
        """One request; whatever prevents an answer is a ``Trouble``."""
        data = Body(body)
        pace: Pace | None = None
        try:
            async with asyncio.timeout(None) as limit:
                pace = Pace(data, self._timeout_s, limit)
                pace.start()
                async with self._ready().post(
                    self.url, data=data, headers={**self._headers, **(headers or {})}, allow_redirects=False
                ) as response:
                    pace.answer_began()
                    return Answer(response.status, response.headers, await _read(response))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            late = pace is not None and pace.limit.expired()
            words = explain_late(pace, authority_of(self.url)) if pace and late else explain(error, self.url)
            return Trouble(words, reached=late or not never_reached(error))
        finally:
            if pace:
                pace.stop()

    def trouble(self, answer: Answer) -> Trouble:
        """An answer that is no success."""
        words = explain_status(answer.status, _detail(answer), self.url)
        retry_after = parse_retry_after(answer.headers.get("Retry-After"), _their_time(answer))
        return Trouble(words, answer.status, answer.body[:EXCERPT_BYTES], retry_after)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _ready(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # One more than the lanes: the ledger goes beside them.
                connector=aiohttp.TCPConnector(limit=self._lanes + 1),
                # Everything after the connection is bounded by its pace.
                timeout=aiohttp.ClientTimeout(total=None, connect=min(CONNECT_S, self._timeout_s), sock_read=None),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def body(batches: Sequence[Sealed], compression: Compression) -> bytes:
    """The spooled blobs one after the other. Nothing is opened, unless the destination wants another compression."""
    if compression == "zstd":
        return b"".join(batch.blob for batch in batches)
    return await asyncio.to_thread(lambda: b"".join(transcode(batch.blob, compression) for batch in batches))


def weigh(batch: Sealed, compression: Compression) -> int:
    """Bytes that a batch takes in a body, at most."""
    return len(batch.blob) if compression == "zstd" else batch.decoded


class HttpOutput:
    """Any service that takes Sendoff's lines: one batch a request, every 2xx is delivered, bodies are ignored."""

    type = "http"
    max_batches = 1
    lanes = 4

    def __init__(self, name: str, settings: OutputSettings) -> None:
        self.name = name
        self.url = plain_url(settings.url)
        self.interval_ms = round(settings.interval * 1000)
        self._compression = settings.compression
        self._client = Client(settings.url, settings, self.lanes)

    def __repr__(self) -> str:
        return f"<HttpOutput {self.name} {self.url}>"

    def weigh(self, batch: Sealed) -> int:
        return weigh(batch, self._compression)

    async def send(self, batches: Sequence[Sealed]) -> Outcome:
        """Send one batch."""
        (batch,) = batches
        headers = {"Idempotency-Key": batch.id, "Sendoff-Schema": "1"}
        answer = await self._client.post(await body(batches, self._compression), headers)
        if isinstance(answer, Trouble):
            return Outcome(trouble=answer)
        if 200 <= answer.status < 300:
            return Outcome({batch.id: Result(stored=True)})
        return Outcome(trouble=self._client.trouble(answer))

    async def close(self) -> None:
        await self._client.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to a limit: beyond it nothing is read, and the connection is not used again."""
    body = bytearray()
    async for piece in response.content.iter_chunked(65_536):
        body += piece
        if len(body) > ANSWER_BYTES:
            response.close()
            break
    return bytes(body[:ANSWER_BYTES])


def _detail(answer: Answer) -> str:
    """The destination's own words: of a problem document, or the beginning of a text."""
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
        words = " – ".join(part for part in (problem.title, problem.detail, problem.remedy) if part)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        words = answer.body[:200].decode("utf-8", "replace")
    if 300 <= answer.status < 400 and "Location" in answer.headers:
        words = f"to {answer.headers['Location'].partition('?')[0]}"
    return " ".join("".join(ch if ch.isprintable() else " " for ch in words).split())[:500]


def _their_time(answer: Answer) -> float:
    """Unix time by the destination's clock, which a date in Retry-After belongs to; ours if it does not say."""
    try:
        return parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return time()
