"""``sendoff gateway`` and ``sendoff gateway keys``"""

import sys
from pathlib import Path

import click

from sendoff_server.cli.keys import keys
from sendoff_server.cli.options import config_option, settings_or_exit


@click.group(invoke_without_command=True)
@config_option
@click.pass_context
def gateway(context: click.Context, config: Path | None) -> None:
    """Take in what agents deliver, keep it, show it.

    Without a subcommand this runs the gateway. SIGTERM or Ctrl-C finishes what was begun, for at most
    the setting agent.drain, and stops.
    """
    context.obj = config
    if context.invoked_subcommand is not None:
        return
    settings = settings_or_exit(config)

    import logging

    from sendoff_server.gateway import Gateway
    from sendoff_server.process import serve

    # Asked before the gateway runs, so that nobody waits for a lock that this process itself holds.
    store = settings.gateway.data_dir / "gateway"
    anyone_can_send = _has_keys(store)
    unused_port = bool(settings.gateway.zmq.listen) and not _has_keys(store, curve=True)

    def announce() -> None:
        log = logging.getLogger("sendoff_server.gateway")
        if not anyone_can_send:
            log.warning("nobody can send yet: make a key with `sendoff gateway keys create PROJECT`")
        if unused_port:
            log.warning("no key for ZeroMQ works yet: make one with `sendoff gateway keys create PROJECT --curve`")

    sys.exit(serve(Gateway(settings), drain_s=settings.agent.drain, announce=announce))


def _has_keys(store: Path, *, curve: bool = False) -> bool:
    """Whether a key is there that works (``curve``: over ZeroMQ).

    A store that cannot be opened is left for the gateway to complain about."""
    import apsw

    from sendoff_server.gateway.keys import list_keys
    from sendoff_server.gateway.store.database import StoreError

    try:
        return any(key.revoked is None and key.curve >= curve for key in list_keys(store))
    except (StoreError, apsw.Error):
        return True


gateway.add_command(keys)
