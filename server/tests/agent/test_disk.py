"""A real disk that is full, or can only be read: nothing is acknowledged, that is said, and it ends by itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from sendoff_server.agent import Agent
from sendoff_server.spool import SpoolFailed

from .support import EVENTS, FrameClient, running, settings, status, stored, until
from .test_web import get

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A = "a" * 32


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True, capture_output=True)


async def test_a_full_disk_is_an_alarm_until_there_is_room_and_then_everything_is_acknowledged(disk: Path) -> None:
    async with running(disk) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", {"name": "sold"}, seq=1)
        await client.acknowledged(1)
        with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 65_536):
                pass
        sent = 1
        while agent.committer.blocked is None:
            sent += 1
            await client.send("event", {"name": "sold", "fields": {"pad": os.urandom(20_000).hex()}}, seq=sent)
            await until("stored, or not", lambda: agent.committer.blocked or agent.committer.waiting == 0)
            assert sent < 1_000
        _, _, text = await get(agent, "/metrics")
        assert "sendoff_spool_blocked 1.0" in text
        assert "sendoff_ready 0.0" in text
        found = await status(agent)
        assert "the disk is full" in found["why_not_ready"]
        (disk / "filler").unlink()
        assert await client.acknowledged(sent) == []
        _, _, text = await get(agent, "/metrics")
        assert "sendoff_spool_blocked 0.0" in text
        assert (await status(agent))["ready"]
        client.close()
    assert [line["seq"] for line in stored(disk, EVENTS)] == list(range(1, sent + 1))


async def test_a_disk_that_can_only_be_read_is_said_at_the_start_and_costs_nothing(disk: Path) -> None:
    async with running(disk) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", {"name": "sold"}, seq=1)
        await client.acknowledged(1)
        client.close()
    remount(disk, "ro")
    agent = Agent(settings(disk))
    with pytest.raises(SpoolFailed, match=r"[Rr]ead-only|cannot be written|cannot be used"):
        await agent.start()
    await agent.stop(1)
    remount(disk, "rw")
    async with running(disk) as again:
        assert (await status(again))["books"]["events"][0]["pending"] == 1
    assert not (disk / "agent" / "quarantine").exists()
