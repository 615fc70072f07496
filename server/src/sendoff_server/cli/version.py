"""``sendoff version``"""

import importlib.metadata
import json
import platform

import click

from sendoff_server.cli.options import json_option


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Say which Sendoff this is, and what it runs on."""
    import apsw

    from sendoff_server.aggregate import Limits, make_core
    from sendoff_server.version import __version__

    try:
        loop = f"uvloop {importlib.metadata.version('uvloop')}"
    except importlib.metadata.PackageNotFoundError:
        loop = "asyncio"
    facts = {
        "sendoff": __version__,
        "core": make_core(Limits()).name,
        "python": platform.python_version(),
        "loop": loop,
        "sqlite": apsw.sqlite_lib_version(),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name:<8} {value}")
