"""The command ``sendoff``: its subcommands and nothing else."""

import click

from sendoff_server.cli.agent import agent
from sendoff_server.cli.check import check
from sendoff_server.cli.dev import dev
from sendoff_server.cli.doctor import doctor
from sendoff_server.cli.gateway import gateway
from sendoff_server.cli.receipt import receipt
from sendoff_server.cli.reload import reload
from sendoff_server.cli.spool import spool
from sendoff_server.cli.status import status
from sendoff_server.cli.version import version


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Send exceptions and business metrics on without making anyone wait, and account for each of them.

    For a first look: `sendoff dev`.
    """


for _command in (agent, gateway, dev, doctor, status, spool, receipt, reload, check, version):
    main.add_command(_command)
