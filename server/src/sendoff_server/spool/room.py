"""Room in the spool: what each class of data may take, and what gives way when one is full or a row is too old.

Events and metrics have a limit each, and one that is full never costs the other anything. What is given up is counted
for each output that still waited for it. Everything here runs in the writer's thread, inside a transaction.
"""

import logging
from collections.abc import Iterable

from sendoff_server.spool import receipts
from sendoff_server.spool.items import EVENTS
from sendoff_server.spool.records import ClassLimit
from sendoff_server.spool.sql import ask
from sendoff_server.spool.usage import Class, used
from sendoff_server.spool.writer import Transaction

log = logging.getLogger(__name__)

DEAD_SHARE = 0.25
"""How much of its class's limit dead letters may take."""
BUSY_GRACE_MS = 600_000
"""What an output was given to send may be older than its class's age by this, as its answer may be under way; and what
is being merged."""
EXPIRE_ROWS = 500
"""How many rows one transaction gives up for their age."""
_WORDS = {
    "spool_full": "the spool has reached its limit for this class, and what waited longest gives way",
    "expired": "waited longer than the class may",
    "damaged": "damaged on the disk",
    "disk_failed": "damaged on the disk",
}
_KINDS: dict[Class, tuple[int, int]] = {"events": (0, 0), "metrics": (1, 2)}


def limit_of(transaction: Transaction, name: Class) -> ClassLimit:
    return transaction.limits.events if name == "events" else transaction.limits.metrics


def has_room(transaction: Transaction, name: Class) -> bool:
    """Whether a class may take more; first the oldest of it gives way, where that is its policy."""
    limit = limit_of(transaction, name)
    full = used(transaction.connection).of(name) >= limit.bytes
    if limit.when_full == "drop_oldest":
        while full and _drop_oldest(transaction, name):
            full = used(transaction.connection).of(name) >= limit.bytes
    return not full and not transaction.brimming


def _drop_oldest(transaction: Transaction, name: Class) -> bool:
    """The row that waited longest goes, if possible one that nobody is just sending. False when there is none."""
    first, last = _KINDS[name]
    found = [
        (born, item)
        for kind in range(first, last + 1)
        for item, born in ask(transaction.connection, "oldest", {"kind": kind, "most": 1 + len(transaction.busy)})
    ]
    chosen = min(found, key=lambda one: (one[1] in transaction.busy, one), default=None)
    if chosen is None:
        return False
    give_up(transaction, [chosen[1]], "spool_full")
    return True


def expire(transaction: Transaction) -> int:
    """Give up what is older than its class's age; the number of rows. Call again while there are any."""
    gone = 0
    for name in _KINDS:
        before = transaction.ran_ms - round(limit_of(transaction, name).age_s * 1000)
        first, last = _KINDS[name]
        for kind in range(first, last + 1):
            rows = ask(transaction.connection, "older", {"kind": kind, "before": before, "most": EXPIRE_ROWS})
            old = [item for item, born in rows if item not in transaction.busy or born < before - BUSY_GRACE_MS]
            give_up(transaction, old, "expired")
            gone += len(old)
    return gone


def give_up(transaction: Transaction, items: Iterable[int], reason: str) -> None:
    """Items go, and are counted lost for every output that waited for them. One that is gone already counts nothing."""
    connection = transaction.connection
    names: list[str] = []
    losers: set[str] = set()
    for item in items:
        rows = ask(connection, "name_of_item", {"item": item})
        if not rows:
            continue
        name, kind = rows[0]
        outputs = [output for (output,) in ask(connection, "outputs_of_item", {"item": item})]
        contents = ask(connection, "contents_of_item", {"item": item})
        names.append(name)
        losers.update(outputs)
        for output in outputs:
            receipts.lose(connection, output, item, reason, transaction.now_ms)
            for source, n in contents:
                if kind == EVENTS:
                    transaction.tally.events(source, output, "lost", n, reason)
                else:
                    transaction.tally.points_out(output, "lost", n, reason)
        ask(connection, "delete_item", {"item": item})
    if names:  # one line, however many there are: a backlog that expires must not fill the disk with words
        what = f"{names[0]} is" if len(names) == 1 else f"{len(names)} batches, from {names[0]} to {names[-1]}, are"
        log.error("%s lost for %s: %s", what, ", ".join(sorted(losers)), _WORDS.get(reason, reason))


def prune_dead(transaction: Transaction, name: Class) -> None:
    """Dead letters must not fill their class: beyond their share the oldest quarter goes. They stay counted as dead."""
    share = limit_of(transaction, name).bytes * DEAD_SHARE
    kinds = dict(zip(("first", "last"), _KINDS[name], strict=True))
    while used(transaction.connection).dead(name) > share:
        gone = ask(transaction.connection, "prune_dead", kinds)
        if not gone:
            return
        log.error("dead letters of %s had filled their share of the spool: the oldest %d were deleted", name, len(gone))
