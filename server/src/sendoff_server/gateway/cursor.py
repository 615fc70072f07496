"""Cursors: where the next page begins. Opaque to whoever pages through, checked like all that comes from outside."""

import base64
import binascii
from typing import TypeVar

import msgspec

from sendoff_server.gateway.problems import invalid

T = TypeVar("T")


def encode(*place: str | int) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def decode(text: str, shape: type[T]) -> T:
    """The place a cursor names, as the tuple type ``shape``. Raises ``Problem`` 422."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=shape)
    except (binascii.Error, ValueError) as error:
        remedy = "use the value of next from the page before, unchanged, or leave it out"
        raise invalid("cursor", "it is not one that this gateway gave", remedy) from error
