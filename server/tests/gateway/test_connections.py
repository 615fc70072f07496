"""Connections that are not what they should be: slow, cut off, or no HTTP. None may hold the gateway."""

import asyncio
import contextlib
import socket
import struct
import threading

import pytest

from sendoff_server.gateway import body, ingest, server
from sendoff_server.gateway.problems import Problem

from .support import Running, batch, event


async def raw(gateway: Running, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = gateway.gateway.addresses["http"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    return reader, writer


HEAD = (
    "POST /v1/batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n"
    "Authorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"POST /v1/batches HTTP/1.1\r\nHost: a\r\nX: "])
async def test_half_a_head_is_closed_after_its_deadline(
    gateway: Running, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_DEADLINE", 0.2)
    reader, writer = await raw(gateway, begun)
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()
    assert not gateway.gateway._waiting


async def test_half_a_body_is_answered_by_408_after_its_deadline(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "BODY_DEADLINE", 0.2)
    reader, writer = await raw(gateway, HEAD.format(key=gateway.key, length=100).encode(), b"only this")
    async with asyncio.timeout(5):
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 408")
    writer.close()
    assert gateway.gateway._ingest._bodies.held == 0


async def test_a_body_that_breaks_off_stores_nothing_and_holds_nothing(gateway: Running) -> None:
    body = batch("events", [event()])
    _, writer = await raw(gateway, HEAD.format(key=gateway.key, length=len(body)).encode(), body[:-5])
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        while gateway.gateway._ingest._bodies.held:
            await asyncio.sleep(0.01)
    assert (await gateway.get("counts"))["events"] == 0


async def test_a_body_that_is_reset_is_no_fault_of_the_gateway(
    gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await raw(gateway, HEAD.format(key=gateway.key, length=100).encode(), b"only this")
    async with asyncio.timeout(5):
        while not gateway.gateway._ingest._bodies.held:
            await asyncio.sleep(0.01)
        no_linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
        writer.transport.abort()
        while gateway.gateway._ingest._bodies.held:
            await asyncio.sleep(0.01)
    assert (await gateway.get("counts"))["events"] == 0
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("nonsense", [b"\0\1\2\r\n\r\n", b"X: " + b"x" * 100_000 + b"\r\n\r\n"])
async def test_who_speaks_no_http_is_told_so_and_leaves_no_trace_in_the_log(
    gateway: Running, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        reader, writer = await raw(gateway, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + nonsense)
        async with asyncio.timeout(5):
            assert b" 400 " in await reader.readline()
            await reader.read()
        writer.close()
        await writer.wait_closed()
    (said,) = [record for record in caplog.records if "does not speak HTTP" in record.getMessage()]
    assert (said.levelname, said.exc_info) == ("INFO", None)


async def test_a_body_announced_as_too_long_is_refused_before_it_is_sent(gateway: Running) -> None:
    reader, writer = await raw(gateway, HEAD.format(key=gateway.key, length=9_000_000).encode())
    async with asyncio.timeout(5):
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    writer.close()


async def test_senders_are_asked_to_come_back_when_too_much_is_being_read(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "BYTES_HELD", 10)
    status, problem = await gateway.post(batch("events", [event()]))
    assert status == 503
    assert "busy" in problem["title"]


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01", b"HELO there\r\n\r\n", b"GET / HTTP/1.1\r\nA" * 9_000]
)
async def test_what_is_no_http_is_closed_and_the_gateway_goes_on(gateway: Running, garbage: bytes) -> None:
    reader, writer = await raw(gateway, garbage)
    writer.write_eof()
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()
    assert (await gateway.ask("/healthz"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/batches", 405), ("POST", "/v1/nothing", 404), ("DELETE", "/api/v1/shop/events", 405)],
)
async def test_addresses_and_methods_that_do_not_exist_are_problems(
    gateway: Running, method: str, path: str, status: int
) -> None:
    async with gateway.http.request(method, gateway.url + path) as answer:
        assert answer.status == status
        assert answer.content_type == "application/problem+json"
        assert (await answer.json(content_type=None))["remedy"]


async def test_an_unexpected_failure_gives_a_reference_and_no_trace(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(ingest, "check_batches", broken)
    status, problem = await gateway.post(batch("events", [event()]))
    assert status == 500
    assert "secret" not in str(problem)
    reference = problem["detail"].rpartition(" ")[2]
    assert reference in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_readiness_asks_the_store(gateway: Running) -> None:
    assert await gateway.ask("/readyz") == (200, {"status": "ready"})


async def test_who_sends_does_not_wait_for_slow_questions(gateway: Running) -> None:
    store = gateway.gateway._store
    assert store is not None
    answered = threading.Event()
    slow = [asyncio.create_task(store.readers.read(lambda db: answered.wait(10))) for _ in range(6)]
    async with asyncio.timeout(5):
        status, _ = await gateway.post(batch("events", [event()]))
    assert status == 200
    answered.set()
    await asyncio.gather(*slow)


def test_one_project_leaves_others_room_for_their_bodies() -> None:
    bodies = body.Bodies(4_194_304, "send less")
    with contextlib.ExitStack() as stack:
        while bodies.held < body.BYTES_HELD // 2:
            stack.enter_context(bodies.reserve(4_194_304, 1))
        with pytest.raises(Problem):
            stack.enter_context(bodies.reserve(4_194_304, 1))
        stack.enter_context(bodies.reserve(4_194_304, 2))
        stack.enter_context(bodies.reserve(4_194_304, 2))
    assert bodies.held == 0
