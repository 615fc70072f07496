"""The way of the two probes: sent over every input, followed by receipts and books to every output."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sendoff_server.cli.control import Silent, ask_one
from sendoff_server.doctor import probe
from sendoff_server.doctor.destinations import Destination
from sendoff_server.doctor.report import Hop, Probe

POLL_S = 0.2
DATAGRAMS = ("udp", "unix_datagram")
STREAMS = ("unix", "tcp", "zmq")
Json = dict[str, Any]


@dataclass(slots=True)
class Journey:
    """Follows the probes. ``control``: the agent's control socket, None if it cannot be asked."""

    event_id: str
    control: Path | None
    uid: int
    destinations: list[Destination]
    zmq_key: Path | None = None
    """The agent's own key, where its ZeroMQ input asks for one."""
    hops: list[Hop] = field(default_factory=list)
    latest: Json | None = None
    """The agent's status as of the last look."""
    _sent_ms: int = 0
    _began: dict[Probe, float] = field(default_factory=dict)
    _clients: dict[str, Hop] = field(default_factory=dict)
    _counts: int = 0
    _journaled_before: int = 0
    _connections: list[probe.Connection] = field(default_factory=list)
    _targets: dict[str, int] = field(default_factory=dict)

    def send_event(self, address: str, until: float) -> None:
        """As an application sends it, over the stream that it would take. `until`: monotonic seconds."""
        hop = self._hop("event", f"client → agent, {address}")
        self._sent_ms, self._began["event"] = time.time_ns() // 1_000_000, time.monotonic()
        try:
            connection = probe.Connection(address, until - time.monotonic())
            self._connections.append(connection)
            hop.arrive(connection.event(self.event_id, self._sent_ms), "acknowledged: on the agent's disk")
        except probe.NotTaken as error:
            hop.fail(str(error))

    def send_counters(self, addresses: dict[str, str], status: Json | None, until: float) -> None:
        """One over every input that there is."""
        self._journaled_before = _journaled(status) if status else 0
        self._began["counter"] = time.monotonic()
        for name, address in addresses.items():
            hop = self._hop("counter", f"client → agent, {name} {address}")
            try:
                client = self._count(name, address, until)
            except probe.NotTaken as error:
                hop.fail(str(error))
                continue
            self._counts += 1
            self._clients[client] = hop

    def expect(self, status: Json | None) -> None:
        """The hops behind the agent, known once it has said what outputs it has."""
        if status is None:
            return
        gateways = {each.name for each in self.destinations if each.can_be_asked}
        kinds: tuple[Probe, Probe] = ("event", "counter")
        for kind in kinds:
            if not any(hop.probe == kind and hop.state != "failed" for hop in self.hops):
                continue
            self._hop(kind, "spooled" if kind == "event" else "journaled")
            for output in status["outputs"]:
                self._hop(kind, f"delivered to {output['name']}")
                if output["name"] in gateways:
                    self._hop(kind, f"stored at the gateway of {output['name']}")

        self.hops.sort(key=lambda hop: hop.probe != "event")

    async def follow(self, until: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Look until all has arrived or failed, or the time is over."""
        while True:
            status, receipt = await asyncio.to_thread(self._ask)
            if status:
                self.latest = status
                self._read(status, receipt)
            await self._look_at_gateways()
            if all(hop.state != "under way" for hop in self.hops) or clock() >= until:
                return
            await asyncio.sleep(POLL_S)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _since(self, kind: Probe) -> float:
        """ms since a probe was sent."""
        return (time.monotonic() - self._began[kind]) * 1000

    def _hop(self, kind: Probe, name: str) -> Hop:
        hop = Hop(kind, name)
        self.hops.append(hop)
        return hop

    def _count(self, name: str, address: str, until: float) -> str:
        if name in DATAGRAMS:
            return probe.datagram(address)
        patience_s = until - time.monotonic()
        if name == "zmq":
            from sendoff_server.doctor.zmq import Connection  # most agents need no ZeroMQ

            connection: probe.Connection = Connection(address, patience_s, self.zmq_key)
        else:
            connection = probe.Connection(address, patience_s)
        self._connections.append(connection)
        connection.count()
        return connection.client

    def _ask(self) -> tuple[Json | None, Json | None]:
        if self.control is None:
            return None, None
        status = ask_one("/status.json", self.control, self.uid)
        receipt = ask_one(f"/receipts/{self.event_id}", self.control, self.uid)
        return (None if isinstance(status, Silent) else status), (None if isinstance(receipt, Silent) else receipt)

    def _read(self, status: Json, receipt: Json | None) -> None:
        now = self._since("counter") if self._counts else 0.0
        for memo in status["clients"]:
            if memo["client"] in self._clients and memo["points"]:
                self._clients[memo["client"]].arrive(now)
        self._read_event(status, receipt)
        if self._counts and _journaled(status) >= self._journaled_before + self._counts:
            self._arrive("counter", "journaled", now)
            self._read_points(status, now)

    def _read_event(self, status: Json, receipt: Json | None) -> None:
        if receipt is None or receipt["state"] not in ("spooled", "refused"):
            return
        if receipt["state"] == "refused":
            self._fail("event", "spooled", f"refused: {receipt['reason']}")
            return
        self._arrive("event", "spooled", receipt["at"] - self._sent_ms)
        for standing in receipt["outputs"]:
            name = f"delivered to {standing['output']}"
            if standing["state"] == "delivered":
                self._arrive("event", name, standing["at"] - self._sent_ms)
            elif standing["state"] != "pending":
                self._fail("event", name, f"{standing['state']} {standing['detail']}".strip())

    def _read_points(self, status: Json, now: float) -> None:
        """Points have no receipts: ours have gone out when as many are settled as had been journaled with them."""
        for book in status["books"]["points_out"]:
            settled = book["delivered"] + book["dead"] + book["not_routed"] + sum(book["lost"].values())
            if settled >= self._targets.setdefault(book["output"], book["journaled"]):
                self._arrive("counter", f"delivered to {book['output']}", now)

    async def _look_at_gateways(self) -> None:
        for each in self.destinations:
            name = f"stored at the gateway of {each.name}"
            event, counter = self._open("event", name), self._open("counter", name)
            if event and await each.stored(self.event_id):
                event.arrive(self._since("event"))
            if counter and await each.total() >= each.counted + self._counts:
                counter.arrive(self._since("counter"))

    def _open(self, kind: Probe, name: str) -> Hop | None:
        found = (hop for hop in self.hops if (hop.probe, hop.name, hop.state) == (kind, name, "under way"))
        return next(found, None)

    def _arrive(self, kind: Probe, name: str, ms: float) -> None:
        if hop := self._open(kind, name):
            hop.arrive(ms)

    def _fail(self, kind: Probe, name: str, detail: str) -> None:
        if hop := self._open(kind, name):
            hop.fail(detail)


def _journaled(status: Json) -> int:
    return sum(book["journaled"] for book in status["books"]["points_in"] if book["source"] == probe.SERVICE)
