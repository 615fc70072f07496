"""The control socket of a whole agent: receipts (accepted, spooled, refused, over a restart), and senseless wishes."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import aiohttp

from sendoff_server.settings import Settings
from sendoff_server.spool.sql import ask
from server.tests.outputs.destination import KEY, Destination

from .support import FrameClient, running, settings, until, uuid7

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from sendoff_server.agent import Agent

A = "a" * 32
EVENT = {"name": "order.placed", "fields": {"total": 1}}


async def receipt(agent: Agent, event: str) -> tuple[int, Any]:
    connector = aiohttp.UnixConnector(agent.addresses["control"])
    async with aiohttp.ClientSession(connector=connector) as http, http.get(f"http://x/receipts/{event}") as answer:
        return answer.status, await answer.json()


async def test_an_event_is_accepted_before_and_spooled_after_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as agent:
        gate = asyncio.Event()
        put = agent._spool.put  # type: ignore[union-attr]

        async def slow(*given: Any) -> None:
            await gate.wait()
            await put(*given)

        client = FrameClient(agent, A)
        await client.hello()
        monkeypatch.setattr(agent._spool, "put", slow)
        await client.send("event", EVENT, seq=1, confirm=True)
        await until("the event is in", lambda: agent.committer.waiting == 1)
        assert await receipt(agent, uuid7(1)) == (200, {"event": uuid7(1), "state": "accepted", "outputs": []})
        gate.set()
        await client.acknowledged(1)
        status, found = await receipt(agent, uuid7(1))
        assert (status, found["state"], found["client"]) == (200, "spooled", A)
        assert [(each["output"], each["state"]) for each in found["outputs"]] == [("unassigned", "pending")]
        client.close()


async def test_of_an_event_that_nobody_asked_for_nothing_is_known(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1)
        await client.acknowledged(1)
        assert await receipt(agent, uuid7(1)) == (404, {"event": uuid7(1), "state": "unknown", "outputs": []})
        client.close()


async def test_a_refused_event_is_known_with_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", {"fields": {}}, seq=1, confirm=True)
        await client.send("event", {"fields": {}}, seq=2)
        assert [each["seq"] for each in await client.acknowledged(2)] == [1, 2]
        status, found = await receipt(agent, uuid7(1))
        assert (status, found["state"], found["reason"]) == (200, "refused", "payload_invalid")
        assert (await receipt(agent, uuid7(2)))[0] == 404
        client.close()


async def test_a_receipt_is_there_after_a_restart_and_a_repeat_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1, confirm=True)
        await client.acknowledged(1)
        _, first = await receipt(agent, uuid7(1))
        client.close()
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1, confirm=True)
        other = FrameClient(agent, "b" * 32)
        await other.hello()
        await other.send("event", EVENT, seq=1, confirm=True)
        await other.acknowledged(1)
        assert (await receipt(agent, uuid7(1)))[1] == first
        client.close()
        other.close()


async def test_receipts_are_not_to_be_had_on_an_address(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1, confirm=True)
        await client.acknowledged(1)
        url = f"http://{agent.addresses['web']}/receipts/{uuid7(1)}"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            assert answer.status == 404
        client.close()


async def test_a_wish_that_makes_no_sense_is_answered_by_a_sentence(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        connector = aiohttp.UnixConnector(agent.addresses["control"])
        async with aiohttp.ClientSession(connector=connector) as http:
            for method, path, body in [
                ("GET", "/spool?limit=many", b""),
                ("GET", "/spool?limit=0", b""),
                ("GET", "/spool?unknown=1", b""),
                ("GET", "/spool/show", b""),
                ("GET", "/spool/export?what=everything", b""),
                ("GET", "/spool/export?what=dead&after=-1", b""),
                ("POST", "/spool/replay", b"{"),
                ("POST", "/spool/replay", b'{"numbers": ["1"]}'),
                ("POST", "/spool/replay", b"\xff"),
                ("POST", "/spool/replay", b"[" * 100_000),
                ("POST", "/spool/purge", b"{}"),
                ("POST", "/spool/purge", b'{"what": "waiting", "numbers": [99999999999999999999]}'),
            ]:
                async with http.request(method, f"http://x{path}", data=body or None) as answer:
                    found = await answer.json()
                    assert (answer.status, found["detail"][:21]) == (400, "this cannot be asked:"), path
            async with http.post("http://x/spool/purge", data=io.BytesIO(b" " * 2_000_000)) as answer:
                assert answer.status == 413


async def test_what_a_destination_says_of_repeats_is_kept(tmp_path: Path) -> None:
    destination = Destination()
    await destination.start()
    output = {"type": "gateway", "url": destination.url, "key": KEY}
    chosen = Settings.model_validate({**settings(tmp_path).model_dump(), "outputs": {"main": output}})
    async with running(tmp_path, chosen) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1)
        await client.acknowledged(1)
        await until("delivered", lambda: destination.stored)
        await until("said", agent.delivery.recognised)
        await agent.tick(fold=True)
        assert agent._spool is not None
        kept = await agent._spool.look(lambda connection: ask(connection, "get_meta", {"key": "dedupe_s/main"}))
        assert kept == [(60,)]
        client.close()
    await destination.stop()
