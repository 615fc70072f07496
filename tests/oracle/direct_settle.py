"""The end of a run without an agent: faults are over, what dead apps left in files is sent, and evidence is kept."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import apsw

from demo.parts import wait_until
from tests.oracle import files
from tests.oracle.apps import PROJECTS, STRANGER, App
from tests.oracle.blows import Blows, end_apps
from tests.oracle.direct import Direct
from tests.oracle.direct_verdict import STORE
from tests.oracle.settle import FRESH_S
from tests.oracle.world import Fatal

ADOPT_S = 120.0
"""What dead apps left in files is sent by a living one within this."""


def finish(blows: Blows) -> None:
    """Deliver everything, and write down what is to be judged. Raises `Fatal`."""
    world = blows.world
    evidence: dict[str, Any] = {"fresh_s": fresh(world), "projects": [*PROJECTS, STRANGER]}
    late = end_apps(world, [app.slot for app in world.apps])
    if late:
        raise Fatal(f"these apps do not end: {', '.join(late)}")
    for app in world.apps:
        files.note(world.spool, f"{app.slot}-", blows.found)
    wait_until("what dead apps left in files sent", lambda: not left(world), seconds=ADOPT_S)
    late = end_apps(world, [app.slot for app in fresh_apps(world)])
    if late:
        raise Fatal(f"these apps do not end: {', '.join(late)}")
    if world.garbage is not None:
        world.garbage.stop()
    evidence["counts"] = {project: world.api(project, "counts") for project in evidence["projects"]}
    evidence["ledger"] = {project: world.api(project, "ledger") for project in evidence["projects"]}
    world.gateway.stop()
    (world.folder / STORE).write_bytes(store(world).read_bytes())  # its disk goes with this process
    (world.folder / "evidence.json").write_text(json.dumps(evidence, indent=1))


def store(world: Direct) -> Path:
    return world.folder / "gateway-disk" / "gateway" / "gateway.sqlite3"


def fresh_apps(world: Direct) -> list[App]:
    """An app of each path and customer: beside being fresh, it sends what dead ones left."""
    paths = sorted({app.path for app in world.apps})
    return [App(f"{path}-fresh-{project}", "fresh", path, project) for path in paths for project in PROJECTS]


def fresh(world: Direct) -> dict[str, float]:
    """By path, seconds until an event that is sent now is in the gateway's store."""
    began = time.monotonic()
    took: dict[str, float] = {}
    apps = fresh_apps(world)
    for app in apps:
        world.producer_up(app, 5)

    def arrived() -> bool:
        there = fresh_events(store(world))
        for app in apps:
            if app.slot not in took and any(f'"{app.slot}-'.encode() in line for line in there):
                took[app.slot] = time.monotonic() - began
        return len(took) == len(apps)

    wait_until("a fresh event over each path at the gateway", arrived, seconds=FRESH_S + 60)
    return {path: max(s for slot, s in took.items() if slot.startswith(path)) for path in {app.path for app in apps}}


def fresh_events(path: Path) -> list[bytes]:
    """The lines of the fresh apps' events in the store of a running gateway."""
    there = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    there.set_busy_timeout(5_000)
    try:
        return [line for (line,) in there.execute("SELECT line FROM events WHERE service = 'fresh'")]
    finally:
        there.close()


def left(world: Direct) -> list[str]:
    """Events of dead apps with a good key that are still in files."""
    slots = [app.slot for app in world.apps if app.key == "good" and app.path == "keep"]
    return [ref for slot in slots for ref in files.kept(world.spool, f"{slot}-")]
