"""``sendoff agent``"""

import sys
from pathlib import Path

import click

from sendoff_server.cli.options import config_option, settings_or_exit


@click.command()
@config_option
def agent(config: Path | None) -> None:
    """Take in events and metrics on this host, keep them on disk, deliver them.

    SIGTERM or Ctrl-C delivers what can be delivered within the setting agent.drain and stops; the rest stays on disk.
    The same signal again ends at once.
    """
    settings = settings_or_exit(config)

    import logging

    from sendoff_server.agent import Agent
    from sendoff_server.process import serve

    log = logging.getLogger("sendoff_server.agent")
    part = Agent(settings)

    def announce() -> None:
        log.info("listens on %s", ", ".join(f"{name} {where}" for name, where in part.addresses.items()))
        if settings.outputs:
            names = ", ".join(f"{name} ({output.url.partition('?')[0]})" for name, output in settings.outputs.items())
            log.info("delivers to %s; `sendoff status` shows how it goes", names)
        else:
            log.warning(
                "no output is set up, so everything is kept in %s: add [outputs.NAME] to the settings and start again",
                settings.agent.data_dir / "agent",
            )

    sys.exit(serve(part, drain_s=settings.agent.drain, announce=announce))
