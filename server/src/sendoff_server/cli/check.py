"""``sendoff check``"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sendoff_server.cli.options import SETTINGS_ARE_WRONG, config_option, json_option, say_faults
from sendoff_server.cli.table import aligned

if TYPE_CHECKING:
    from sendoff_server.settings.written import Shown


@click.command(short_help="Say all that is wrong with the settings.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@config_option
@click.option("--show", is_flag=True, help="Show every setting in force, and where its value came from.")
@json_option
def check(file: Path | None, config: Path | None, show: bool, as_json: bool) -> None:
    """Say everything that is wrong with the settings in FILE and the environment.

    Exit code 0 when nothing is, else 2. Nothing is started, and secrets are never shown.
    """
    from sendoff_server.settings import SettingsError, find_file, load
    from sendoff_server.settings.written import in_force

    if file is not None and config is not None:
        raise click.UsageError("FILE and --config name the same thing; give one of them")
    path = find_file(file or config, os.environ)
    try:
        settings = load(path, os.environ)
    except SettingsError as error:
        if as_json:
            click.echo(json.dumps({"file": path and str(path), "faults": error.as_json()}))
        else:
            say_faults(error)
        sys.exit(SETTINGS_ARE_WRONG)
    shown = list(in_force(settings)) if show else []
    if as_json:
        values = {each.key: {"value": each.value, "from": each.origin, "variable": each.variable} for each in shown}
        click.echo(json.dumps({"file": path and str(path), "faults": []} | ({"settings": values} if show else {})))
        return
    rows = [(each.key, _text(each), each.origin) for each in shown]
    for line in aligned(rows) if rows else []:
        click.echo(line)
    click.echo(f"{path or 'no file, only defaults and the environment'}: nothing wrong")


def _text(shown: "Shown") -> str:
    if shown.key == "inputs.unix.path" and shown.value is None:
        return "(found when the agent starts)"
    if shown.value is None or shown.value == "" or shown.value is False:
        return "-"
    return shown.value if isinstance(shown.value, str) else json.dumps(shown.value)
