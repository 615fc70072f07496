"""``sendoff spool``: looking at what waits on this host's disk and what was refused for good, putting it in order."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from sendoff_server.cli.options import config_option, json_option
from sendoff_server.cli.table import aligned, shown, when

if TYPE_CHECKING:
    from sendoff_server.cli.keeper import Keeper

output_option = click.option("--output", metavar="NAME", help="Only of this output.")


@click.group(short_help="Look into the spool: what waits, what was refused.")
def spool() -> None:
    """Look into the spool: what waits on this host's disk, and what was refused for good.

    Goes through the running agent; where none runs, works on the files of agent.data_dir, which no agent can use
    meanwhile. Exit code 1 when something is refused or fails.
    """


@spool.command(short_help="List what waits, and dead letters.")
@output_option
@click.option("--dead", is_flag=True, help="Only dead letters.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Rows of each kind.")
@config_option
@json_option
def ls(output: str | None, dead: bool, limit: int, config: Path | None, as_json: bool) -> None:
    """List what waits (oldest first), and dead letters (newest first); totals of both."""
    from sendoff_server.cli.keeper import keeper
    from sendoff_server.spool.keeping import Listing

    with keeper(config) as kept:
        found = kept.listing(Listing(output, dead, limit))
        click.echo(json.dumps(found) if as_json else "\n".join(_listed(found, kept, dead)))


def _listed(found: dict[str, Any], kept: "Keeper", only_dead: bool) -> Iterator[str]:
    yield f"spool {kept.path}, {kept.how}"
    totals = found["totals"]
    waiting = [
        (row["item"], row["id"], row["kind"], row["output"], row["lines"], row["n"], row["bytes"], _span(row["age_s"]))
        for row in found["waiting"]
    ]
    if not only_dead:
        yield from _table(
            "waiting",
            ("ITEM", "BATCH", "KIND", "OUTPUT", "LINES", "HOLDS", "BYTES", "AGE"),
            waiting,
            sum(row["items"] for row in totals["waiting"]) - len(waiting),
        )
    dead = [
        (
            f"dead/{row['dead']}",
            row["output"],
            row["batch"],
            row["kind"],
            row["status"],
            shown(row["code"], 20),
            when(row["at"]),
            row["lines"],
            row["n"],
            shown(row["excerpt"], 40),
        )
        for row in found["dead"]
    ]
    yield from _table(
        "dead letters",
        ("LETTER", "OUTPUT", "BATCH", "KIND", "STATUS", "CODE", "AT", "LINES", "HOLDS", "ANSWER"),
        dead,
        sum(row["letters"] for row in totals["dead"]) - len(dead),
    )
    if dead:
        yield "  `sendoff spool show dead/N` shows one, `sendoff spool replay N` sends it again"
    yield from _table(
        "in total",
        ("OUTPUT", "WHAT", "NUMBER", "EVENTS", "POINTS", "BYTES"),
        [(r["output"], "waiting", r["items"], r["events"], r["points"], r["bytes"]) for r in totals["waiting"]]
        + [(r["output"], "folding", r["lines"], r["events"], 0, 0) for r in totals["folding"]]
        + [(r["output"], "dead letters", r["letters"], r["events"], r["points"], r["bytes"]) for r in totals["dead"]],
        0,
    )
    if not any(totals.values()):
        yield "nothing waits, and there are no dead letters"


@spool.command(short_help="Show what is in a batch or a dead letter.")
@click.argument("name", metavar="ID|dead/N")
@click.option("--lines", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many lines.")
@config_option
@json_option
def show(name: str, lines: int, config: Path | None, as_json: bool) -> None:
    """Show what is in a batch (by its item's number or its id) or in a dead letter."""
    from sendoff_server.cli.keeper import keeper
    from sendoff_server.spool.keeping import Showing

    with keeper(config) as kept:
        found = kept.showing(Showing(name, lines))
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo("\n".join(_about(found)))
    if found["damaged"]:
        click.echo("it is damaged: what is in it cannot be read")
        return
    for each in [found["header"], *found["lines_shown"]]:
        click.echo(json.dumps(each))
    if found["more_lines"]:
        click.echo(f"and {_counted(found['more_lines'], 'line')} more (--lines)")


def _about(found: dict[str, Any]) -> list[str]:
    """What is known of a batch or a dead letter beside its lines."""
    batch, output = found.get("id") or found.get("batch"), found.get("output") or ", ".join(found.get("outputs", []))
    rows = [
        ("dead letter" if "dead" in found else "item", f"dead/{found['dead']}" if "dead" in found else found["item"]),
        ("batch", batch),
        ("output", shown(output, 200)),
        ("kind", found["kind"]),
        (
            "holds",
            f"{_counted(found['n'], 'event' if found['kind'] == 'events' else 'point')}, {found['bytes']:,} bytes",
        ),
    ]
    if "dead" in found:
        rows += [
            ("refused", f"{when(found['at'])} with {found['status']} {shown(found['code'], 40)}"),
            ("answer", shown(found["excerpt"], 200)),
        ]
    else:
        rows += [("made", when(found["made"])), ("waits for", _span(found["age_s"]))]
    return [f"{key:<11}  {value}" for key, value in rows]


@spool.command(short_help="Write whole batches as lines of JSON.")
@click.option("--waiting", "what", flag_value="waiting", default="waiting", help="What waits. The default.")
@click.option("--dead", "what", flag_value="dead", help="Dead letters.")
@output_option
@click.option(
    "--to", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Default: print it."
)
@config_option
@json_option
def export(what: Any, output: str | None, file: Path | None, config: Path | None, as_json: bool) -> None:
    """Write whole batches as lines of JSON: for each its header, then its lines. Nothing is taken out.

    FILE is there once it is complete and on the disk; until then, and if it fails, there is none of that name, or the
    one that was there before. With --json, what was written is said on standard error as JSON.
    """
    from sendoff_server.cli.keeper import keeper

    with keeper(config) as kept:
        try:
            said = _export(kept, what, output, file)
        except OSError as error:
            click.echo(f"sendoff: nothing was exported: {file or 'standard output'}: {error.strerror}", err=True)
            sys.exit(1)
    damaged = f"; damaged and left out: {', '.join(said['damaged'][:20])}" if said["damaged"] else ""
    words = f"{said['bytes']:,} bytes written to {file or 'standard output'}{damaged}"
    click.echo(json.dumps(said) if as_json else words, err=True)
    sys.exit(1 if said["damaged"] else 0)


def _export(kept: "Keeper", what: Any, output: str | None, file: Path | None) -> dict[str, Any]:
    from sendoff_server.spool.keeping import Exporting

    said: dict[str, Any] = {"bytes": 0, "damaged": []}

    def write(to: BinaryIO) -> None:
        after = 0
        while True:
            page, after, damaged = kept.exporting(Exporting(what, output, after))
            to.write(page)
            said["bytes"] += len(page)
            said["damaged"] += damaged
            if not after:
                return

    if file is None:
        write(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return said
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as opened:
            write(opened)
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return said


@spool.command(short_help="Send dead letters again.")
@click.argument("numbers", nargs=-1, metavar="[NUMBER]...")
@click.option("--all", "every", is_flag=True, help="All that there are now.")
@output_option
@click.option("--to", metavar="OUTPUT", help="Send them to this output instead of the one that refused them.")
@click.option("--force", is_flag=True, help="Also where something could be stored twice.")
@config_option
@json_option
def replay(
    numbers: tuple[str, ...],
    every: bool,
    output: str | None,
    to: str | None,
    force: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Send dead letters again: they wait for their output like anything new.

    NUMBER is that of a dead letter (N or dead/N). Mend first what made the destination refuse them.
    """
    from sendoff_server.cli.keeper import keeper
    from sendoff_server.spool.keeping import Replaying

    if bool(numbers) == every:
        raise click.UsageError("name the dead letters to send again, or say --all")
    if numbers and output:
        raise click.UsageError("--output goes with --all")
    chosen = _numbers(numbers)
    done: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    with keeper(config) as kept:
        wish = Replaying(chosen, every, output, to, force)
        more = True
        while more:
            answer = kept.replaying(wish)
            done += answer["replayed"]
            refused += answer["refused"]
            more = answer["more"]
            rest = wish.numbers[len(answer["replayed"]) + len(answer["refused"]) :]
            wish = Replaying(rest, every, output, to, force, answer["after"], answer["until"])
    if as_json:
        click.echo(json.dumps({"replayed": done, "refused": refused}))
    else:
        for each in refused:
            click.echo(f"sendoff: {each['why']}", err=True)
        if done or not refused:
            click.echo(f"to be sent again: {_counted(len(done), 'dead letter')} with {_held(done)}")
    sys.exit(1 if refused else 0)


@spool.command(short_help="Throw away what waits, or dead letters.")
@click.option("--waiting", "what", flag_value="waiting", help="What waits: it is counted lost (purged).")
@click.option("--dead", "what", flag_value="dead", help="Dead letters: they stay counted as dead.")
@click.argument("items", nargs=-1, metavar="[ITEM]...")
@output_option
@click.option(
    "--older",
    metavar="AGE",
    help="Only what waited for longer while an agent ran, such as 7d or 12h; dead letters by the clock.",
)
@click.option("--yes", is_flag=True, help="Do it. Without this, only say what would go.")
@config_option
@json_option
def purge(
    what: str | None,
    items: tuple[str, ...],
    output: str | None,
    older: str | None,
    yes: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Throw away what waits, or dead letters: all, or those that are named by ITEM.

    What is being sent right now may arrive all the same; it is counted lost, and not delivered.
    """
    from sendoff_server.cli.keeper import keeper
    from sendoff_server.spool.keeping import Purging

    if what is None:
        raise click.UsageError("say what is to go: --waiting or --dead")
    older_ms = _age_ms(older) if older else None
    gone = {"items": 0, "folds": 0, "events": 0, "points": 0, "bytes": 0}
    with keeper(config) as kept:
        wish = Purging(
            "dead" if what == "dead" else "waiting", output, older_ms, _numbers(items, letters=what == "dead"), yes
        )
        more = True
        while more:
            answer = kept.purging(wish)
            gone = {key: gone[key] + n for key, n in answer["gone"].items()}
            more = answer["more"]
            wish = Purging(wish.what, output, older_ms, wish.numbers, yes, answer["after"], answer["until"])
    if as_json:
        click.echo(json.dumps({"gone": gone, "done": yes}))
        return
    letters = _counted(gone["items"], "dead letter")
    what_goes = letters if what == "dead" else _counted(gone["items"], "waiting batch", "waiting batches")
    folds = f" and {_counted(gone['folds'], 'fold')}" if gone["folds"] else ""
    holding = f"{what_goes}{folds} with {_counted(gone['events'], 'event')} and {_counted(gone['points'], 'point')}"
    click.echo(
        f"thrown away: {holding}" if yes else f"would be thrown away: {holding}. Nothing was changed; --yes does it"
    )


@spool.command(short_help="Verify every checksum, every sum and the books.")
@config_option
@json_option
def check(config: Path | None, as_json: bool) -> None:
    """Verify every checksum, every sum and the books. Changes nothing; exit code 1 when anything is wrong."""
    from sendoff_server.cli.keeper import keeper

    with keeper(config) as kept:
        found = kept.checking()
        path = kept.path
    if as_json:
        click.echo(json.dumps(found))
    else:
        looked = found["looked_at"]
        for fault in found["faults"]:
            click.echo(fault)
        if found["found"] > len(found["faults"]):
            click.echo(f"and {found['found'] - len(found['faults']):,} more")
        words = _counted(found["found"], "fault") if found["found"] else "nothing wrong"
        click.echo(
            f"{path}: {words} in {_counted(looked['items'], 'item')} and {_counted(looked['dead'], 'dead letter')}"
        )
    sys.exit(1 if found["found"] else 0)


def _numbers(given: tuple[str, ...], *, letters: bool = True) -> list[int]:
    """The numbers named; ``letters``: of dead letters, which may be called dead/N."""
    found = []
    for each in given:
        text = each.removeprefix("dead/") if letters else each
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise click.UsageError(f"{each[:100]!r} is no number: `sendoff spool ls` shows them")
        found.append(int(text))
    if len(found) > 10_000:
        raise click.UsageError("at most 10,000 at once")
    return list(dict.fromkeys(found))


def _age_ms(text: str) -> int:
    from pydantic_core import PydanticCustomError

    from sendoff_server.settings.units import read_duration

    try:
        return round(read_duration(text) * 1000)
    except PydanticCustomError as error:
        raise click.UsageError(f"--older: {error}") from error


def _table(title: str, head: tuple[str, ...], rows: Sequence[tuple[object, ...]], more: int) -> Iterator[str]:
    if rows:
        yield ""
        yield title
        yield from aligned([head, *rows], "  ")
        if more > 0:
            yield f"  and {more:,} more (--limit)"


def _held(letters: list[dict[str, Any]]) -> str:
    events = sum(each["n"] for each in letters if each["kind"] == "events")
    points = sum(each["n"] for each in letters) - events
    return f"{_counted(events, 'event')} and {_counted(points, 'point')}"


def _counted(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _span(seconds: int) -> str:
    for factor, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= factor:
            return f"{seconds // factor} {unit}"
    return f"{seconds} s"
