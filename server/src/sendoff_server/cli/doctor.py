"""``sendoff doctor``"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sendoff_server.cli.options import config_option, json_option, settings_or_exit
from sendoff_server.cli.table import aligned

if TYPE_CHECKING:
    from sendoff_server.doctor import Hop, Report


@click.command(short_help="Send a probe through every hop; name what is wrong.")
@config_option
@json_option
@click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="How long to wait for the probes. Default: the longest interval of an output and 10 seconds.",
)
def doctor(config: Path | None, as_json: bool, wait: float | None) -> None:
    """Send a probe through every hop, and say what is wrong with the set-up.

    An event and a counter, named sendoff.doctor, go into the agent on this host as an application's do; each hop is
    printed with the time until it was reached. Run it as the application's user, with its environment.

    Exit code 0 when all has arrived and nothing is wrong, else 1.
    """
    settings = settings_or_exit(config)

    import asyncio

    from sendoff_server.doctor import examine
    from sendoff_server.doctor.examine import patience_s

    wait_s = patience_s(settings) if wait is None else wait
    if not as_json:
        click.echo(f"sendoff doctor: probes are on their way, for at most {wait_s:g} s", err=True)
    report = asyncio.run(examine(settings, os.environ, os.getuid(), wait_s))
    click.echo(json.dumps(report.as_json()) if as_json else "\n".join(words(report, wait_s)))
    sys.exit(0 if report.well else 1)


def words(report: "Report", wait_s: float) -> Iterator[str]:
    """The report for people."""
    for probe in ("event", "counter"):
        rows = [(hop.name, hop.state, _time(hop), hop.detail) for hop in report.hops if hop.probe == probe]
        if rows:
            yield f"{probe} {report.event}" if probe == "event" else probe
            yield from aligned(rows, "  ")
            yield ""
    if any(hop.state == "under way" for hop in report.hops):
        yield f"What is under way has not arrived within {wait_s:g} s; it is not lost: see `sendoff status`."
        yield ""
    for title, serious in (("wrong", True), ("good to know", False)):
        found = [fault for fault in report.faults if fault.serious is serious]
        if found:
            yield title
        for fault in found:
            yield f"  {fault.words}."
            yield f"    → {fault.remedy}"
    if not any(fault.serious for fault in report.faults):
        yield "nothing is wrong with the set-up"


def _time(hop: "Hop") -> str:
    return "" if hop.ms is None else f"{hop.ms:,.0f} ms" if hop.ms >= 10 else f"{hop.ms:.1f} ms"
