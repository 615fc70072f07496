"""Starting, watching, stopping: in order, all or nothing, and never without a word."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import pytest

from sendoff_server.agent import Agent, AgentFailed
from sendoff_server.inputs import InputError
from sendoff_server.spool import SpoolLocked

from .support import EVENTS, FrameClient, connect, frame, running, settings, status, stored, until

if TYPE_CHECKING:
    from pathlib import Path

A = "a" * 32


async def test_an_agent_that_cannot_listen_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        agent = Agent(settings(tmp_path, tcp={"listen": f"127.0.0.1:{taken.getsockname()[1]}"}))
        with pytest.raises(InputError, match=r"inputs\.tcp\.listen"):
            await agent.start()
    assert not (tmp_path / "agent.sock").exists()
    async with running(tmp_path):  # the spool's lock is free again
        pass


async def test_a_second_agent_on_the_same_spool_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(SpoolLocked, match="in use by process"):
            await Agent(settings(tmp_path)).start()


async def test_a_second_agent_on_the_same_socket_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with running(tmp_path) as agent:
        other = settings(tmp_path / "other", unix={"path": str(tmp_path / "agent.sock")})
        with pytest.raises(InputError, match="another agent answers on"):
            await Agent(other).start()
        client = FrameClient(agent, A)
        await client.hello()
        client.close()


async def test_every_input_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENDOFF_SOCKET", str(tmp_path / "elsewhere" / "agent.sock"))
    off = settings(tmp_path, unix={"path": ""}, unix_datagram={"path": ""}, udp={"listen": ""}, tcp={"listen": ""})
    async with running(tmp_path, off) as agent:
        assert set(agent.addresses) == {"web", "control"}
        assert (await status(agent))["inputs"] == []


async def test_without_a_control_socket_the_agent_still_works_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "control.sock").write_text("in the way")
    async with running(tmp_path) as agent:
        assert "control" not in agent.addresses
        assert "sendoff status" in caplog.text
    assert (tmp_path / "control.sock").read_text() == "in the way"


async def test_clients_that_lie_about_their_numbers_cannot_stop_the_agent(tmp_path: Path) -> None:
    """Their sums are folded into one total of a service, which must fit the store's integers."""
    async with running(tmp_path) as agent:
        agent.clients._most = 10
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        for n in range(300):
            for first in (0, 2**53 - 1):
                lies = {"metric.closed": 2**53 - 1}
                udp.send(frame(f"{n:032x}", "metrics", "a:1|c", n=first, service="shop", dropped=lies))
            if n % 20 == 0:
                await asyncio.sleep(0)
        await until("in", lambda: agent.intake.frames["udp"] == 600)
        await agent.tick()
        assert (await status(agent))["books"]["folded_clients"][0]["dropped"] == {"metric.closed": 290 * 2**40}
        udp.close()


@pytest.mark.parametrize("name", ["tick", "commit"])
async def test_a_task_that_dies_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async with running(tmp_path) as agent:
        watching = asyncio.create_task(agent.watch())

        async def broken(*args: object, **more: object) -> None:
            raise ZeroDivisionError("planted")

        monkeypatch.setattr(agent.windows, "turn", broken)
        with monkeypatch.context() as patch:
            patch.setattr(agent._spool, "put", broken)
            if name == "commit":
                udp = connect(agent, "udp", socket.SOCK_DGRAM)
                udp.send(b"_e{1,1}:x|y")
                udp.close()
            with pytest.raises(AgentFailed, match=name) as failed:
                async with asyncio.timeout(10):
                    await watching
            assert isinstance(failed.value.__cause__, ZeroDivisionError)
        monkeypatch.undo()


async def test_stopping_ends_the_watch_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        watching = asyncio.create_task(agent.watch())
        await asyncio.sleep(0)
        await agent.stop(1)
        await watching
        assert agent.phase == "stopped"
        await agent.stop(1)


async def test_a_stopped_agent_leaves_no_thread_task_or_socket(tmp_path: Path) -> None:
    import threading

    threads, tasks = threading.active_count(), len(asyncio.all_tasks())
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
    assert len(asyncio.all_tasks()) == tasks
    assert threading.active_count() <= threads + 1  # asyncio keeps the thread that closed the spool
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent"]
    client.close()


async def test_clients_that_ended_long_ago_are_folded_into_totals(tmp_path: Path) -> None:
    late = 0.0

    def running_s() -> float:
        return time.monotonic() + late

    async with running(tmp_path, running=running_s) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("metrics", "a:1|c", n=0)
        await client.send("bye", {"last_seq": 0, "last_n": 3, "dropped": {"metric.closed": 2}})
        client.close()
        await until("ended", lambda: all(each.state.state == "ended" for each in agent.clients))
        late = 10.0
        await agent.tick()
        late = 3_700.0
        await agent.tick(fold=True)
        found = await status(agent)
        assert found["clients"] == []
        [total] = found["books"]["folded_clients"]
        assert (total["service"], total["points"], total["gap"], total["dropped"]) == (
            "shop",
            1,
            2,
            {"metric.closed": 2},
        )


async def test_more_clients_than_there_is_room_for_are_folded_and_their_points_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff_server.intake.clients.MAX_LEAVING", 1_000)
    async with running(tmp_path) as agent:
        agent.clients._most = 10
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        for n in range(100):
            udp.send(frame(f"{n:032x}", "metrics", "a:1|c", n=0, service="shop"))
        await until("in", lambda: agent.intake.frames["udp"] == 100)
        await agent.tick()
        found = await status(agent)
        assert len(found["clients"]) == 10
        assert [total["points"] for total in found["books"]["folded_clients"]] == [90]
        udp.close()


async def test_the_ledger_balances_at_every_look_while_traffic_comes_and_the_agent_restarts(tmp_path: Path) -> None:
    for run in range(3):
        async with running(tmp_path) as agent:
            client = FrameClient(agent, A)
            upto = (await client.hello(resume_from=run * 40 + 1))["ack"]
            assert upto == run * 40
            udp = connect(agent, "udp", socket.SOCK_DGRAM)
            for n in range(40):
                await client.send("event", {"name": "x"}, seq=run * 40 + n + 1)
                udp.send(b"a:1|c\nb:2|g\nbad")
                if n % 5 == 0:
                    await status(agent)
            await client.acknowledged(run * 40 + 40)
            udp.close()
            client.close()
    assert len(stored(tmp_path, EVENTS)) == 120
    async with running(tmp_path) as agent:
        books = (await status(agent))["books"]
        assert [book["received"] for book in books["events"]] == [120]
        assert [(book["received"], book["rejected"]) for book in books["lines"]] == [(360, {"no_value": 120})]
        assert [book["journaled"] for book in books["points_in"]] == [240]
