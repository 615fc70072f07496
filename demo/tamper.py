"""Falsify what the gateway stored, to see that the accounts notice: `python -m demo --tamper lose` (or `double`)."""

from __future__ import annotations

import apsw

from demo.parts import Stage

LOSE = "DELETE FROM events WHERE n = (SELECT max(n) FROM events WHERE name = 'order.placed')"
DOUBLE = """
INSERT INTO events SELECT n + 1000000, project, id || '-again', kind, t, received, made, batch, agent, service, env,
  release, host, name, fingerprint, weight, line
FROM events WHERE n = (SELECT max(n) FROM events WHERE name = 'order.placed')
"""
WAYS = {"lose": LOSE, "double": DOUBLE}


def tamper(stage: Stage, way: str) -> None:
    """Take one order event out of the store, or put one in a second time."""
    store = apsw.Connection(str(stage.folder / "gateway" / "gateway.sqlite3"))
    store.set_busy_timeout(5_000)
    store.execute(WAYS[way])
    store.close()
