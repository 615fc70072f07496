"""Under which address clients reach the gateway's ZeroMQ port."""

import socket

from sendoff_server.inputs.contract import InputError
from sendoff_server.settings import split_listen


def public_address(listen: str, public: str) -> str:
    """Host and port: as set, as it listens on this machine alone, or under this host's name. Raises `InputError`."""
    if public:
        return public
    if not listen or listen.endswith(":0"):
        raise InputError("set gateway.zmq.listen, or gateway.zmq.public where the gateway listens elsewhere")
    address = split_listen(listen)
    return listen if address.loopback else f"{socket.getfqdn()}:{address.port}"
