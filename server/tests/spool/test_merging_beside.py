"""A merge that takes long, or meets what it cannot use, costs nobody beside it anything."""

import asyncio
import threading
from collections.abc import Iterable

import pytest

from sendoff_server.spool import (
    ClientState,
    Delivered,
)

from .conftest import NOW, OpenSpool, event, rotation

CLIENT = ClientState("c" * 32, service="shop", upto=7, refused=[(3, "missing")], events=7, points=90, gap=2)
DROPPED = {"event.closed": 2}
LATER = NOW + 3_600_000


async def test_a_long_merge_holds_up_neither_commits_nor_the_books(open_spool: OpenSpool) -> None:
    merging, release = threading.Event(), threading.Event()

    def slow(snapshots: Iterable[Iterable[bytes]], length_ms: int) -> list[bytes]:
        merging.set()
        assert release.wait(20)
        return [line for snapshot in snapshots for line in snapshot]

    spool = open_spool("main", "copy", merge=slow)
    await spool.journal(rotation(spool, 1))
    lease = asyncio.create_task(spool.lease("main", LATER))
    try:
        assert await asyncio.to_thread(merging.wait, 20)
        await asyncio.wait_for(spool.put([event(1)], []), 10)
        assert (await asyncio.wait_for(spool.books(), 10)).balance() == []
    finally:
        release.set()
    assert [batch.n for batch in await lease] == [3]


async def test_a_long_merge_for_one_output_holds_up_no_lease_of_another(open_spool: OpenSpool) -> None:
    merging, release = threading.Event(), threading.Event()

    def slow(snapshots: Iterable[Iterable[bytes]], length_ms: int) -> list[bytes]:
        merging.set()
        assert release.wait(20)
        return [line for snapshot in snapshots for line in snapshot]

    spool = open_spool("main", "copy", merge=slow)
    await spool.journal(rotation(spool, 1))
    lease = asyncio.create_task(spool.lease("main", LATER))
    try:
        assert await asyncio.to_thread(merging.wait, 20)
        await spool.put([event(1)], [])
        assert [batch.kind for batch in await asyncio.wait_for(spool.lease("copy", LATER), 10)] == ["events"]
    finally:
        release.set()
    assert [batch.n for batch in await lease] == [3]
    assert [batch.kind for batch in await spool.lease("copy", LATER)] == ["events", "snapshot"]


async def test_metrics_that_cannot_be_merged_together_are_sealed_in_smaller_pieces(open_spool: OpenSpool) -> None:
    """Or they would hold up everything of their output, events too."""

    def merge(snapshots: Iterable[Iterable[bytes]], length_ms: int) -> list[bytes]:
        found = [list(snapshot) for snapshot in snapshots]
        if len(found) > 1:
            raise MemoryError
        return [line for snapshot in found for line in snapshot]

    spool = open_spool("main", merge=merge)
    await spool.put([event(1)], [])
    for window in range(1, 6):
        await spool.journal(rotation(spool, window))
    taken = 0
    while batches := await spool.lease("main", LATER):
        taken += sum(batch.n for batch in batches)
        await spool.settle("main", [Delivered(batch) for batch in batches])
    assert taken == 1 + 5 * 3
    books = await spool.books()
    assert (books.balance(), books.points_out[0].lost) == ([], {})


async def test_a_second_that_is_given_up_while_it_is_merged_is_not_called_damaged(
    open_spool: OpenSpool, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()

    def merge(snapshots: Iterable[Iterable[bytes]], length_ms: int) -> list[bytes]:
        asyncio.run_coroutine_threadsafe(spool._lose_items([2]), loop).result(20)
        return [line for snapshot in snapshots for line in snapshot]

    spool = open_spool("main", merge=merge)
    for window in range(1, 4):
        await spool.journal(rotation(spool, window))
    await spool.lease("main", LATER)
    books = await spool.books()
    assert (books.balance(), books.points_out[0].lost) == ([], {"disk_failed": 3})
    assert "could not be merged" not in caplog.text
    assert "refuses" not in caplog.text
