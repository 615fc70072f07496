"""``sendoff reload``"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from sendoff_server.cli.options import SETTINGS_ARE_WRONG, config_option, settings_or_exit

CHECK_S = 75.0
"""How long the agent may take to look at its new code and settings; it gives up earlier itself."""
BACK_S = 60.0
LOOK_EVERY_S = 0.05


@click.command(short_help="Give the running agent its new settings or code.")
@config_option
def reload(config: Path | None) -> None:
    """Let the agent on this host go on with its new settings and code, without refusing anyone meanwhile.

    The same as SIGHUP, but it waits and says how it went. Exit code 2 when something is wrong with the new settings or
    code: then the agent goes on as before. 1 when no agent answers, or none comes back.
    """
    from sendoff_server.cli.control import NoAnswer, ask, control_places

    try:
        settings = settings_or_exit(config)
    except SystemExit:
        click.echo("The agent was not asked, and goes on as before.", err=True)
        raise
    places = control_places(settings.inputs.unix.path, os.environ, os.getuid())
    try:
        before = ask("/status.json", places, os.getuid())
        fault = ask("/reload", places, os.getuid(), "POST", CHECK_S)["fault"]
    except NoAnswer as error:
        click.echo(f"sendoff: {error}", err=True)
        sys.exit(1)
    if fault is not None:
        click.echo(f"sendoff: the agent goes on as before: {fault}", err=True)
        sys.exit(SETTINGS_ARE_WRONG)
    began = time.monotonic()
    while time.monotonic() < began + BACK_S:
        try:
            now = ask("/status.json", places, os.getuid())
        except NoAnswer:
            now = before
        if _is_another_run(before, now):
            click.echo(f"reloaded in {time.monotonic() - began:.1f} s: version {now['version']}, process {now['pid']}")
            return
        time.sleep(LOOK_EVERY_S)
    click.echo(f"sendoff: the agent did not come back within {BACK_S:g} s; its log says why", err=True)
    sys.exit(1)


def _is_another_run(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return bool(now["started"] != before["started"] and now["phase"] == "running")
