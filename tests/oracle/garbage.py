"""Peers who speak nonsense, for as long as they live: to a gateway's ports, without a key and with one of their own.

`python -m tests.oracle.garbage SEED HTTPS_ADDRESS CURVE_ADDRESS`, each an address of the client's with the key of a
project that is nobody else's. What they send is refused, or stored in their own project; the oracle asks that nobody
else notices. None of it goes through Sendoff's client.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import ssl
import sys
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable

import zmq
from zmq.utils import z85

from sendoff.settings import Address, Settings

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
"""The first 64 bytes of a ZMTP 3 connection (rfc.zeromq.org/spec/23)."""
WAIT_S = 2.0


def raw(port: tuple[str, int], data: bytes) -> None:
    """Bytes to a port, and away."""
    with socket.create_connection(port, timeout=WAIT_S) as link:
        link.sendall(data)
        with contextlib.suppress(OSError):
            link.recv(1000)


def noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 3, 64, 5_000)))


def frames(rng: random.Random) -> list[bytes]:
    """Messages that are nearly right, and some that are not at all."""
    client = f"{rng.getrandbits(128):032x}"

    def frame(payload: bytes = b"{}", **header: object) -> bytes:
        return json.dumps({"v": 1, "client": client, **header}).encode() + b"\n" + payload

    found = [
        frame(kind="hello"),
        frame(kind="hello", client="0" * 32),
        frame(kind="event", seq=2**53, id="x", t=1),
        frame(b'{"name": NaN}', kind="event", seq=1, id="01890000-0000-7000-8000-000000000000", t=1),
        frame(b"[" * 10_000, kind="event", seq=3, id="01890000-0000-7000-8000-000000000001", t=1),
        frame(b"a:1|c\n" * 100, kind="metrics", n=-1),
        frame(noise(rng), kind="metrics", n=5),
        frame(kind="bye"),
        frame(noise(rng), kind="batch", batch="b", encoding="zstd"),
        frame(kind="batch", batch="b", encoding="gzip"),
        b"{" * 5_000,
        b"",
        noise(rng),
        rng.randbytes(900_000),
    ]
    rng.shuffle(found)
    return found


def over_curve(rng: random.Random, address: Address) -> None:
    """CURVE as it should be, and then nonsense. Too large a message ends the connection: that is for the gateway."""
    public, secret = (urlsafe_b64decode(f"{key}=") for key in (address.server, address.secret))
    with zmq.Context() as context, context.socket(zmq.DEALER) as link:
        link.linger = 0
        link.curve_serverkey = public
        link.curve_secretkey = secret
        link.curve_publickey = z85.decode(zmq.curve_public(z85.encode(secret)))
        link.connect(f"tcp://{address.place}")
        for message in [*frames(rng), rng.randbytes(20_000_000)]:
            if not link.poll(round(WAIT_S * 1000), zmq.POLLOUT):
                return
            parts = [message] if rng.random() < 0.8 else [message, noise(rng), message]
            link.send_multipart(parts, zmq.DONTWAIT)
        link.poll(200)


def over_https(rng: random.Random, address: Address) -> None:
    """TLS and a key as they should be, and then nonsense."""
    body = rng.choice((noise(rng), *(len(each).to_bytes(4, "little") + each for each in frames(rng))))
    how = rng.choice(("identity", "gzip", "br"))
    head = (
        f"POST {address.prefix}/v1/frames HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {address.secret}\r\n"
        f"Content-Type: application/vnd.sendoff.frames\r\nContent-Encoding: {how}\r\nContent-Length: {len(body)}\r\n"
    )
    rest = rng.choice((b"\r\n", b"X: " + b"x" * 100_000 + b"\r\n\r\n", noise(rng)))
    with (
        socket.create_connection((address.host, address.port), timeout=WAIT_S) as link,
        ssl.create_default_context().wrap_socket(link, server_hostname=address.host) as safe,
    ):
        safe.sendall(head.encode() + rest + body)
        with contextlib.suppress(OSError):
            safe.recv(1000)


def main() -> int:
    rng = random.Random(sys.argv[1])
    https, curve = (Settings({"address": address}, {}).address for address in sys.argv[2:])
    ports = [(address.host, address.port) for address in (https, curve)]
    deeds: tuple[Callable[[random.Random], None], ...] = (
        lambda rng: raw(rng.choice(ports), noise(rng)),
        lambda rng: raw(ports[1], GREETING + noise(rng)),
        lambda rng: over_curve(rng, curve),
        lambda rng: over_https(rng, https),
    )
    while True:
        in_a_child(rng.choice(deeds), rng.random())
        time.sleep(0.2)


def in_a_child(deed: Callable[[random.Random], None], seed: float) -> None:
    """libzmq aborts the process that closes a socket in the middle of a message of several parts, as these do."""
    pid = os.fork()
    if not pid:
        with contextlib.suppress(OSError, zmq.ZMQError):
            deed(random.Random(seed))
        os._exit(0)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
