"""What is done to apps, the agent, its destinations and the gateway behind it."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from demo.parts import Part
from tests.oracle import wire
from tests.oracle.destination import FAULTS
from tests.oracle.schedule import Deeds, Schedule
from tests.oracle.world import World, dead


@dataclass(kw_only=True)
class Chaos(Schedule):
    """`calm`: the agent is not ended, so that counters can be compared exactly."""

    world: World
    calm: bool = True
    faults: dict[str, str] = field(default_factory=dict)
    wild_slots: dict[str, str] = field(default_factory=dict)
    rate: float = 40.0

    def servers(self) -> dict[str, Part]:
        return {"agent": self.world.agent, "gateway": self.world.gateway}

    def actions(self) -> Deeds:
        found: Deeds = {
            "gateway killed": (3, self.kill_gateway),
            "gateway asked to stop": (1, self.term_gateway),
            "gateway stopped": (1, lambda: self.pause("gateway", self.world.gateway)),
            "agent stopped": (1, lambda: self.pause("agent", self.world.agent)),
            "disk full": (2, self.fill_disk),
            "agent reloaded": (2, self.reload),
        }
        if not self.calm:
            found |= {
                "app killed": (4, self.kill_app),
                "app asked to stop": (1, self.term_app),
                "app stopped": (1, self.pause_app),
                "agent killed": (4, self.kill_agent),
                "agent asked to stop": (2, self.term_agent),
            }
        return found

    def one(self, deck: str = "") -> None:
        if self.random.random() < 0.5:
            self.do("destination fault", self.destination_fault)
        super().one("calm" if self.calm else "wild")

    # Destinations.

    def destination_fault(self) -> None:
        possible = {f"{w} {f}": 1 for w, all_of in FAULTS.items() for f in all_of}
        if self.world.by_zmq:  # the way to the gateway does not lead through the destination
            possible = {each: 1 for each in possible if not each.startswith("gateway ")}
            possible |= {f"wire {fault}": 1 for fault in wire.FAULTS}
        which, fault = self.draw("faults", possible).split()
        seconds = 0.5 + self.seconds(4)
        name = f"{which} at fault"
        self.faults[which] = fault
        self._tell()
        self.note("fault", which=which, fault=fault)
        self.done[f"{which} {fault}"] += 1

        def end() -> None:
            self.faults.pop(which, None)
            self._tell()

        self.begin(name, seconds, end)

    def _tell(self) -> None:
        self.world.control(self.faults)
        if self.world.by_zmq:
            self.world.wire_control(self.faults.get("wire", ""))

    # The gateway.

    def kill_gateway(self, down: float | None = None) -> None:
        self.end("gateway", self.world.gateway, signal.SIGKILL)
        self.down("gateway", self.seconds(2) if down is None else down, self.world.gateway_up)

    def term_gateway(self) -> None:
        self.end("gateway", self.world.gateway, signal.SIGTERM)
        self.down("gateway", self.seconds(1), self.world.gateway_up)

    # The agent.

    def kill_agent(self, down: float | None = None) -> None:
        self.end("agent", self.world.agent, signal.SIGKILL)
        self.down("agent", self.seconds(1.5) if down is None else down, self._agent_up)

    def term_agent(self) -> None:
        self.end("agent", self.world.agent, signal.SIGTERM)
        self.down("agent", self.seconds(1), self._agent_up)

    def reload(self) -> None:
        if "agent down" in self.conditions or "agent stopped" in self.conditions:
            return
        assert self.world.agent.process is not None
        self.world.agent.process.send_signal(signal.SIGHUP)
        self.note("agent reloaded")

    def _agent_up(self) -> None:
        self.world.agent_up()
        self.note("agent up")

    def fill_disk(self) -> None:
        if self.world.disk:
            self.skipped["disk full"] = self.world.disk
        else:
            self.fill(self.world.folder / "agent-disk")

    # Apps.

    def _victim(self) -> str:
        return self.random.choice(list(self.wild_slots))

    def kill_app(self, down: float | None = None) -> None:
        slot = self._victim()
        part = self.world.producers[slot]
        if not dead(part):
            assert part.process is not None
            self.heal(f"{slot} stopped")
            part.process.kill()
            part.process.wait()
            self.note("app killed", app=slot)
        self._app_again(slot, self.seconds(0.5) if down is None else down)

    def term_app(self) -> None:
        slot = self._victim()
        part = self.world.producers[slot]
        self.heal(f"{slot} stopped")
        if part.process is not None and not dead(part):
            part.process.terminate()  # it flushes: nobody waits for it here
        self.begin(f"{slot} ends", 60, lambda: self.ended_late(slot, part))
        self._app_again(slot, self.seconds(0.5))

    def _app_again(self, slot: str, seconds: float) -> None:
        def start() -> None:
            self.world.producer_up(slot, self.wild_slots[slot], self.rate)

        self.down(slot, seconds, start)

    def pause_app(self) -> None:
        slot = self._victim()
        if f"{slot} down" not in self.conditions:
            self.pause(slot, self.world.producers[slot])
