"""What is done to a gateway that apps send to directly, to the wire between them, and to the apps."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field

from demo.parts import Part
from tests.oracle import files, wire
from tests.oracle.apps import App
from tests.oracle.book import Pen
from tests.oracle.direct import Direct
from tests.oracle.schedule import Deeds, Schedule
from tests.oracle.world import dead, wait_dead


@dataclass(kw_only=True)
class Blows(Schedule):
    """For a world without an agent."""

    world: Direct
    rate: float
    revoked: bool = False
    found: Pen = field(init=False)
    """What stood in the files of apps when they were dead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.found = Pen(self.folder / "kept.jsonl")

    def servers(self) -> dict[str, Part]:
        found = {"gateway": self.world.gateway, "wire": self.world.wire}
        if self.world.garbage is not None:
            found["garbage"] = self.world.garbage
        return found

    def actions(self) -> Deeds:
        found: Deeds = {
            "gateway killed": (4, self.kill_gateway),
            "gateway asked to stop": (1, self.term_gateway),
            "gateway stopped": (2, lambda: self.pause("gateway", self.world.gateway)),
            "gateway slow": (2, self.slow_gateway),
            "gateway's disk full": (1, self.fill_disk),
            "cable pulled": (2, self.pull),
            "app killed": (4, self.kill_app),
            "app asked to stop": (2, self.term_app),
            "app stopped": (1, self.pause_app),
        }
        found |= {f"wire: {fault}": (1, lambda fault=fault: self.wrong(fault)) for fault in wire.FAULTS}  # type: ignore[misc]
        if not self.revoked:
            found["keys revoked"] = (1, self.revoke)
        return found

    # The gateway and the way to it.

    def kill_gateway(self) -> None:
        self.end("gateway", self.world.gateway, signal.SIGKILL)
        self.down("gateway", self.seconds(2), self.world.gateway_up)

    def term_gateway(self) -> None:
        self.end("gateway", self.world.gateway, signal.SIGTERM)
        self.down("gateway", self.seconds(1), self.world.gateway_up)

    def slow_gateway(self) -> None:
        """It comes to run for a tenth of the time."""
        if any(name.startswith("gateway ") for name in self.conditions):
            return
        process = self.world.gateway.process
        assert process is not None
        self.note("gateway slow")
        end = time.monotonic() + 0.5 + self.seconds(2)
        while time.monotonic() < end:
            process.send_signal(signal.SIGSTOP)
            self.wait(0.09)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        self.note("gateway slow no more")

    def fill_disk(self) -> None:
        if self.world.disk:
            self.skipped["gateway's disk full"] = self.world.disk
        else:
            self.fill(self.world.folder / "gateway-disk")

    def pull(self) -> None:
        if self.world.cable.why_not:
            self.skipped["cable pulled"] = self.world.cable.why_not
            return
        if "cable pulled" in self.conditions:
            return
        self.world.cable.pull()
        self.note("cable pulled")

        def plug() -> None:
            self.world.cable.plug()
            self.note("cable plugged")

        self.begin("cable pulled", 0.5 + self.seconds(4), plug)

    def wrong(self, fault: str) -> None:
        self.heal("wire at fault")
        self.world.control(fault)
        self.note("wire", fault=fault)

        def right() -> None:
            self.world.control("")
            self.note("wire", fault="")

        self.begin("wire at fault", 0.5 + self.seconds(3), right)

    def revoke(self) -> None:
        """Take away the keys of the apps that are to lose theirs."""
        for app in [app for app in self.world.apps if app.key == "revoked"]:
            self.world.revoke(app)
            self.note("key revoked", slot=app.slot, wall_ms=time.time_ns() // 1_000_000)
        self.revoked = True

    # Apps.

    def _victim(self) -> App:
        return self.random.choice([app for app in self.world.apps if app.mortal])

    def kill_app(self) -> None:
        """One on each path."""
        for path in sorted({app.path for app in self.world.apps}):
            self._kill(self.random.choice([app for app in self.world.apps if app.mortal and app.path == path]))

    def _kill(self, app: App) -> None:
        part = self.world.producers[app.slot]
        if not dead(part):
            assert part.process is not None
            self.heal(f"{app.slot} stopped")
            part.process.kill()
            part.process.wait()
            self.note("app killed", app=app.slot)
            files.note(self.world.spool, f"{part.name}-", self.found)
        self._again(app, self.seconds(0.5))

    def term_app(self) -> None:
        app = self._victim()
        part = self.world.producers[app.slot]
        self.heal(f"{app.slot} stopped")
        if part.process is not None and not dead(part):
            part.process.terminate()
        self.begin(f"{app.slot} ends", 60, lambda: self.ended_late(app.slot, part, self.world.flush_s))
        self._again(app, self.seconds(0.5))

    def _again(self, app: App, seconds: float) -> None:
        self.down(app.slot, seconds, lambda: self._start(app))

    def _start(self, app: App) -> None:
        self.world.producer_up(app, self.rate)

    def pause_app(self) -> None:
        app = self._victim()
        if f"{app.slot} down" not in self.conditions:
            self.pause(app.slot, self.world.producers[app.slot])


def end_apps(world: Direct, slots: list[str]) -> list[str]:
    """SIGTERM to them; those that did not end within their flush."""
    for slot in slots:
        process = world.producers[slot].process
        if process is not None and process.poll() is None:
            process.terminate()
    return [slot for slot in slots if not wait_dead(world.producers[slot], world.flush_s + 30)]
