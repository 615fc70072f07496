"""One run of the agent goes on where another let go: the same sockets, connections, rests, lock and holes."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec import msgpack

from sendoff_server.agent import Agent
from sendoff_server.agent import agent as life
from sendoff_server.agent.handover import State, pack, unpack
from sendoff_server.process import Handover, Refused
from sendoff_server.spool import SpoolFailed, SpoolLocked
from sendoff_server.wire.frame import encode_unit

from .support import EVENTS, FrameClient, address, connect, frame, running, settings, status, stored, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sendoff_server.aggregate import Rotation
    from sendoff_server.settings import Settings

A = "a" * 32


async def let_go(agent: Agent) -> Handover:
    await agent.settle()
    return await agent.let_go()


@asynccontextmanager
async def gone_on(folder: Path, handover: Handover, chosen: Settings | None = None) -> AsyncIterator[Agent]:
    """The next run, stopped at the end."""
    async with running(folder, chosen or settings(folder), before=unpack(handover)) as agent:
        yield agent


async def test_a_half_read_unit_goes_on_in_the_next_run_and_is_acknowledged_there(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", {"name": "first"}, seq=1)
        await client.acknowledged(1)
        unit = encode_unit(frame(A, "event", {"name": "second"}, seq=2))
        await client.raw(unit[:100])
        await until("half of it read", lambda: agent._inputs[0].pending == 100)  # type: ignore[union-attr]
        handover = await let_go(agent)
    async with gone_on(tmp_path, handover) as again:
        await client.raw(unit[100:])
        await client.acknowledged(2)
        await client.raw(unit)  # a repeat
        await client.send("event", {"name": "third"}, seq=3)
        await client.acknowledged(3)
        client.close()
        assert again.intake.repeats == 1
    assert [each["name"] for each in stored(tmp_path, EVENTS)] == ["first", "second", "third"]


async def test_half_a_plain_line_goes_on_in_the_next_run(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        tcp = connect(agent, "tcp")
        await asyncio.get_running_loop().sock_sendall(tcp, b"whole:1|c\nha")
        await until("read", lambda: agent.intake.lines["tcp"] == 1)
        handover = await let_go(agent)
    async with gone_on(tmp_path, handover) as again:
        await asyncio.get_running_loop().sock_sendall(tcp, b"lf:1|c\n")
        await until("read", lambda: again.intake.lines["tcp"] == 1)
        found = await status(again)
        assert found["rejected"] == {}
        tcp.close()


async def test_what_comes_while_no_run_is_there_waits_and_nobody_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        handover = await let_go(agent)
        udp, tcp = connect(agent, "udp", socket.SOCK_DGRAM), connect(agent, "tcp")
        unix = FrameClient(agent, A)
        for _ in range(50):
            udp.send(b"waits:1|c")
        tcp.send(b"waits:1|c\n")
        await unix.send("event", {"name": "waits"}, seq=1)
    async with gone_on(tmp_path, handover) as again:
        await unix.acknowledged(1)
        await until("all read", lambda: (again.intake.lines["udp"], again.intake.lines["tcp"]) == (50, 1))
        assert (await status(again))["kernel_drops"] == {"udp": 0}
        for each in (udp, tcp):
            each.close()
        unix.close()


async def test_the_spool_is_never_free_for_another_agent_in_between(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        handover = await let_go(agent)
        with pytest.raises(SpoolLocked):
            await Agent(settings(tmp_path, unix={"path": str(tmp_path / "other.sock")})).start()
    async with gone_on(tmp_path, handover):
        pass
    async with running(tmp_path):  # and given back at the end
        pass


async def test_points_that_may_still_come_are_no_gap_after_a_reload(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        for n in (0, 2):
            udp.send(frame(A, "metrics", "late:1|c", n=n, service="shop"))
        await until("read", lambda: agent.intake.frames["udp"] == 2)
        handover = await let_go(agent)
        udp.send(frame(A, "metrics", "late:1|c", n=1, service="shop"))
        udp.close()
    async with gone_on(tmp_path, handover) as again:
        await until("read", lambda: again.intake.frames["udp"] == 1)
        (client,) = (await status(again))["clients"]
        assert (client["state"], client["points"], client["gap"]) == ("live", 3, 0)
        assert again.clients.keep(again._running())[0].holes == []


async def test_kernel_drops_are_neither_lost_nor_counted_twice(tmp_path: Path) -> None:
    small = settings(tmp_path, udp={"listen": "127.0.0.1:0", "receive_buffer": 4096})
    sent = 300
    async with running(tmp_path, small) as agent:
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        handover = await let_go(agent)
        for _ in range(sent):
            udp.send(b"waits:1|c")
    for _ in range(2):  # the second time nothing more is dropped
        async with gone_on(tmp_path, handover, small) as again:
            await until("read", lambda again=again: again._inputs[2].counts.datagrams > 0)  # type: ignore[misc]
            await again.tick()
            found = await status(again)
            datagrams = next(each["datagrams"] for each in found["inputs"] if each["name"] == "udp")
            assert found["kernel_drops"]["udp"] > 0
            assert datagrams + found["kernel_drops"]["udp"] == sent
            handover = await let_go(again)
    udp.close()
    async with gone_on(tmp_path, handover, small):
        pass


async def test_a_changed_address_is_new_and_what_waits_at_the_old_one_is_still_read(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with running(tmp_path) as agent:
        old = address(agent, "tcp")
        open_before = connect(agent, "tcp")
        await loop.sock_sendall(open_before, b"a:1|c\n")
        await until("read", lambda: agent.intake.lines["tcp"] == 1)
        handover = await let_go(agent)
        waiting, datagram = connect(agent, "tcp"), connect(agent, "udp", socket.SOCK_DGRAM)
        waiting.send(b"b:1|c\n")
        datagram.send(b"c:1|c")
    changed = settings(tmp_path, tcp={"listen": "127.0.0.2:0"}, udp={"listen": ""})
    async with gone_on(tmp_path, handover, changed) as again:
        assert again.addresses["tcp"].startswith("127.0.0.2:")
        await loop.sock_sendall(open_before, b"a:1|c\n")
        await until("read", lambda: (again.intake.lines["tcp"], again.intake.lines["udp"]) == (2, 1))
        with pytest.raises(ConnectionRefusedError), socket.create_connection(old):
            pass
        for each in (open_before, waiting, datagram):
            each.close()
        await until("only the inputs of the settings are left", lambda: len(again._inputs) == 3)


async def test_changed_rights_are_those_of_the_same_socket(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        path = tmp_path / "agent.sock"
        before = path.stat()
        handover = await let_go(agent)
    chosen = settings(tmp_path, unix={"path": str(path), "mode": "0600"})
    async with gone_on(tmp_path, handover, chosen):
        assert path.stat().st_ino == before.st_ino
        assert path.stat().st_mode & 0o777 == 0o600


async def test_a_socket_whose_file_somebody_removed_is_made_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        (tmp_path / "agent.sock").unlink()
        handover = await let_go(agent)
    async with gone_on(tmp_path, handover) as again:
        client = FrameClient(again, A)
        await client.hello()
        client.close()


async def test_an_address_that_cannot_be_had_is_said_and_the_old_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as agent:
        old = agent.addresses["tcp"]
        handover = await let_go(agent)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = f"127.0.0.1:{taken.getsockname()[1]}"
        async with gone_on(tmp_path, handover, settings(tmp_path, tcp={"listen": wanted})) as again:
            assert again.addresses["tcp"] == old
            connect(again, "tcp").close()
    assert "inputs.tcp.listen" in caplog.text
    assert f"it goes on at {old}" in caplog.text


@pytest.mark.parametrize("other", ["a file", "a file/agent.sock"])
async def test_a_path_that_cannot_be_had_is_left_alone_and_the_old_one_stays(tmp_path: Path, other: str) -> None:
    """No right of what lies there is changed."""
    file = tmp_path / "a file"
    file.write_text("somebody's")
    file.chmod(0o600)
    async with running(tmp_path) as agent:
        old = address(agent, "unix")
        handover = await let_go(agent)
    elsewhere = settings(tmp_path, unix={"path": str(tmp_path / other), "mode": "0666"})
    async with gone_on(tmp_path, handover, elsewhere) as again:
        assert again.addresses["unix"] == old
        connect(again, "unix").close()
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("somebody's", 0o600)


async def test_a_refused_reload_right_after_a_changed_address_lets_every_input_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as agent:
        handover = await let_go(agent)
    moved = settings(tmp_path, udp={"listen": "127.0.0.2:0"})
    async with gone_on(tmp_path, handover, moved) as again:

        async def fail(rotation: object) -> None:
            raise SpoolFailed("the disk is full")

        udp, tcp = connect(again, "udp", socket.SOCK_DGRAM), connect(again, "tcp")
        udp.send(b"kept:1|c")
        await until("read", lambda: again.intake.lines["udp"] == 1)
        with monkeypatch.context() as ill:
            ill.setattr(again._spool, "journal", fail)
            with pytest.raises(Refused, match="does not take"):
                await again.settle()
        udp.send(b"kept:1|c")
        tcp.send(b"kept:1|c\n")
        await until("read", lambda: (again.intake.lines["udp"], again.intake.lines["tcp"]) == (2, 1))
        udp.close()
        tcp.close()


async def test_points_that_the_kernel_dropped_just_before_a_reload_are_still_known_as_dropped_there(
    tmp_path: Path,
) -> None:
    small = settings(tmp_path, udp={"listen": "127.0.0.1:0", "receive_buffer": 4096})
    async with running(tmp_path, small) as agent:
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        udp.send(frame(A, "metrics", "lost:1|c", n=0, service="shop"))
        await until("read", lambda: agent.intake.frames["udp"] == 1)
        await agent.settle()
        for n in range(1, 301):
            udp.send(frame(A, "metrics", "lost:1|c", n=n, service="shop"))
        handover = await agent.let_go()
    async with gone_on(tmp_path, handover, small) as again:
        await until("read", lambda: again.intake.frames["udp"] > 0)
        udp.send(frame(A, "metrics", "lost:1|c", n=301, service="shop"))
        udp.close()
        await until("charged", lambda: next(iter(again.clients)).state.gap > 0)
        await again.tick()
        assert again.clients.in_kernel["udp"] == next(iter(again.clients)).state.gap


async def test_drops_of_the_kernel_at_an_address_that_is_given_up_stay_in_the_total(tmp_path: Path) -> None:
    small = settings(tmp_path, udp={"listen": "127.0.0.1:0", "receive_buffer": 4096})
    async with running(tmp_path, small) as agent:
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        handover = await let_go(agent)
        for _ in range(300):
            udp.send(b"waits:1|c")
        udp.close()
    moved = settings(tmp_path, udp={"listen": "127.0.0.2:0"})
    async with gone_on(tmp_path, handover, moved) as again:
        await again.tick()
        found = await status(again)
        assert again.intake.lines["udp"] + found["kernel_drops"]["udp"] == 300
        assert found["kernel_drops"]["udp"] > 0
        [shown] = [each for each in found["inputs"] if each["name"] == "udp"]
        assert shown["datagrams"] == again.intake.lines["udp"], "counts go on at the new address"


async def test_connections_to_an_address_that_was_given_up_go_on_over_every_further_reload(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    without = settings(tmp_path, tcp={"listen": ""})
    async with running(tmp_path) as agent:
        tcp = connect(agent, "tcp")
        await loop.sock_sendall(tcp, b"a:1|c\na:")
        await until("read", lambda: agent.intake.lines["tcp"] == 1)
        handover = await let_go(agent)
    for _ in range(2):
        async with gone_on(tmp_path, handover, without) as again:
            await loop.sock_sendall(tcp, b"1|c\na:")
            await until("read", lambda again=again: again.intake.lines["tcp"] == 1)  # type: ignore[misc]
            handover = await let_go(again)
    async with gone_on(tmp_path, handover, without) as again:
        assert (await status(again))["rejected"] == {}
        tcp.close()
        await until("its input has ended with it", lambda: len(again._inputs) == 3)


def moved(folder: Path, data_dir: Path) -> Settings:
    """The settings of `folder`, with the data elsewhere."""
    here = settings(folder)
    return here.model_copy(update={"agent": here.agent.model_copy(update={"data_dir": data_dir})})


@pytest.mark.parametrize("why", ["cannot be used", "another agent"])
async def test_a_folder_of_data_that_cannot_be_had_is_said_and_the_old_one_stays(
    tmp_path: Path, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    async with running(other) as another:
        if why == "cannot be used":
            (other / "file").touch()
        async with running(here) as agent:
            client = FrameClient(agent, A)
            await client.hello()
            handover = await let_go(agent)
        wanted = other / "file" if why == "cannot be used" else other
        async with gone_on(here, handover, moved(here, wanted)) as again:
            await client.send("event", {"name": "after"}, seq=1)
            await client.acknowledged(1)
            assert (await status(again))["spool"]["path"] == str(here / "agent")
            client.close()
            with pytest.raises(SpoolLocked):
                await Agent(settings(here, unix={"path": str(tmp_path / "other.sock")})).start()
        assert another.phase == "running"
    assert "agent.data_dir" in caplog.text
    assert [each["name"] for each in stored(here, EVENTS)] == ["after"]


async def test_another_folder_of_data_is_used_after_a_reload_and_the_old_one_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    async with running(here) as agent:
        handover = await let_go(agent)
    async with gone_on(here, handover, moved(here, there)) as again:
        assert (await status(again))["spool"]["path"] == str(there / "agent")
        sockets = {name: {"path": str(tmp_path / name)} for name in ("unix", "unix_datagram")}
        async with running(here, settings(here, **sockets)):
            pass
    assert f"what waits in {here / 'agent'} stays there" in caplog.text


async def test_a_disk_that_takes_nothing_refuses_the_reload_and_everything_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        udp.send(b"kept:1|c")
        await until("read", lambda: agent.intake.lines["udp"] == 1)

        async def fail(rotation: object) -> None:
            raise SpoolFailed("the disk is full")

        with monkeypatch.context() as ill:
            ill.setattr(agent._spool, "journal", fail)
            with pytest.raises(Refused, match="does not take"):
                await agent.settle()
        assert agent.phase == "running"
        udp.send(b"kept:1|c")
        await client.send("event", {"name": "after"}, seq=1)
        await client.acknowledged(1)
        await until("read", lambda: agent.intake.lines["udp"] == 2)
        await until("journaled", lambda: journaled(agent, 2))
        client.close()
        udp.close()


@pytest.mark.parametrize("busy", ["with a second that is over", "with what is in memory"])
async def test_a_disk_that_takes_too_long_refuses_the_reload_and_nothing_is_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: str
) -> None:
    monkeypatch.setattr(life, "SETTLE_S", 0.2)
    async with running(tmp_path) as agent:
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        udp.send(b"kept:1|c")
        await until("read", lambda: agent.intake.lines["udp"] == 1)
        assert agent._spool is not None
        store, slow = agent._spool.journal, asyncio.Event()

        async def slowly(rotation: Rotation) -> None:
            await store(rotation)
            await slow.wait()

        with monkeypatch.context() as ill:
            ill.setattr(agent._spool, "journal", slowly)
            if busy == "with a second that is over":
                await until("the tick is at it", lambda: agent.windows.held == 1)
            with pytest.raises(Refused, match=r"within 0\.2 s"):
                await asyncio.wait_for(agent.settle(), 10)
            udp.send(b"kept:1|c")
            await until("read on", lambda: agent.intake.lines["udp"] == 2)
            slow.set()
        await until("journaled", lambda: journaled(agent, 2))
        handover = await let_go(agent)
        udp.close()
    async with gone_on(tmp_path, handover) as again:
        assert await journaled(again, 2)


async def journaled(agent: Agent, points: int) -> bool:
    return [row["journaled"] for row in (await status(agent))["books"]["points_in"]] == [points]


@pytest.mark.parametrize("state", [b"", b"\xc1 no state", msgpack.encode({"version": 99, "sockets": "of another kind"}),
                                   msgpack.encode(State(version=2))])  # fmt: skip
async def test_a_state_that_is_not_understood_closes_what_came_with_it_and_the_agent_starts(
    tmp_path: Path, state: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as agent:
        handover = await let_go(agent)
    async with gone_on(tmp_path, Handover(state, handover.descriptors)) as again:
        client = FrameClient(again, A)
        await client.hello()
        client.close()
    assert "beginning with new sockets" in caplog.text


async def test_descriptors_that_the_state_does_not_name_are_closed() -> None:
    read, write = os.pipe()
    assert unpack(Handover(pack(State()).state, (read, write))) is not None
    for each in (read, write):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)
