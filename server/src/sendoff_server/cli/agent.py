"""``sendoff agent``"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from sendoff_server.cli.curve import curve
from sendoff_server.cli.options import config_option, settings_or_exit

if TYPE_CHECKING:
    from sendoff_server.agent import Agent


@click.group(invoke_without_command=True, short_help="Take in, keep on disk, deliver: the part on this host.")
@config_option
@click.option("--check", is_flag=True, help="Say what is wrong with the settings, load all code, and start nothing.")
@click.pass_context
def agent(context: click.Context, config: Path | None, check: bool) -> None:
    """Take in events and metrics on this host, keep them on disk, deliver them.

    SIGTERM or Ctrl-C delivers what can be delivered within the setting agent.drain and stops; the rest stays on disk.
    The same signal again ends at once. SIGHUP, or `sendoff reload`, goes on with new settings and new code without
    refusing anyone; if something is wrong with them, it says what and goes on as before.
    """
    context.obj = config
    if context.invoked_subcommand is not None:
        return
    settings = settings_or_exit(config)

    import logging
    import os

    from sendoff_server import agent as parts
    from sendoff_server.agent.handover import unpack
    from sendoff_server.process import Handover, Renewal, activated, received, serve

    if check:
        check_spool(settings.agent.data_dir / "agent")
        return
    log = logging.getLogger("sendoff_server.agent")

    def make(handover: Handover | None) -> parts.Agent:
        return parts.Agent(settings, before=unpack(handover), activated=sockets, reload=ask)

    async def ask() -> str | None:
        return await renewal.ask()

    sockets = activated(os.environ)
    renewal = Renewal(make, received(os.environ))

    def announce() -> None:
        part = cast("Agent", renewal.part)
        log.info("listens on %s", ", ".join(f"{name} {where}" for name, where in part.addresses.items()))
        if settings.outputs:
            names = ", ".join(f"{name} ({output.url.partition('?')[0]})" for name, output in settings.outputs.items())
            log.info("delivers to %s; `sendoff status` shows how it goes", names)
        else:
            log.warning(
                "no output is set up, so everything is kept in %s: add [outputs.NAME] to the settings and start again",
                settings.agent.data_dir / "agent",
            )

    sys.exit(serve(renewal=renewal, drain_s=settings.agent.drain, announce=announce))


agent.add_command(curve)


def check_spool(folder: Path) -> None:
    """Exit with code 1 where an agent of this version could not take the spool over."""
    from sendoff_server.spool import SpoolTooNew, check_layout

    try:
        check_layout(folder)
    except SpoolTooNew as error:
        click.echo(f"sendoff: {error}", err=True)
        sys.exit(1)
