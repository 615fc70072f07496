"""`python -m bench [NAME …]` runs the named measurements (all without a name) and prints one table each."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench import calls, durable, footprint, ingest, latency, storm
from bench.machine import describe

MEASUREMENTS = {
    "footprint": footprint.measure,
    "calls": calls.measure,
    "ingest": ingest.measure,
    "durable": durable.measure,
    "latency": latency.measure,
    "storm": storm.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"what to measure: {', '.join(MEASUREMENTS)} (all by default)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args()
    unknown = [name for name in options.name if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"no measurement is called {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    figures: dict[str, object] = {"machine": describe()}
    print(f"{describe()}\n")
    for name in options.name or MEASUREMENTS:
        table = MEASUREMENTS[name]()
        print(table.markdown(), flush=True)
        figures[name] = table.rows
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
