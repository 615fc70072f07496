"""Sockets of systemd: each goes to the input it is for, or is refused with what to change."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from sendoff_server.inputs import InputError, assign
from sendoff_server.process import activated
from sendoff_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALL = Settings.model_validate({"agent": {"data_dir": "/nowhere"}, "web": {"listen": "127.0.0.1:0"}})
INET, UNIX, STREAM, DGRAM = socket.AF_INET, socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM


class Sockets:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[socket.socket] = []

    def __call__(
        self, family: int, kind: int, where: str | None = None, *, host: str = "127.0.0.1", listen: bool = True
    ) -> socket.socket:
        sock = socket.socket(family, kind)
        self.made.append(sock)
        sock.bind(str(self.folder / (where or "x.sock")) if family == UNIX else (host, 0))
        if kind == STREAM and listen:
            sock.listen()
        return sock


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Sockets]:
    made = Sockets(tmp_path)
    yield made
    for sock in made.made:
        sock.close()


def test_sockets_without_names_go_to_the_inputs_of_their_kind(sockets: Sockets) -> None:
    given = [
        ("unit.socket", sockets(UNIX, STREAM, "agent.sock")),
        ("unit.socket", sockets(UNIX, DGRAM, "statsd.sock")),
        ("unit.socket", sockets(INET, DGRAM)),
        ("unit.socket", sockets(INET, STREAM)),
        ("unit.socket", sockets(UNIX, STREAM, "control.sock")),
    ]
    found = assign(given, ALL)
    assert [kept.name for kept in found] == ["unix", "unix_datagram", "udp", "tcp", "control"]
    assert not any(kept.ours for kept in found)
    for kept in found:
        os.close(kept.descriptor)


def test_a_name_decides_where_the_kind_leaves_a_choice(sockets: Sockets) -> None:
    found = assign([("web", sockets(INET, STREAM)), ("", sockets(INET, STREAM))], ALL)
    assert [kept.name for kept in found] == ["web", "tcp"]
    for kept in found:
        os.close(kept.descriptor)


def test_a_socket_that_others_can_reach_is_refused(sockets: Sockets) -> None:
    with pytest.raises(InputError, match="can be reached from other machines"):
        assign([("", sockets(INET, DGRAM, host="0.0.0.0"))], ALL)


def test_a_second_socket_for_one_input_is_refused(sockets: Sockets) -> None:
    with pytest.raises(InputError, match="there is one already for the input udp"):
        assign([("", sockets(INET, DGRAM)), ("", sockets(INET, DGRAM))], ALL)


def test_a_name_that_does_not_fit_the_socket_is_refused(sockets: Sockets) -> None:
    with pytest.raises(InputError, match="fits no input"):
        assign([("udp", sockets(INET, STREAM))], ALL)


def test_a_connection_instead_of_a_listening_socket_is_refused(sockets: Sockets) -> None:
    with pytest.raises(InputError, match="Accept=no"):
        assign([("", sockets(INET, STREAM, listen=False))], ALL)


def test_sockets_that_are_meant_for_another_process_are_left_alone() -> None:
    environ = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c", "HOME": "/"}
    assert activated(environ) == []
    assert environ == {"HOME": "/"}, "no child is meant either"
