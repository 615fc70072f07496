"""Real spools in the test's folder, and rotations and events to put into them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from sendoff_server.aggregate import Limits, Rotation, make_core
from sendoff_server.spool import ClassLimit, EventIn, OutputSpec, Spool, SpoolLimits

NOW = 1_700_000_000_000
OpenSpool = Callable[..., Spool]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "agent"


@pytest.fixture
def open_spool(folder: Path) -> Iterator[OpenSpool]:
    """Opens the spool of the test; closes what the test leaves open."""
    opened: list[Spool] = []
    core = make_core(Limits(), (), (1, 1))

    def open_it(*outputs: str | OutputSpec, now_ms: int = NOW, limit_bytes: int = 1 << 30, **more: Any) -> Spool:
        specs = [OutputSpec(one, 10_000) if isinstance(one, str) else one for one in outputs]
        arguments: dict[str, Any] = {"merge": core.merge, "host": "web-1", "clock": lambda: now_ms, **more}
        arguments.setdefault("limits", within(limit_bytes))
        spool = Spool.open(folder, specs, now_ms=now_ms, **arguments)
        opened.append(spool)
        return spool

    yield open_it
    for spool in opened:
        spool.close()


def within(total: int) -> SpoolLimits:
    """Limits of so many bytes together."""
    month = 30 * 86400.0
    return SpoolLimits(ClassLimit(total - total // 4, month, "hold"), ClassLimit(total // 4, month, "drop_oldest"))


def event(number: int, source: str = "shop", size: int = 0) -> EventIn:
    line = json.dumps({"id": f"e{number}", "pad": "x" * size}, separators=(",", ":")).encode()
    return EventIn(line, f"e{number}", source)


def rotation(spool: Spool, window: int, points: int = 3, source: str = "shop", made_ms: int | None = None) -> Rotation:
    """One second of metrics: a counter of as many points, made at the end of second number ``window`` after NOW."""
    made = made_ms if made_ms is not None else NOW + window * 1000
    ord = (spool.epoch, window)
    line = (
        f'{{"name":"sold","tags":{{}},"unit":"","type":"counter","w":[{made - 1000},1000],'
        f'"ord":[{ord[0]},{ord[1]}],"sum":{points},"n":{points}}}'
    )
    return Rotation(ord, made, [line.encode()], {source: points}, {}, {source: points}, {}, [])


def ask_beside(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement by a connection of its own: that of an open spool belongs to its thread."""
    connection = apsw.Connection(str(folder / "spool.db"))
    connection.set_busy_timeout(5_000)
    # Closing must not fold the log in: what is looked at is to stay as it is.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()
