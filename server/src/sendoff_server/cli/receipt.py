"""``sendoff receipt``"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from sendoff_server.cli.options import config_option, json_option
from sendoff_server.cli.table import shown, when

NOT_YET = 3
NOTHING_KNOWN = 4
REFUSED_OR_LOST = 5
EVERY_S = 0.2
UNDER_WAY = ("accepted", "pending")


@click.command(short_help="Say where an event is that asked for a receipt.")
@click.argument("event", metavar="ID")
@click.option("--wait", "seconds", type=click.FloatRange(0, 86_400), default=0.0, metavar="SECONDS",
              help="Wait so long at most for it to be delivered, refused or lost.")  # fmt: skip
@config_option
@json_option
def receipt(event: str, seconds: float, config: Path | None, as_json: bool) -> None:
    """Say where an event is that was sent with confirm: ID is the event's own.

    Exit code 0 when every output that gets events has it; 3 when one has not yet; 4 when nothing is known of it;
    5 when it was refused or lost; 1 when the agent or its spool cannot be asked.
    """
    from sendoff_server.cli.keeper import agent_answers, keeper

    end = time.monotonic() + seconds
    while True:
        with keeper(config) as kept:
            found = kept.receipt(event)
        code = _code(found)
        if code not in (NOT_YET, NOTHING_KNOWN) or time.monotonic() >= end:
            break
        while time.monotonic() < end:
            time.sleep(min(EVERY_S, max(0.0, end - time.monotonic())))
            if agent_answers(config):
                break
    if as_json:
        click.echo(json.dumps(found or {"event": event, "state": "unknown", "outputs": []}))
    else:
        for line in _words(event, found):
            click.echo(line)
    sys.exit(code)


def _code(found: dict[str, Any] | None) -> int:
    if found is None:
        return NOTHING_KNOWN
    states = [found["state"], *(each["state"] for each in found["outputs"])]
    if any(state in UNDER_WAY for state in states):
        return NOT_YET
    if {"refused", "lost"} & set(states):
        return REFUSED_OR_LOST
    return 0 if "delivered" in states else NOTHING_KNOWN


def _words(event: str, found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield f"nothing is known of {shown(event, 100)}. Either it was not sent with confirm, or not to this host's"
        yield "agent, or it is still in the application's memory, or it is older than the setting spool.receipts"
        return
    if found["state"] == "accepted":
        yield "accepted: in the agent's memory, not on its disk yet"
        return
    if found["state"] == "refused":
        yield f"refused by the agent at {when(found['at'])}: {shown(found['reason'], 300)}"
        return
    yield f"spooled at {when(found['at'])}"
    for each in found["outputs"]:
        yield f"{each['output']}: {_standing(each)}"
    if not found["outputs"]:
        yield "what became of it then is not known: that part of the spool was damaged"


def _standing(each: dict[str, Any]) -> str:
    detail = shown(each["detail"], 300)
    match each["state"]:
        case "pending":
            return f"waits, in item {each['item']}"
        case "delivered":
            return f"delivered at {when(each['at'])}"
        case "refused":
            return f"refused at {when(each['at'])}: {detail}"
        case "lost":
            return f"lost at {when(each['at'])}: {detail}"
        case _:
            return "gets no events"
