"""``python -m sendoff_server.cli.reference PAGE``: write the generated part of `docs/commands.md` anew."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from sendoff_server.cli.main import main
from sendoff_server.settings.pages import rewrite


def reference() -> str:
    """Every command in Markdown, with its help as the command itself says it."""
    return "\n".join(
        part
        for command, context in _walk(main, click.Context(main, info_name="sendoff", **main.context_settings))
        for part in _about(command, context)
    )


def _walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _walk(below, click.Context(below, info_name=name, parent=context))


def _about(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## `{context.command_path}`"
    yield "```"
    context.max_content_width = context.terminal_width = 100
    yield command.get_help(context)
    yield "```"
    yield ""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m sendoff_server.cli.reference PAGE")
    rewrite(Path(sys.argv[1]), reference())
