"""From settings to inputs that listen: all of them, or none."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from sendoff_server.inputs.contract import Intake
from sendoff_server.inputs.datagram import DatagramInput
from sendoff_server.inputs.sockets import default_unix_path, listen_ip, listen_unix, make_directory, set_receive_buffer
from sendoff_server.inputs.stream import StreamInput
from sendoff_server.settings import InputsSettings

Input = StreamInput | DatagramInput


def open_inputs(settings: InputsSettings, intake: Intake, clock: Callable[[], float]) -> list[Input]:
    """Open every socket that the settings ask for. Raises InputError, with all of them closed again."""
    made: list[Input] = []
    try:
        if settings.unix.path is not False:
            path = settings.unix.path or default_unix_path(os.environ, os.getuid())
            made.append(_unix(path, int(settings.unix.mode, 8), intake, clock))
        if settings.unix_datagram.path:
            path, mode = settings.unix_datagram.path, int(settings.unix_datagram.mode, 8)
            make_directory(path, mode=mode)
            sock = listen_unix(path, socket.SOCK_DGRAM, mode, "inputs.unix_datagram.path")
            made.append(DatagramInput("unix_datagram", sock, intake, path=path))
        if settings.udp.listen:
            sock = listen_ip(settings.udp.listen, socket.SOCK_DGRAM, "inputs.udp.listen")
            set_receive_buffer(sock, settings.udp.receive_buffer, "inputs.udp.receive_buffer")
            made.append(DatagramInput("udp", sock, intake))
        if settings.tcp.listen:
            sock = listen_ip(settings.tcp.listen, socket.SOCK_STREAM, "inputs.tcp.listen")
            made.append(StreamInput("tcp", sock, intake, clock))
    except BaseException:
        for each in made:
            each.close()
        raise
    return made


def _unix(path: Path, mode: int, intake: Intake, clock: Callable[[], float]) -> StreamInput:
    make_directory(path, mode=mode)
    sock = listen_unix(path, socket.SOCK_STREAM, mode, "inputs.unix.path")
    return StreamInput("unix", sock, intake, clock, path=path)
