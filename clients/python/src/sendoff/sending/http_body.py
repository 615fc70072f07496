"""The body of a request: frames with a length before each, compressed where that gains something. Pure.

Compressing is done in pieces, so that nobody who wants the client's lock waits long; each takes so many bytes that it
does not often have to get the interpreter's lock back, which a busy application gives back late.
"""

from __future__ import annotations

from sendoff.sending import loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Packer(Protocol):
        """What `zlib` has no name for."""

        def compress(self, data: memoryview, /) -> bytes: ...
        def flush(self) -> bytes: ...


FRAMES = 4_000
"""Frames in one request at most, beside the hello. Client and gateway take turns, and each turn has its price in a busy
process: with 1,000 half as many events of 1 KB were stored in a second.
"""
SIZE = 4_194_304 - 65_536
"""Bytes in one request at most, before compression: what does not get smaller must fit as well."""
LEVEL = 3
"""Of gzip. On frames like those of applications 1, 2 and 3 cost the same, 6 twice as much for 5 % less."""
TINY = 512
"""Bytes below which compressing (some 50 µs whatever it is) saves less than a packet's head."""
AT_ONCE = 524_288
"""Bytes that are compressed in one go: some 5 ms, 15 ms if they are noise."""
PATIENCE = 64
"""Requests that must go well until larger ones are tried again."""


class Limits:
    """How much one request takes. Halved when one is refused as too much, doubled after many that were not."""

    __slots__ = ("_good", "frames", "size")

    def __init__(self) -> None:
        self.frames = FRAMES
        self.size = SIZE
        self._good = 0

    def refused(self, frames: int, size: int) -> None:
        """A request of so much was refused."""
        self.frames = max(1, min(self.frames, frames) // 2)
        self.size = max(1, min(self.size, size) // 2)
        self._good = 0

    def taken(self) -> None:
        """A request was taken."""
        self._good += 1
        if self._good >= PATIENCE:
            self._good = 0
            self.frames = min(FRAMES, self.frames * 2)
            self.size = min(SIZE, self.size * 2)

    def __repr__(self) -> str:
        return f"Limits(frames={self.frames}, size={self.size})"


class Body:
    """Frames go in until it is full or `sealed`; then `pack` makes `data` of them, to be sent as `encoding`."""

    __slots__ = ("_frames", "_left", "_packed", "_packer", "data", "encoding", "sealed", "size")

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._left = memoryview(b"")
        self._packed: list[bytes] = []
        self._packer: Packer | None = None
        self.size = 0
        self.sealed = False
        self.encoding = ""
        self.data: bytes | None = None

    @property
    def frames(self) -> int:
        """How many there are, the hello among them."""
        return len(self._frames)

    def add(self, frame: bytes, limits: Limits) -> bool:
        """Take a frame. False if there is no room: at least a hello and one more always find it. The frame that was
        taken last may be given again, and is not taken twice.
        """
        if self._frames and self._frames[-1] is frame:
            return True
        size, count = self.size + 4 + len(frame), len(self._frames)
        if self.sealed or (count > 1 and (count > limits.frames or size > limits.size)):
            return False
        self.size = size
        self._frames.append(frame)
        return True

    def seal(self) -> None:
        """Nothing more goes in."""
        if not self.sealed:
            parts = (part for each in self._frames for part in (len(each).to_bytes(4, "little"), each))
            self._left = memoryview(b"".join(parts))
            self.encoding = "identity" if len(self._left) < TINY else "gzip"
            self.sealed = True

    def pack(self) -> bool:
        """Go on making `data`. True once it is made."""
        if self.data is not None:
            return True
        if self.encoding == "identity":
            self.data = bytes(self._left)
            return True
        loading.module("zlib")
        import zlib

        if self._packer is None and len(self._left) <= AT_ONCE:
            self.data = zlib.compress(self._left, LEVEL, 31)
            return True
        packer = self._packer = self._packer or zlib.compressobj(LEVEL, zlib.DEFLATED, 31)
        self._packed.append(packer.compress(self._left[:AT_ONCE]))
        self._left = self._left[AT_ONCE:]
        if self._left:
            return False
        self._packed.append(packer.flush())
        self.data = b"".join(self._packed)
        self._packed = []
        return True

    def __repr__(self) -> str:
        return f"Body(frames={self.frames}, size={self.size}, sealed={self.sealed})"
