"""Connections to a gateway's ZeroMQ port: each stage has its limit, none leaves anything behind."""

import asyncio
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from sendoff_server.delivery import Trouble
from sendoff_server.doctor.zmq import examine
from sendoff_server.outputs.zmq.line import Heard
from sendoff_server.outputs.zmq.output import FRAME_BYTES, _grouped
from sendoff_server.outputs.zmq.port import Port
from sendoff_server.settings import OutputSettings
from sendoff_server.wire.batch_frame import BatchFrame, encode_batch_frame
from server.tests.delivery.router import Behaviour, Router

LARGE = os.urandom(7 * 1024 * 1024)


async def stored(frame: BatchFrame) -> bytes:
    return b'{"results":[]}'


async def hang(router: Router, way: list[bytes], frame: BatchFrame) -> None:
    await asyncio.sleep(3600)


@asynccontextmanager
async def asking(timeout: float = 5.0, behave: Behaviour | None = None) -> AsyncIterator[tuple[Router, Port]]:
    """A gateway's port, and ours to it."""
    router = Router(stored, behave or hang)
    router.ill = behave is not None
    await router.start()
    port = Port(
        OutputSettings.model_validate({"url": router.url, "key": router.client_secret, "timeout": timeout}), most=64
    )
    try:
        yield router, port
    finally:
        await port.close()
        await router.stop()


async def ask(port: Port, *payloads: bytes, timeout: float = 5.0) -> Trouble | None:
    left = len(payloads)

    def take(answer: bytes) -> Heard:
        nonlocal left
        left -= 1
        return Heard.MORE if left else Heard.ALL

    frames = [encode_batch_frame("c" * 32, f"b-{number}", "zstd", each) for number, each in enumerate(payloads)]
    async with asyncio.timeout(60):
        return await port.ask(frames, timeout, take)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_one_connection_serves_one_request_after_the_other() -> None:
    async with asking() as (_, port):
        for _ in range(20):
            assert await ask(port, b"x", b"y", b"z") is None
        assert len(port._open) == 1


async def test_answers_that_nobody_waits_for_any_more_are_not_taken_for_those_of_the_next_request() -> None:
    async def later(router: Router, way: list[bytes], frame: BatchFrame) -> None:
        await asyncio.sleep(0.0 if frame.batch == "b-0" else 0.2)
        await router.say(way, frame.payload)

    async with asking(behave=later) as (_, port):
        heard: list[bytes] = []

        def take(answer: bytes) -> Heard:
            heard.append(answer)
            return Heard.OVER

        frames = [encode_batch_frame("c" * 32, f"b-{n}", "zstd", b"%d" % n) for n in range(3)]
        assert await port.ask(frames, 5.0, take) is None
        assert await port.ask([encode_batch_frame("c" * 32, "b-7", "zstd", b"7")], 5.0, take) is None
        assert heard == [b"0", b"7"]


async def test_the_doctor_does_not_take_a_gateway_that_is_busy_for_none() -> None:
    async def again(router: Router, way: list[bytes], frame: BatchFrame) -> None:
        await router.say(way, {"again": 3})

    async with asking(behave=again) as (router, _):
        settings = OutputSettings.model_validate({"url": router.url, "key": router.client_secret})
        (fault,) = await examine("main", settings, 5.0)
    assert fault.code == "destination_failing"
    assert "takes no batches now (come again later)" in fault.words


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_request_of_many_batches_is_answered_on_every_loop(runner: Callable[..., None]) -> None:
    async def whole() -> None:
        async with asking() as (_, port):
            assert await ask(port, LARGE, *[os.urandom(1_000)] * 63) is None
            assert await ask(port, b"after it") is None

    runner(whole())


async def test_one_that_does_not_read_is_given_up_once_nothing_more_gets_there() -> None:
    async with asking() as (router, port), relayed(router, port) as stop_reading:
        assert await ask(port, b"x") is None
        stop_reading.set()
        began = time.monotonic()
        found = await ask(port, LARGE, LARGE, timeout=1.0)
        assert isinstance(found, Trouble)
        assert "bytes of the request, and then nothing more for 1 s" in found.words
        assert found.reached
        assert time.monotonic() - began < 10
        assert not port._open


@asynccontextmanager
async def relayed(router: Router, port: Port) -> AsyncIterator[asyncio.Event]:
    """Something in between, with small buffers, that reads no more when it is told so: as a stopped gateway would."""
    stopped = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stop: asyncio.Event) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
            if stop.is_set():
                reader._transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.sleep(3600)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", router.port)
        writers.extend((writer, behind[1]))
        ways = (pass_on(reader, behind[1], stopped), pass_on(behind[0], writer, asyncio.Event()))
        tasks.update(asyncio.create_task(each) for each in ways)

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    listening.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(serve, sock=listening)
    port._port = listening.getsockname()[1]
    try:
        yield stopped
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def test_one_that_does_not_answer_is_given_up_after_its_own_limit() -> None:
    async with asking(behave=hang) as (_, port):
        began = time.monotonic()
        found = await ask(port, b"x", timeout=0.5)
        assert isinstance(found, Trouble)
        assert "took the request but did not answer within 0.5 s" in found.words
        assert 0.4 < time.monotonic() - began < 5


async def test_connections_that_break_leave_no_descriptor_behind() -> None:
    async with asking(timeout=1.0) as (router, port):
        assert await ask(port, b"x") is None
        before = descriptors()
        for _ in range(20):
            router.known.clear()
            port._let_go(port._idle.pop())
            found = await ask(port, b"x")
            assert isinstance(found, Trouble)
            assert found.status == 401
            router.known.add(router.client_public)
            assert await ask(port, b"x") is None
        # What libzmq still clears away takes a moment.
        async with asyncio.timeout(10):
            while descriptors() > before + 3:
                await asyncio.sleep(0.01)


async def test_a_request_that_is_cancelled_ends_its_connection_and_the_next_one_gets_another() -> None:
    async with asking(behave=hang) as (router, port):
        asked = asyncio.create_task(ask(port, b"x"))
        while not router.seen:
            await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert not port._open
        router.heal()
        assert await ask(port, b"x") is None


async def test_closing_takes_no_time_whatever_is_under_way() -> None:
    async with asking(behave=hang) as (router, port):
        asked = asyncio.create_task(ask(port, LARGE))
        while not router.seen:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        asked.cancel()
        await port.close()
        assert time.monotonic() - began < 1
        await asyncio.gather(asked, return_exceptions=True)


async def test_without_descriptors_it_is_said_and_the_process_lives() -> None:
    """libzmq would end it."""
    async with asking() as (_, port):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1_000, hard))
        taken = []
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            for _ in range(10):
                os.close(taken.pop())
            found = await ask(port, b"x")
        finally:
            for each in taken:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert isinstance(found, Trouble)
        assert "no descriptors left" in found.words
        assert await ask(port, b"x") is None


@pytest.mark.parametrize(
    ("sizes", "frames"),
    [
        ([10], [1]),
        ([10] * 64, [64]),
        ([FRAME_BYTES, 1], [1, 1]),
        ([FRAME_BYTES - 1, 1, 1], [2, 1]),
        ([1, 3 * FRAME_BYTES, 1], [1, 1, 1]),
        ([FRAME_BYTES // 2] * 5, [2, 2, 1]),
    ],
)
def test_batches_share_frames_that_a_slow_line_bears_and_keep_their_order(sizes: list[int], frames: list[int]) -> None:
    found = _grouped(sizes)
    assert [part.stop - part.start for part in found] == frames
    assert [at for part in found for at in range(len(sizes))[part]] == list(range(len(sizes)))
