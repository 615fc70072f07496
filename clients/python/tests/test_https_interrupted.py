"""Requests over HTTP, interrupted anywhere by an exception as a signal handler raises it: nothing that is sent is torn,
nothing is lost, and it goes on at once.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from clients.python.tests.interruption import EVENTS, Interruption, deliver
from clients.python.tests.web import Web
from sendoff.sending import http_body
from sendoff.sending.https import HttpsOpener
from sendoff.settings import Settings
from server.tests.delivery import certificates

FILES = ("https.py", "http_body.py", "http_answer.py", "connection.py")


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
        interruption = Interruption(FILES, after)
        channel, tally = deliver(partial(opener.open, "127.0.0.1", socket.AF_INET), interruption, after)
        opener.close(0)
        where = f"interrupted at {interruption.where}, the {after}th line"
        assert names(web, channel.client) == [f"e{event}" for event in range(2 * EVENTS)], where
        assert (channel.held.unfinished, channel.refused, tally.totals()) == (0, {}, {}), where
        if interruption.left > 0:
            break
    gc.collect()  # what was interrupted in here is not to be noticed elsewhere
    assert after > 500, "the whole way was gone"
