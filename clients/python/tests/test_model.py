"""A model test of everything between a call and the socket: whatever the socket, the agent and the clock do, numbers
have no gap, order is kept, what is held is what is not acknowledged, and every event and point is accounted for.
"""

from __future__ import annotations

import errno
import itertools
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clients.python.tests.peer import points_of
from sendoff.metrics import series
from sendoff.receipt import Receipt
from sendoff.sending import outbox as outbox_module
from sendoff.sending.buffer import RESENDS
from sendoff.sending.contract import Gone
from sendoff.sending.direct import DirectRoute
from sendoff.sending.holder import Durable
from sendoff.sending.outbox import Outbox
from sendoff.sending.routes import UnixRoute
from sendoff.sending.stream import SocketStream
from sendoff.settings import Settings
from sendoff.tally import Tally

LIMIT = 65_536
WHO = {"service": "model", "env": "", "release": "", "host": "h", "lib": "l"}


class Socket:
    """A connection: takes as many bytes as there is room, and gives back what the agent said."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.open = True
        self.heard = bytearray()
        self.said = bytearray()
        self.client = ""
        self.first = self.next = 0

    def fileno(self) -> int:
        return 7

    def close(self) -> None:
        self.open = False

    def shutdown(self, how: int) -> None:
        pass

    def send(self, data: memoryview, flags: int) -> int:
        if not self.open:
            raise BrokenPipeError(errno.EPIPE, "broken pipe")
        count = min(len(data), self.agent.room)
        if not count:
            raise BlockingIOError(errno.EAGAIN, "no room")
        self.agent.room -= count
        self.heard += data[:count]
        self.agent.hear(self)
        return count

    def recv(self, size: int) -> bytes:
        if self.said:
            data, self.said = bytes(self.said[:size]), self.said[size:]
            return data
        if not self.open:
            return b""
        raise BlockingIOError(errno.EAGAIN, "nothing said")


class Agent:
    """The other side, as the wire format has it. It complains by failing the test."""

    def __init__(self) -> None:
        self.room = 10**9
        self.up = True
        self.socket: Socket | None = None
        self.begun: Counter[tuple[str, int]] = Counter()
        self.received: dict[str, int] = {}
        self.stored: dict[str, int] = {}
        self.refused: dict[tuple[str, int], str] = {}
        self.ids: dict[tuple[str, int], str] = {}
        self.points: dict[tuple[str, int], int] = {}

    def connect(self) -> SocketStream:
        if not self.up:
            raise Gone("nobody listens")
        self.socket = Socket(self)
        return SocketStream(self.socket)  # type: ignore[arg-type]

    def hear(self, socket: Socket) -> None:
        heard = socket.heard
        while len(heard) >= 4 and len(heard) >= 4 + (length := int.from_bytes(heard[:4], "little")):
            unit = bytes(heard[4 : 4 + length])
            del heard[: 4 + length]
            head, _, payload = unit.partition(b"\n")
            self.take(socket, json.loads(head), payload)

    def take(self, socket: Socket, head: dict[str, Any], payload: bytes) -> None:
        kind, client = head["kind"], head["client"]
        assert (kind == "hello") == (not socket.client), "a hello is the first frame and no other"
        socket.client = socket.client or client
        assert client == socket.client
        if kind == "hello":
            resume_from = json.loads(payload)["resume_from"]
            self.received[client] = max(self.stored.setdefault(client, 0), resume_from - 1)
            self.stored[client] = self.received[client]
            socket.first = socket.next = resume_from
        elif kind == "event":
            seq = head["seq"]
            passed = range(socket.next, seq)
            assert all((client, each) in self.refused for each in passed), f"{seq} leaves a gap"
            socket.next = seq + 1
            assert self.ids.setdefault((client, seq), head["id"]) == head["id"], "a number means one event"
            self.begun[client, seq] += seq == socket.first
            assert self.begun[client, seq] <= RESENDS + 1, "the lowest was sent again too often"
            self.received[client] = max(self.received[client], seq)
        elif kind == "metrics" and payload:
            points = sum(points_of(line) for line in payload.decode().split("\n"))
            assert head["n"] == sum(count for (who, _), count in self.points.items() if who == client), "n has a gap"
            self.points[client, head["n"]] = points

    def answer(self, upto: int) -> None:
        assert self.socket is not None
        client = self.socket.client
        if upto > self.stored[client]:
            self.begun.clear()
        self.stored[client] = max(self.stored[client], upto)
        refused = [{"seq": seq, "reason": why} for (who, seq), why in self.refused.items() if who == client]
        body = json.dumps({"ack": self.stored[client], "refused": refused}).encode()
        self.socket.said += len(body).to_bytes(4, "little") + body


class Model(RuleBasedStateMachine):
    """The outbox of a process whose thread is turned by hand, beside a model of what must become of everything."""

    hands_over = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.agent = self.make_agent()
        self.numbers = itertools.count(1)
        self.clients = itertools.count(1)
        clock = SimpleNamespace(monotonic=lambda: self.now, time_ns=lambda: int(self.now * 1e9), sleep=lambda _: None)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(outbox_module, "time", clock)
        self.kept: dict[str, str] = {}
        self.receipts: dict[str, Receipt] = {}
        self.begin()

    @initialize()
    def begin(self) -> None:
        self.submitted = self.counted = 0
        self.accepted: list[str] = []
        self.outbox = Outbox(self.route, LIMIT, lambda: 1.0, 0.0)
        self.outbox._thread_after = float("inf")

    def make_agent(self) -> Agent:
        return Agent()

    def route(self, tally: Tally) -> UnixRoute | DirectRoute:
        client = f"{next(self.clients):032x}"
        made = UnixRoute(Settings({}, {}).address, client, WHO, 1, tally, lambda: 1.0)
        made.channel._open = self.agent.connect
        return made

    # What the application does.

    @rule(sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=8), confirm=st.booleans(), turn=st.booleans())
    def events(self, sizes: list[int], confirm: bool, turn: bool) -> None:
        for size in sizes:
            self.event(size, confirm)
        if turn:
            self.outbox.turn()

    def event(self, size: int, confirm: bool) -> None:
        event_id = f"id-{next(self.numbers)}"
        receipt = Receipt() if confirm else None
        if receipt:
            receipt.belongs_to(self.outbox, event_id)
            self.receipts[event_id] = receipt
        self.submitted += 1
        if self.outbox.submit(Durable("event", event_id, 1, b"x" * size, receipt)):
            self.accepted.append(event_id)
        elif receipt:
            assert (receipt.state, receipt.reason) == ("dropped", "buffer_full")

    @rule(count=st.integers(1, 2_000), name=st.text("ab", min_size=1, max_size=300), kind=st.sampled_from("cg"))
    def count(self, count: int, name: str, kind: str) -> None:
        line = series(name, kind, 1, {})
        for _ in range(count):
            self.outbox.point(line, 1)
        self.counted += count

    @rule(seconds=st.sampled_from([0, 0.1, 1, 3]))
    def turn(self, seconds: float) -> None:
        self.now += seconds
        self.outbox.turn()

    @rule(often=st.integers(0, 9))
    def fork(self, often: int) -> None:
        """This process goes on as the child: what was held is the parent's, and not a byte is said."""
        if often:
            return  # one time in ten, or nothing ever piles up
        old, said = self.outbox, self.agent.room
        if old.channel.stream is not None:
            assert self.agent.socket is not None
            self.agent.socket.heard.clear()  # the parent's connection is another one from here on
        self.begin()
        old.abandon()
        assert self.agent.room == said
        assert self.outbox.channel.client != old.channel.client
        self.agent.begun.clear()

    # What the world does.

    @rule(room=st.one_of(st.integers(0, 300), st.integers(0, 100_000), st.just(10**9)))
    def make_room(self, room: int) -> None:
        self.agent.room = room

    @rule(share=st.floats(0, 1), refuse=st.booleans(), heard=st.booleans())
    def answer(self, share: float, refuse: bool, heard: bool) -> None:
        if self.connected():
            self.acknowledge(share, refuse)
        if heard:
            self.outbox.turn()

    def acknowledge(self, share: float, refuse: bool) -> None:
        assert self.agent.socket is not None
        client = self.agent.socket.client
        first, last = self.agent.stored[client], self.agent.received[client]
        upto = first + round((last - first) * share)
        seq = first + 1 + round((last - first - 1) * share)
        if refuse and last > first and (client, seq) in self.agent.ids:
            self.agent.refused[client, seq] = "payload_invalid"
            self.agent.begun.clear()
        self.agent.answer(upto)

    @rule(times=st.integers(1, 6))
    def drop_connections(self, times: int) -> None:
        """The agent dies over and over before it has answered anything."""
        self.agent.up = True
        for _ in range(times):
            if self.agent.socket is not None:
                self.agent.socket.open = False
            self.agent.room = max(self.agent.room, 50_000)
            self.now += 3
            self.outbox.turn()
            self.every_event_is_somewhere()

    @rule(away=st.booleans())
    def hang_up(self, away: bool) -> None:
        if self.agent.socket is not None:
            self.agent.socket.open = False
        self.agent.up = not away

    @rule(up=st.booleans())
    def come_or_go(self, up: bool) -> None:
        self.agent.up = up

    def connected(self) -> bool:
        socket = self.agent.socket
        return socket is not None and socket.open and socket.client == self.outbox.channel.client

    # What must hold at every moment.

    @invariant()
    def every_event_is_somewhere(self) -> None:
        stats = self.outbox.stats()
        dropped, refused = stats["dropped"], stats["refused"]
        assert isinstance(dropped, dict)
        assert isinstance(refused, dict)
        lost = sum(count for reason, count in dropped.items() if reason.startswith("event."))
        assert self.submitted == stats["acked"] + sum(refused.values()) + lost + stats["held"]  # type: ignore[operator]
        assert self.hands_over or not self.outbox.pending
        assert stats["internal_error"] == 0
        assert self.submitted - len(self.accepted) == dropped.get("event.buffer_full", 0)

    @invariant()
    def every_point_is_somewhere(self) -> None:
        stats = self.outbox.stats()
        dropped = stats["dropped"]
        assert isinstance(dropped, dict)
        lost = sum(count for reason, count in dropped.items() if reason.startswith("metric."))
        assert self.counted == stats["points"] + stats["points_waiting"] + lost  # type: ignore[operator]
        here = sum(count for (who, _), count in self.agent.points.items() if who == self.outbox.channel.client)
        assert here >= stats["points"]  # type: ignore[operator]

    @invariant()
    def what_is_held_is_in_order_and_within_the_limit(self) -> None:
        held = self.outbox.channel.held
        numbers = [entry[0] for entry in (*held.sent, *held.to_write)]
        client = self.outbox.channel.client
        missing = set(range(numbers[0], held.next_seq)) - set(numbers) if numbers else set()
        assert numbers == sorted(set(numbers))
        assert all((client, seq) in self.agent.refused for seq in missing)
        assert held.bytes == sum(len(frame) + 200 for _, frame, _ in (*held.sent, *held.to_write))
        assert held.bytes + self.outbox.holder.waiting.bytes <= LIMIT
        assert self.outbox.holder.waiting.bytes <= LIMIT // 4 + 40_000

    @invariant()
    def receipts_say_what_the_agent_has(self) -> None:
        stored = {i: key for key, i in self.agent.ids.items()}
        for event_id, receipt in self.receipts.items():
            if receipt.state == "spooled":
                client, seq = stored[event_id]
                assert seq <= self.agent.stored[client]
                assert (client, seq) not in self.agent.refused
            elif receipt.state == "refused":
                assert self.agent.refused[stored[event_id]] == receipt.reason

    def teardown(self) -> None:
        """The faults end: everything that is held arrives, and the process ends in order."""
        self.agent.room, self.agent.up = 10**9, True
        for _ in range(300):
            self.now += 0.5
            self.outbox.turn()
            if self.connected():
                self.agent.room = 10**9
                assert self.agent.socket is not None
                self.agent.answer(self.agent.received[self.agent.socket.client])
            if self.outbox.holder.settled() and not self.outbox.points.queue:
                break
        else:
            raise AssertionError(f"something stays behind: {self.outbox}")
        self.every_event_is_somewhere()
        self.every_point_is_somewhere()
        client = self.outbox.channel.client
        here = {i for (who, _), i in self.agent.ids.items() if who == client}
        given_up = self.outbox.tally.read("event.unacceptable")
        assert len(set(self.accepted) - here) <= given_up
        assert here <= set(self.accepted)
        assert [i for i in self.accepted if i in here] == [
            i for (who, _), i in sorted(self.agent.ids.items()) if who == client
        ]
        self.outbox.close(0)
        self.patch.undo()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
