"""``sendoff agent curve``"""

import json
import re
import sys
from pathlib import Path

import click

from sendoff_server.cli.options import config_option, json_option, settings_or_exit


@click.command()
@click.argument("name")
@config_option
@json_option
@click.pass_obj
def curve(outer: Path | None, name: str, config: Path | None, as_json: bool) -> None:
    """Make a CURVE key for the client NAME of the input zmq, and say what goes where.

    The address for the client, with its secret key, is shown this once. The client's public key goes into the settings,
    after which `sendoff reload` lets it in.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise click.UsageError(f"{name[:80]!r} cannot be a name; use 1 to 64 of A-Z, a-z, 0-9, - and _")

    from sendoff_server.gateway.address import public_address
    from sendoff_server.inputs import InputError
    from sendoff_server.inputs.zmq.keyfile import server_pair
    from sendoff_server.settings import split_listen
    from sendoff_server.wire.curve import make_pair, to_text

    pair = make_pair()
    public = to_text(pair.public)
    # With the new client in them the settings are right; an address that others can reach is not, before the first.
    settings = settings_or_exit(config or outer, {f"inputs.zmq.clients.{name}": public})
    scheme, _, place = settings.inputs.zmq.listen.partition("://")
    if scheme != "tcp" or not split_listen(place).port:
        click.echo('sendoff: set inputs.zmq.listen to "tcp://HOST:PORT" first: keys are for tcp', err=True)
        sys.exit(2)
    address = split_listen(place)
    try:
        server = to_text(server_pair(settings.agent.data_dir / "agent").public)
        where = public_address(place, "" if address.wildcard else str(address))
    except InputError as error:
        click.echo(f"sendoff: {error}", err=True)
        sys.exit(1)
    app = f"zmq+curve://{to_text(pair.secret)}@{where}?server={server}"
    if as_json:
        click.echo(json.dumps({"name": name, "app": app, "public": public, "server": server}))
        return
    click.echo(app)
    table = ", ".join(f'{each} = "{key}"' for each, key in settings.inputs.zmq.clients.items())
    click.echo(
        f"\nThat is the address for the app: sendoff.init(that), or $SENDOFF_ADDRESS. It is shown this once.\n"
        f"Let it in by the agent's settings, and then `sendoff reload`:\n\n    [inputs.zmq]\n"
        f'    listen = "{settings.inputs.zmq.listen}"\n    clients = {{ {table} }}',
        err=True,
    )
