"""What is done to the processes: a schedule drawn from a seed, of blows (a kill) and conditions (a fault for a while).

Conditions overlap each other and the blows, as they do in life: an agent is killed while its disk is full and its
destination lies. Every one of them has an end, and what the oracle must know to judge, when the agent ended and when it
could not work, is written into the timeline.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from demo.parts import Part
from tests.oracle.book import Pen
from tests.oracle.destination import FAULTS
from tests.oracle.world import Fatal, World, dead, wait_dead

LEAVE_FREE = 64 * 1024


@dataclass
class Condition:
    """Something that is wrong for a while. `end` puts it right."""

    name: str
    until: float
    end: Callable[[], None]


@dataclass
class Chaos:
    """Does what its random numbers say. `calm`: the agent is not ended, so that counters can be compared exactly."""

    world: World
    random: random.Random
    calm: bool = True
    done: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    timeline: Pen = field(init=False)
    wild_slots: dict[str, str] = field(default_factory=dict)
    rate: float = 40.0
    decks: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.timeline = Pen(self.world.folder / "timeline.jsonl")

    def note(self, what: str, **more: object) -> None:
        self.timeline.write(t=time.monotonic(), what=what, **more)

    # What can be done.

    def actions(self) -> dict[str, tuple[int, Callable[[], None]]]:
        """Name, weight and deed of what may be done now."""
        found: dict[str, tuple[int, Callable[[], None]]] = {
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

    def play(self, seconds: float, gap: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Random actions until the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stop():
            self.one()
            self.wait(gap * 2 * self.random.random())

    def one(self) -> None:
        if self.random.random() < 0.5:
            self.do("destination fault", self.destination_fault)
        actions = self.actions()
        name = self.draw("calm" if self.calm else "wild", {name: weight for name, (weight, _) in actions.items()})
        self.do(name, actions[name][1])

    def draw(self, deck: str, weights: dict[str, int]) -> str:
        """Each once, in random order, before any comes by its weight: also a short run has met everything."""
        if deck not in self.decks:
            self.decks[deck] = self.random.sample(list(weights), len(weights))
        if self.decks[deck]:
            return self.decks[deck].pop()
        return self.random.choices(list(weights), list(weights.values()))[0]

    def do(self, name: str, deed: Callable[[], None]) -> None:
        deed()
        if name not in self.skipped:
            self.done[name] += 1

    def wait(self, seconds: float) -> None:
        """Let time pass; conditions end when theirs is over, and what has ended by itself is noticed."""
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for condition in [each for each in self.conditions.values() if each.until <= now]:
                self.heal(condition.name)
            for part, name in ((self.world.agent, "agent down"), (self.world.gateway, "gateway down")):
                if dead(part) and name not in self.conditions:
                    raise Fatal(f"the {part.name} ended by itself; its log is {part.log}")
            if now >= end:
                return
            time.sleep(min(0.05, end - now))

    def heal(self, name: str) -> None:
        condition = self.conditions.pop(name, None)
        if condition is not None:
            condition.end()

    def heal_all(self) -> None:
        """End every condition: what is stopped goes on and the disk is free before what is down is started, and only
        then can an app that ends get its acknowledgements.
        """
        for kind in ("stopped", "full", "fault", "gateway down", "agent down", "down", "ends"):
            for name in [name for name in self.conditions if name.endswith(kind)]:
                self.heal(name)

    def begin(self, name: str, seconds: float, end: Callable[[], None]) -> None:
        self.conditions[name] = Condition(name, time.monotonic() + seconds, end)

    def _seconds(self, most: float) -> float:
        return most * self.random.random()

    # Destinations.

    def destination_fault(self) -> None:
        which, fault = self.draw("faults", {f"{w} {f}": 1 for w, all_of in FAULTS.items() for f in all_of}).split()
        seconds = 0.5 + self._seconds(4)
        name = f"{which} at fault"
        self.faults[which] = fault
        self.world.control(self.faults)
        self.note("fault", which=which, fault=fault)
        self.done[f"{which} {fault}"] += 1

        def end() -> None:
            self.faults.pop(which, None)
            self.world.control(self.faults)

        self.begin(name, seconds, end)

    # The gateway.

    def kill_gateway(self, down: float | None = None) -> None:
        self._end("gateway", self.world.gateway, signal.SIGKILL)
        self._down("gateway", self._seconds(2) if down is None else down, self.world.gateway_up)

    def term_gateway(self) -> None:
        self._end("gateway", self.world.gateway, signal.SIGTERM)
        self._down("gateway", self._seconds(1), self.world.gateway_up)

    # The agent.

    def kill_agent(self, down: float | None = None) -> None:
        self._end("agent", self.world.agent, signal.SIGKILL)
        self._down("agent", self._seconds(1.5) if down is None else down, self._agent_up)

    def term_agent(self) -> None:
        self._end("agent", self.world.agent, signal.SIGTERM)
        self._down("agent", self._seconds(1), self._agent_up)

    def reload(self) -> None:
        if "agent down" in self.conditions or "agent stopped" in self.conditions:
            return
        assert self.world.agent.process is not None
        self.world.agent.process.send_signal(signal.SIGHUP)
        self.note("agent reloaded")

    def _agent_up(self) -> None:
        self.world.agent_up()
        self.note("agent up")

    def _end(self, name: str, part: Part, number: signal.Signals) -> None:
        """End a process, whatever state it is in."""
        if f"{name} down" in self.conditions:
            self.heal(f"{name} down")
        assert part.process is not None
        self.heal(f"{name} stopped")
        if number == signal.SIGKILL:
            part.process.kill()
            self.note(f"{name} killed")
        else:
            self.note(f"{name} asked to stop")
            part.process.terminate()
        if not wait_dead(part, 30):
            raise Fatal(f"the {name} did not end within 30 s of {number.name}; its log is {part.log}")
        code = part.process.returncode
        if number == signal.SIGTERM and code not in (0, 3):
            raise Fatal(f"the {name} ended with {code} after SIGTERM; its log is {part.log}")
        self.note(f"{name} down", code=code)

    def _down(self, name: str, seconds: float, start: Callable[[], None]) -> None:
        self.begin(f"{name} down", seconds, start)
        if seconds <= 0:
            self.heal(f"{name} down")

    def pause(self, name: str, part: Part) -> None:
        """SIGSTOP for a while."""
        if f"{name} down" in self.conditions or f"{name} stopped" in self.conditions:
            return
        assert part.process is not None
        process = part.process
        process.send_signal(signal.SIGSTOP)
        self.note(f"{name} stopped")

        def go_on() -> None:
            process.send_signal(signal.SIGCONT)
            self.note(f"{name} goes on")

        self.begin(f"{name} stopped", 0.2 + self._seconds(3), go_on)

    def fill_disk(self) -> None:
        if self.world.disk:
            self.skipped["disk full"] = self.world.disk
            return
        if "disk full" in self.conditions:
            return
        filling = self.world.folder / "agent-disk" / "filling"
        disk = os.statvfs(filling.parent)
        descriptor = os.open(filling, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, max(disk.f_bavail * disk.f_frsize - LEAVE_FREE, 4096))
        except OSError:
            pass  # the agent took some of it meanwhile: it is full all the same
        finally:
            os.close(descriptor)
        self.note("disk full")

        def free() -> None:
            filling.unlink(missing_ok=True)
            self.note("disk free")

        self.begin("disk full", 0.5 + self._seconds(3), free)

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
        self._app_again(slot, self._seconds(0.5) if down is None else down)

    def term_app(self) -> None:
        slot = self._victim()
        part = self.world.producers[slot]
        self.heal(f"{slot} stopped")
        if part.process is not None and not dead(part):
            part.process.terminate()  # it flushes: nobody waits for it here
        self.begin(f"{slot} ends", 60, lambda: self._ended_late(slot, part))
        self._app_again(slot, self._seconds(0.5))

    def _ended_late(self, slot: str, part: Part) -> None:
        if not wait_dead(part, 70):
            raise Fatal(f"the app {slot} did not end within its flush")

    def _app_again(self, slot: str, seconds: float) -> None:
        def start() -> None:
            self.world.producer_up(slot, self.wild_slots[slot], self.rate)

        self._down(slot, seconds, start)

    def pause_app(self) -> None:
        slot = self._victim()
        if f"{slot} down" not in self.conditions:
            self.pause(slot, self.world.producers[slot])
