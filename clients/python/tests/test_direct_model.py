"""The model test once more for a direct route: a gateway that says which points it has stored, forgets at its death
what it had not, and is behind a network, so that nothing but a refusal costs a frame. Callers hand everything over.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from clients.python.tests.peer import points_of
from clients.python.tests.test_model import WHO, Agent, Model, Socket
from sendoff.metrics import series
from sendoff.sending.direct import DirectRoute
from sendoff.sending.stream import SocketStream
from sendoff.settings import Settings
from sendoff.tally import Tally

ADDRESS = f"zmq+curve://{'A' * 43}@127.0.0.1:9?server={'B' * 43}"


class Gateway(Agent):
    """The other side. What it has taken and not stored is gone with the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: dict[tuple[str, int], bytes] = {}
        self.stored_n: dict[str, int] = {}

    reaches = "127.0.0.1", 1
    ready = True

    def prepare(self) -> None:
        pass

    def open(self, host: str, family: int) -> SocketStream:
        return self.connect()

    def close(self, left: float) -> None:
        pass

    def forget(self) -> None:
        pass

    def expected(self, client: str) -> int:
        return sum(count for (who, _), count in self.points.items() if who == client)

    def take(self, socket: Socket, head: dict[str, Any], payload: bytes) -> None:
        client = head["client"]
        self.begun.clear()
        if head["kind"] == "hello":
            stored = self.stored_n.setdefault(client, 0)
            for key in [key for key in self.points if key[0] == client and key[1] >= stored]:
                del self.points[key]
        if head["kind"] != "metrics" or not payload:
            super().take(socket, head, payload)
            return
        n = head["n"]
        assert n <= self.expected(client), "points are missing before these"
        if n < self.expected(client):
            assert (client, n) in self.points, "a repeat begins where it began"
        assert self.payloads.setdefault((client, n), payload) == payload, "a number means these lines, for ever"
        self.points[client, n] = sum(points_of(line) for line in payload.decode().split("\n"))

    def answer(self, upto: int) -> None:
        assert self.socket is not None
        client = self.socket.client
        self.stored[client] = max(self.stored[client], upto)
        refused = [{"seq": seq, "reason": why} for (who, seq), why in self.refused.items() if who == client]
        body = json.dumps({"ack": self.stored[client], "refused": refused, "n": self.stored_n[client]}).encode()
        self.socket.said += len(body).to_bytes(4, "little") + body


class DirectModel(Model):
    """As `Model`, with points that are acknowledged."""

    hands_over = True
    agent: Gateway

    def make_agent(self) -> Gateway:
        self.sums: dict[str, int] = {}
        return Gateway()

    def route(self, tally: Tally) -> DirectRoute:
        client = f"{next(self.clients):032x}"
        self.sums[client] = 0
        return DirectRoute(Settings({"address": ADDRESS}, {}).address, self.agent, client, WHO, 1, tally, lambda: 1.0)

    @rule(count=st.integers(1, 2_000), name=st.text("ab", min_size=1, max_size=300), kind=st.sampled_from("cgd"))
    def count(self, count: int, name: str, kind: str) -> None:
        line = series(name, kind, 1, {})
        for _ in range(count):
            self.outbox.point(line, 1)
        if kind == "c":
            self.sums[self.outbox.channel.client] += count

    @rule(share=st.floats(0, 1))
    def store_points(self, share: float) -> None:
        """Up to the end of some frame, and not said yet."""
        if self.connected():
            client = self.outbox.channel.client
            expected, before = self.agent.expected(client), self.agent.stored_n[client]
            ends = [n + count for (who, n), count in self.agent.points.items() if who == client]
            self.agent.stored_n[client] = max([n for n in ends if n <= expected * share], default=before)
            self.agent.stored_n[client] = max(self.agent.stored_n[client], before)

    @invariant()
    def every_point_is_somewhere(self) -> None:
        """What the client let go of is stored, and what it holds begins right there."""
        waiting, channel = self.outbox.holder.waiting, self.outbox.channel
        stored = self.agent.stored_n.get(channel.client, 0)
        numbered = [parcel for parcel in (*waiting.sent, *waiting.parcels) if parcel.n >= 0]
        assert channel.points_acked <= stored
        n = channel.points_acked
        for parcel in numbered:
            assert parcel.n == n, "points are held from the first that is not acknowledged, without a gap"
            n += parcel.points
        assert n == channel.n
        assert all(parcel.n < 0 for parcel in list(waiting.parcels)[len(numbered) - len(waiting.sent) :])
        assert waiting.bytes == sum(len(each.payload) + 200 for each in (*waiting.sent, *waiting.parcels))
        assert waiting.points == sum(each.points for each in waiting.parcels if each.n < 0)

    def teardown(self) -> None:
        self.agent.room, self.agent.up = 10**9, True
        for _ in range(300):
            self.now += 0.5
            self.outbox.turn()
            if self.connected():
                client = self.outbox.channel.client
                self.agent.stored_n[client] = self.agent.expected(client)
                self.agent.answer(self.agent.received[client])
            if self.outbox.holder.settled():
                break
        self.every_point_is_somewhere()
        client, dropped = self.outbox.channel.client, self.outbox.tally.totals()
        assert "event.unacceptable" not in dropped, "nothing but a refusal costs an event"
        assert self.outbox.channel.points_acked == self.outbox.channel.n == self.agent.expected(client)
        lines = [line for (who, _), raw in self.agent.payloads.items() if who == client for line in raw.split(b"\n")]
        total = sum(int(line.split(b":")[1].split(b"|")[0]) for line in lines if b"|c" in line)
        assert total == self.sums[client] or ("metric.buffer_full" in dropped and total < self.sums[client])
        super().teardown()


TestDirectModel = DirectModel.TestCase
TestDirectModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
