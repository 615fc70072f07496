"""What a client keeps in files (`spool=`), read by the format that `sending/kept.py` describes, not by its code."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

from tests.oracle.book import Pen

MAGIC = b"sendoff1"
HEAD = Struct("<IIQ")
CHECKED = Struct("<IQ")
REF = re.compile(rb'"ref": ?"([a-z0-9-]+)"')


def kept(spool: Path, prefix: str) -> list[str]:
    """The refs of events in files of a folder, whole and not settled, that begin so."""
    found = []
    for path in spool.glob("*"):
        try:
            data = path.read_bytes()
        except OSError:
            continue  # it was taken away just now
        found += [ref for ref in refs(data) if ref.startswith(prefix)]
    return found


def refs(data: bytes) -> list[str]:
    """Of the frames in one file that are not settled."""
    if not data.startswith(MAGIC):
        return []
    frames: dict[int, bytes] = {}
    settled = 0
    for number, frame in records(data, len(MAGIC)):
        if frame:
            frames[number] = frame
        else:
            settled = max(settled, number)
    waiting = [frame for number, frame in frames.items() if number > settled]
    return [match[1].decode() for frame in waiting if (match := REF.search(frame))]


def records(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Whole records; what a dying process has cut short is none."""
    while at + HEAD.size <= len(data):
        length, checksum, number = HEAD.unpack_from(data, at)
        frame = data[at + HEAD.size : at + HEAD.size + length]
        if len(frame) < length or zlib.crc32(frame, zlib.crc32(CHECKED.pack(length, number))) != checksum:
            return
        at += HEAD.size + length
        yield number, frame


def note(spool: Path, prefix: str, pen: Pen) -> None:
    """Write down which events of a dead app stand in files: from here on they are certain."""
    found = kept(spool, prefix)
    if found:
        pen.write(refs=found)
