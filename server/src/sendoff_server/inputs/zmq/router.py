"""The ROUTER itself: every option that bounds it, each with its reason; and the secret place its numbers begin at."""

import ctypes
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from sendoff_server.inputs.contract import InputError
from sendoff_server.inputs.sockets import shown

log = logging.getLogger(__name__)

HIGH_WATER = 64
"""Messages of one peer that libzmq holds for us, and answers to one that it holds for the peer."""
SOCKETS = 16
"""The ROUTER, its monitor's two ends, ZAP, one for a moment at the start. Connections are none: libzmq makes room for
all of these when the first is made."""
DOMAIN = b"sendoff"
Context = zmq.Context[zmq.Socket[bytes]]
Allowed = Callable[[bytes], str | None]
"""A public key of 32 bytes to its User-Id; None: nobody knows it; "": it may not connect now. Never waits or raises."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The receiver's secret key (32 bytes), who may connect, and how a key is shown to people. `changes`: a key that is
    not known may be new, so its answer waits for `ZmqInput.settle`.
    """

    secret: bytes
    allowed: Allowed
    show: Callable[[bytes], str]
    changes: bool = False


def require(*, curve: bool) -> None:
    """Raises InputError where this libzmq cannot do what is asked."""
    if curve and not zmq.has("curve"):
        raise InputError(
            f"libzmq {zmq.zmq_version()} was built without CURVE; install pyzmq from its wheels: pip install pyzmq"
        )


def make_context() -> Context:
    context: Context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, SOCKETS)
    return context


def make_router(context: Context, curve: Curve | None, max_message: int) -> "zmq.Socket[bytes]":
    """A ROUTER that is not bound yet."""
    _begin_anywhere()
    router = context.socket(zmq.ROUTER)
    # Nothing is sent that its receiver would not ask for again: at the end nobody waits (the default is for ever).
    router.linger = 0
    # Beyond this libzmq ends the connection before it makes room for the message.
    router.maxmsgsize = max_message
    # What piles up in libzmq for one peer, each way. Beyond: it does not read the connection, so the peer waits; and
    # to send says Again, which `Peer` deals with. 64 costs no throughput (16 does, 1,000 gains none) and less memory.
    router.rcvhwm = router.sndhwm = HIGH_WATER
    # Without this an answer to somebody who has gone, or does not read, vanishes without a word.
    router.router_mandatory = 1
    # A second peer of the same routing id is not let in. The other way round it would get the first one's answers.
    router.router_handover = 0
    # Half a greeting holds a descriptor for so long (the default is 30 s).
    router.handshake_ivl = 10_000
    # A peer whose machine or network has vanished is found within 70 s; the peer is told to find us gone within 30. A
    # heartbeat is answered between two messages only: 8 MiB in 60 s is 1.1 Mbit/s, as for a body of HTTP.
    router.heartbeat_ivl = 10_000
    router.heartbeat_timeout = 60_000
    router.heartbeat_ttl = 30_000
    # The same for those that are not through their handshake yet, and for peers that know no heartbeats: by the kernel.
    router.tcp_keepalive = 1
    router.tcp_keepalive_idle, router.tcp_keepalive_intvl, router.tcp_keepalive_cnt = 60, 15, 4
    # Bytes that a peer's kernel does not acknowledge end the connection after so long.
    router.setsockopt(zmq.TCP_MAXRT, 60_000)
    # Only where no listening socket is given, which has its backlog (512) already.
    router.backlog = 512
    router.ipv6 = 1
    if curve is not None:
        router.curve_server = 1
        router.curve_secretkey = curve.secret
        # Without a domain, or a handler for it, libzmq would let everybody in who knows our public key.
        router.zap_domain = DOMAIN
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    return router


def bind(context: Context, router: "zmq.Socket[bytes]", sock: socket.socket) -> int:
    """Have the ROUTER accept from a socket that listens, and own it. The number its routing ids begin after."""
    first = _first_number(context, router)
    path_or_port = shown(sock)
    scheme = "ipc" if sock.family == socket.AF_UNIX else "tcp"
    # Ours, and not one that libzmq makes: it would take a Unix socket's place without asking who is there.
    router.setsockopt(zmq.USE_FD, sock.detach())
    router.bind(f"{scheme}://{path_or_port}")
    return first


def number(identity: bytes) -> int:
    """What libzmq counted when it gave this routing id out."""
    return int.from_bytes(identity[1:5])


def given_out(identity: bytes, first: int, handshakes: int) -> bool:
    """Whether this can be a routing id that libzmq gave out: they are numbers, one more each time."""
    return len(identity) == 5 and not identity[0] and 0 < (number(identity) - first) % 2**32 <= handshakes


def _first_number(context: Context, router: "zmq.Socket[bytes]") -> int:
    """Let a peer of our own be the first, to learn where the numbers begin."""
    address = f"inproc://first-{id(router):x}"
    router.bind(address)
    with context.socket(zmq.DEALER) as own:
        own.linger = 0
        own.connect(address)
        own.send(b"")
        identity, _ = router.recv_multipart()
        router.unbind(address)
    return number(identity)


def _begin_anywhere() -> None:
    """libzmq draws the first number with `rand`, which it does not seed: in every process it would be the same one."""
    try:
        ctypes.CDLL(None).srand(ctypes.c_uint(int.from_bytes(os.urandom(4))))
    except (OSError, AttributeError) as error:
        log.warning("the numbers of ZeroMQ's peers can be guessed: %s", error)
