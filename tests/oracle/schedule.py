"""A schedule drawn from a seed, of blows (a kill) and conditions (something is wrong for a while).

Conditions overlap each other and the blows, as they do in life: an agent is killed while its disk is full and its
destination lies. Every one of them has an end, and what the oracle must know to judge, when the agent ended and when it
could not work, is written into the timeline. What can be done, to which processes, a run adds by itself.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from demo.parts import Part
from tests.oracle.book import Pen
from tests.oracle.world import Fatal, dead, wait_dead

LEAVE_FREE = 64 * 1024
Deeds = dict[str, tuple[int, Callable[[], None]]]
"""What can be done: its name, its weight, the deed."""


@dataclass
class Condition:
    """Something that is wrong for a while. `end` puts it right."""

    name: str
    until: float
    end: Callable[[], None]


@dataclass
class Schedule:
    """Does what its random numbers say."""

    folder: Path
    random: random.Random
    done: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    decks: dict[str, list[str]] = field(default_factory=dict)
    timeline: Pen = field(init=False)

    def __post_init__(self) -> None:
        self.timeline = Pen(self.folder / "timeline.jsonl")

    def actions(self) -> Deeds:
        """What may be done now."""
        raise NotImplementedError

    def servers(self) -> dict[str, Part]:
        """The processes that nothing but this schedule may end."""
        raise NotImplementedError

    def note(self, what: str, **more: object) -> None:
        self.timeline.write(t=time.monotonic(), what=what, **more)

    def play(self, seconds: float, gap: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Random actions until the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stop():
            self.one()
            self.wait(gap * 2 * self.random.random())

    def one(self, deck: str = "all") -> None:
        actions = self.actions()
        name = self.draw(deck, {name: weight for name, (weight, _) in actions.items()})
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
            for name, part in self.servers().items():
                if dead(part) and f"{name} down" not in self.conditions:
                    raise Fatal(f"the {part.name} ended by itself; its log is {part.log}")
            if now >= end:
                return
            time.sleep(min(0.05, end - now))

    def begin(self, name: str, seconds: float, end: Callable[[], None]) -> None:
        self.conditions[name] = Condition(name, time.monotonic() + seconds, end)

    def heal(self, name: str) -> None:
        condition = self.conditions.pop(name, None)
        if condition is not None:
            condition.end()

    def heal_all(self) -> None:
        """End every condition: what is stopped goes on and the disk is free before what is down is started, and only
        then can an app that ends get its acknowledgements.
        """
        for kind in ("stopped", "slow", "full", "fault", "gateway down", "agent down", "down", "ends"):
            for name in [name for name in self.conditions if name.endswith(kind)]:
                self.heal(name)
        for name in list(self.conditions):
            self.heal(name)

    def said(self) -> str:
        """What was done, and what could not be, for people."""
        lines = [f"  {n:5} × {name}" for name, n in sorted(self.done.items())]
        lines += [f"  skipped: {name}, as {why}" for name, why in sorted(self.skipped.items())]
        return "\n".join(lines)

    def seconds(self, most: float) -> float:
        return most * self.random.random()

    # What is done to one process.

    def end(self, name: str, part: Part, number: signal.Signals) -> None:
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

    def down(self, name: str, seconds: float, start: Callable[[], None]) -> None:
        """Not there for a while, then started again."""
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

        self.begin(f"{name} stopped", 0.2 + self.seconds(3), go_on)

    def fill(self, disk: Path) -> None:
        """Take all the room there is on a small disk, for a while."""
        if "disk full" in self.conditions:
            return
        filling = disk / "filling"
        has = os.statvfs(disk)
        descriptor = os.open(filling, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, max(has.f_bavail * has.f_frsize - LEAVE_FREE, 4096))
        except OSError:
            pass  # some of it was taken meanwhile: it is full all the same
        finally:
            os.close(descriptor)
        self.note("disk full")

        def free() -> None:
            filling.unlink(missing_ok=True)
            self.note("disk free")

        self.begin("disk full", 0.5 + self.seconds(3), free)

    def ended_late(self, slot: str, part: Part, flush_s: float = 60.0) -> None:
        """Raises `Fatal` if an app that was asked to end does not."""
        if not wait_dead(part, flush_s + 10):
            raise Fatal(f"the app {slot} did not end within its flush")
