"""The Nth call of the system fails, once or for ever, for each N: nothing raises, nothing is lost uncounted, and
everything arrives when the fault ends. Real sockets, but for the one call that fails.
"""

from __future__ import annotations

import _socket
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sendoff
from clients.python.tests.peer import Peer, listening, until
from clients.python.tests.test_udp import Datagrams
from sendoff import current
from sendoff.client import Client
from sendoff.sending import stream, udp, unix, worker

EVENTS, POINTS = 4, 20
ENOUGH = 30.0
CALLS = [
    ("connect", ["ECONNREFUSED", "EAGAIN", "EINTR", "ENOENT", "EACCES"]),
    ("send", ["EAGAIN", "EPIPE", "ENOBUFS", "EINTR", "ECONNRESET"]),
    ("recv", ["EAGAIN", "EINTR", "ECONNRESET"]),
    ("socket", ["EMFILE", "ENFILE", "ENOBUFS"]),
    ("socketpair", ["EMFILE"]),
    ("thread", ["EAGAIN"]),
]
EACH = [(call, name, ever) for call, names in CALLS for name in names for ever in (False, True)]


class Fault:
    """Which call fails, and how: `count` of its kind were made so far."""

    def __init__(
        self, call: str, number: int, code: int, *, ever: bool = False, bytes_taken: int | None = None
    ) -> None:
        self.call = call
        self.number = number
        self.code = code
        self.ever = ever
        self.bytes_taken = bytes_taken
        self.count = 0
        self.over = False

    def strikes(self, call: str) -> bool:
        if call != self.call:
            return False
        self.count += 1
        return not self.over and (self.count == self.number or (self.ever and self.count > self.number))

    def meet(self, call: str) -> None:
        if self.strikes(call):
            raise OSError(self.code, os.strerror(self.code))


def install(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    class Socket(_socket.socket):
        def __init__(self, *args: Any, **more: Any) -> None:
            fault.meet("socket")
            super().__init__(*args, **more)

        def connect(self, address: Any) -> None:
            fault.meet("connect")
            super().connect(address)

        def send(self, data: Any, flags: int = 0) -> int:
            if fault.bytes_taken is None:
                fault.meet("send")
            elif fault.strikes("send"):
                data = data[: fault.bytes_taken]
            return super().send(data, flags)

        def recv(self, size: int, flags: int = 0) -> bytes:
            fault.meet("recv")
            return super().recv(size, flags)

    class Module:
        """`_socket` with our own class in it."""

        socket = Socket

        def __getattr__(self, name: str) -> Any:
            return getattr(_socket, name)

        def socketpair(self) -> Any:
            fault.meet("socketpair")
            return _socket.socketpair()

    native = worker.native

    def start_new_thread(*args: Any) -> Any:
        if fault.strikes("thread"):
            raise RuntimeError("can't start new thread")
        return native("_thread", "start_new_thread")(*args)

    def chosen(module: str, name: str) -> Any:
        return start_new_thread if name == "start_new_thread" else native(module, name)

    for place in (stream, unix, udp, worker):
        monkeypatch.setattr(place, "_socket", Module())
    monkeypatch.setattr(worker, "native", chosen)


def send_everything() -> list[str]:
    assert isinstance(current.client, Client)
    current.client.outbox.channel._rng = lambda: 0.0  # reconnect at once
    ids = []
    for number in range(EVENTS):
        event_id = sendoff.event("placed", number=number)
        assert event_id is not None
        ids.append(event_id)
        for _ in range(POINTS // EVENTS):
            sendoff.increment("placed")
    return ids


def every_event_once(peer: Peer, ids: list[str], *, given_up: int = 0) -> None:
    until(lambda: {got.header["id"] for got in peer.durable} == set(ids), "every event", ENOUGH)
    assert len({(got.client, got.header["seq"]) for got in peer.durable}) == EVENTS
    stats = sendoff.stats()
    assert (stats["acked"], stats["held"], stats["refused"]) == (EVENTS - given_up, 0, {})
    assert stats["internal_error"] == 0


def on_a_unix_socket(folder: Path, fault: Fault) -> None:
    with listening(folder / "agent.sock") as peer:
        sendoff.init(f"unix://{folder}/agent.sock")
        ids = send_everything()
        sendoff.flush(0.05 if fault.ever else ENOUGH)
        fault.over = True
        assert sendoff.flush(ENOUGH)
        dropped = sendoff.stats()["dropped"]
        assert isinstance(dropped, dict)
        deaf = fault.call == "recv" and fault.ever  # no acknowledgement is ever heard, so events are given up in turn
        assert dropped == {} or (deaf and list(dropped) == ["event.unacceptable"])
        every_event_once(peer, ids, given_up=sum(dropped.values()))
        until(lambda: peer.points == POINTS, "every point", ENOUGH)
        sendoff.close(ENOUGH)
    assert peer.complaints == []


def numbers() -> Iterator[int]:
    """1, 2, 3 …: whoever finds that there are no more calls ends it."""
    return itertools.count(1)


@pytest.mark.parametrize(("call", "name", "ever"), EACH)
def test_whichever_call_fails_on_a_unix_socket_everything_arrives_when_it_ends(
    call: str, name: str, ever: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in numbers():
        fault = Fault(call, number, getattr(errno, name), ever=ever)
        with monkeypatch.context() as patch:
            install(fault, patch)
            on_a_unix_socket(tmp_path, fault)
        if fault.count < number or number == 12:
            assert number > 1, "the fault was never met"
            return


@pytest.mark.parametrize("number", [1, 2, 3, 6])
def test_a_write_cut_short_at_any_length_is_finished_before_anything_else(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for taken in [*range(1, 12), *range(12, 260, 13)]:
        fault = Fault("send", number, 0, bytes_taken=taken)
        with monkeypatch.context() as patch:
            install(fault, patch)
            on_a_unix_socket(tmp_path, fault)


@pytest.mark.parametrize(("call", "name", "ever"), [each for each in EACH if each[0] in ("connect", "send", "socket")])
def test_whichever_call_fails_by_udp_events_arrive_and_points_arrive_or_are_counted(
    call: str, name: str, ever: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in numbers():
        fault = Fault(call, number, getattr(errno, name), ever=ever)
        agent = Datagrams()
        with monkeypatch.context() as patch:
            install(fault, patch)
            sendoff.init(f"udp://127.0.0.1:{agent.port}")
            ids = send_everything()
            sendoff.flush(0.05 if ever else ENOUGH)
            fault.over = True
            assert sendoff.flush(ENOUGH)
            every_event_once(agent.tcp, ids)
            stats = sendoff.stats()
            dropped = stats["dropped"]
            assert isinstance(dropped, dict)
            assert stats["points"] + sum(dropped.values()) == POINTS  # type: ignore[operator]
            sendoff.close(ENOUGH)
        agent.tcp.close()
        agent.socket.close()
        assert agent.tcp.complaints == []
        if fault.count < number or number == 8:
            assert number > 1, "the fault was never met"
            return
