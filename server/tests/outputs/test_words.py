"""Errors in words that a person can act on, and nothing secret in them."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from sendoff_server.delivery import Trouble
from sendoff_server.outputs import GatewayOutput, HttpOutput, build
from sendoff_server.outputs.http import Answer, Client
from sendoff_server.outputs.words import explain, explain_status, plain_url
from sendoff_server.settings import OutputSettings
from sendoff_server.spool import Sealed
from sendoff_server.wire.batch import encode_batch
from server.tests.outputs.destination import Destination, results


@pytest.fixture
async def destination() -> AsyncIterator[Destination]:
    made = Destination()
    await made.start()
    yield made
    await made.stop()


def client(url: str, timeout: float = 2) -> Client:
    return Client(url, OutputSettings.model_validate({"type": "http", "url": url, "timeout": timeout}), 1)


async def trouble(url: str) -> str:
    one = client(url)
    try:
        answer = await one.post(b"{}")
        assert isinstance(answer, Trouble)
        assert answer.status is None
        return answer.words
    finally:
        await one.close()


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert (
            await trouble(f"http://127.0.0.1:{port}/x") == f"nothing listens at 127.0.0.1:{port} (connection refused)"
        )


async def test_a_name_that_cannot_be_resolved() -> None:
    words = await trouble("http://nowhere.invalid/x")
    assert words == "the name nowhere.invalid cannot be resolved: check it, and the name server"


async def test_https_to_a_server_that_speaks_http(destination: Destination) -> None:
    assert "does not speak TLS as it should" in await trouble(f"https://127.0.0.1:{destination.port}/hook")


async def test_http_to_a_server_that_speaks_something_else() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert "answered with something that is not HTTP" in await trouble(f"http://127.0.0.1:{port}/")


async def test_an_endless_answer_is_read_up_to_a_limit() -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    async with server:
        one = client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout=20)
        answer = await one.post(b"{}")
        await one.close()
    assert isinstance(answer, Answer)
    assert len(answer.body) == 4 * 1024 * 1024


def test_a_bad_certificate_is_named() -> None:
    key = ConnectionKey("gw.example", 443, True, True, None, None, None)
    inner = ssl.SSLCertVerificationError("x")
    inner.verify_message = "certificate has expired"
    error = aiohttp.ClientConnectorCertificateError(key, inner)
    words = explain(error, "https://gw.example/")
    assert words == "the certificate of gw.example:443 is not valid: certificate has expired"


def test_anything_else_is_still_said() -> None:
    assert "ValueError" in explain(ValueError("odd"), "http://a/")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pass@host:8443/a/b?token=1#x", "https://host:8443/a/b"),
        ("http://[::1]:8700", "http://[::1]:8700"),
        ("http://host", "http://host"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    assert plain_url(url) == shown


def test_each_status_says_what_to_do() -> None:
    url = "http://u:p@gw/v1/batches?k=1"
    said = {code: explain_status(code, "", url) for code in (401, 404, 429, 302, 500, 400)}
    assert "key" in said[401]
    assert "check the url" in said[404]
    assert "never followed" in said[302]
    assert all("p@" not in words and "k=1" not in words for words in said.values())


@pytest.mark.parametrize("url", ["http://localhost:8700", "http://localhost:8700/", "http://localhost:8700/v1/batches"])
def test_a_gateway_is_found_by_its_base_address(url: str) -> None:
    output = build("main", OutputSettings.model_validate({"url": url, "key": "sk_x"}))
    assert isinstance(output, GatewayOutput)
    assert output.url == "http://localhost:8700/v1/batches"


def test_an_http_output_posts_to_its_address_as_it_is() -> None:
    output = build("hook", OutputSettings.model_validate({"type": "http", "url": "http://localhost/in?k=1"}))
    assert isinstance(output, HttpOutput)
    assert (output.url, output.interval_ms) == ("http://localhost/in", 10_000)


async def test_configured_headers_and_the_key_are_sent(destination: Destination) -> None:
    seen: dict[str, str] = {}

    async def look(request, batches):  # type: ignore[no-untyped-def]
        seen.update(request.headers)
        return results([])

    destination.do(look)
    given = {"type": "http", "url": f"{destination.url}/hook", "key": "sk_x", "headers": {"X-Team": "shop"}}
    output = build("hook", OutputSettings.model_validate(given))
    blob = encode_batch({"batch": "ev-1", "count": 1}, [b"{}"])
    outcome = await output.send([Sealed(1, "ev-1", "events", 1, 1, 0, 2, blob)])
    await output.close()
    assert outcome.results["ev-1"].stored
    assert (seen["X-Team"], seen["Authorization"]) == ("shop", "Bearer sk_x")
    assert (seen["Idempotency-Key"], seen["Sendoff-Schema"]) == ("ev-1", "1")
    assert destination.complaints == []
