"""Which input each socket of systemd is for: by its FileDescriptorName, else by what it is and where it listens."""

import socket
from collections.abc import Iterable

from sendoff_server.inputs.contract import InputError
from sendoff_server.inputs.kept import KeptSocket
from sendoff_server.inputs.sockets import shown
from sendoff_server.settings import Settings, split_listen

KINDS = {
    "unix": (True, socket.SOCK_STREAM),
    "unix_datagram": (True, socket.SOCK_DGRAM),
    "udp": (False, socket.SOCK_DGRAM),
    "tcp": (False, socket.SOCK_STREAM),
    "web": (False, socket.SOCK_STREAM),
    "control": (True, socket.SOCK_STREAM),
}
"""What each is: a Unix socket or not, and of which type."""


def assign(sockets: Iterable[tuple[str, socket.socket]], settings: Settings) -> list[KeptSocket]:
    """The sockets as what inputs take. Where they listen is for their unit to say, whatever the settings do.

    Raises InputError for one that no input can use, or may: closing it would leave senders without an answer.
    """
    found: dict[str, KeptSocket] = {}
    for given, sock in sockets:
        kind, address = (sock.family == socket.AF_UNIX, sock.type), shown(sock)
        name = given if given in KINDS else _name_of(kind, address, settings)
        where = f"systemd's socket {address} ({given or 'without a name'})"
        if name is None or KINDS[name] != kind:
            raise InputError(f"{where} fits no input; name it one of {', '.join(KINDS)} by FileDescriptorName=")
        if kind[1] == socket.SOCK_STREAM and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise InputError(f"{where} does not listen; its unit must have Accept=no")
        if name in found:
            raise InputError(f"{where}: there is one already for the input {name}; leave one of both out of the unit")
        if not kind[0] and not split_listen(address).loopback:
            raise InputError(
                f"{where} can be reached from other machines, and nothing here asks who is sending; "
                "let its unit listen on 127.0.0.1 or [::1]"
            )
        found[name] = KeptSocket(name, sock.detach(), address, ours=False)
    return list(found.values())


def _name_of(kind: tuple[bool, int], address: str, settings: Settings) -> str | None:
    if kind == KINDS["control"] and address.endswith("/control.sock"):
        return "control"
    if kind == KINDS["web"] and address == settings.web.listen:
        return "web"
    return next((name for name, each in KINDS.items() if each == kind), None)
