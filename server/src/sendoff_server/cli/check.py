"""``sendoff check``"""

import json
import os
import sys
from pathlib import Path

import click

from sendoff_server.cli.options import SETTINGS_ARE_WRONG, config_option, json_option, say_faults


@click.command()
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
    width = max((len(each.key) for each in shown), default=0)
    for each in shown:
        value = "(found when the agent starts)" if each.value is None and each.key == "inputs.unix.path" else each.value
        click.echo(f"{each.key:<{width}}  {json.dumps(value, ensure_ascii=False):<28}  {each.origin}")
    click.echo(f"{path or 'no file, only defaults and the environment'}: nothing wrong")
