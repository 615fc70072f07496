"""A gateway killed while clients without an agent send: what it acknowledged is there once, the rest comes again."""

import asyncio
import signal
import sys
import time
from pathlib import Path

import aiohttp

from sendoff_server.gateway import keys

from .direct import CONTENT_TYPE, Sender, body, book, ledger, total
from .support import running
from .test_crash import PROGRAM

ROUNDS = 4


class Client:
    """Sends what it holds, and holds it until it is acknowledged."""

    def __init__(self) -> None:
        self.sender = Sender()
        self.durable: list[tuple[int, bytes]] = []
        self.points: list[tuple[int, bytes]] = []
        self.answers = 0

    @property
    def holds(self) -> bool:
        return bool(self.durable or self.points)

    def make(self) -> None:
        for _ in range(5):
            made = self.sender.event()
            self.durable.append((self.sender.seq, made))
        made = self.sender.points(b"sold:1|c\nsold:2|c", 2)
        self.points.append((self.sender.n, made))

    async def send(self, http: aiohttp.ClientSession, address: str, key: str) -> None:
        frames = [self.sender.hello(), *(made for _, made in (*self.durable, *self.points))]
        headers = {"Authorization": f"Bearer {key}", "Content-Type": CONTENT_TYPE}
        async with http.post(f"http://{address}/v1/frames", data=body(frames), headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            said = await answer.json()
        assert "refused" not in said
        self.sender.acked = max(self.sender.acked, said["ack"])
        self.durable = [(seq, made) for seq, made in self.durable if seq > said["ack"]]
        self.points = [(end, made) for end, made in self.points if end > said["n"]]
        self.answers += 1


async def test_sigkill_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "gateway", "shop")
    clients = [Client() for _ in range(6)]
    for number in range(ROUNDS):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(20):
            address = (await process.stdout.readline()).decode().strip()
        last = number == ROUNDS - 1
        enough = sum(client.answers for client in clients) + 25
        senders = [asyncio.create_task(_run(client, address, key, last=last)) for client in clients]
        async with asyncio.timeout(30):
            while not last and sum(client.answers for client in clients) < enough:
                await asyncio.sleep(0.01)
            if last:
                await asyncio.gather(*senders)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await asyncio.gather(*senders)
    async with running(tmp_path) as gateway:
        made = sum(client.sender.seq for client in clients)
        points = sum(client.sender.n for client in clients)
        assert made > 300
        assert (await gateway.get("counts"))["events"] == made
        sold = await total(gateway, "sold", time.time_ns() // 1_000_000)
        assert (sold["n"], sold["sum"]) == (points, points // 2 * 3)
        found = await ledger(gateway)
        assert book(found, "events")["delivered"] == made
        assert book(found, "points_out")["delivered"] == points


async def _run(client: Client, address: str, key: str, *, last: bool) -> None:
    """Make and send until the gateway is gone; the last time only send what is held."""
    async with aiohttp.ClientSession() as http:
        while not last or client.holds:
            if not last:
                client.make()
            try:
                await client.send(http, address, key)
            except (aiohttp.ClientError, OSError):
                return
