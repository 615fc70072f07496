"""Cursors: where the next page begins. Opaque to whoever pages through, checked like all that comes from outside."""

import base64
import binascii
from typing import TypeVar

import msgspec

from sendoff_server.gateway.problems import invalid

T = TypeVar("T", bound=tuple[str | int, ...])
LARGEST = 2**63 - 1


def encode(*place: str | int) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def decode(text: str, shape: type[T]) -> T:
    """The place a cursor names, as the tuple type ``shape``. Raises ``Problem`` 422."""
    try:
        place = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=shape)
        if any(isinstance(part, int) and abs(part) > LARGEST for part in place):
            raise ValueError("a number that SQLite cannot hold")
        return place
    except (binascii.Error, ValueError) as error:
        remedy = "use the value of next from the page before, unchanged, or leave it out"
        raise invalid("cursor", "it is not one that this gateway gave", remedy) from error
