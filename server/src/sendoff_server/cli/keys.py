"""``sendoff gateway keys``: works on the store's file, beside a running gateway or without one."""

import contextlib
import datetime
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from sendoff_server.cli.options import config_option, json_option, settings_or_exit
from sendoff_server.cli.table import aligned


@click.group()
def keys() -> None:
    """Make, list and revoke the keys that agents and apps send with."""


@keys.command()
@click.argument("project")
@click.option("--curve", is_flag=True, help="A key for ZeroMQ: the address for an app, url and key for an agent.")
@config_option
@json_option
@click.pass_obj
def create(outer: Path | None, project: str, curve: bool, config: Path | None, as_json: bool) -> None:
    """Make a key for PROJECT, which begins with its first key.

    The key is shown now and never again; the gateway keeps its SHA-256 only, or (--curve) its public half.
    """
    from sendoff_server.gateway import keys as store

    if curve:
        _create_curve(config or outer, project, as_json)
        return
    folder = _store_folder(config or outer)
    with _refusals():
        key = store.create(folder, project)
    if as_json:
        click.echo(json.dumps({"project": project, "key": key}))
        return
    click.echo(key)
    click.echo(
        f"Put it into the agent's settings, as `key` of [outputs.NAME]. It sends to project {project}.", err=True
    )


def _create_curve(config: Path | None, project: str, as_json: bool) -> None:
    """A gateway that runs has nothing to be told: it looks at the keys twice a second."""
    from sendoff_server.gateway import keys as store
    from sendoff_server.gateway.address import public_address
    from sendoff_server.inputs.zmq.keyfile import server_pair
    from sendoff_server.wire.curve import to_text

    settings = settings_or_exit(config).gateway
    folder = settings.data_dir / "gateway"
    with _refusals():
        where = public_address(settings.zmq.listen, settings.zmq.public)
        server = to_text(server_pair(folder).public)
        pair = store.create_curve(folder, project)
    secret = to_text(pair.secret)
    app, url = f"zmq+curve://{secret}@{where}?server={server}", f"zmq+curve://{where}?server={server}"
    if as_json:
        made = {"project": project, "public": to_text(pair.public), "app": app, "url": url, "key": secret}
        click.echo(json.dumps(made))
        return
    click.echo(app)
    click.echo(
        f"\nThat is the address for an app: sendoff.init(that), or $SENDOFF_ADDRESS. It sends to project {project}.\n"
        f'For an agent instead, in its settings:\n\n    [outputs.NAME]\n    url = "{url}"\n    key = "{secret}"\n\n'
        "The secret is shown this once.",
        err=True,
    )
    if not settings.zmq.listen:
        click.echo("gateway.zmq.listen is not set, so this gateway does not take it yet.", err=True)


@keys.command("list")
@config_option
@json_option
@click.pass_obj
def list_(outer: Path | None, config: Path | None, as_json: bool) -> None:
    """Show all keys by their beginnings, with when they were last used."""
    from sendoff_server.gateway import keys as store

    folder = _store_folder(config or outer)
    with _refusals():
        found = store.list_keys(folder)
    if as_json:
        click.echo(json.dumps([asdict(key) for key in found]))
        return
    if not found:
        click.echo("no keys yet; make one with `sendoff gateway keys create PROJECT`")
        return
    rows = [("ID", "PROJECT", "KEY", "FOR", "MADE", "LAST USED", "REVOKED")]
    for k in found:
        way = "ZeroMQ" if k.curve else "HTTP"
        rows.append((str(k.id), k.project, f"{k.hint}…", way, _when(k.created), _when(k.used), _when(k.revoked)))
    click.echo("\n".join(aligned(rows)))


@keys.command()
@click.argument("key_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
@config_option
@json_option
@click.pass_obj
def revoke(outer: Path | None, key_id: int, config: Path | None, as_json: bool) -> None:
    """Take a key's power at once. ID is the number that `list` shows."""
    from sendoff_server.gateway import keys as store

    folder = _store_folder(config or outer)
    with _refusals():
        revoked = store.revoke(folder, key_id)
    if as_json:
        click.echo(json.dumps({"id": key_id, "revoked": revoked}))
    elif revoked:
        click.echo(f"key {key_id} is revoked; who still sends with it is refused")
    else:
        click.echo(
            f"sendoff: there is no key {key_id} that could be revoked; see `sendoff gateway keys list`", err=True
        )
    if not revoked:
        sys.exit(1)


def _store_folder(config: Path | None) -> Path:
    return settings_or_exit(config).gateway.data_dir / "gateway"


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What the store refuses is said in one line."""
    import apsw

    from sendoff_server.gateway.store.database import StoreError
    from sendoff_server.inputs.contract import InputError

    try:
        yield
    except (ValueError, StoreError, InputError, OSError) as error:
        click.echo(f"sendoff: {error}", err=True)
        sys.exit(1)
    except apsw.BusyError:
        click.echo("sendoff: a gateway that writes holds the store; nothing was changed, so try again", err=True)
        sys.exit(1)


def _when(moment: int | None) -> str:
    if moment is None:
        return "-"
    return datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M")
