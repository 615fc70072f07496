"""The run without an agent: some apps live through all of it and must have every sum right, others are killed, fork and
die, lose their key on the way or never had one, while somebody speaks garbage to the same ports.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from tests.oracle import direct_settle
from tests.oracle.apps import cast
from tests.oracle.blows import Blows
from tests.oracle.direct import Direct
from tests.oracle.direct_verdict import judge

LONG_S = 45.0
"""In a run of so many seconds, connections that died without a word are left to the client, which gives one up after a
minute. In a shorter one they are reset in the end, as by a router that does not know them any more.
"""


def run(folder: Path, options: argparse.Namespace, paths: tuple[str, ...]) -> bool:
    """The whole story; whether the oracle found nothing wrong."""
    short = options.seconds < LONG_S
    world = Direct(folder, options.seed, cast(paths), flush_s=60 if short else 150)
    try:
        world.mount()
        world.start()
        blows = Blows(world.folder, random.Random(options.seed), world=world, rate=options.rate)
        for app in world.apps:
            world.producer_up(app, options.rate)
        print(f"· {options.seconds:.0f} s over {', '.join(paths)}", flush=True)
        blows.play(options.seconds, gap=0.7)
        blows.heal_all()
        if short:
            world.control("", reset=True)
        direct_settle.finish(blows)
    finally:
        world.stop()
    verdict = judge(world.folder)
    print(blows.said())
    print(verdict.render())
    return verdict.right
