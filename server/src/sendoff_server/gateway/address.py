"""Under which address clients reach the gateway's ZeroMQ port."""

import socket

from sendoff_server.inputs.contract import InputError


def public_address(listen: str, public: str) -> str:
    """Host and port. Raises `InputError` where they cannot be known."""
    if public:
        return public
    port = listen.rpartition(":")[2]
    if not port or port == "0":
        raise InputError("set gateway.zmq.listen, or gateway.zmq.public where the gateway listens elsewhere")
    return f"{socket.getfqdn()}:{port}"
