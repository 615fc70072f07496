"""Finds damage in a write-ahead log that SQLite passes over in silence.

After a crash SQLite takes a log's frames up to the first one whose checksum is wrong, since that is where a write that
was under way ends. A bit that flipped in the middle looks just the same, and then commits that were synced are gone
without a word. The two can be told apart: commits are synced one after the other, so at most *one* commit can lie
beyond the place where an honest log ends.

Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

import struct
from pathlib import Path

import apsw

_HEADER = 32
_FRAME = 24


def commits(path: Path) -> list[int]:
    """The numbers (from 1) of the frames that end a commit and belong to the log's present use. Empty without a log."""
    found: list[int] = []
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return found
    with file:
        header = file.read(_HEADER)
        if len(header) < _HEADER:
            return found
        page_size = struct.unpack(">I", header[8:12])[0]
        salts = header[16:24]
        number = 0
        while len(frame := file.read(_FRAME)) == _FRAME:
            number += 1
            if frame[8:16] == salts and frame[4:8] != b"\0\0\0\0":
                found.append(number)
            file.seek(page_size, 1)
    return found


def lost_commits(connection: apsw.Connection, before: list[int]) -> int:
    """How many synced commits of a log were passed over when it was opened. ``before``: ``commits`` before opening.

    Writes what the log holds into the database, and leaves the log itself as it is until the next commit.
    """
    taken = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0][1]
    beyond = [number for number in before if number > int(taken or 0)]
    return max(0, len(beyond) - 1)
