"""Finds damage in a write-ahead log that SQLite passes over in silence.

After a crash SQLite takes a log's frames up to the first one whose checksum is wrong, since that is where a write that
was under way ends. A bit that flipped in the middle looks just the same, and then commits that were synced are gone
without a word. So before anything is written, what lies behind the frames that SQLite took is looked at:
- frames that follow in good order, without the end of their commit, or half a frame: a crash in the middle of a
  commit. No loss;
- frames of an earlier use of the file, which have other salts: an honest end. No loss;
- frames of the present use behind one that is damaged: commits are synced one after the other, so only the last can be
  one that a power cut tore. All before it were acknowledged, and are gone;
- only one such commit, whole but for the damage: torn, and never acknowledged, or damaged later. Nobody can know, and
  so it is said. A commit without its end was not acknowledged, whatever else is wrong with it.

A log that was cut off exactly between two commits cannot be told from one that never was longer.
Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

_HEADER = 32
_FRAME = 24
_LITTLE, _BIG = 0x377F0682, 0x377F0683
_GENERATIONS = 1 << 16
"""Each use of the file raises its first salt by one."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it stands in the file: its number from 1, and whether it ends a commit."""

    number: int
    head: bytes
    page: bytes

    @property
    def salts(self) -> bytes:
        return self.head[8:16]

    @property
    def ends_commit(self) -> bool:
        return self.head[4:8] != b"\0\0\0\0"


def commits(path: Path) -> list[int]:
    """The numbers (from 1) of the frames that end a commit and belong to the log's present use. Empty without a log."""
    header, page_size = _head(path)
    return [frame.number for frame in _frames(path, page_size) if frame.ends_commit and frame.salts == header[16:24]]


def lost_commits(connection: apsw.Connection, before: list[int]) -> int:
    """How many synced commits of a log were certainly passed over when it was opened. ``before``: ``commits`` then.

    Writes what the log holds into the database, and leaves the log itself as it is until the next commit.
    """
    taken = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0][1]
    beyond = [number for number in before if number > int(taken or 0)]
    return max(0, len(beyond) - 1)


def passed_over(path: Path, taken: int) -> str | None:
    """What SQLite passed over in a log of which it took so many frames: a sentence, or None if nothing is lost.

    Reads only what lies behind these frames.
    """
    header, page_size = _head(path)
    if len(header) < _HEADER or not page_size:
        return None
    magic = struct.unpack(">I", header[:4])[0]
    if magic not in (_LITTLE, _BIG) or _checksum(header[:24], ">" if magic == _BIG else "<") != header[24:]:
        return _headless(path, page_size)
    odd = False
    ends: list[int] = []
    for frame in _frames(path, page_size, taken + 1):
        if frame.salts == header[16:24]:
            ends += [frame.number] * frame.ends_commit
        elif not _earlier(frame.salts, header[16:24]):
            odd = True
    if len(ends) > 1:
        return f"at least {len(ends) - 1} commits at its end are gone, with what they acknowledged"
    if ends or odd:
        return "its last commit is not whole: torn by a power cut, and never acknowledged, or damaged afterwards"
    return None


def _headless(path: Path, page_size: int) -> str | None:
    frames = list(_frames(path, page_size))
    ends = sum(frame.ends_commit for frame in frames if frame.salts == frames[0].salts)
    return f"its head is damaged: up to {ends} commits are gone, with what they acknowledged" if frames else None


def _head(path: Path) -> tuple[bytes, int]:
    """The log's head (less than 32 bytes where there is none), and its page size; 0 if that cannot be one."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except FileNotFoundError:
        return b"", 0
    if len(header) < _HEADER:
        return header, 0
    page_size = int(struct.unpack(">I", header[8:12])[0])
    if page_size & (page_size - 1) or not 512 <= page_size <= 65_536:
        page_size = 4_096  # what we make; a damaged head says anything
    return header, page_size


def _frames(path: Path, page_size: int, first: int = 1) -> Iterator[Frame]:
    if not page_size:
        return
    with path.open("rb") as file:
        file.seek(_HEADER + (first - 1) * (_FRAME + page_size))
        number = first
        while len(piece := file.read(_FRAME + page_size)) == _FRAME + page_size:
            yield Frame(number, piece[:_FRAME], piece[_FRAME:])
            number += 1


def _earlier(salts: bytes, present: bytes) -> bool:
    """Whether salts are those of an earlier use of the file."""
    age = struct.unpack(">I", present[:4])[0] - struct.unpack(">I", salts[:4])[0]
    return salts[4:] != present[4:] and 0 < age % (1 << 32) < _GENERATIONS


def _checksum(head: bytes, order: str) -> bytes:
    """SQLite's running checksum over pairs of words, from its beginning."""
    one = two = 0
    words = struct.unpack(f"{order}{len(head) // 4}I", head)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return struct.pack(">II", one, two)
