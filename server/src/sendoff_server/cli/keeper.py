"""The spool for who looks into it: through the agent that runs, or, where none does, by its files.

Both ways do the same with the same wishes (`spool.keeping`). What takes long is asked piece by piece.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

import click
import msgspec

from sendoff_server.cli.control import NoAnswer, Refused, control_places, exchange, find
from sendoff_server.cli.options import settings_or_exit

if TYPE_CHECKING:
    from sendoff_server.settings import Settings
    from sendoff_server.spool import keeping
    from sendoff_server.spool.offline import Files

PATIENCE_S = 60.0
CHECK_S = 3_600.0
"""How long an agent may take to answer: its disk may be slow, and a check reads everything."""


class Keeper(Protocol):
    """The spool, however it is reached. Each method raises `Refused`, `NoAnswer` or `SpoolError`."""

    path: str
    how: str

    def listing(self, wish: "keeping.Listing") -> dict[str, Any]: ...
    def showing(self, wish: "keeping.Showing") -> dict[str, Any]: ...
    def exporting(self, wish: "keeping.Exporting") -> tuple[bytes, int, list[str]]: ...
    def replaying(self, wish: "keeping.Replaying") -> dict[str, Any]: ...
    def purging(self, wish: "keeping.Purging") -> dict[str, Any]: ...
    def checking(self) -> dict[str, Any]: ...
    def receipt(self, event: str) -> dict[str, Any] | None: ...


class ThroughAgent:
    """Asks the agent at a control socket."""

    def __init__(self, place: Path) -> None:
        self._place = place
        found = self._ask("/spool/place")
        self.path: str = found["path"]
        self.how = f"through its agent, process {found['pid']}"

    def listing(self, wish: "keeping.Listing") -> dict[str, Any]:
        return self._ask("/spool", wish)

    def showing(self, wish: "keeping.Showing") -> dict[str, Any]:
        return self._ask("/spool/show", wish)

    def exporting(self, wish: "keeping.Exporting") -> tuple[bytes, int, list[str]]:
        page, headers = self._get("/spool/export", wish)
        damaged = headers.get("Sendoff-Damaged", "")
        return page, int(headers["Sendoff-After"]), damaged.split(",") if damaged else []

    def replaying(self, wish: "keeping.Replaying") -> dict[str, Any]:
        return self._tell("/spool/replay", wish)

    def purging(self, wish: "keeping.Purging") -> dict[str, Any]:
        return self._tell("/spool/purge", wish)

    def checking(self) -> dict[str, Any]:
        return self._ask("/spool/check", patience_s=CHECK_S)

    def receipt(self, event: str) -> dict[str, Any] | None:
        try:
            return self._ask(f"/receipts/{quote(event, safe='')}")
        except Refused as error:
            if isinstance(error.answer, dict) and error.answer.get("state") == "unknown":
                return None
            raise

    def _get(
        self, path: str, wish: msgspec.Struct | None = None, patience_s: float = PATIENCE_S
    ) -> tuple[bytes, Mapping[str, str]]:
        asked = {key: int(value) if isinstance(value, bool) else value for key, value in _set(wish).items()}
        return exchange(self._place, path + ("?" + urlencode(asked) if asked else ""), None, patience_s)

    def _ask(self, path: str, wish: msgspec.Struct | None = None, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._get(path, wish, patience_s)[0])
        return found

    def _tell(self, path: str, wish: msgspec.Struct) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(exchange(self._place, path, msgspec.json.encode(wish), PATIENCE_S)[0])
        return found


class OnFiles:
    """Works on the files, whose lock it holds."""

    def __init__(self, files: "Files", folder: Path, outputs: set[str]) -> None:
        self._files = files
        self._outputs = outputs
        self.path = str(folder)
        self.how = "by its files, as no agent runs"

    def listing(self, wish: "keeping.Listing") -> dict[str, Any]:
        from sendoff_server.spool import keeping
        from sendoff_server.spool.writer import ran_ms

        return self._files.look(lambda connection: keeping.listing(connection, wish, ran_ms(connection)))

    def showing(self, wish: "keeping.Showing") -> dict[str, Any]:
        from sendoff_server.spool import keeping
        from sendoff_server.spool.writer import ran_ms

        found = self._files.look(lambda connection: keeping.showing(connection, wish, ran_ms(connection)))
        if found is None:
            raise Refused(keeping.nothing(wish), 404, None)
        return found

    def exporting(self, wish: "keeping.Exporting") -> tuple[bytes, int, list[str]]:
        from sendoff_server.spool import keeping

        return self._files.look(lambda connection: keeping.exporting(connection, wish))

    def replaying(self, wish: "keeping.Replaying") -> dict[str, Any]:
        from sendoff_server.spool import keeping

        return self._files.change(lambda transaction: keeping.replaying(transaction, wish, self._outputs))

    def purging(self, wish: "keeping.Purging") -> dict[str, Any]:
        from sendoff_server.spool import keeping

        return self._files.change(lambda transaction: keeping.purging(transaction, wish))

    def checking(self) -> dict[str, Any]:
        from sendoff_server.spool.checking import checking

        return self._files.look(checking)

    def receipt(self, event: str) -> dict[str, Any] | None:
        from sendoff_server.spool import receipts

        return self._files.look(lambda connection: receipts.read(connection, event))


@contextmanager
def keeper(config: Path | None) -> Iterator[Keeper]:
    """The spool of these settings; faults are said on standard error, with exit code 1 or 2."""
    from sendoff_server.spool import SpoolError

    settings = settings_or_exit(config)
    try:
        with _reach(settings) as reached:
            yield reached
    except (SpoolError, Refused, NoAnswer) as error:
        click.echo(f"sendoff: {error}", err=True)
        sys.exit(1)


def agent_answers(config: Path | None) -> bool:
    """Whether an agent can be asked. The files are left alone: one that is about to start needs their lock."""
    settings = settings_or_exit(config)
    try:
        find(control_places(settings.inputs.unix.path, os.environ, os.getuid()), os.getuid())
    except NoAnswer:
        return False
    return True


@contextmanager
def _reach(settings: "Settings") -> Iterator[Keeper]:
    from sendoff_server.spool import SpoolLocked
    from sendoff_server.spool.offline import Files

    folder = settings.agent.data_dir / "agent"
    try:
        place = find(control_places(settings.inputs.unix.path, os.environ, os.getuid()), os.getuid())
    except NoAnswer as nobody:
        try:
            files = Files(folder)
        except SpoolLocked as error:
            who = f"process {error.pid}" if error.pid is not None else "another process"
            raise NoAnswer(f"the spool in {folder} is held by {who}, but {nobody}") from error
        try:
            yield OnFiles(files, folder, set(settings.outputs))
        finally:
            files.close()
        return
    agent = ThroughAgent(place)
    if (folder / "spool.db").exists() and not os.path.samefile(folder, agent.path):
        raise Refused(
            f"the agent at {place} keeps its spool in {agent.path}, but these settings name {folder}: "
            "give --config the settings of the one that is meant",
            409,
            None,
        )
    yield agent


def _set(wish: msgspec.Struct | None) -> dict[str, Any]:
    """What is wished, without what is not."""
    return {} if wish is None else {key: value for key, value in msgspec.to_builtins(wish).items() if value is not None}
