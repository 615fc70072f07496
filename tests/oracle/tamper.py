"""Falsify by hand what a run has left, to see that the oracle notices. Each way is a function of the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import apsw

from tests.oracle.direct_verdict import STORE

ONE = "(SELECT max(n) FROM events WHERE kind = 'event' AND service = 'calm')"


def _store(folder: Path) -> apsw.Connection:
    """The gateway's store as a run by the agent leaves it, or one without an agent."""
    path = folder / "gateway" / "gateway.sqlite3"
    return apsw.Connection(str(path if path.exists() else folder / STORE))


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


def move_event(folder: Path) -> None:
    """An event stands with another customer."""
    other = "(SELECT id FROM projects WHERE name IN ('north', 'south') AND id != project LIMIT 1)"
    _store(folder).execute(f"UPDATE events SET project = {other} WHERE n = {ONE}")


def move_counter(folder: Path) -> None:
    """The counters of an app stand with another customer."""
    other = "(SELECT id FROM projects WHERE name IN ('north', 'south') AND id != project LIMIT 1)"
    _store(folder).execute(f"UPDATE series SET project = {other} WHERE tags LIKE '%calm%'")


def forget_to_count(folder: Path) -> None:
    """The gateway has counted one event less than it has."""
    path = folder / "evidence.json"
    evidence = json.loads(path.read_text())
    evidence["counts"]["north"]["events"] -= 1
    path.write_text(json.dumps(evidence))


def forget_in_direct_books(folder: Path) -> None:
    """Its books have a point less."""
    path = folder / "evidence.json"
    evidence = json.loads(path.read_text())
    books = evidence["ledger"]["south"]["agents"][0]["books"]
    next(row for row in books if row["book"] == "points_in")["journaled"] -= 1
    path.write_text(json.dumps(evidence))


def revoke_before(folder: Path) -> None:
    """A key was revoked a minute before it was."""
    path = folder / "timeline.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries:
        if entry["what"] == "key revoked":
            entry["wall_ms"] -= 60_000
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def hold_up(folder: Path) -> None:
    """A call of some app took a second."""
    book = next((folder / "books").glob("*-c1-*.jsonl"))
    entry = {"op": "slow", "call": "event", "began": 0, "took": 1.0, "limit": 0, "starved": 0.1}
    with book.open("a") as pen:
        pen.write(json.dumps(entry) + "\n")


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

DIRECT_WAYS: dict[Callable[[Path], None], str] = {
    remove_event: "never arrived at",
    double_event: "arrived more than once at",
    alter_byte: "altered at",
    invent_event: "although nobody sent it",
    raise_counter: "the sum of",
    remove_window: "points counted, and in the store",
    move_event: "that are another's",
    move_counter: "that are another's",
    forget_to_count: "events counted, and in the store",
    forget_in_direct_books: "journaled, and in the store",
    revoke_before: "although its key had been revoked",
    hold_up: "a call took",
}
"""The same for a run without an agent."""
