"""Metrics through a real agent, from every input, into the journal: exact totals, gaps, clocks that jump."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from sendoff_server.aggregate import Rotation
from sendoff_server.spool import SpoolFailed
from sendoff_server.wire.frame import encode_unit

from .support import EVENTS, JOURNAL, FrameClient, connect, frame, running, settings, status, stored, totals, until

if TYPE_CHECKING:
    from pathlib import Path

    from sendoff_server.agent import Agent

A = "a" * 32
DGRAM, STREAM = socket.SOCK_DGRAM, socket.SOCK_STREAM


async def lines_received(agent: Agent, source: str) -> int:
    return sum(book["received"] for book in (await status(agent))["books"]["lines"] if book["source"] == source)


@pytest.mark.parametrize("name", ["udp", "unix_datagram"])
async def test_datagrams_of_lines_are_counted_exactly(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as agent:
        sock = connect(agent, name, DGRAM)
        for n in range(500):
            await asyncio.get_running_loop().sock_sendall(sock, f"jobs:2|c\nuser:u{n % 50}|s\ntook:{n}|ms".encode())
        sock.close()
    assert totals(tmp_path) == {"jobs": 1_000, "user": 50, "took": 500}


@pytest.mark.parametrize("name", ["unix", "tcp"])
@pytest.mark.parametrize("units", [True, False], ids=["units", "plain"])
async def test_streams_of_lines_are_counted_exactly_in_any_pieces(tmp_path: Path, name: str, units: bool) -> None:
    lines = [b"jobs:2|c\n", b"load:0.5|g\n", b"took:7|ms\n"] * 200
    data = b"".join(encode_unit(line) for line in lines) if units else b"".join(lines)
    async with running(tmp_path) as agent:
        sock = connect(agent, name, STREAM)
        for at in range(0, len(data), 37):
            await asyncio.get_running_loop().sock_sendall(sock, data[at : at + 37])
            if at % 740 == 0:
                await asyncio.sleep(0)
        sock.close()
        await until("all read", lambda: _closed(agent, name))
    assert totals(tmp_path) == {"jobs": 400, "load": 0.5, "took": 200}


def _closed(agent: Agent, name: str) -> bool:
    return any(each.name == name and each.open == 0 and each.counts.accepted for each in agent._inputs)  # type: ignore[union-attr]


async def test_points_of_frames_get_service_and_env_and_negative_gauges_set(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("metrics", "a:1|c\nb:-5|g\nb:-5|g\nc:1|c|#env:mine", n=0)
        udp = connect(agent, "udp", DGRAM)
        udp.send(frame("b" * 32, "metrics", "d:1|c", n=0, service="jobs", env="", release="9"))
        await until("both are in", lambda: agent.intake.frames["udp"] == 1 and agent.intake.frames["unix"] == 2)
        udp.close()
        client.close()
    tags = {line["name"]: line["tags"] for line in stored(tmp_path, JOURNAL)}
    assert tags == {
        "a": {"env": "test", "service": "shop"},
        "b": {"env": "test", "service": "shop"},
        "c": {"env": "mine", "service": "shop"},
        "d": {"service": "jobs"},
    }
    assert totals(tmp_path)["b"] == -5


async def test_lost_frames_are_a_gap_and_repeated_ones_count_once(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        udp = connect(agent, "udp", DGRAM)
        for n in (0, 2, 2, 6, 4, 12):  # 8 and 10 never come
            udp.send(frame(A, "metrics", "a:1:1|c", n=n, service="shop"))

        async def charged() -> bool:
            [client] = (await status(agent))["clients"]
            return bool(client["gap"] == 4 and client["points"] == 10)

        await until("the gap is charged", charged)
        udp.close()
    assert totals(tmp_path) == {"a": 10}


async def test_points_that_were_held_back_belong_to_their_own_time(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        now = agent._clock()
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("metrics", "old:1|c", n=0, t=now - 3_600_000)
        await client.send("metrics", "ancient:1|c", n=1, t=now - 31 * 86_400_000)
        await until("in", lambda: agent.intake.frames["unix"] == 3)
        client.close()
    [line] = stored(tmp_path, JOURNAL)
    assert (line["name"], line["w"][0]) == ("old", (now - 3_600_000) // 1_000 * 1_000)


async def test_events_and_checks_of_statsd_clients_become_events(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        udp = connect(agent, "udp", DGRAM)
        udp.send(b"_e{6,4}:deploy|done|#service:shop,env:prod|h:web-7\n_sc|db|2|m:slow\n_e{9,9}:bad")
        await until("stored", lambda: agent.intake.lines["udp"] and agent.committer.waiting == 0)
        udp.close()
    deploy, check = sorted(stored(tmp_path, EVENTS), key=lambda line: line["name"], reverse=True)
    assert (deploy["name"], deploy["service"], deploy["host"]) == ("deploy", "shop", "web-7")
    assert (check["name"], check["host"]) == ("db", "testhost")
    assert "seq" not in deploy
    assert deploy["id"] != check["id"]


async def test_what_dogstatsd_clients_say_they_dropped_is_their_loss(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        udp = connect(agent, "udp", DGRAM)
        for _ in range(2):
            udp.send(
                b"datadog.dogstatsd.client.packets_dropped_queue:3|c|#client:py\n"
                b"datadog.dogstatsd.client.packets_dropped_writer:2|c|#client:py"
            )
        await until("in", lambda: agent.intake.lines["udp"] == 2)
        [client] = (await status(agent))["clients"]
        assert client["dropped"] == {"metric.buffer_full": 6, "metric.send_failed": 4}
        assert (client["service"], client["lib"]) == ("statsd/udp", "dogstatsd")
        udp.close()
    assert totals(tmp_path)["datadog.dogstatsd.client.packets_dropped_queue"] == 6


async def test_the_number_of_sources_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sendoff_server.intake.intake.MAX_SOURCES", 5)
    async with running(tmp_path) as agent:
        udp = connect(agent, "udp", DGRAM)
        for n in range(50):
            udp.send(frame(f"{n:032x}", "metrics", "a:1|c", n=0, service=f"s{n}"))
        await until("in", lambda: agent.intake.frames["udp"] == 50)
        udp.close()
    assert sum(line["n"] for line in stored(tmp_path, JOURNAL)) == 50
    async with running(tmp_path) as agent:
        books = (await status(agent))["books"]["points_in"]
        assert {book["source"]: book["received"] for book in books} == {**{f"s{n}": 1 for n in range(5)}, "others": 45}
        udp = connect(agent, "udp", DGRAM)
        udp.send(frame("f" * 32, "metrics", "a:1|c", n=0, service="new"))
        await until("in", lambda: agent.intake.frames["udp"] == 1)
        udp.close()
    async with running(tmp_path) as agent:
        books = (await status(agent))["books"]["points_in"]
        assert {book["source"] for book in books} == {*(f"s{n}" for n in range(5)), "others"}


@pytest.mark.parametrize("jump_ms", [3_600_000, -3_600_000], ids=["an hour ahead", "an hour back"])
async def test_a_jump_of_the_clock_stops_no_window_and_expires_nothing(tmp_path: Path, jump_ms: int) -> None:
    offset = 0

    def clock() -> int:
        import time

        return time.time_ns() // 1_000_000 + offset

    async with running(tmp_path, clock=clock) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", {"name": "x"}, seq=1)
        await client.acknowledged(1)
        udp = connect(agent, "udp", DGRAM)
        for n in range(3):
            udp.send(b"a:1|c\nb:5|g")
            await until("in", lambda n=n: agent.intake.lines["udp"] == n + 1)  # type: ignore[misc]
            offset += jump_ms

        async def journaled() -> bool:
            books = (await status(agent))["books"]
            return not books["in_windows"] and sum(book["journaled"] for book in books["points_in"]) == 6

        await until("all windows are journaled", journaled)
        await agent.tick(fold=True)
        assert [each["client"] for each in (await status(agent))["clients"]] == [A]
        await client.send("event", {"name": "x"}, seq=1)
        await client.send("event", {"name": "x"}, seq=2)
        await client.acknowledged(2)
        udp.close()
        client.close()
    assert totals(tmp_path) == {"a": 3, "b": 5}
    assert len(stored(tmp_path, EVENTS)) == 2


async def test_windows_wait_for_an_ill_disk_and_only_the_oldest_are_lost_with_their_points_in_the_books(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff_server.agent.windows.MAX_HELD", 2)
    async with running(tmp_path) as agent:
        assert agent._spool is not None
        journal = agent._spool.journal

        async def refuse(rotation: Rotation) -> None:
            raise SpoolFailed("the disk is ill")

        monkeypatch.setattr(agent._spool, "journal", refuse)
        udp = connect(agent, "udp", DGRAM)
        for n in range(4):
            udp.send(b"a:1|c")
            await until("in", lambda n=n: agent.intake.lines["udp"] == n + 1)  # type: ignore[misc]
            await agent.windows.turn(agent._clock() + 2_000)
        monkeypatch.setattr(agent._spool, "journal", journal)

        async def settled() -> bool:
            [book] = (await status(agent))["books"]["points_in"] or [{}]
            return {key: book.get(key) for key in ("received", "journaled", "lost")} == {
                "received": 4, "journaled": 2, "lost": {"disk_failed": 2},
            }  # fmt: skip

        await until("the books say so", settled)
        udp.close()


async def test_a_second_that_is_being_journaled_when_the_agent_stops_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow: the commit is on its way when the tick that waits for it would be cancelled."""
    async with running(tmp_path) as agent:
        begun, loop = asyncio.Event(), asyncio.get_running_loop()
        journal = agent._spool._intake.journal  # type: ignore[union-attr]

        def slow(*arguments: Any) -> None:
            loop.call_soon_threadsafe(begun.set)
            time.sleep(0.2)
            journal(*arguments)

        monkeypatch.setattr(agent._spool._intake, "journal", slow)  # type: ignore[union-attr]
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        udp.send(b"a:1|c")
        udp.close()
        await begun.wait()
    assert totals(tmp_path) == {"a": 1}


async def test_garbage_on_every_input_leaves_good_traffic_alone_and_the_books_right(tmp_path: Path) -> None:
    import random

    rng = random.Random(7)
    loop = asyncio.get_running_loop()
    async with running(tmp_path) as agent:
        good = FrameClient(agent, A)
        await good.hello()
        udp, dgram = connect(agent, "udp", DGRAM), connect(agent, "unix_datagram", DGRAM)
        for n in range(100):
            noise = rng.randbytes(rng.choice((1, 3, 50, 2_000)))
            for name in ("unix", "tcp"):
                bad = connect(agent, name)
                bad.send(noise if n % 2 else encode_unit(b"{" + noise))
                bad.close()
            for sock in (udp, dgram):
                await loop.sock_sendall(sock, noise)
                await loop.sock_sendall(sock, b"{" + noise)
                await loop.sock_sendall(sock, b"good:1|c")
            await good.send("metrics", "good:1|c", n=n)
            await good.send("event", {"name": "good"}, seq=n + 1)
        await good.acknowledged(100)
        await until("garbage is through", lambda: all(_quiet(agent, name, good) for name in ("unix", "tcp")))
        for sock in (udp, dgram):
            sock.close()
        found = await status(agent)
        refused = {each["name"]: each["refused_frames"] for each in found["inputs"]}
        assert all(sum(refused[name].values()) >= 100 for name in ("udp", "unix_datagram"))
        json.dumps(found)
        good.close()
    assert totals(tmp_path)["good"] == 300
    assert len([line for line in stored(tmp_path, EVENTS) if line["name"] == "good"]) == 100


def _quiet(agent: Agent, name: str, good: FrameClient) -> bool:
    [found] = [each for each in agent._inputs if each.name == name]
    wanted = {"unix": (101, 1), "tcp": (100, 0)}[name]
    return (found.counts.accepted, found.open) == wanted  # type: ignore[union-attr]


async def test_drops_of_the_kernel_are_a_memo_and_the_books_say_what_arrived(tmp_path: Path) -> None:
    small = settings(tmp_path, udp={"listen": "127.0.0.1:0", "receive_buffer": 4_096})
    async with running(tmp_path, small) as agent:
        udp = connect(agent, "udp", DGRAM)
        for _ in range(300):  # in one go: the agent, on this very thread, reads nothing meanwhile
            udp.send(b"a:1|c" + b" " * 400)

        async def adds_up() -> bool:
            found = await status(agent)
            arrived = sum(book["received"] for book in found["books"]["lines"])
            return bool(found["kernel_drops"]["udp"] > 100 and arrived + found["kernel_drops"]["udp"] == 300)

        await until("arrived and dropped make what was sent", adds_up)
        lines = [json.loads(line) for line in (await agent.books()).wire()]
        [memo] = [line for line in lines if line.get("memo") == "kernel"]
        assert memo["socket"] == "udp"
        assert memo["dropped"] > 100
        udp.close()


async def test_a_truncated_datagram_loses_only_its_last_line(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        sock = connect(agent, "unix_datagram", DGRAM)
        sock.send(b"a:1|c\n" * 11_000)
        sock.send(b"{" + b"x" * 70_000)
        await until("in", lambda: agent.intake.lines["unix_datagram"] and agent.intake.refused)
        assert agent.intake.refused["unix_datagram"] == {"cut_off": 1}
        sock.close()
    assert totals(tmp_path) == {"a": 65_535 // 6}


async def test_a_signal_to_stop_journals_the_second_that_has_not_ended(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        udp = connect(agent, "udp", DGRAM)
        for _ in range(1_000):
            udp.send(b"a:1|c")
        udp.close()
    assert totals(tmp_path) == {"a": 1_000}
