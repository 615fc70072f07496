"""Stream connections without an agent: bounds, fairness, ends, the way back."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from sendoff_server.inputs import DatagramInput, Link, StreamInput
from sendoff_server.inputs import stream as module
from sendoff_server.inputs.connection import READ_BYTES
from sendoff_server.inputs.kept import KeptSession
from sendoff_server.inputs.sockets import listen_ip, listen_unix
from sendoff_server.wire.frame import FrameError, Item, Lines, encode_unit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Recorded:
    """A session that writes down what it is told, and lets go at once when it has ended."""

    def __init__(self, link: Link, *, hold: bool) -> None:
        self.link = link
        self.items: list[Item] = []
        self.ends: list[bool] = []
        self.drained = 0
        self._hold = hold

    def take(self, item: Item) -> None:
        self.items.append(item)

    def writable(self) -> None:
        self.drained += 1

    def ended(self, *, orderly: bool) -> None:
        self.ends.append(orderly)
        if not self._hold:
            self.link.close()

    def keep(self) -> KeptSession:
        return KeptSession()

    @property
    def text(self) -> bytes:
        return b"".join(item.data for item in self.items if isinstance(item, Lines))

    @property
    def errors(self) -> list[str]:
        return [item.reason for item in self.items if isinstance(item, FrameError)]


class Recorder:
    def __init__(self) -> None:
        self.sessions: list[Recorded] = []
        self.datagrams: list[Item] = []
        self.hold = False

    def connected(self, origin: str, link: Link, kept: KeptSession | None = None) -> Recorded:
        self.sessions.append(Recorded(link, hold=self.hold))
        return self.sessions[-1]

    def datagram(self, item: Item, origin: str) -> None:
        self.datagrams.append(item)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """An input on a Unix socket with small limits, its recorder, and peers."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s.sock"
        self.seen = Recorder()
        self.clock = Clock()
        sock = listen_unix(self.path, socket.SOCK_STREAM, 0o660, "here")
        self.input = StreamInput(
            "unix", sock, self.seen, self.clock, path=self.path, max_connections=8, max_pending=3_000_000
        )
        self.input.start()
        self._peers: list[socket.socket] = []

    async def peer(self) -> socket.socket:
        before = self.input.counts.accepted + self.input.counts.refused
        made = socket.socket(socket.AF_UNIX)
        made.connect(str(self.path))
        made.setblocking(False)
        self._peers.append(made)
        await self.until(lambda: self.input.counts.accepted + self.input.counts.refused > before)
        return made

    async def send(self, peer: socket.socket, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(peer, data)

    async def until(self, condition: object) -> None:
        assert callable(condition)
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)

    def close(self) -> None:
        self.input.close()
        for peer in self._peers:
            peer.close()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


async def is_closed(peer: socket.socket) -> bool:
    async with asyncio.timeout(10):
        try:
            return await asyncio.get_running_loop().sock_recv(peer, 1) == b""
        except ConnectionError:
            return True


async def test_lines_are_handed_on_to_the_end(scene: Scene) -> None:
    peer = await scene.peer()
    await scene.send(peer, b"a:1|c\nb:")
    peer.shutdown(socket.SHUT_WR)
    [session] = scene.seen.sessions
    await scene.until(lambda: session.ends)
    assert session.text == b"a:1|c\nb:"
    assert session.ends == [True]
    assert await is_closed(peer)
    assert scene.input.open == 0


async def test_beyond_the_limit_a_new_connection_is_refused_and_counted(scene: Scene) -> None:
    peers = [await scene.peer() for _ in range(8)]
    late = await scene.peer()
    assert scene.input.counts.refused == 1
    assert await is_closed(late)
    await scene.send(peers[0], b"still:1|c\n")
    await scene.until(lambda: scene.seen.sessions[0].text)


async def test_a_connection_that_never_said_a_word_gives_way_first(scene: Scene) -> None:
    peers = [await scene.peer() for _ in range(8)]
    for peer in peers[:7]:
        await scene.send(peer, b"a:1|c\n")
    await scene.until(lambda: all(session.text for session in scene.seen.sessions[:7]))
    scene.clock.now += module.SILENT_AFTER + 1
    await scene.peer()
    assert (scene.input.counts.evicted, scene.input.counts.refused) == (1, 0)
    assert await is_closed(peers[7])
    await scene.peer()
    assert (scene.input.counts.evicted, scene.input.counts.refused) == (1, 1)
    scene.clock.now += module.IDLE_AFTER
    await scene.peer()
    assert scene.input.counts.evicted == 2


async def test_a_unit_that_does_not_come_to_its_end_ends_its_connection(scene: Scene) -> None:
    slow, busy, plain = [await scene.peer() for _ in range(3)]
    await scene.send(slow, (1_000).to_bytes(4, "little") + b"x")
    await scene.send(busy, encode_unit(b"a:1|c") + b"\x05")
    await scene.send(plain, b"typed slowly by")
    await scene.until(lambda: scene.input.pending == 5 + 1 + 15)
    scene.clock.now += module.UNIT_DEADLINE - 1
    await scene.send(slow, b"y")  # a drip does not put the end off
    await scene.send(busy, b"\0\0\0a:1|c\x05")
    await scene.until(lambda: len(scene.seen.sessions[1].items) == 2)
    scene.clock.now += 2
    scene.input.sweep()
    assert await is_closed(slow)
    assert scene.seen.sessions[0].errors == ["cut_off"]
    assert scene.input.counts.stalled == 1
    await scene.send(plain, b" a person:1|c\n")
    await scene.until(lambda: scene.seen.sessions[2].text == b"typed slowly by a person:1|c\n")


async def test_the_time_for_a_unit_does_not_run_while_nothing_is_read(scene: Scene) -> None:
    peer = await scene.peer()
    await scene.send(peer, encode_unit(b"a:1|c")[:5])
    await scene.until(lambda: scene.input.pending == 5)
    scene.input.pause()
    scene.clock.now += 10 * module.UNIT_DEADLINE
    scene.input.resume()
    scene.input.sweep()
    assert (scene.input.open, scene.input.counts.stalled) == (1, 0)
    scene.clock.now += module.UNIT_DEADLINE + 1
    scene.input.sweep()
    assert scene.input.counts.stalled == 1


async def test_half_read_units_have_a_limit_together_and_the_one_begun_first_pays(scene: Scene) -> None:
    peers = [await scene.peer() for _ in range(4)]
    for peer in peers:
        scene.clock.now += 1
        await scene.send(peer, (1_048_576).to_bytes(4, "little") + b"x" * 1_000_000)
        await scene.until(lambda: True)
    await scene.until(lambda: scene.input.counts.stalled == 1)
    assert await is_closed(peers[0])
    assert scene.input.pending <= 3_000_000
    for peer in peers[1:]:
        await scene.send(peer, b"x" * 48_576)
    await scene.until(lambda: all(session.items for session in scene.seen.sessions[1:]))
    assert scene.input.pending == 0


async def test_a_drip_of_single_bytes_holds_up_nobody(scene: Scene) -> None:
    drip, good = await scene.peer(), await scene.peer()
    for at, byte in enumerate(encode_unit(b"drip:1|c")):
        await scene.send(drip, bytes([byte]))
        await scene.send(good, b"good:1|c\n")
        await scene.until(lambda at=at: scene.seen.sessions[1].text.count(b"\n") == at + 1)
    await scene.until(lambda: scene.seen.sessions[0].text == b"drip:1|c")


async def test_a_flood_on_one_connection_leaves_the_others_their_turn(scene: Scene) -> None:
    flood, good = await scene.peer(), await scene.peer()
    stop = False

    async def pour() -> None:
        while not stop:
            await scene.send(flood, b"flood:1|c\n" * 10_000)

    pouring = asyncio.create_task(pour())
    for n in range(50):
        await scene.send(good, b"good:1|c\n")
        await scene.until(lambda n=n: scene.seen.sessions[1].text.count(b"\n") == n + 1)
    stop = True
    await pouring


async def test_what_cannot_be_understood_ends_the_connection(scene: Scene) -> None:
    peer = await scene.peer()
    await scene.send(peer, encode_unit(b"a:1|c") + b"\0\0\0\0more")
    assert await is_closed(peer)
    assert scene.seen.sessions[0].text == b"a:1|c"
    assert scene.seen.sessions[0].errors == ["frame_empty"]


async def test_while_paused_nothing_is_read_and_afterwards_everything(scene: Scene) -> None:
    peer = await scene.peer()
    scene.input.pause()
    await scene.send(peer, b"a:1|c\n")
    later = await scene.peer()
    await scene.send(later, b"b:1|c\n")
    later.close()
    await asyncio.sleep(0.05)
    assert all(not session.items for session in scene.seen.sessions)
    scene.input.resume()
    await scene.until(lambda: [session.text for session in scene.seen.sessions] == [b"a:1|c\n", b"b:1|c\n"])


async def test_a_reply_that_does_not_fit_waits_and_the_next_one_is_not_taken(scene: Scene) -> None:
    peer = await scene.peer()
    [session] = scene.seen.sessions
    big = b"x" * 4_000_000
    assert session.link.reply(big)
    assert not session.link.reply(b"y")
    got = 0
    while got < 4 + len(big):
        got += len(await asyncio.get_running_loop().sock_recv(peer, 1_000_000))
    await scene.until(lambda: session.drained == 1)
    assert session.link.reply(b"y")


async def test_a_connection_whose_peer_has_finished_is_kept_for_the_last_word_but_not_for_ever(
    scene: Scene,
) -> None:
    scene.seen.hold = True
    peer = await scene.peer()
    await scene.send(peer, b"a:1|c\n")
    peer.shutdown(socket.SHUT_WR)
    [session] = scene.seen.sessions
    await scene.until(lambda: session.ends)
    assert session.link.reply(b"ok")
    assert await asyncio.get_running_loop().sock_recv(peer, 10) == b"\x02\0\0\0ok"
    scene.clock.now += module.LINGER + 1
    scene.input.sweep()
    assert await is_closed(peer)


async def test_replies_to_a_peer_that_has_gone_are_thrown_away(scene: Scene) -> None:
    peer = await scene.peer()
    [session] = scene.seen.sessions
    scene.input.pause()
    peer.close()
    for _ in range(3):
        assert session.link.reply(b"nobody listens")
    scene.input.resume()
    await scene.until(lambda: session.ends)


async def test_running_out_of_descriptors_pauses_accepting_and_does_not_spin(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE", 0.2)
    real = scene.input._sock

    class Exhausted:
        def accept(self) -> None:
            raise OSError(24, "Too many open files")

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    scene.input._sock = Exhausted()  # type: ignore[assignment]
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(str(scene.path))
    await scene.until(lambda: "Too many open files" in caplog.text)
    seen = len(caplog.records)
    await asyncio.sleep(0.1)
    assert len(caplog.records) == seen
    scene.input._sock = real
    await scene.until(lambda: scene.input.counts.accepted == 1)
    waiting.close()


async def test_closing_ends_every_connection_and_removes_only_its_own_file(scene: Scene) -> None:
    await scene.peer()
    scene.path.unlink()
    scene.path.write_text("somebody else's")
    scene.input.close()
    scene.input.close()
    assert scene.seen.sessions[0].ends == [False]
    assert scene.path.read_text() == "somebody else's"


async def test_draining_takes_what_waits_also_from_connections_not_accepted_yet(scene: Scene) -> None:
    peer = await scene.peer()
    peer.send(b"a:1|c\n")
    late = socket.socket(socket.AF_UNIX)
    late.connect(str(scene.path))
    late.send(b"b:1|c\n")
    late.close()
    scene.input.stop_accepting()
    assert not scene.input.drain(lambda: False)
    assert scene.input.drain(lambda: True)
    assert [session.text for session in scene.seen.sessions] == [b"a:1|c\n", b"b:1|c\n"]


async def test_a_reset_by_tcp_cuts_the_last_line() -> None:
    seen = Recorder()
    made = StreamInput("tcp", listen_ip("127.0.0.1:0", socket.SOCK_STREAM, "x"), seen, Clock())
    made.start()
    host, _, port = made.address.rpartition(":")
    peer = socket.create_connection((host, int(port)))
    peer.sendall(b"a:1|c\nb:1")
    async with asyncio.timeout(10):
        while not (seen.sessions and seen.sessions[0].items):
            await asyncio.sleep(0.001)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        peer.close()
        while not seen.sessions[0].ends:
            await asyncio.sleep(0.001)
    assert seen.sessions[0].items == [Lines(b"a:1|c\n"), Lines(b"b:1", cut=True)]
    assert made.counts.reset == 1
    made.close()


async def test_datagrams_are_read_in_bursts_that_give_others_their_turn() -> None:
    seen = Recorder()
    made = DatagramInput("udp", listen_ip("127.0.0.1:0", socket.SOCK_DGRAM, "x"), seen)
    host, _, port = made.address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for n in range(150):
            out.sendto(b"a:%d|c" % n, (host, int(port)))
        out.sendto(b"", (host, int(port)))
        made._readable()
        assert len(seen.datagrams) == 64
        made.drain(lambda: True)
    assert len(seen.datagrams) == 151
    assert made.counts.datagrams == 151
    made.close()
    made.close()


async def test_one_turn_of_a_connection_takes_a_bounded_piece(scene: Scene) -> None:
    peer = await scene.peer()
    scene.input.pause()
    sent = peer.send(b"a:1|c\n" * 30_000)
    assert sent > 2 * READ_BYTES
    scene.input.resume()
    [session] = scene.seen.sessions
    await scene.until(lambda: len(session.text) == sent // 6 * 6)
    sizes = [len(item.data) for item in session.items if isinstance(item, Lines)]
    assert max(sizes) <= READ_BYTES + 6


async def test_a_dead_client_is_read_to_its_end_although_every_answer_fails(scene: Scene) -> None:
    peer = await scene.peer()
    [session] = scene.seen.sessions
    scene.input.pause()
    sent = peer.send(encode_unit(b"a:1|c") * 20_000) // 9
    assert sent * 9 > 2 * READ_BYTES
    peer.close()
    take = session.take

    def answer(item: Item) -> None:
        take(item)
        session.link.reply(b"acknowledged")

    session.take = answer  # type: ignore[method-assign]
    scene.input.resume()
    await scene.until(lambda: session.ends)
    assert len([item for item in session.items if isinstance(item, Lines)]) == sent
