"""From settings to inputs that listen: all of them, or none."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Union

from sendoff_server.inputs.contract import InputError, Intake
from sendoff_server.inputs.datagram import DatagramInput
from sendoff_server.inputs.inherited import Inherited
from sendoff_server.inputs.kept import KeptConnection, KeptSocket
from sendoff_server.inputs.sockets import (
    default_unix_path,
    inode_of,
    listen_ip,
    listen_unix,
    make_directory,
    set_receive_buffer,
    shown,
)
from sendoff_server.inputs.stream import StreamInput
from sendoff_server.settings import InputsSettings

if TYPE_CHECKING:
    from sendoff_server.inputs.zmq.agent import AgentInput

log = logging.getLogger(__name__)

Input = Union[StreamInput, DatagramInput, "AgentInput"]
STREAMS, DATAGRAMS = ("unix", "tcp"), ("unix_datagram", "udp")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One input that the settings ask for; `setting` is empty where only systemd does.

    `tend` is done to its socket, whether that is new or was there before.
    """

    name: str
    setting: str
    open: Callable[[], socket.socket]
    tend: Callable[[socket.socket], object]


def open_inputs(
    settings: InputsSettings,
    intake: Intake,
    clock: Callable[[], float],
    inherited: Inherited | None = None,
    *,
    folder: Path = Path(),
) -> list[Input]:
    """Open every socket that the settings ask for, or take the one that is there. Raises InputError, with all closed.

    `folder`: of the agent's data, where its key for ZeroMQ is.

    Of a run that goes on, an address that cannot be had is no reason to end: it is said, and the old one stays.
    """
    inherited = inherited or Inherited()
    made: list[Input] = []
    try:
        for wanted in _all_wanted(settings, inherited):
            if (found := find(wanted.name, wanted.setting, wanted.open, inherited)) is not None:
                sock, kept = found
                if _is_to_be_tended(sock, kept):
                    wanted.tend(sock)
                made.append(_input(sock, kept, intake, clock))
        if settings.zmq.listen:
            made += _zmq(settings, intake, clock, inherited, folder)
    except BaseException:
        for each in made:
            each.close()
        inherited.close()
        raise
    return made


def go_on(
    inputs: list[Input],
    intake: Intake,
    clock: Callable[[], float],
    inherited: Inherited,
    may_go_on: Callable[[], bool],
) -> None:
    """Go on where the run before stopped, with inputs that are started: at its connections; and, as inputs that end by
    themselves, at sockets that the settings do not want any more, since somebody may have written there.
    """
    for sock, kept in inherited.rest(*STREAMS, *DATAGRAMS):
        old = _input(sock, kept, intake, clock)
        log.info("input %s no longer listens on %s", old.name, old.address)
        if isinstance(old, StreamInput):
            inputs.append(_retired(old))
        else:
            old.drain(may_go_on)
            old.poll_kernel()
            old.close()
            for each in inputs:
                if isinstance(each, DatagramInput) and each.name == old.name:
                    each.succeed(old)
    streams = {each.name: each for each in reversed(inputs) if isinstance(each, StreamInput)}
    for connection in inherited.connections:
        if connection.input not in streams:  # an earlier run gave its address up
            nowhere = socket.socket(socket.AF_UNIX)
            kept = KeptSocket(connection.input, nowhere.fileno(), "", ours=False)
            streams[connection.input] = _retired(StreamInput(connection.input, nowhere, intake, clock, kept=kept))
            inputs.append(streams[connection.input])
        streams[connection.input].adopt(connection)
    inherited.connections = []
    inherited.close()


def _retired(old: StreamInput) -> StreamInput:
    """It takes in who waits there, and then ends with the last of its connections."""
    old.start()
    old.retire()
    return old


def give_up(inputs: list[Input]) -> tuple[list[KeptSocket], list[KeptConnection]]:
    """Everything that inputs which were told to `hold` have, for another run to go on with."""
    sockets, connections = [], []
    for each in inputs:
        if isinstance(each, DatagramInput):
            kept = each.give_up()
        else:
            kept, open_now = each.give_up()
            connections += open_now
        if kept.descriptor >= 0:
            sockets.append(kept)
    return sockets, connections


def find(
    name: str, setting: str, open_new: Callable[[], socket.socket], inherited: Inherited
) -> tuple[socket.socket, KeptSocket] | None:
    """The socket that is there, or a new one. None: it is not wanted, or a run that goes on cannot have it."""
    if (found := inherited.take(name, setting)) is not None or not setting:
        return found
    try:
        sock = open_new()
    except InputError as error:
        if not inherited.going_on:
            raise
        old = inherited.take_any(name)
        instead = f"it goes on at {shown(old[0])}" if old else "it goes on without"
        log.error("%s; %s. Correct it and reload", error, instead)
        return old
    inode = inode_of(Path(setting)) if sock.family == socket.AF_UNIX else None
    return sock, KeptSocket(name, sock.fileno(), setting, inode=inode)


def _all_wanted(settings: InputsSettings, inherited: Inherited) -> Iterator[_Wanted]:
    unix, datagram, udp, tcp = settings.unix, settings.unix_datagram, settings.udp, settings.tcp
    path = unix.path or None
    if unix.path is None and not inherited.of_systemd("unix"):
        path = default_unix_path(os.environ, os.getuid())
    yield _wanted_unix("unix", path, socket.SOCK_STREAM, int(unix.mode, 8))
    yield _wanted_unix("unix_datagram", datagram.path, socket.SOCK_DGRAM, int(datagram.mode, 8))
    yield _Wanted(
        "udp",
        udp.listen,
        partial(listen_ip, udp.listen, socket.SOCK_DGRAM, "inputs.udp.listen"),
        partial(set_receive_buffer, wanted=udp.receive_buffer, setting="inputs.udp.receive_buffer"),
    )
    yield _Wanted(
        "tcp",
        tcp.listen,
        partial(listen_ip, tcp.listen, socket.SOCK_STREAM, "inputs.tcp.listen"),
        lambda sock: None,
    )


def _wanted_unix(name: str, path: Path | None, kind: socket.SocketKind, mode: int, setting: str = "") -> _Wanted:
    def open_new() -> socket.socket:
        assert path is not None
        make_directory(path, mode=mode)
        return listen_unix(path, kind, mode, setting or f"inputs.{name}.path")

    return _Wanted(name, str(path or ""), open_new, lambda sock: Path(shown(sock)).chmod(mode))


def _zmq(
    settings: InputsSettings, intake: Intake, clock: Callable[[], float], inherited: Inherited, folder: Path
) -> "list[AgentInput]":
    """The ZeroMQ input; none where a run that goes on cannot have it. Raises InputError."""
    from sendoff_server.inputs.zmq.agent import AgentInput, curve_of  # most agents need no ZeroMQ

    scheme, _, place = settings.zmq.listen.partition("://")
    if scheme == "ipc":
        wanted = _wanted_unix("zmq", Path(place), socket.SOCK_STREAM, int(settings.zmq.mode, 8), "inputs.zmq.listen")
    else:
        open_new = partial(listen_ip, place, socket.SOCK_STREAM, "inputs.zmq.listen")
        wanted = _Wanted("zmq", place, open_new, lambda sock: None)
    curve = curve_of(settings.zmq.clients, folder)
    if (found := find(wanted.name, wanted.setting, wanted.open, inherited)) is None:
        return []
    sock, kept = found
    if _is_to_be_tended(sock, kept):
        wanted.tend(sock)
    path = Path(kept.setting) if sock.family == socket.AF_UNIX and kept.ours else None
    return [AgentInput("zmq", sock, intake, clock, curve=curve, path=path, kept=kept)]


def _is_to_be_tended(sock: socket.socket, kept: KeptSocket) -> bool:
    """For a Unix socket: its file's rights. Those of systemd's are its unit's to say, and the file may be another's."""
    return sock.family != socket.AF_UNIX or (kept.ours and inode_of(Path(kept.setting)) == kept.inode)


def _input(
    sock: socket.socket, kept: KeptSocket, intake: Intake, clock: Callable[[], float]
) -> StreamInput | DatagramInput:
    path = Path(kept.setting) if sock.family == socket.AF_UNIX and kept.ours else None
    if kept.name in STREAMS:
        return StreamInput(kept.name, sock, intake, clock, path=path, kept=kept)
    return DatagramInput(kept.name, sock, intake, path=path, kept=kept)
