"""Between SQLite and the disk: a power cut after any acknowledgement, and a disk that fails at any write or sync."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.spool import ClientState, Delivered, OutputSpec, Spool, SpoolFailed, SpoolLimits

from .conftest import NOW, event, rotation

OUTPUTS = [OutputSpec("main", 10_000)]
MERGE = make_core(Limits(), (), (1, 1)).merge


class Disk(apsw.VFS):
    """The real disk; remembers what a power cut would leave of each file, and fails when it is told to."""

    def __init__(self) -> None:
        self.synced: dict[str, bytes] = {}
        self.operations = 0
        self.fail_at: int | None = None
        super().__init__("test-disk", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return DiskFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self.synced.pop(filename, None)

    def count(self) -> None:
        self.operations += 1
        if self.operations == self.fail_at:
            raise apsw.IOError("the disk is broken")


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.count()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.count()
        super().xSync(flags)
        if self._path:
            self._disk.synced[self._path] = Path(self._path).read_bytes()


@pytest.fixture
def disk() -> Iterator[Disk]:
    before = apsw.vfs_names()[0]
    made = Disk()
    yield made
    made.unregister()
    assert apsw.vfs_names()[0] == before


def open_spool(folder: Path) -> Spool:
    return Spool.open(folder, OUTPUTS, merge=MERGE, host="h", now_ms=NOW, limits=SpoolLimits(), clock=lambda: NOW)


async def test_a_power_cut_after_any_acknowledgement_loses_nothing_that_was_acknowledged(
    tmp_path: Path, disk: Disk
) -> None:
    """Whatever was not synced is gone at once, which is the worst that a disk may do."""
    spool = open_spool(tmp_path / "a")
    cuts = []
    delivered = 0
    for number in range(1, 25):
        await spool.put([event(number, size=3_000)], [ClientState("c" * 32, upto=number)])
        if number % 5 == 0:
            await spool.journal(rotation(spool, number))
            batches = await spool.lease("main", NOW + number * 1000)
            await spool.settle("main", [Delivered(batch) for batch in batches])
            delivered = number
        cuts.append((number, delivered, dict(disk.synced)))
    spool.close()
    for number, delivered, files in cuts:
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        (tmp_path / "b").mkdir()
        for path, content in files.items():
            (tmp_path / "b" / Path(path).name).write_bytes(content)
        after = open_spool(tmp_path / "b")
        books = await after.books()
        assert after.quarantined is None
        assert books.balance() == []
        assert (books.events[0].received, books.events[0].delivered) == (number, delivered)
        assert after.clients["c" * 32].upto == number
        after.close()


async def test_whichever_write_or_sync_fails_nothing_is_acknowledged_and_the_spool_goes_on(
    tmp_path: Path, disk: Disk
) -> None:
    spool = open_spool(tmp_path / "a")
    await spool.put([event(0)], [])
    taken, failures = 1, 0
    for ahead in range(1, 14):
        disk.fail_at = disk.operations + ahead
        for _ in range(3):
            try:
                await spool.put([event(taken, size=6_000)], [ClientState("c" * 32, upto=taken)])
                taken += 1
            except SpoolFailed:
                failures += 1
            books = await spool.books()
            assert books.balance() == []
            assert books.events[0].pending == taken
    disk.fail_at = None
    assert failures == 13
    assert len(await spool.lease("main", NOW)) == taken
    spool.close()
    spool = open_spool(tmp_path / "a")
    assert (await spool.books()).events[0].pending == taken
    assert spool.clients["c" * 32].upto == taken - 1
    spool.close()
