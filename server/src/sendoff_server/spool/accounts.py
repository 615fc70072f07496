"""One transaction's changes to the books, and reading them back."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import cast

import apsw
import msgspec
import xxhash

from sendoff_server.ledger import Books, ClientMemo, Row, assemble
from sendoff_server.spool.records import ClientState
from sendoff_server.spool.sql import ask, tell

PENDING_ROWS = 2_000
"""How many rows are summed at once."""


class Tally:
    """Collects what a transaction adds to running totals; ``write`` puts it into that transaction."""

    def __init__(self) -> None:
        self._n: Counter[tuple[str, str, str, str, str]] = Counter()

    def events(self, source: str, output: str, name: str, n: int, reason: str = "") -> None:
        self._n["events", source, output, name, reason] += n

    def points_in(self, source: str, name: str, n: int, reason: str = "") -> None:
        self._n["points_in", source, "", name, reason] += n

    def points_out(self, output: str, name: str, n: int, reason: str = "") -> None:
        self._n["points_out", "", output, name, reason] += n

    def lines(self, source: str, name: str, n: int, reason: str = "") -> None:
        self._n["lines", source, "", name, reason] += n

    def clients(self, service: str, name: str, n: int, reason: str = "") -> None:
        self._n["clients", service, "", name, reason] += n

    def add(self, other: "Tally") -> None:
        self._n.update(other._n)

    def write(self, connection: apsw.Connection) -> None:
        tell(connection, "bump", [(*key, n) for key, n in self._n.items() if n])

    def __bool__(self) -> bool:
        return any(self._n.values())


def pack_client(state: ClientState) -> tuple[str, str, int, bytes]:
    """A client as the row that keeps it: a copy, since the agent goes on changing the original."""
    body = msgspec.json.encode(state)
    return state.client, state.state, state.seen, body + b"\n" + _seal(body)


def unpack_client(body: bytes) -> ClientState:
    """What ``pack_client`` made. Raises ``ValueError`` if it is not: an ``upto`` with a flipped bit would tell a client
    that something is safe that never came."""
    content, line_feed, seal = body.partition(b"\n")
    if line_feed and seal != _seal(content):  # rows of layout 1 have none
        raise ValueError("the row of a client is not what was stored")
    return msgspec.json.decode(content, type=ClientState)


def _seal(body: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(body).encode()


def read_clients(connection: apsw.Connection) -> dict[str, ClientState]:
    found = (unpack_client(body) for (body,) in ask(connection, "clients"))
    return {state.client: state for state in found}


def _pending(connection: apsw.Connection) -> Counter[tuple[bool, str, str]]:
    """What the rows say is pending, by kind (events, or points), output and source."""
    found: Counter[tuple[bool, str, str]] = Counter()
    for events, output, source, n in ask(connection, "pending_folds"):
        found[bool(events), output, source] += n
    after = 0
    # A part at a time: SQLite sorts what it groups, which a backlog would need a lot of memory for.
    while (until := ask(connection, "pending_until", {"after": after, "most": PENDING_ROWS})[0][0]) is not None:
        for events, output, source, n in ask(connection, "pending", {"after": after, "until": until}):
            found[bool(events), output, source] += n
        after = until
    return found


def read_books(connection: apsw.Connection) -> Books:
    """The books of one moment: one read transaction sees the totals and the rows as of the same commit."""
    with connection:
        counts = cast("list[Row]", ask(connection, "counts"))
        pending = _pending(connection)
        clients = [_memo(state) for state in read_clients(connection).values()]
    clients.sort(key=lambda memo: (memo.service, memo.client))
    return assemble(counts, ((*of, n) for of, n in pending.items()), clients)


def fold_clients(connection: apsw.Connection, tally: Tally, before_ms: int) -> list[str]:
    """Add clients that ended before a time to their service's totals, and forget them."""
    ended = [unpack_client(body) for (body,) in ask(connection, "ended_clients", {"before": before_ms})]
    for state in ended:
        numbers: Mapping[str, int] = {"events": state.events, "points": state.points, "gap": state.gap}
        for name, n in numbers.items():
            tally.clients(state.service, name, n)
        for reason, n in state.dropped.items():
            tally.clients(state.service, "dropped", n, reason)
    _forget(connection, (state.client for state in ended))
    return [state.client for state in ended]


def _forget(connection: apsw.Connection, clients: Iterable[str]) -> None:
    tell(connection, "delete_client", ((client,) for client in clients))


def _memo(state: ClientState) -> ClientMemo:
    return ClientMemo(
        state.client,
        state.service,
        state.env,
        state.release,
        state.host,
        state.pid,
        state.lib,
        state.state,
        state.since,
        state.seen,
        state.events,
        state.points,
        state.gap,
        dict(state.dropped),
    )
