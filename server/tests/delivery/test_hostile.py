"""Destinations that do what none should, each beside a healthy one: real sockets, a real spool, a real gateway.

For each: the healthy output gets everything at once, what is wrong is said, nothing is given up; and once the bad one
is healed every total is right at both, with the gateway's own count of repeats as witness.
"""

import asyncio
import os
import random
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.delivery import Delivery
from sendoff_server.gateway import Gateway, keys
from sendoff_server.outputs import GatewayOutput, build
from sendoff_server.settings import OutputSettings, Settings
from sendoff_server.spool import EventIn, Spool

from .certificates import make_ca, make_self_signed, make_server
from .hostile import Behaviour, Connection, Hostile
from .test_delivery import real_event

POINTS = 5


async def hang(one: Connection) -> None:
    await one.request()
    await asyncio.sleep(3600)


async def hang_after_the_head(one: Connection) -> None:
    await one.head()
    await asyncio.sleep(3600)


async def never_read(one: Connection) -> None:
    one.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(3600)


async def reset_in_the_body(one: Connection) -> None:
    await one.head()
    await one.reader.readexactly(1_000)
    one.reset()
    raise ConnectionError


async def reset_in_the_answer(one: Connection) -> None:
    await one.request()
    await one.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    await asyncio.sleep(0.05)
    one.reset()
    raise ConnectionError


async def drip(one: Connection) -> None:
    await one.request()
    await one.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    await one.drip(b" " * 100_000)


async def drip_the_head(one: Connection) -> None:
    await one.request()
    await one.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000)


async def say_garbage(one: Connection) -> None:
    await one.request()
    await one.answer("200 OK", b"<html>welcome</html>")


async def say_half_of_it(one: Connection) -> None:
    await one.request()
    await one.say(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"results": [')
    raise ConnectionError


async def say_other_results(one: Connection) -> None:
    await one.request()
    await one.answer("200 OK", b'{"results": [{"batch": "sn-other", "status": "stored"}]}')


async def say_too_much(one: Connection) -> None:
    await one.request()
    await one.answer("200 OK", b'{"results": [' + b" " * (5 * 1024 * 1024) + b"]}")


async def redirect(one: Connection) -> None:
    await one.request()
    await one.answer("302 Found", more="Location: http://127.0.0.1:1/secret?token=x\r\n")


async def close_early(one: Connection) -> None:
    await one.head()
    raise ConnectionError


async def close_at_once(one: Connection) -> None:
    raise ConnectionError


async def answer_before_the_body(one: Connection) -> None:
    await one.head()
    await one.answer("503 Busy", b"later", more="Connection: close\r\n")
    await asyncio.sleep(0.5)
    raise ConnectionError


async def say_continue(one: Connection) -> None:
    await one.request()
    while True:
        await one.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.1)


async def say_no_http(one: Connection) -> None:
    await one.request()
    await one.say(b"hello, this is a service of another kind\r\n\r\n")
    raise ConnectionError


async def say_400_to_anything(one: Connection) -> None:
    await one.reader.readexactly(1)
    await one.answer("400 Bad Request")
    raise ConnectionError


async def store_and_lose_the_answer(one: Connection) -> None:
    await one.bad.forward(await one.request())
    raise ConnectionError


async def store_and_say_500(one: Connection) -> None:
    await one.bad.forward(await one.request())
    await one.answer("500 No", b"it is lying")


async def store_and_answer_others_first(one: Connection) -> None:
    """Stores, and then contradicts itself."""
    request = await one.request()
    await one.bad.forward(request)
    found = [{"batch": name, "status": status} for name in request.ids for status in ("stored", "refused")]
    await one.answer("200 OK", msgspec.json.encode({"results": found}))


def status(code: int, more: str = "") -> Behaviour:
    async def answer(one: Connection) -> None:
        await one.request()
        await one.answer(f"{code} No", b"no", more)

    return answer


CASES: dict[str, tuple[Behaviour, str, str]] = {
    "hangs": (hang, "took the request but did not answer within 0.5 s", "waiting"),
    "hangs after the head": (hang_after_the_head, "did not answer within 0.5 s", "waiting"),
    "never reads": (never_read, "within 0.5 s|nothing more for 0.5 s", "waiting"),
    "resets in the body": (reset_in_the_body, "broke the connection|without an answer", "waiting"),
    "resets in the answer": (reset_in_the_answer, "in the middle of its answer|broke the connection", "waiting"),
    "drips": (drip, "began to answer but did not come to an end within 0.5 s", "waiting"),
    "drips the head": (drip_the_head, "did not answer within 0.5 s", "waiting"),
    "garbage": (say_garbage, "answered 200, but not as a Sendoff gateway does", "waiting"),
    "cut short": (say_half_of_it, "in the middle of its answer", "waiting"),
    "other results": (say_other_results, "the answer says nothing about the batches", "waiting"),
    "too much": (say_too_much, "answered 200, but not as a Sendoff gateway does", "waiting"),
    "redirects": (redirect, "redirects (302), which is never followed", "parked"),
    "closes early": (close_early, "broke the connection|without an answer", "waiting"),
    "closes at once": (close_at_once, "broke the connection|without an answer", "waiting"),
    "answers early": (answer_before_the_body, "has a problem of its own (503): later", "waiting"),
    "100 Continue": (say_continue, "did not answer within 0.5 s", "waiting"),
    "no HTTP": (say_no_http, "answered with something that is not HTTP", "waiting"),
    "loses its answer": (store_and_lose_the_answer, "closed the connection without an answer", "waiting"),
    "stores and says 500": (store_and_say_500, "has a problem of its own (500): it is lying", "waiting"),
    "contradicts itself": (store_and_answer_others_first, "contradicts itself about batch", "waiting"),
    "429": (status(429), "asks to be sent less (429): no", "waiting"),
    "429, 0 s": (status(429, "Retry-After: 0\r\n"), "asks to be sent less (429)", "waiting"),
    "503": (status(503), "has a problem of its own (503): no", "waiting"),
    "400": (status(400), "refused the request (400): no", "parked"),
    "401": (status(401), "does not accept the key (401): no", "parked"),
    "403": (status(403), "does not accept the key (403): no", "parked"),
    "404": (status(404), "(404): check the url", "parked"),
}


@dataclass
class Stage:
    """A spool that delivers to a bad destination (main) and a healthy one (hook), which are one gateway's projects."""

    spool: Spool
    gateway: Gateway
    outputs: dict[str, OutputSettings]
    events: int = 0

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """What a restart forgets."""
        outputs = [build(name, settings) for name, settings in self.outputs.items()]
        for output in outputs:
            assert isinstance(output, GatewayOutput)
            output._client._timeout_s = 0.5
        self.delivery = Delivery(self.spool, outputs, chance=random.Random(1))

    async def put(self, n: int) -> None:
        """Events of their own batch each, of 20 KB."""
        for _ in range(n):
            self.events += 1
            small = real_event(self.events)
            line = msgspec.json.decode(small.line)
            line["fields"] = {"filling": b64encode(os.urandom(15_000)).decode()}
            await self.spool.put([EventIn(msgspec.json.encode(line), small.id, "shop")], [])
        self.delivery.wake()

    async def journal(self) -> None:
        core = make_core(Limits(), (), (self.spool.epoch, 1))
        core.feed(b"sold:2|c\nlatency:12:15|ms|#page:cart\nusers:u1|s\ntemp:20|g", "shop", [], 1_000_000)
        await self.spool.journal(core.rotate(1_005_000))

    async def book(self, output: str) -> tuple[int, int, int, int]:
        """Delivered and pending events, delivered and pending points. The books balance, nothing is lost or dead."""
        books = await self.spool.books()
        assert books.balance() == []
        (events,) = (book for book in books.events if book.output == output)
        (points,) = (book for book in books.points_out if book.output == output)
        assert (events.dead, points.dead, events.lost, points.lost) == (0, 0, {}, {})
        return events.delivered, events.pending, points.delivered, points.pending

    def status(self, output: str) -> dict[str, Any]:
        (found,) = (one for one in self.delivery.status() if one["name"] == output)
        return found

    async def counts(self, project: str) -> tuple[int, int, int]:
        """Events and points that the gateway has of a project, and conflicts it saw."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.gateway.addresses['http']}/api/v1/{project}/counts") as answer,
        ):
            found = await answer.json()
        return found["events"], found["points"], found["conflicts"]


async def until(condition: Callable[[], Awaitable[bool]], what: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(30):
            while not await condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(what()) from None


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test can wait for."""
    for name, seconds in {"BASE_S": 0.02, "CEILING_S": 0.2, "PROBE_BASE_S": 0.1, "PROBE_CEILING_S": 0.3}.items():
        monkeypatch.setattr(f"sendoff_server.delivery.retry.{name}", seconds)


@asynccontextmanager
async def staged(
    spool: Spool, folder: Path, bad_url: str | None, behave: Behaviour = hang
) -> AsyncIterator[tuple[Stage, Hostile]]:
    """Everything running; ``bad_url`` may hold ``{port}``."""
    given = {"gateway": {"listen": "127.0.0.1:0", "data_dir": str(folder)}}
    gateway = Gateway(Settings.model_validate(given))
    await gateway.start()
    address = gateway.addresses["http"]
    bad = Hostile(address, behave)
    await bad.start()
    try:
        urls = {"main": (bad_url or "http://127.0.0.1:{port}").format(port=bad.port), "hook": f"http://{address}"}
        made = Stage(
            spool,
            gateway,
            {
                name: OutputSettings.model_validate(
                    {"url": url, "key": keys.create(folder / "gateway", f"project-{name}"), "allow_plaintext": True}
                )
                for name, url in urls.items()
            },
        )
        try:
            yield made, bad
        finally:
            await made.delivery.stop(0)
    finally:
        await bad.stop()
        await gateway.stop(1)


async def the_healthy_one_gets_everything(stage: Stage) -> None:
    async def done() -> bool:
        return await stage.book("hook") == (stage.events, 0, POINTS, 0)

    await until(done, lambda: stage.delivery.status())
    assert await stage.counts("project-hook") == (stage.events, POINTS, 0)


async def it_is_said(stage: Stage, words: str, state: str) -> None:
    async def said() -> bool:
        found = stage.status("main")
        return found["state"] == state and any(word in found["last_error"] for word in words.split("|"))

    await until(said, lambda: stage.status("main"))


async def healed_it_gets_everything_once(stage: Stage) -> None:
    async def done() -> bool:
        return await stage.book("main") == (stage.events, 0, POINTS, 0)

    await until(done, lambda: stage.status("main"))
    assert await stage.counts("project-main") == (stage.events, POINTS, 0)
    await until(flowing(stage), lambda: stage.status("main"))


def flowing(stage: Stage) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return bool(stage.status("main")["state"] == "flowing" and stage.status("main")["shelved"] == 0)

    return check


@pytest.mark.parametrize(("behave", "words", "state"), CASES.values(), ids=CASES)
async def test_a_hostile_destination_costs_another_nothing_and_no_total_is_wrong(
    behave: Behaviour, words: str, state: str, spool: Spool, tmp_path: Path
) -> None:
    async with staged(spool, tmp_path, None, behave) as (stage, bad):
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


async def test_a_destination_that_takes_no_connection_costs_another_nothing(spool: Spool, tmp_path: Path) -> None:
    async with staged(spool, tmp_path, None) as (stage, bad):
        await bad.stop()
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", bad.port))
            listening.listen(0)
            waiting = [socket.socket() for _ in range(4)]
            for one in waiting:  # fills the line of those who wait to be accepted
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", bad.port))
            stage.delivery.start()
            await stage.journal()
            await stage.put(6)
            await the_healthy_one_gets_everything(stage)
            await it_is_said(stage, "does not take the connection in time", "waiting")
            assert await stage.book("main") == (0, 6, 0, POINTS)
            for one in waiting:
                one.close()
        await it_is_said(stage, "nothing listens at", "waiting")
        await bad.start()
        bad.heal()
        await healed_it_gets_everything_once(stage)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate authority that this process trusts."""
    folder = tmp_path_factory.mktemp("tls")
    trusting = aiohttp.connector._SSL_CONTEXT_VERIFIED
    assert isinstance(trusting, ssl.SSLContext)
    trusting.load_verify_locations(make_ca(folder))
    return folder


TLS: dict[str, tuple[Callable[[Path], ssl.SSLContext | None], str]] = {
    "expired": (
        lambda folder: make_server(folder, "old", days="-days -1"),
        "the certificate of localhost:{port} is not valid: certificate has expired",
    ),
    "self-signed": (make_self_signed, "the certificate of localhost:{port} is not valid: self-signed certificate"),
    "of another name": (
        lambda folder: make_server(folder, "other", host="DNS:elsewhere.example"),
        "the certificate of localhost:{port} is not valid: Hostname mismatch",
    ),
    "none, it speaks HTTP": (lambda folder: None, "localhost:{port} does not speak TLS as it should: is it http://"),
}


@pytest.mark.parametrize(("make", "words"), TLS.values(), ids=TLS)
async def test_a_certificate_that_is_not_valid_costs_another_nothing_and_is_said(
    make: Callable[[Path], ssl.SSLContext | None], words: str, authority: Path, spool: Spool, tmp_path: Path
) -> None:
    async with staged(spool, tmp_path, "https://localhost:{port}", say_400_to_anything) as (stage, bad):
        await bad.restart(make(authority))
        await stage.journal()
        await stage.put(6)
        stage.delivery.start()
        await the_healthy_one_gets_everything(stage)
        await it_is_said(stage, words.format(port=bad.port), "waiting")
        assert await stage.book("main") == (0, 6, 0, POINTS)
        bad.heal()
        await bad.restart(make_server(authority, "good"))
        await healed_it_gets_everything_once(stage)


async def test_a_name_that_cannot_be_resolved_costs_another_nothing_and_is_said(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(spool, tmp_path, "http://gone.invalid:{port}") as (stage, bad):
        await stage.journal()
        await stage.put(6)
        stage.delivery.start()
        await the_healthy_one_gets_everything(stage)
        await it_is_said(stage, "the name gone.invalid cannot be resolved: check it, and the name server", "waiting")
        assert await stage.book("main") == (0, 6, 0, POINTS)
        bad.heal()
        resolve = socket.getaddrinfo

        def now_known(host: Any, *rest: Any, **more: Any) -> Any:
            return resolve("127.0.0.1" if host == "gone.invalid" else host, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", now_known)
        await healed_it_gets_everything_once(stage)


async def dead_and_delivered(stage: Stage) -> tuple[int, int, int]:
    """Dead, delivered and pending events of the bad one."""
    books = await stage.spool.books()
    assert books.balance() == []
    (book,) = (book for book in books.events if book.output == "main")
    return book.dead, book.delivered, book.pending


@pytest.mark.parametrize("code", [400, 413, 422])
async def test_one_line_that_a_destination_refuses_is_a_dead_letter_and_all_others_get_there(
    code: int, spool: Spool, tmp_path: Path
) -> None:
    async def refuse_poison(one: Connection) -> None:
        request = await one.request()
        if any(b'"poison"' in line for batch in request.batches for line in batch.lines):
            await one.answer(f"{code} No", b"poison is not wanted")
        else:
            await one.say(await one.bad.forward(request))

    async with staged(spool, tmp_path, None, refuse_poison) as (stage, _):
        await stage.journal()
        await stage.put(3)
        events = [real_event(100 + number) for number in range(9)]
        bad = events[4]
        events[4] = EventIn(bad.line.replace(b'"sale"', b'"poison"'), bad.id, bad.source)
        await spool.put(events, [])
        await stage.put(3)
        stage.delivery.start()

        async def done() -> bool:
            # The events may be there before the metrics: they go in lanes of their own.
            settled = await dead_and_delivered(stage) == (1, 14, 0)
            return settled and await stage.counts("project-main") == (14, POINTS, 0)

        await until(done, lambda: stage.status("main"))
        (letter,) = (await spool.stats())["dead_letters"]
        assert (letter["status"], letter["lines"], letter["excerpt"]) == (code, 1, "poison is not wanted")
        assert letter["at"] > 0


async def test_bodies_over_a_size_are_split_until_they_fit_and_one_event_that_never_does_is_a_dead_letter(
    spool: Spool, tmp_path: Path
) -> None:
    async def take_small_ones(one: Connection) -> None:
        request = await one.request()
        if len(request.body) > 30_000:
            await one.answer("413 Too Large", b"at most 30,000 bytes")
        else:
            await one.say(await one.bad.forward(request))

    async with staged(spool, tmp_path, None, take_small_ones) as (stage, _):
        await stage.journal()
        await stage.put(6)
        large = msgspec.json.decode(real_event(100).line)
        large["fields"] = {"filling": b64encode(os.urandom(60_000)).decode()}
        await spool.put(
            [EventIn(msgspec.json.encode(large), large["id"], "shop"), *map(real_event, range(101, 109))], []
        )
        stage.delivery.start()

        async def done() -> bool:
            # The events may be there before the metrics: they go in lanes of their own.
            settled = await dead_and_delivered(stage) == (1, 14, 0)
            return settled and await stage.counts("project-main") == (14, POINTS, 0)

        await until(done, lambda: stage.status("main"))


@pytest.mark.parametrize("code", [401, 400])
async def test_a_parked_output_is_parked_again_after_a_restart_and_nothing_is_shredded(
    code: int, spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with staged(spool, tmp_path, None, status(code)) as (stage, bad):
        await stage.journal()
        await stage.put(6)
        for run in (1, 2, 3):
            stage.delivery.start()
            await the_healthy_one_gets_everything(stage)
            await it_is_said(stage, f"({code})", "parked")
            assert sum("is parked" in record.message for record in caplog.records) == run, "once a run, as an error"
            await stage.delivery.stop(0)
            assert await stage.book("main") == (0, 6, 0, POINTS)
            stage.renew()
        assert sum(one["splits"] for one in stage.delivery.status()) == 0
        stage.delivery.start()
        bad.heal()
        await healed_it_gets_everything_once(stage)
