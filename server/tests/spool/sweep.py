"""A small spool that has everything in it, and a look at what is left of it after one place of a file was damaged."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.spool import ClientState, Dead, Delivered, EventIn, OutputSpec, RefusedLine, Spool, SpoolLimits
from sendoff_server.wire.batch import decode_body

from .conftest import NOW, ask_beside, event, rotation

OUTPUTS = [OutputSpec("main", 10_000), OutputSpec("copy", 10_000)]
FILES = ("spool.db", "spool.db-wal")
LATER = NOW + 3_600_000
MERGE = make_core(Limits(), (), (1, 1)).merge
Way = Literal["flip", "truncate", "zero"]
CLIENT = "c" * 32


@dataclass(slots=True)
class Sample:
    """The files of a spool whose agent was killed, and what it owes to whom."""

    files: dict[str, bytes]
    batches: dict[str, list[bytes]] = field(default_factory=dict)
    """Every batch of events that was ever stored."""
    waiting: dict[str, set[str]] = field(default_factory=dict)
    """By output, the batches that it has not taken."""
    points: dict[str, int] = field(default_factory=dict)
    """By output, the points that it has not taken."""
    upto: int = 0


def open_in(folder: Path, now_ms: int) -> Spool:
    return Spool.open(
        folder, OUTPUTS, merge=MERGE, host="h", now_ms=now_ms, limits=SpoolLimits(), clock=lambda: LATER, running=_still
    )


def _still() -> float:
    return 0.0


async def make_sample(folder: Path) -> Sample:
    """Events and metrics, delivered, refused, sealed and waiting, partly in the database and partly only in its log."""
    spool = open_in(folder, NOW)
    sample = Sample({})
    for number in range(1, 25):
        source = "till" if number % 7 == 0 else "shop"
        size = 2_500 if number % 6 == 0 else 40
        noise = os.urandom(size // 2).hex()
        events = [EventIn(b'{"id":"e%d","pad":"%s"}' % (number, noise.encode()), f"e{number}", source)]
        if number % 5 == 0:
            events.append(event(1_000 + number, "till"))
        sample.upto = number
        await spool.put(events, [ClientState(CLIENT, upto=number), ClientState(f"{number:032x}", state="ended")])
        await spool.journal(rotation(spool, number, points=number))
        if number == 8:
            for output in OUTPUTS:
                await _settle_some(spool, output.name, number)
        if number == 16:
            ask_beside(folder, "PRAGMA wal_checkpoint(PASSIVE)")
    sample.files = {name: (folder / name).read_bytes() for name in FILES}
    for output in OUTPUTS:
        books = await spool.books()
        sample.points[output.name] = next(b.pending for b in books.points_out if b.output == output.name)
        rows = ask_beside(
            folder, "SELECT i.id, i.blob, d.output FROM item i JOIN delivery d ON d.item = i.item WHERE i.kind = 0"
        )
        for name, blob, taker in rows:
            sample.batches[name] = decode_body(blob, "zstd")[0].lines
            sample.waiting.setdefault(taker, set()).add(name)
    spool.close()
    return sample


async def _settle_some(spool: Spool, output: str, number: int) -> None:
    batches = await spool.lease(output, NOW + 20_000 + number * 1_000)
    taken: list[Delivered | Dead] = [Delivered(batch) for batch in batches[1:4]]
    await spool.settle(output, [*taken, Dead(batches[0], 400, "bad", b"no")])
    if output == "main" and batches[4].lines > 1:
        await spool.settle(output, [Delivered(batches[4], [RefusedLine(1, "bad", "no")])])


def damage(files: dict[str, bytes], name: str, place: int, way: Way) -> dict[str, bytes]:
    content = files[name]
    match way:
        case "flip":
            changed = content[:place] + bytes([content[place] ^ (1 << place % 8 or 0xFF)]) + content[place + 1 :]
        case "truncate":
            changed = content[:place]
        case "zero":
            changed = content[:place] + b"\0" * min(512, len(content) - place) + content[place + 512 :]
    return {**files, name: changed}


async def look(folder: Path, sample: Sample, files: dict[str, bytes]) -> list[str]:
    """Open a damaged spool, take out all there is, and put something in: what is wrong with it, in sentences.

    Whatever is missing must be said: counted as lost, or called unknown.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    wrong: list[str] = []
    spool = open_in(folder, NOW + 1)
    try:
        wrong += (await spool.books()).balance()
        left = {output.name: await _drain(spool, output.name, sample, wrong) for output in OUTPUTS}
        await spool.put([event(9_999)], [ClientState(CLIENT, upto=99)])
        books = await spool.books()
        wrong += books.balance()
        stats = await spool.stats()
        for output, (names, points) in left.items():
            lost_events = sum(sum(book.lost.values()) for book in books.events if book.output == output)
            lost_points = sum(sum(book.lost.values()) for book in books.points_out if book.output == output)
            if sample.waiting[output] - names and not (lost_events or stats["unknown"]):
                wrong.append(f"{output} misses {sorted(sample.waiting[output] - names)}, and nobody says so")
            if points < sample.points[output] and not (lost_points or stats["unknown"]):
                wrong.append(f"{output} misses {sample.points[output] - points} points, and nobody says so")
            fresh = await spool.lease(output, LATER)
            if [decode_body(batch.blob, "zstd")[0].lines for batch in fresh] != [[event(9_999).line]]:
                wrong.append(f"a new event does not come out for {output}")
        known = spool.clients.get(CLIENT)
        if known is not None and known.upto > sample.upto:
            wrong.append(f"a client is told that {known.upto} is safe")
    finally:
        spool.close()
    return wrong


async def _drain(spool: Spool, output: str, sample: Sample, wrong: list[str]) -> tuple[set[str], int]:
    names: set[str] = set()
    points = 0
    for _ in range(100):
        batches = await spool.lease(output, LATER)
        for batch in batches:
            (sent,) = decode_body(batch.blob, "zstd")
            if sent.header["batch"] != batch.id:
                wrong.append(f"{batch.id} is offered, and calls itself {sent.header['batch']}")
            if batch.kind == "events":
                names.add(batch.id)
                if sample.batches.get(batch.id) != sent.lines:
                    wrong.append(f"{batch.id} is not what was stored for {output}")
            else:
                held = sum(msgspec.json.decode(line)["sum"] for line in sent.lines)
                points += held
                if held != batch.n:
                    wrong.append(f"{batch.id} holds {held} points and says {batch.n}")
        await spool.settle(output, [Delivered(batch) for batch in batches])
        if not batches:
            return names, points
    wrong.append(f"{output} never comes to an end")
    return names, points
