"""The run with an agent.

First a calm part, in which the destinations, the gateway and the disk misbehave but the agent lives, so that every
counter must arrive to the last point; then a wild one, in which everything is killed.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from tests.oracle import settle
from tests.oracle.faults import Chaos
from tests.oracle.verdict import judge
from tests.oracle.world import World

CALM = {"c1": "calm", "c2": "calm-network", "c3": "calm-confirm", "c4": "calm-zmq"}
WILD = {"w1": "plain", "w2": "network", "w3": "confirm", "w4": "large", "w5": "zmq", "w6": "storm"}


def run(folder: Path, options: argparse.Namespace) -> bool:
    """The whole story; whether the oracle found nothing wrong."""
    # A storm is folded until its minute is over, for which a short run would have to wait.
    storm = 100 if options.seconds >= 60 or options.cycles else 0
    world = World(folder, options.seed, storm=storm, by_zmq=options.path == "agent-zmq")
    try:
        world.mount()
        world.start()
        chaos = Chaos(world.folder, random.Random(options.seed), world=world, rate=options.rate)
        calm_part(chaos, options.seconds / 3)
        wild_part(chaos, options.seconds * 2 / 3, options.cycles)
        chaos.heal_all()
        settle.finish(world)
    finally:
        world.stop()
    verdict = judge(world.folder)
    print(chaos.said())
    print(verdict.render())
    return verdict.right


def calm_part(chaos: Chaos, seconds: float) -> None:
    say(f"{seconds:.0f} s in which the agent lives, and all around it misbehaves")
    for slot, kind in CALM.items():
        chaos.world.producer_up(slot, kind, chaos.rate)
    chaos.play(seconds, gap=0.7)
    chaos.heal_all()
    settle.end_producers(chaos.world, list(CALM))
    settle.journaled(chaos.world)


def wild_part(chaos: Chaos, seconds: float, cycles: int) -> None:
    chaos.calm = False
    chaos.wild_slots = dict(WILD)
    for slot, kind in WILD.items():
        chaos.world.producer_up(slot, kind, chaos.rate)
    if not cycles:
        say(f"{seconds:.0f} s in which everything is killed")
        chaos.play(seconds, gap=0.7)
        return
    say(f"{cycles} kills")
    began = time.monotonic()
    for number in range(cycles):
        kill_some(chaos)
        if (number + 1) % 50 == 0:
            say(f"{number + 1} cycles in {time.monotonic() - began:.0f} s")


def kill_some(chaos: Chaos) -> None:
    """One cycle: kill the agent, an app, the gateway, or several of them, and start them again at once."""
    kills = {"agent killed": chaos.kill_agent, "app killed": chaos.kill_app, "gateway killed": chaos.kill_gateway}
    for name in chaos.random.sample(list(kills), chaos.random.choice((1, 1, 2, 3))):
        chaos.do(name, lambda name=name: kills[name](0.0))  # type: ignore[misc]
    if chaos.random.random() < 0.2:
        chaos.do("destination fault", chaos.destination_fault)
    chaos.wait(0.1 + 0.8 * chaos.random.random())


def say(text: str) -> None:
    print(f"· {text}", flush=True)
