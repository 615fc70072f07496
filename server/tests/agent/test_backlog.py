"""The agent looks after what waits in its spool."""

from collections.abc import Callable

import pytest

from sendoff_server.agent.backlog import EXPIRE_S, LOOK_S, Backlog
from sendoff_server.spool import SpoolFailed


class Spool:
    """Counts what it is asked, and takes two seconds of a manual clock to merge."""

    def __init__(self) -> None:
        self.now = 0.0
        self.groups = 2
        self.expired = 0

    async def expire(self) -> int:
        self.expired += 1
        return 0

    async def merge_backlog(self, merge: Callable[..., list[bytes]], most: int = 1) -> int:
        if not self.groups:
            return 0
        self.groups -= 1
        self.now += 2
        return 1


def nothing(*arguments: object) -> list[bytes]:
    raise AssertionError(arguments)


async def test_merging_takes_a_quarter_of_the_time_while_there_is_work_and_none_else() -> None:
    spool = Spool()
    backlog = Backlog(spool, nothing, lambda: spool.now)
    assert [await backlog.step() for _ in range(3)] == [6.0, 6.0, LOOK_S]


async def test_what_waited_too_long_is_looked_for_once_a_minute() -> None:
    spool = Spool()
    backlog = Backlog(spool, nothing, lambda: spool.now)
    for _ in range(20):
        await backlog.step()
        spool.now += EXPIRE_S / 4
    assert spool.expired in (4, 5)


async def test_a_disk_that_refuses_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when it is cancelled: here at its second rest."""
    spool = Spool()
    rests: list[float] = []

    class Cancelled(Exception):
        pass

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 2:
            raise Cancelled

    async def refuse(*arguments: object) -> int:
        raise SpoolFailed("the disk is ill")

    monkeypatch.setattr("asyncio.sleep", rest)
    monkeypatch.setattr(spool, "merge_backlog", refuse)
    with pytest.raises(Cancelled):
        await Backlog(spool, nothing, lambda: spool.now).run()
    assert rests == [LOOK_S, LOOK_S]
