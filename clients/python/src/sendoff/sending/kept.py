"""One client's file of events that nobody has acknowledged yet, as bytes. Pure: knows no disk.

    file   = MAGIC  record …          the first record, number 0, says whose file it is
    record = u32 length  u32 CRC-32 of length, number and data  u64 number  data

A record with data is the frame of that number, as it is sent. One without says that everything up to its number is
settled. A process that dies in the middle of a write leaves a record cut short at the end; whatever else is wrong
with a record ends what is believed of the file, and all before it is good.
"""

from __future__ import annotations

import json
from binascii import crc32
from struct import Struct

from sendoff.frame import STRING_LIMIT, UNIT_LIMIT, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Read = Callable[[int, int], bytes]
    """Up to so many bytes (the second number) from a place in the file on (the first)."""

MAGIC = b"sendoff1"
_HEAD = Struct("<IIQ")
_CHECKED = Struct("<IQ")
HEAD = _HEAD.size
LABEL_LIMIT = 8_192
ANY_KEY = "any"
"""In a label: somebody has decided that these events go with whatever key there is."""
WHO = ("service", "env", "release", "host", "lib")


class Unreadable(ValueError):
    """Nobody can say whose file this is."""


def hash_of(secret: str) -> str:
    """What stands for a key in a file: enough to tell keys apart, and of no use to anybody who reads it."""
    from hashlib import sha256

    return sha256(b"sendoff spool\n" + secret.encode()).hexdigest()[:32]


def record(number: int, data: bytes = b"") -> bytes:
    """One record: a frame, or, without data, that everything up to `number` is settled."""
    length = len(data)
    return _HEAD.pack(length, crc32(data, crc32(_CHECKED.pack(length, number))), number) + data


class Label:
    """Whose events a file holds: the client, its hello's words, and a hash that stands for the key they go with."""

    __slots__ = ("client", "key_hash", "pid", "who")

    def __init__(self, client: str, who: Mapping[str, str], pid: int, key_hash: str) -> None:
        self.client = client
        self.who = who
        self.pid = pid
        self.key_hash = key_hash

    def to_bytes(self) -> bytes:
        """The beginning of a file."""
        words = {"client": self.client, "who": self.who, "pid": self.pid, "key": self.key_hash}
        return MAGIC + record(0, to_json(words))

    def __repr__(self) -> str:
        return f"Label(client={self.client}, pid={self.pid}, who={self.who})"


class Found:
    """What a look through a file has found."""

    __slots__ = ("begins", "damaged", "frames", "good", "label", "settled")

    def __init__(self, label: Label, begins: int) -> None:
        self.label = label
        self.begins = begins
        """Where the first record behind the label is."""
        self.good = begins
        """Where belief ends."""
        self.damaged = 0
        """Bytes behind that."""
        self.frames = 0
        """How many frames are not settled."""
        self.settled = 0

    def __repr__(self) -> str:
        return f"Found({self.label}, frames={self.frames}, settled={self.settled}, damaged={self.damaged})"


def look_through(read: Read, size: int) -> Found:
    """Read a file of `size` bytes from its beginning. Raises `Unreadable` if its label is no good."""
    label, begins = _label(read, size)
    found = Found(label, begins)
    numbers: list[int] = []
    for number, data, after in records(read, begins, size):
        if data:
            numbers.append(number)
        else:
            found.settled = max(found.settled, number)
        found.good = after
    found.frames = sum(number > found.settled for number in numbers)
    found.damaged = size - found.good
    return found


def records(read: Read, at: int, end: int) -> Iterator[tuple[int, bytes, int]]:
    """(number, data, place of the next record) of each record from `at` on, up to the first that is no good."""
    last = 0
    while at + HEAD <= end:
        head = read(at, HEAD)
        if len(head) < HEAD:
            return
        length, checksum, number = _HEAD.unpack(head)
        if length > UNIT_LIMIT or at + HEAD + length > end:
            return
        data = read(at + HEAD, length) if length else b""
        if len(data) < length or crc32(data, crc32(_CHECKED.pack(length, number))) != checksum:
            return
        if data:
            if number <= last:
                return
            last = number
        at += HEAD + length
        yield number, data, at


def _label(read: Read, size: int) -> tuple[Label, int]:
    start = len(MAGIC)
    if read(0, start) != MAGIC:
        raise Unreadable("it does not begin like a file of Sendoff's")
    if size < start + HEAD:
        raise Unreadable("its label is cut off")
    length, checksum, number = _HEAD.unpack(read(start, HEAD))
    data = read(start + HEAD, length) if length <= LABEL_LIMIT else b""
    if number or len(data) < length or crc32(data, crc32(_CHECKED.pack(length, number))) != checksum:
        raise Unreadable("its label is damaged")
    try:
        words = json.loads(data)
        who = {name: words["who"][name] for name in WHO}
        label = Label(words["client"], who, words["pid"], words["key"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unreadable("its label is not what this version writes") from error
    texts = (label.client, label.key_hash, *who.values())
    if type(label.pid) is not int or not all(type(text) is str and len(text) <= STRING_LIMIT for text in texts):
        raise Unreadable("its label has something else than text in it")
    return label, start + HEAD + length
