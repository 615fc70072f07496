"""`python -m bench [NAME …]` runs the named measurements, without a name all but the long ones; a table each."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from bench import (
    backlog,
    busy,
    calls,
    customers,
    delivery,
    direct,
    durable,
    footprint,
    ingest,
    isolation,
    latency,
    outage,
    paths,
    port,
    sockets,
    spool,
    storm,
    week,
)
from bench.machine import Table, describe

MEASUREMENTS: dict[str, Callable[[], Table | list[Table]]] = {
    "footprint": footprint.measure,
    "calls": calls.measure,
    "ingest": ingest.measure,
    "durable": durable.measure,
    "direct": direct.measure,
    "busy": busy.measure,
    "isolation": isolation.measure,
    "latency": latency.measure,
    "port": port.measure,
    "storm": storm.measure,
    "sockets": sockets.measure,
    "spool": spool.measure,
    "delivery": delivery.measure,
    "backlog": backlog.measure,
    "outage": outage.measure,
    "week": week.measure,
    "paths": paths.measure,
    "customers": customers.measure,
}
LONG = {"backlog", "customers", "delivery", "isolation", "outage", "paths", "week"}
"""They take minutes each, and are run by name only. `BENCH_COUNT` makes them smaller, `BENCH_DAYS` the week."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    known = f"{', '.join(MEASUREMENTS)} (all but {' and '.join(sorted(LONG))} by default)"
    parser.add_argument("name", nargs="*", help=f"what to measure: {known}")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args()
    unknown = [name for name in options.name if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"no measurement is called {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    figures: dict[str, object] = {"machine": describe()}
    print(f"{describe()}\n")
    for name in options.name or [name for name in MEASUREMENTS if name not in LONG]:
        made = MEASUREMENTS[name]()
        tables = [made] if isinstance(made, Table) else made
        print("\n".join(table.markdown() for table in tables), flush=True)
        figures[name] = [row for table in tables for row in table.rows]
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
