"""Metrics by UDP, events by TCP to the same host and port."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sendoff
from clients.python.tests.peer import Peer, listen_tcp, points_of, until
from sendoff import current
from sendoff.client import Client
from sendoff.sending import routes, udp


class Datagrams:
    """A UDP socket and a TCP peer on one port."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.tcp = listen_tcp()
        self.port: int = self.tcp.listening.getsockname()[1]
        self.socket.bind(("127.0.0.1", self.port))
        self.socket.settimeout(5)

    def read(self) -> tuple[dict[str, Any], list[str], int]:
        raw = self.socket.recv(65_536)
        header, _, payload = raw.partition(b"\n")
        return json.loads(header), payload.decode().split("\n") if payload else [], len(raw)


@pytest.fixture
def agent() -> Iterator[Datagrams]:
    made = Datagrams()
    yield made
    sendoff.close(1)
    made.tcp.close()
    made.socket.close()
    assert made.tcp.complaints == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_points_come_in_datagrams_that_say_who_sent_them(agent: Datagrams, host: str) -> None:
    sendoff.init(f"udp://{host}:{agent.port}", service="shop", env="prod")
    sendoff.increment("a", 2)
    assert sendoff.flush(5)
    header, lines, _ = agent.read()
    assert lines == ["a:2|c"]
    assert (header["service"], header["env"], header["n"], header["kind"]) == ("shop", "prod", 0, "metrics")
    sendoff.increment("b")
    assert sendoff.flush(5)
    header, _, _ = agent.read()
    assert header["n"] == 1


def test_after_a_silence_the_number_of_points_is_said_again_and_then_no_more(
    agent: Datagrams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "SILENCE", 0.02)
    sendoff.init(f"udp://127.0.0.1:{agent.port}", service="shop")
    sendoff.increment("a", 2)
    assert sendoff.flush(5)
    assert agent.read()[0]["n"] == 0
    for _ in range(routes.SAYINGS):
        header, lines, _ = agent.read()
        assert (header["kind"], header["n"], header["service"], lines) == ("metrics", 1, "shop", [])
    assert isinstance(current.client, Client)
    outbox = current.client.outbox
    until(lambda: outbox.route.due_at is None and outbox._turned[0] is None, "the thread sleeps for good")
    sendoff.close()
    header, lines, _ = agent.read()
    assert (header["kind"], json.loads(lines[0])["last_n"]) == ("bye", 1)


def test_events_come_by_tcp_under_another_client_id(agent: Datagrams) -> None:
    sendoff.init(f"udp://127.0.0.1:{agent.port}")
    sendoff.increment("a")
    sendoff.event("order", n=1)
    assert sendoff.flush(5)
    header, _, _ = agent.read()
    assert agent.tcp.durable[0].client != header["client"]
    assert agent.tcp.of("metrics") == []
    sendoff.close()
    until(lambda: agent.tcp.of("bye"), "the bye")


def test_datagrams_keep_to_their_size_and_n_is_exact(agent: Datagrams) -> None:
    agent.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
    sendoff.init(f"udp://127.0.0.1:{agent.port}", service="s" * 200, env="e" * 200, release="r" * 200)
    for number in range(1_000):
        sendoff.unique("users", f"{number:0100}", tag="t" * 100)
    assert sendoff.flush(5)
    seen = 0
    while seen < 1_000:
        header, lines, size = agent.read()
        assert size <= 8_192
        assert header["n"] == seen
        seen += sum(points_of(line) for line in lines)


def test_a_line_that_fits_no_datagram_is_dropped_and_counted(agent: Datagrams) -> None:
    sendoff.init(f"udp://127.0.0.1:{agent.port}")
    sendoff.gauge("long", 1, **{f"tag{number}": "x" * 400 for number in range(60)})
    sendoff.increment("short")
    assert sendoff.flush(5)
    assert agent.read()[1] == ["short:1|c"]
    assert sendoff.stats()["dropped"] == {"metric.too_long": 1}


def test_points_that_no_agent_took_are_counted_and_reported_later() -> None:
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    sendoff.init(f"udp://127.0.0.1:{port}")
    sendoff.increment("lost", 1)
    sendoff.increment("lost", 2)
    assert sendoff.flush(5)
    assert sendoff.stats()["dropped"] == {"metric.agent_absent": 2}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", port))
        agent.settimeout(5)
        sendoff.increment("seen")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            header, _, payload = agent.recv(65_536).partition(b"\n")
            if payload:
                break
        assert payload == b"seen:1|c"
        assert json.loads(header)["dropped"] == {"metric.agent_absent": 2}
        assert json.loads(header)["n"] == 0


def test_a_name_is_not_looked_up_on_the_callers_thread(agent: Datagrams, monkeypatch: pytest.MonkeyPatch) -> None:
    import _thread

    callers: list[int] = []

    def look_up(host: str, port: int) -> list[tuple[str, int]]:
        callers.append(_thread.get_ident())
        return [("127.0.0.1", socket.AF_INET)]

    monkeypatch.setattr(udp, "look_up", look_up)
    sendoff.init(f"udp://agent.internal:{agent.port}")
    sendoff.event("x")
    sendoff.increment("a")
    until(lambda: agent.tcp.durable, "the event")
    assert agent.read()[1] == ["a:1|c"]
    assert callers
    assert _thread.get_ident() not in callers


def test_an_agent_that_comes_back_gets_the_events(agent: Datagrams) -> None:
    sendoff.init(f"udp://127.0.0.1:{agent.port}")
    sendoff.event("one")
    assert sendoff.flush(5)
    agent.tcp.close()
    sendoff.event("two")
    agent.tcp = second = listen_tcp(agent.port)
    assert isinstance(second, Peer)
    until(lambda: [got.body["name"] for got in second.durable][-1:] == ["two"], "the event")
    assert sendoff.flush(5)


def test_a_name_that_is_not_found_is_asked_for_now_and_then_and_the_thread_sleeps_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[str] = []
    turns: list[float] = []

    def look_up(host: str, port: int) -> list[tuple[str, int]]:
        looks.append(host)
        raise OSError("no such name")

    monkeypatch.setattr(udp, "look_up", look_up)
    monkeypatch.setattr(routes, "LOOK_UP_RETRY", 0.2)
    sendoff.init("udp://agent.internal:8125", linger=0)
    assert isinstance(current.client, Client)
    outbox = current.client.outbox
    turn = outbox.turn

    def counted() -> Any:
        turns.append(time.monotonic())
        return turn()

    monkeypatch.setattr(outbox, "turn", counted)
    sendoff.increment("a")
    until(lambda: len(looks) >= 4, "four looks")
    assert len(turns) < 10 * len(looks)
    assert sendoff.stats()["trouble"] == "the name agent.internal is not found: no such name"


def test_what_is_no_name_is_a_name_that_is_not_found() -> None:
    with pytest.raises(OSError, match="idna"):
        udp.look_up("agent..internal", 8125)
