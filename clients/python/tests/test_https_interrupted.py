"""Requests over HTTP, interrupted anywhere by an exception as a signal handler raises it: nothing that is sent is torn,
nothing is lost, and it goes on at once.
"""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from clients.python.tests.web import Web
from sendoff.sending import http_body
from sendoff.sending.buffer import Waiting
from sendoff.sending.channel import Channel
from sendoff.sending.https import HttpsOpener
from sendoff.settings import Settings
from sendoff.tally import Tally
from server.tests.delivery import certificates

FILES = ("https.py", "http_body.py", "http_answer.py", "connection.py")
EVENTS = 6
"""In each of two requests."""
SECONDS = 5.0


class Interrupted(BaseException):
    """What the handler raises."""


class Interruption:
    """Raises `Interrupted` at the line of FILES that is the `after`th to be reached, once."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.where = ""

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(FILES):
            return None
        if event == "line":
            self.left -= 1
            if not self.left:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise Interrupted
        return self._trace

    def turn(self, channel: Channel, waiting: Waiting) -> None:
        """What the holder of the client's lock does."""
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            now = time.monotonic()
            channel.pump(now, 0, waiting, 100)
            channel.receive(now)
        except Interrupted:
            pass
        finally:
            sys.settrace(before)


def deliver(web: Web, opener: HttpsOpener, interruption: Interruption, number: int) -> tuple[Channel, Tally]:
    """Two requests; gives up after SECONDS."""
    tally = Tally()
    channel = Channel(
        lambda: opener.open("127.0.0.1", socket.AF_INET),
        f"{number:032x}",
        {"service": "shop"},
        1,
        tally,
        random.random,
        longest_wait=0.01,
        patient=True,
        keeps_points=True,
    )
    waiting, end = Waiting(), time.monotonic() + SECONDS
    for event in range(2 * EVENTS):
        payload = b'{"name":"e%d","fields":{"text":"%s"}}' % (event, random.randbytes(300).hex().encode())
        channel.add("event", f"{number:018x}{event:018x}", 1, payload, None)
        while event % EVENTS == EVENTS - 1 and channel.held.unfinished and time.monotonic() < end:
            interruption.turn(channel, waiting)
            time.sleep(0.0002)
    if channel.stream is not None:
        channel.stream.close()
    opener.close(0)
    return channel, tally


def names(web: Web, client: str) -> list[str]:
    """Of its events that came. A request that was torn may be read while the next client is at work."""
    with web.taking:
        mine = [got for got in web.got if got.client == client]
        web.got.clear()
    return list({got.header["id"]: got.body["name"] for got in mine if got.kind == "event"}.values())


@pytest.fixture(params=["http", "https"])
def web(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(http_body, "AT_ONCE", 1_000)  # so that a body is packed in several pieces
    context = None
    if request.param == "https":
        certificates.make_ca(tmp_path)
        certificates.make_server(tmp_path, "good", host="IP:127.0.0.1")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        context = certificates.context(tmp_path / "good.pem", tmp_path / "good.key")
    made = Web(context)
    yield made
    made.close()
    assert made.complaints == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a socket is closed with its object
def test_an_exception_from_a_signal_handler_anywhere_tears_nothing_and_holds_nothing_up(web: Web) -> None:
    scheme, step = ("http", 3) if web.context is None else ("https", 23)
    address = Settings({"address": f"{scheme}://{web.key}@127.0.0.1:{web.port}"}, {}).address
    for after in range(1, 10_000, step):
        opener = HttpsOpener(address)
        opener.prepare()
        interruption = Interruption(after)
        channel, tally = deliver(web, opener, interruption, after)
        where = f"interrupted at {interruption.where}, the {after}th line"
        assert names(web, channel.client) == [f"e{event}" for event in range(2 * EVENTS)], where
        assert (channel.held.unfinished, channel.refused, tally.totals()) == (0, {}, {}), where
        if interruption.left > 0:
            break
    assert after > 500, "the whole way was gone"
