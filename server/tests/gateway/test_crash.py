"""A gateway that is killed in the middle of taking in has everything that it answered 200 for."""

import asyncio
import signal
import sys
from pathlib import Path

import aiohttp

from sendoff_server.gateway import keys

from .support import NOW, Running, batch, counter, event, running

PROGRAM = """
import asyncio, sys
from sendoff_server.gateway import Gateway
from sendoff_server.settings import Settings
async def main():
    gateway = Gateway(Settings.model_validate({"gateway": {"listen": "127.0.0.1:0", "data_dir": sys.argv[1]}}))
    await gateway.start()
    print(gateway.addresses["http"], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_sigkill_while_taking_in_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "gateway", "shop")
    answered: list[str] = []
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(20):
            address = (await process.stdout.readline()).decode().strip()
        enough = asyncio.Event()
        senders = [asyncio.create_task(_send(address, key, answered, enough)) for _ in range(6)]
        async with asyncio.timeout(20):
            await enough.wait()
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await asyncio.gather(*senders)
    assert len(answered) > 100
    async with running(tmp_path) as gateway:
        stored = await _ids(gateway)
        assert set(answered) <= stored
        counts = await gateway.get("counts")
        assert counts["events"] == len(stored)
        # Data, ids and counts are of one transaction: what is stored without an answer is whole too.
        (total,) = (await gateway.get("metrics/total", name="sent", **{"from": NOW - 86_400_000, "to": NOW}))["totals"]
        assert total["n"] == counts["points"]


async def _send(address: str, key: str, answered: list[str], enough: asyncio.Event) -> None:
    """Send until the gateway is gone, noting what it answered 200 for."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}
    begun = len(answered)
    async with aiohttp.ClientSession() as http:
        while True:
            events = [event() for _ in range(5)]
            body = batch("events", events) + batch("snapshot", [counter("sent", NOW - 10_000, 5)])
            try:
                async with http.post(f"http://{address}/v1/batches", data=body, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
            except (aiohttp.ClientError, OSError):
                return
            answered.extend(one["id"] for one in events)
            if len(answered) - begun > 200:
                enough.set()


async def _ids(gateway: Running) -> set[str]:
    found: set[str] = set()
    cursor = ""
    while True:
        page = await gateway.get("events", limit=1_000, cursor=cursor, **{"from": NOW - 86_400_000, "to": NOW})
        found |= {one["id"] for one in page["events"]}
        if page["next"] is None:
            return found
        cursor = page["next"]
