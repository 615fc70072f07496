"""The matrix of hostile destinations for a gateway over ZeroMQ: as over HTTP, each beside a healthy one."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sendoff_server.delivery import Delivery
from sendoff_server.gateway import Gateway, batch_frames, keys
from sendoff_server.outputs import GatewayOutput, build
from sendoff_server.outputs.zmq.output import ZmqGatewayOutput
from sendoff_server.settings import OutputSettings, Settings
from sendoff_server.spool import EventIn, Spool
from sendoff_server.wire.batch_frame import BatchFrame

from .router import Behaviour, Router, key_pair
from .test_delivery import real_event
from .test_hostile import (
    POINTS,
    Stage,
    dead_and_delivered,
    healed_it_gets_everything_once,
    impatient,
    it_is_said,
    the_healthy_one_gets_everything,
    until,
)

__all__ = ["impatient"]
Way = list[bytes]


class ZmqStage(Stage):
    """As `Stage`; main is sent to over ZeroMQ."""

    def renew(self) -> None:
        outputs = [build(name, settings) for name, settings in self.outputs.items()]
        for output in outputs:
            if isinstance(output, ZmqGatewayOutput):
                output._timeout_s = output._port._connect_s = 0.5
            else:
                assert isinstance(output, GatewayOutput)
                output._client._timeout_s = 0.5
        self.delivery = Delivery(self.spool, outputs, chance=random.Random(1))


async def hang(bad: Router, way: Way, frame: BatchFrame) -> None:
    await asyncio.sleep(3600)


async def break_off(bad: Router, way: Way, frame: BatchFrame) -> None:
    bad.restart_soon()
    await asyncio.sleep(3600)


async def say_garbage(bad: Router, way: Way, frame: BatchFrame) -> None:
    await bad.say(way, b"\xff<html>welcome</html>")


async def say_something_else(bad: Router, way: Way, frame: BatchFrame) -> None:
    await bad.say(way, {"ack": 5})


async def say_it_is_nested(bad: Router, way: Way, frame: BatchFrame) -> None:
    await bad.say(way, b'{"problem":' + b'{"a":' * 50_000)


async def say_other_results(bad: Router, way: Way, frame: BatchFrame) -> None:
    await bad.say(way, {"results": [{"batch": "sn-other", "status": "stored"}]})


async def say_too_much(bad: Router, way: Way, frame: BatchFrame) -> None:
    await bad.say(way, b'{"results": [' + b" " * (5 * 1024 * 1024) + b"]}")


async def store_and_lose_the_answer(bad: Router, way: Way, frame: BatchFrame) -> None:
    await bad.take(frame)


async def store_and_say_500(bad: Router, way: Way, frame: BatchFrame) -> None:
    await bad.take(frame)
    await problem(500, "it is lying")(bad, way, frame)


async def contradict(bad: Router, way: Way, frame: BatchFrame) -> None:
    await bad.take(frame)
    found = [{"batch": frame.batch, "status": status} for status in ("stored", "refused")]
    await bad.say(way, {"results": found})


def problem(code: int, detail: str = "no", **more: Any) -> Behaviour:
    async def answer(bad: Router, way: Way, frame: BatchFrame) -> None:
        said = {"type": "about:blank", "title": "", "status": code, "detail": detail, "remedy": "", "field": None}
        await bad.say(way, {"batch": frame.batch, "problem": said, **more})

    return answer


async def say_again(bad: Router, way: Way, frame: BatchFrame) -> None:
    await bad.say(way, {"again": 0})


CASES: dict[str, tuple[Behaviour, str, str]] = {
    "hangs": (hang, "took the request but did not answer within 0.5 s", "waiting"),
    "breaks off": (break_off, "broke the connection while the request was under way", "waiting"),
    "garbage": (say_garbage, "does not answer as a Sendoff gateway does", "waiting"),
    "something else": (say_something_else, "does not answer as a Sendoff gateway does", "waiting"),
    "nested": (say_it_is_nested, "does not answer as a Sendoff gateway does", "waiting"),
    "other results": (say_other_results, "says nothing about the batches that were sent", "waiting"),
    "too much": (say_too_much, "broke the connection while the request was under way", "waiting"),
    "loses its answer": (store_and_lose_the_answer, "did not answer within 0.5 s", "waiting"),
    "stores and says 500": (store_and_say_500, "has a problem of its own (500): it is lying", "waiting"),
    "contradicts itself": (contradict, "contradicts itself about batch", "waiting"),
    "429": (problem(429), "asks to be sent less (429): no", "waiting"),
    "429, 0 s": (problem(429, retry_after=0), "asks to be sent less (429): no", "waiting"),
    "again": (say_again, "asks to be sent less (429): come again later", "waiting"),
    "503": (problem(503), "has a problem of its own (503): no", "waiting"),
    "400": (problem(400), "refused the request (400): no", "parked"),
    "403": (problem(403), "does not accept the key (403): no", "parked"),
    "415": (problem(415), "refused the request (415): no", "parked"),
    "odd status": (problem(7), "has a problem of its own (500): no", "waiting"),
}


@asynccontextmanager
async def staged(spool: Spool, folder: Path, behave: Behaviour = hang) -> AsyncIterator[tuple[ZmqStage, Router]]:
    """Everything running: a gateway, its port for ZeroMQ that is ill, and its port for HTTP that is not."""
    gateway = Gateway(Settings.model_validate({"gateway": {"listen": "127.0.0.1:0", "data_dir": str(folder)}}))
    await gateway.start()
    main, hook = (keys.create(folder / "gateway", f"project-{name}") for name in ("main", "hook"))

    async def take(frame: BatchFrame) -> bytes:
        assert gateway._store is not None
        holder = await gateway._store.keys.read(keys.find, main)
        assert holder is not None
        return await batch_frames.answer(gateway._ingest, holder, frame)

    bad = Router(take, behave)
    await bad.start()
    given = {
        "main": {"url": bad.url, "key": bad.client_secret},
        "hook": {"url": f"http://{gateway.addresses['http']}", "key": hook},
    }
    made = ZmqStage(spool, gateway, {name: OutputSettings.model_validate(each) for name, each in given.items()})
    try:
        yield made, bad
    finally:
        await made.delivery.stop(0)
        await bad.stop()
        await gateway.stop(1)


@pytest.mark.parametrize(("behave", "words", "state"), CASES.values(), ids=CASES)
async def test_a_hostile_gateway_over_zeromq_costs_another_nothing_and_no_total_is_wrong(
    behave: Behaviour, words: str, state: str, spool: Spool, tmp_path: Path
) -> None:
    async with staged(spool, tmp_path, behave) as (stage, bad):
        await stage.journal()
        await stage.put(6)
        stage.delivery.start()
        await the_healthy_one_gets_everything(stage)
        await it_is_said(stage, words, state)
        assert await stage.book("main") == (0, 6, 0, POINTS)
        await stage.put(6)
        await the_healthy_one_gets_everything(stage)
        assert await stage.book("main") == (0, 12, 0, POINTS)
        assert bad.seen > 0
        bad.heal()
        await healed_it_gets_everything_once(stage)


async def test_who_is_told_to_come_again_does_so_by_another_connection(spool: Spool, tmp_path: Path) -> None:
    ways: list[bytes] = []

    async def note_and_say_again(bad: Router, way: Way, frame: BatchFrame) -> None:
        ways.append(way[0])
        await say_again(bad, way, frame)

    async with staged(spool, tmp_path, note_and_say_again) as (stage, bad):
        await stage.put(6)
        stage.delivery.start()
        async with asyncio.timeout(30):
            while len(ways) < 3:
                await asyncio.sleep(0.01)
        assert len(set(ways)) == len(ways)
        bad.heal()


async def test_a_key_that_is_refused_parks_the_output_with_the_words_of_401_until_it_is_known(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with staged(spool, tmp_path) as (stage, bad):
        bad.known.clear()
        bad.heal()
        await stage.journal()
        await stage.put(6)
        stage.delivery.start()
        await the_healthy_one_gets_everything(stage)
        await it_is_said(stage, "does not accept the key (401)", "parked")
        assert sum("is parked" in record.message for record in caplog.records) == 1
        assert await stage.book("main") == (0, 6, 0, POINTS)
        bad.known.add(bad.client_public)
        await healed_it_gets_everything_once(stage)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def say_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(64)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


OTHERS: dict[str, tuple[Serve | None, str]] = {
    "nobody": (None, "nothing listens at 127.0.0.1:{port} (connection refused)"),
    "one that says nothing": (say_nothing, "takes the connection and says nothing: is it the ZeroMQ port of a gateway"),
    "one that closes": (close_at_once, "closes every connection at once|broke the connection off"),
    "one that speaks HTTP": (say_http, "does not speak ZeroMQ: the url needs the port of gateway.zmq.listen"),
}


@pytest.mark.parametrize(("serve", "words"), OTHERS.values(), ids=OTHERS)
async def test_who_is_at_the_port_instead_of_a_gateway_is_said(
    serve: Serve | None, words: str, spool: Spool, tmp_path: Path
) -> None:
    async with staged(spool, tmp_path) as (stage, bad):
        bad.heal()
        await bad.stop()
        talks: set[asyncio.Task[None]] = set()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            talks.add(task)
            try:
                assert serve is not None
                await serve(reader, writer)
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(talk, "127.0.0.1", bad.port, reuse_address=True) if serve else None
        await stage.journal()
        await stage.put(6)
        stage.delivery.start()
        await the_healthy_one_gets_everything(stage)
        await it_is_said(stage, words.format(port=bad.port), "waiting")
        assert await stage.book("main") == (0, 6, 0, POINTS)
        if server is not None:
            server.close()
            for task in talks:
                task.cancel()
            await asyncio.gather(*talks, return_exceptions=True)
        await bad.start()
        await healed_it_gets_everything_once(stage)


async def test_a_server_key_that_is_not_the_gateways_is_named_and_nothing_is_sent_to_it(
    spool: Spool, tmp_path: Path
) -> None:
    async with staged(spool, tmp_path) as (stage, bad):
        bad.heal()
        right = stage.outputs["main"]
        wrong = right.url.partition("=")[0] + "=" + key_pair()[0]
        stage.outputs["main"] = OutputSettings(url=wrong, key=right.key)
        stage.renew()
        await stage.journal()
        await stage.put(6)
        stage.delivery.start()
        await the_healthy_one_gets_everything(stage)
        await it_is_said(stage, "does not have the key that server= in the url names", "waiting")
        assert await stage.book("main") == (0, 6, 0, POINTS)
        await stage.delivery.stop(0)
        stage.outputs["main"] = right
        stage.renew()
        stage.delivery.start()
        await healed_it_gets_everything_once(stage)


async def test_a_port_that_takes_no_connection_costs_another_nothing(spool: Spool, tmp_path: Path) -> None:
    async with staged(spool, tmp_path) as (stage, bad):
        bad.heal()
        await bad.stop()
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", bad.port))
            listening.listen(0)
            waiting = [socket.socket() for _ in range(4)]
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", bad.port))
            stage.delivery.start()
            await stage.journal()
            await stage.put(6)
            await the_healthy_one_gets_everything(stage)
            await it_is_said(stage, "does not take the connection in time", "waiting")
            for one in waiting:
                one.close()
        await bad.start()
        await healed_it_gets_everything_once(stage)


async def test_a_name_that_cannot_be_resolved_is_said(spool: Spool, tmp_path: Path) -> None:
    async with staged(spool, tmp_path) as (stage, _):
        right = stage.outputs["main"]
        url = right.url.replace("127.0.0.1", "gone.invalid")
        stage.outputs["main"] = OutputSettings(url=url, key=right.key)
        stage.renew()
        await stage.put(1)
        stage.delivery.start()
        await it_is_said(stage, "the name gone.invalid cannot be resolved: check it, and the name server", "waiting")


@pytest.mark.parametrize("code", [400, 413, 422])
async def test_one_line_that_a_gateway_refuses_over_zeromq_is_a_dead_letter_and_all_others_get_there(
    code: int, spool: Spool, tmp_path: Path
) -> None:
    async def refuse_poison(bad: Router, way: Way, frame: BatchFrame) -> None:
        if any(b'"poison"' in line for batch in decoded(frame) for line in batch.lines):
            await problem(code, "poison is not wanted")(bad, way, frame)
        else:
            await bad.say(way, await bad.take(frame))

    async with staged(spool, tmp_path, refuse_poison) as (stage, _):
        await stage.journal()
        await stage.put(3)
        events = [real_event(100 + number) for number in range(9)]
        bad_one = events[4]
        events[4] = EventIn(bad_one.line.replace(b'"sale"', b'"poison"'), bad_one.id, bad_one.source)
        await spool.put(events, [])
        await stage.put(3)
        stage.delivery.start()

        async def done() -> bool:
            settled = await dead_and_delivered(stage) == (1, 14, 0)
            return settled and await stage.counts("project-main") == (14, POINTS, 0)

        await until(done, lambda: stage.status("main"))


def decoded(frame: BatchFrame) -> list[Any]:
    from sendoff_server.wire.batch import decode_body

    return decode_body(frame.payload, frame.encoding)


async def test_a_batch_that_a_gateway_hangs_on_holds_up_no_other(spool: Spool, tmp_path: Path) -> None:
    async def hang_on_poison(bad: Router, way: Way, frame: BatchFrame) -> None:
        if any(b'"poison"' in line for batch in decoded(frame) for line in batch.lines):
            await asyncio.sleep(3600)
        await bad.say(way, await bad.take(frame))

    async with staged(spool, tmp_path, hang_on_poison) as (stage, bad):
        await stage.put(2)
        poison = real_event(50)
        await spool.put([EventIn(poison.line.replace(b'"sale"', b'"poison"'), poison.id, "shop")], [])
        await stage.put(6)
        stage.delivery.start()

        async def all_but_one() -> bool:
            return await dead_and_delivered(stage) == (0, 8, 1)

        await until(all_but_one, lambda: stage.status("main"))
        bad.heal()

        async def all_of_them() -> bool:
            return await dead_and_delivered(stage) == (0, 9, 0)

        await until(all_of_them, lambda: stage.status("main"))
        assert (await stage.counts("project-main"))[0] == 9


async def test_the_books_get_there_as_well(spool: Spool, tmp_path: Path) -> None:
    async with staged(spool, tmp_path) as (stage, bad):
        bad.heal()
        await stage.put(1)
        stage.delivery.start()

        async def done() -> bool:
            return await dead_and_delivered(stage) == (0, 1, 0)

        await until(done, lambda: stage.status("main"))
        await stage.delivery.send_ledger()
        (output,) = (each.output for each in stage.delivery._workers if each.output.name == "main")
        assert isinstance(output, ZmqGatewayOutput)
        assert output.dedupe_s == 90 * 86_400
        assert stage.gateway._store is not None
        found = await stage.gateway._store.keys.read(lambda db: list(db.execute("SELECT count(*) FROM ledgers")))
        assert found == [(2,)]
