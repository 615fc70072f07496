"""`make chaos`: processes, blows and faults as a seed says, and then the verdict of the oracle.

Apps send on a path: by the agent (`agent`; `agent-zmq` if that delivers over ZeroMQ), or without one, over ZeroMQ
with CURVE (`curve`), HTTPS (`https`), HTTPS with `spool=` (`keep`), or all of these at once (`direct`). Everything is
killed, stopped, cut off and lied to; then all faults end, everything is delivered, and what arrived is held against the
oracle's own book. Exit status 0 only if nothing is wrong. The same seed gives the same actions in the same order; what
they meet depends on the machine's timing.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from demo.parts import NotReady
from tests.oracle import by_agent, directly
from tests.oracle.apps import PATHS
from tests.oracle.world import Fatal

ALL = ("agent", "agent-zmq", *PATHS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--path", choices=("all", *ALL, "direct"), default="all", help="default: each in turn")
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the faults")
    parser.add_argument(
        "--cycles", type=int, default=0, help="by the agent, instead of the wild part: so many kills, one after another"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the schedule and the content")
    parser.add_argument("--rate", type=float, default=40.0, help="events per second of each producer")
    parser.add_argument("--folder", type=Path, help="where to work; kept afterwards")
    options = parser.parse_args()
    if options.path == "all":
        return in_turn(options)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="sendoff-chaos-"))
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} holds another run: its books would be judged with this one's")
    print(f"CHAOS_SEED={options.seed} CHAOS_PATH={options.path}, in {folder}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    try:
        right = run(folder, options)
    except (Fatal, NotReady) as error:
        print(f"WRONG: {error}", flush=True)
        right = False
    except KeyboardInterrupt:
        right = False
    if not right:
        print(f"Everything is kept in {folder}; the same again: CHAOS_SEED={options.seed} CHAOS_PATH={options.path}")
    elif options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if right else 1


def run(folder: Path, options: argparse.Namespace) -> bool:
    if options.path.startswith("agent"):
        return by_agent.run(folder, options)
    return directly.run(folder, options, PATHS if options.path == "direct" else (options.path,))


def in_turn(options: argparse.Namespace) -> int:
    """Each path by a process of its own, which has namespaces of its own; the time is shared."""
    wrong = 0
    for path in ALL:
        command = [sys.executable, "-m", "tests.oracle", "--path", path, "--seed", str(options.seed)]
        command += ["--seconds", str(options.seconds / len(ALL)), "--rate", str(options.rate)]
        if path.startswith("agent"):
            command += ["--cycles", str(options.cycles)]
        if options.folder is not None:
            command += ["--folder", str(options.folder / path)]
        wrong += subprocess.run(command, check=False).returncode != 0
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
