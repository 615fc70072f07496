"""Each stage of a request has its own limit: real sockets that stall at one stage, and what is said about it."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from sendoff_server.delivery import Trouble
from sendoff_server.outputs.http import Answer, Client
from sendoff_server.settings import OutputSettings

LARGE = os.urandom(8 * 1024 * 1024)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Stream = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(talk: Stream, buffer: int = 65_536) -> AsyncIterator[str]:
    """An address at which every connection is handled by ``talk``, with a small receive buffer."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    listening.bind(("127.0.0.1", 0))
    talks: set[asyncio.Task[None]] = set()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(begin, sock=listening, limit=65_536)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/in"
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def post(url: str, body: bytes, timeout: float) -> Answer | Trouble:
    client = Client(url, OutputSettings.model_validate({"type": "http", "url": url, "timeout": timeout}), 1)
    try:
        async with asyncio.timeout(60):
            return await client.post(body)
    finally:
        await client.close()


def words(found: Answer | Trouble) -> str:
    assert isinstance(found, Trouble), "it was no trouble"
    return found.words


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(3600)


async def read_all(reader: asyncio.StreamReader) -> int:
    """Read one request: how long its body was."""
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    size = int(length.partition(b":")[2])
    await reader.readexactly(size)
    return size


async def test_one_that_never_reads_is_given_up_once_nothing_more_gets_there() -> None:
    async with serving(hang) as url:
        found = await post(url, LARGE, 1)
    assert "of 8,388,608 bytes of the request, and then nothing more for 1 s" in words(found)
    assert isinstance(found, Trouble)
    assert found.reached


async def test_one_that_reads_slowly_gets_all_of_it_however_long_that_takes() -> None:
    began = time.monotonic()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        left = len(LARGE)
        while left:
            left -= len(await reader.readexactly(min(left, 262_144)))
            await asyncio.sleep(0.1)
        writer.write(OK)
        await writer.drain()

    async with serving(slowly) as url:
        found = await post(url, LARGE, 1)
    assert isinstance(found, Answer), found
    assert time.monotonic() - began > 2, "or this shows nothing"


async def test_one_that_reads_a_few_bytes_at_a_time_is_given_up() -> None:
    """It would hold a lane for a week."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        while True:
            with suppress(BlockingIOError):
                os.read(writer.get_extra_info("socket").fileno(), 2_048)
            await asyncio.sleep(0.05)

    async with serving(drip, buffer=16_384) as url:
        said = words(await post(url, LARGE, 1))
    assert "of 8,388,608 bytes of the request, and then less than 64 KiB in 1 s" in said


async def test_one_that_reads_everything_and_never_answers_is_given_up() -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_all(reader)
        await asyncio.sleep(3600)

    async with serving(take) as url:
        assert words(await post(url, LARGE, 1)).endswith("took the request but did not answer within 1 s")


@pytest.mark.parametrize(
    "beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_an_answer_that_drips_cannot_stretch_its_limit(beginning: bytes) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_all(reader)
        writer.write(beginning)
        endless = beginning if b"100 Continue" in beginning else b"HTTP/1.1 200 OK\r\nX-A: " if not beginning else b""
        for byte in endless + b"x" * 100_000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    began = time.monotonic()
    async with serving(drip) as url:
        said = words(await post(url, b"{}", 1))
    assert "within 1 s" in said
    assert time.monotonic() - began < 20
    assert ("began to answer" in said) == (b"200" in beginning)


async def test_an_answer_that_comes_before_the_body_was_read_is_taken() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        await writer.drain()
        await asyncio.sleep(3600)

    async with serving(refuse) as url:
        found = await post(url, LARGE, 1)
    assert isinstance(found, Answer), found
    assert (found.status, found.body) == (413, b"big")


async def test_one_that_does_not_take_the_connection_is_given_up() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = []
        try:
            for _ in range(4):  # fills the line of those who wait to be accepted
                waiting.append(one := socket.socket())
                one.setblocking(False)
                one.connect_ex(address)
            found = await post(f"http://127.0.0.1:{address[1]}/", b"{}", 1)
        finally:
            for one in waiting:
                one.close()
    assert "does not take the connection in time" in words(found)
    assert isinstance(found, Trouble)
    assert not found.reached
