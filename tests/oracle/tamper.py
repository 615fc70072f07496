"""Falsify by hand what a run has left, to see that the oracle notices. Each way is a function of the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import apsw

ONE = "(SELECT max(n) FROM events WHERE kind = 'event' AND service = 'wild')"


def _store(folder: Path) -> apsw.Connection:
    return apsw.Connection(str(folder / "gateway" / "gateway.sqlite3"))


def remove_event(folder: Path) -> None:
    """An event that the gateway had is not there."""
    _store(folder).execute(f"DELETE FROM events WHERE n = {ONE}")


def double_event(folder: Path) -> None:
    """An event stands there twice, the second time under another id."""
    _store(folder).execute(
        "INSERT INTO events SELECT n + 1000000, project, id || 'x', kind, t, received, made, batch, agent, service, "
        f"env, release, host, name, fingerprint, weight, line FROM events WHERE n = {ONE}"
    )


def alter_byte(folder: Path) -> None:
    """One byte in the middle of an event is another one."""
    store = _store(folder)
    line = bytearray(store.execute(f"SELECT line FROM events WHERE n = {ONE}").get)
    at = line.index(b'"deep"') + 1
    line[at] ^= 1  # one letter of a field's name: the line can be read as before
    store.execute(f"UPDATE events SET line = ? WHERE n = {ONE}", (bytes(line),))


def invent_event(folder: Path) -> None:
    """An event stands there that nobody sent."""
    store = _store(folder)
    line = json.loads(store.execute(f"SELECT line FROM events WHERE n = {ONE}").get)
    line["fields"]["ref"] = "nobody-1"
    store.execute(f"UPDATE events SET line = ? WHERE n = {ONE}", (json.dumps(line).encode(),))


def raise_counter(folder: Path) -> None:
    """One counter of a producer that lived in the calm is one higher."""
    store = _store(folder)
    query = "SELECT series, start, line FROM windows JOIN series ON id = series WHERE tags LIKE '%calm%' LIMIT 1"
    series, start, line = next(store.execute(query))
    window = json.loads(line)
    window["sum"] += 1
    store.execute(
        "UPDATE windows SET line = ? WHERE series = ? AND start = ?", (json.dumps(window).encode(), series, start)
    )


def remove_window(folder: Path) -> None:
    """A window of metrics is not there."""
    _store(folder).execute("DELETE FROM windows WHERE (series, start) IN (SELECT series, start FROM windows LIMIT 1)")


def lose_at_sink(folder: Path) -> None:
    """The fake destination says that it never got one of its batches of events."""
    path = folder / "sink.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    batches = [json.loads(line) for line in lines]
    victim = next(entry for entry in batches if len(entry.get("events", ())))
    kept = [line for line, entry in zip(lines, batches, strict=True) if entry["batch"] != victim["batch"]]
    path.write_text("".join(kept))


def forget_in_books(folder: Path) -> None:
    """The agent's ledger has one event less than arrived."""
    path = folder / "evidence.json"
    evidence = json.loads(path.read_text())
    row = evidence["status"]["books"]["events"][0]
    row["received"] -= 1
    row["delivered"] -= 1
    path.write_text(json.dumps(evidence))


WAYS: dict[Callable[[Path], None], str] = {
    remove_event: "never arrived at the gateway",
    double_event: "arrived more than once at the gateway",
    alter_byte: "altered at the gateway",
    invent_event: "although nobody sent it",
    raise_counter: "the sum of",
    remove_window: "journaled, and at the gateway",
    lose_at_sink: "never arrived at the fake destination",
    forget_in_books: "the books at the gateway are not those of the agent",
}
"""Each way, and what the oracle must say of it."""
