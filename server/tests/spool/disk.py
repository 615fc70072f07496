"""Between SQLite and the disk: what is written is recorded, and fails when it is told to."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import apsw

Way = Literal["none", "all", "some", "torn"]
WAYS: tuple[Way, ...] = ("none", "all", "some", "torn")
"""What a power cut leaves of the writes that were not synced; torn: all, the last one in part."""
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done to a file, or (``what`` is a mark) something that was known by then."""

    what: Literal["write", "sync", "truncate", "delete", "mark"]
    path: str
    offset: int = 0
    data: bytes = b""
    mark: Any = None


@dataclass(slots=True)
class _File:
    durable: bytes
    pending: list[Step] = field(default_factory=list)


class Disk(apsw.VFS):
    """The real disk, recorded: ``steps`` since it was made. ``fail_at``: the number of the operation that fails."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.begin: dict[str, bytes] = {}
        self.operations = 0
        self.fail_at = 0
        self.fail_with: type[apsw.Error] = apsw.IOError
        self.for_ever = False
        self.recording = True
        super().__init__("test-disk", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path and path not in self.begin and not path.endswith("-shm"):
            self.begin[path] = Path(path).read_bytes() if Path(path).exists() else b""
        return DiskFile(self, name, path, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.check()
        super().xDelete(filename, syncdir)
        self.keep(Step("delete", filename))

    def keep(self, step: Step) -> None:
        if self.recording:
            self.steps.append(step)

    def mark(self, mark: Any) -> None:
        self.keep(Step("mark", "", mark=mark))

    def check(self) -> None:
        """Count an operation, and fail if it is its turn."""
        self.operations += 1
        if self.fail_at and (self.operations == self.fail_at or (self.for_ever and self.operations > self.fail_at)):
            raise self.fail_with("the disk is broken")

    def heal(self) -> None:
        self.fail_at = 0


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, path: str, flags: list[int]) -> None:
        self._disk = disk
        self._path = path
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.check()
        super().xWrite(data, offset)
        self._disk.keep(Step("write", self._path, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        self._disk.check()
        super().xTruncate(newsize)
        self._disk.keep(Step("truncate", self._path, newsize))

    def xSync(self, flags: int) -> None:
        self._disk.check()
        super().xSync(flags)
        self._disk.keep(Step("sync", self._path))


@contextmanager
def recorded() -> Iterator[Disk]:
    before = apsw.vfs_names()[0]
    made = Disk()
    try:
        yield made
    finally:
        made.unregister()
    assert apsw.vfs_names()[0] == before


def after_a_cut(begin: dict[str, bytes], steps: Sequence[Step], way: Way, seed: int) -> dict[str, bytes]:
    """What the files hold when the power goes after these steps."""
    chance = random.Random(seed)
    files = {path: _File(content) for path, content in begin.items()}
    for step in steps:
        if step.what == "mark":
            continue
        if step.what == "delete":
            files.pop(step.path, None)
            continue
        file = files.setdefault(step.path, _File(b""))
        if step.what == "sync":
            file.durable = _apply(file.durable, file.pending)
            file.pending = []
        else:
            file.pending.append(step)
    last = next((step for step in reversed(steps) if step.what == "write"), None)
    found = {}
    for path, file in files.items():
        match way:
            case "none":
                kept = []
            case "some":
                kept = [step for step in file.pending if chance.random() < 0.5]
            case "all" | "torn":
                kept = list(file.pending)
        if way == "torn" and kept and kept[-1] is last and len(last.data) > SECTOR:
            cut = chance.randrange(SECTOR, len(last.data), SECTOR)
            kept[-1] = Step("write", path, last.offset, last.data[:cut])
        found[path] = _apply(file.durable, kept)
    return found


def _apply(content: bytes, steps: Sequence[Step]) -> bytes:
    changed = bytearray(content)
    for step in steps:
        if step.what == "truncate":
            del changed[step.offset :]
            changed.extend(b"\0" * (step.offset - len(changed)))
        else:
            changed.extend(b"\0" * (step.offset - len(changed)))
            changed[step.offset : step.offset + len(step.data)] = step.data
    return bytes(changed)
