"""`make chaos`: processes, blows and faults as a seed says, and then the verdict of the oracle.

First a calm part, in which the destinations, the gateway and the disk misbehave but the agent lives, so that every
counter must arrive to the last point; then a wild one, in which everything is killed; then all faults end, everything
is delivered, and what arrived is held against the oracle's own book. Exit status 0 only if nothing is wrong. The same
seed gives the same actions in the same order; what they meet depends on the machine's timing.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from demo.parts import NotReady
from tests.oracle import settle
from tests.oracle.faults import Chaos
from tests.oracle.verdict import judge
from tests.oracle.world import Fatal, World

CALM = {"c1": "calm", "c2": "calm-network", "c3": "calm-confirm"}
WILD = {"w1": "plain", "w2": "network", "w3": "confirm", "w4": "large", "w5": "plain", "w6": "storm"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the faults, calm and wild together")
    parser.add_argument(
        "--cycles", type=int, default=0, help="instead of the wild part: so many kills, one after another"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the schedule and the content")
    parser.add_argument("--rate", type=float, default=40.0, help="events per second of each producer")
    parser.add_argument("--folder", type=Path, help="where to work; kept afterwards")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="sendoff-chaos-"))
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} holds another run: its books would be judged with this one's")
    print(f"CHAOS_SEED={options.seed}, in {folder}", flush=True)
    # A storm is folded until its minute is over, for which a short run would have to wait.
    world = World(folder, options.seed, storm=100 if options.seconds >= 60 or options.cycles else 0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    try:
        right = run(world, options)
    except (Fatal, NotReady) as error:
        print(f"WRONG: {error}", flush=True)
        right = False
    except KeyboardInterrupt:
        right = False
    finally:
        world.stop()
    if not right:
        print(f"Everything is kept in {folder}; the same again: CHAOS_SEED={options.seed}")
    elif options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if right else 1


def run(world: World, options: argparse.Namespace) -> bool:
    """The whole story; whether the oracle found nothing wrong."""
    world.mount()
    world.start()
    chaos = Chaos(world, random.Random(options.seed), rate=options.rate)
    calm_part(chaos, options.seconds / 3)
    wild_part(chaos, options.seconds * 2 / 3, options.cycles)
    chaos.heal_all()
    settle.finish(world)
    verdict = judge(world.folder)
    print("\n".join(f"  {n:5} × {name}" for name, n in sorted(chaos.done.items())))
    print("\n".join(f"  skipped: {name}, as {why}" for name, why in sorted(chaos.skipped.items())))
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


if __name__ == "__main__":
    sys.exit(main())
