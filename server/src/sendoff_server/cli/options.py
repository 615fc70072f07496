"""What several commands share: the file of settings, and how its faults are said."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sendoff_server.settings import Settings, SettingsError

Command = TypeVar("Command", bound=Callable[..., Any])
SETTINGS_ARE_WRONG = 2


def config_option(command: Command) -> Command:
    """``--config FILE``"""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings. Default: $SENDOFF_CONFIG, else /etc/sendoff/sendoff.toml if it exists.",
    )(command)


def json_option(command: Command) -> Command:
    """``--json``"""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def settings_or_exit(config: Path | None, overrides: Mapping[str, object] | None = None) -> "Settings":
    """The settings; or every fault on standard error and exit code 2."""
    import os

    from sendoff_server.settings import SettingsError, find_file, load

    try:
        return load(find_file(config, os.environ), os.environ, overrides)
    except SettingsError as error:
        say_faults(error)
        sys.exit(SETTINGS_ARE_WRONG)


def say_faults(error: "SettingsError") -> None:
    click.echo(f"sendoff: {error}", err=True)
