"""CURVE keys as people see them: 32 bytes, written as base64url without padding (43 characters)."""

import base64
from typing import NamedTuple

import zmq
from zmq.utils import z85


class Pair(NamedTuple):
    """A public key and its secret, 32 bytes each."""

    public: bytes
    secret: bytes


def make_pair() -> Pair:
    """A new one. Raises `zmq.ZMQError` where this libzmq was built without CURVE."""
    return Pair(*map(z85.decode, zmq.curve_keypair()))


def pair_of(secret: bytes) -> Pair:
    """The pair of a secret key."""
    # pyzmq derives keys in Z85 only, another alphabet of ZeroMQ's (RFC 32).
    return Pair(z85.decode(zmq.curve_public(z85.encode(secret))), secret)


def to_text(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def from_text(text: str) -> bytes:
    """The key of a text that the settings have checked. Raises `ValueError`."""
    return base64.urlsafe_b64decode(text + "=")
