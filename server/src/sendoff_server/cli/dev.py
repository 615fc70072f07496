"""``sendoff dev``"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sendoff_server.cli.options import config_option, settings_or_exit

if TYPE_CHECKING:
    from sendoff_server.cli.firstlook import FirstLook


@click.command()
@config_option
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, resolve_path=True),
    metavar="DIR",
    help="Where everything is kept. Default: the folder dev/ in the setting agent.data_dir.",
)
def dev(config: Path | None, data_dir: Path | None) -> None:
    """Run agent and gateway together, for a first look. No setting up.

    The gateway gets a project named dev and the agent delivers to it. Ports that are taken are replaced by free ones.
    """
    settings = settings_or_exit(config)

    from sendoff_server.cli.firstlook import FirstLook
    from sendoff_server.process import serve

    look = FirstLook(settings, data_dir or settings.agent.data_dir / "dev")
    sys.exit(serve(look, drain_s=settings.agent.drain, announce=lambda: click.echo(_words(look))))


def _words(look: "FirstLook") -> str:
    agent = look.agent.addresses
    socket = f'\n  os.environ["SENDOFF_SOCKET"] = "{look.socket}"' if look.socket_is_unusual else ""
    statsd = agent.get("udp")
    pages = f"http://{agent['web']}/" if agent.get("web") else "its pages are switched off"
    zmq = agent.get("zmq", "")
    by_zmq = f'\nor over ZeroMQ: sendoff.init("zmq+ipc://{zmq}", service="my-app")' if zmq.startswith("/") else ""
    plain = f"\nor send any StatsD line to udp://{statsd}\n" if statsd else ""
    return f"""
Sendoff runs: agent and gateway in one process, for a first look.

  look here   {look.page}
  the agent   {pages}
  data        {look.folder} (delete it to begin anew)

Put this into an app that has the package sendoff installed:
{socket}
  import sendoff
  sendoff.init(service="my-app")
  sendoff.event("hello", who="world")
{by_zmq}{plain}
Ctrl-C ends it.
"""
