"""``sendoff status``"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from sendoff_server.cli.options import config_option, json_option, settings_or_exit
from sendoff_server.cli.table import aligned, shown

BOOKS_DO_NOT_BALANCE = 4
WATCH_EVERY_S = 2.0
DEAD_SHOWN = 5


@click.command(short_help="Show how the agent on this host is doing.")
@config_option
@json_option
@click.option("--watch", is_flag=True, help="Show it anew every 2 seconds, until Ctrl-C.")
def status(config: Path | None, as_json: bool, watch: bool) -> None:
    """Show how the agent on this host is doing: what came in, where it is, what was lost and why.

    Exit code 1 when no agent answers, 4 when its books do not balance.
    """
    from sendoff_server.cli.control import NoAnswer, ask, control_places

    settings = settings_or_exit(config)
    places = control_places(settings.inputs.unix.path, os.environ, os.getuid())
    try:
        while True:
            found = ask("/status.json", places, os.getuid())
            if watch and not as_json:
                click.clear()
            click.echo(json.dumps(found) if as_json else "\n".join(words(found)))
            if not watch:
                sys.exit(BOOKS_DO_NOT_BALANCE if found["books"]["imbalances"] else 0)
            time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        sys.exit(0)
    except NoAnswer as error:
        click.echo(f"sendoff: {error}", err=True)
        sys.exit(1)


def words(found: dict[str, Any]) -> Iterator[str]:
    """The status for people. Its keys are those of `agent.status`."""
    books: dict[str, Any] = found["books"]
    state = found["phase"] if found["ready"] else f"NOT READY: {found['why_not_ready']}"
    minutes = int(found["uptime_s"] // 60)
    since = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    yield f"sendoff {found['version']} on {found['host']}, {state}, up {since}"
    yield from _section(
        "process",
        [
            ("pid", str(found["pid"])),
            ("core", found["core"]),
            ("memory", f"{found['memory_bytes'] / 2**20:,.0f} MiB"),
            (
                "spool",
                f"{found['spool']['used_bytes'] / 2**20:,.1f} of {found['spool']['limit_bytes'] / 2**20:,.0f} MiB",
            ),
            ("clients", f"{found['clients_known']:,}"),
            ("series", f"{found['series']:,}"),
        ],
    )
    yield from _section("listens on", list(found["addresses"].items()))
    yield from _outputs(found["outputs"])
    yield from _books(books)
    yield from _never_seen(found)
    yield from _dead(found["dead_letters"])
    yield from _unknown(found["spool"])
    imbalances = books["imbalances"]
    yield ""
    yield "the books balance" if not imbalances else "THE BOOKS DO NOT BALANCE; this is a fault in Sendoff:"
    yield from (f"  {each}" for each in imbalances)


def _books(books: dict[str, Any]) -> Iterator[str]:
    yield from _section(
        "events",
        [
            (
                r["source"],
                r["output"],
                r["received"],
                r["delivered"],
                r["pending"],
                r["folded"],
                r["dead"],
                _lost(r["lost"]),
            )
            for r in books["events"]
        ],
        ("SOURCE", "OUTPUT", "RECEIVED", "DELIVERED", "PENDING", "FOLDED", "DEAD", "LOST"),
    )
    yield from _section(
        "metric points in",
        [(r["source"], r["received"], r["journaled"], _lost(r["lost"])) for r in books["points_in"]],
        ("SOURCE", "RECEIVED", "JOURNALED", "LOST"),
    )
    yield from _section(
        "metric points out",
        [
            (r["output"], r["journaled"], r["delivered"], r["pending"], r["dead"], _lost(r["lost"]))
            for r in books["points_out"]
        ],
        ("OUTPUT", "JOURNALED", "DELIVERED", "PENDING", "DEAD", "LOST"),
    )
    rejected = [(r["source"], r["received"], r["accepted"], _lost(r["rejected"])) for r in books["lines"]]
    yield from _section("metric lines", rejected, ("SOURCE", "RECEIVED", "ACCEPTED", "REJECTED"))


def _never_seen(found: dict[str, Any]) -> Iterator[str]:
    drops = [
        (name, number, found["kernel_points"].get(name, 0)) for name, number in found["kernel_drops"].items() if number
    ]
    head = ("INPUT", "DATAGRAMS", "POINTS (IN GAPS AS WELL)")
    yield from _section("dropped by the kernel, never seen here", drops, head)


def _unknown(spool: dict[str, Any]) -> Iterator[str]:
    unknown = [
        (time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(each["at"] / 1000)), each["why"], each["kept"])
        for each in spool["unknown"]
    ]
    if spool["damaged"]:
        yield from _section(
            "THE SPOOL IS DAMAGED: restart the agent, which rescues what can be read", [(spool["damaged"],)]
        )
    yield from _section("unknown: lost, and nobody can say how much", unknown)


def _outputs(outputs: list[dict[str, Any]]) -> Iterator[str]:
    if not outputs:
        yield from _section("outputs", [("none is set up, so everything is kept in the spool",)])
    for each in outputs:
        yield from _section("output " + each["name"], [(each["type"], each["url"], each["state"])])
        if each.get("shelved"):
            yield f"  takes others, but fails on {each['shelved']} batches, which are tried again in their own time"
        if each.get("last_error"):
            past = "before that: " if each["state"] == "flowing" else ""
            yield f"  {past}{shown(each['last_error'], 400)}"


def _dead(letters: list[dict[str, Any]]) -> Iterator[str]:
    """The newest dead letters, and what can be done with them."""
    rows = [
        (f"dead/{each['dead']}", each["output"], f"{each['status']} {shown(each['code'], 40)}", each["n"])
        for each in letters[:DEAD_SHOWN]
    ]
    if rows:
        yield from _section("dead letters", rows, ("LETTER", "OUTPUT", "REFUSED WITH", "HOLDS"))
        yield "  `sendoff spool show dead/N` shows one; `sendoff spool replay N` (or --all) sends it again"


def _section(title: str, rows: list[Any], head: tuple[str, ...] | None = None) -> Iterator[str]:
    if rows:
        yield ""
        yield title
        yield from aligned(([head] if head else []) + rows, "  ")


def _lost(reasons: dict[str, int]) -> str:
    if not reasons:
        return "-"
    return ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items()))
