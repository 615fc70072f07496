"""The end of a run: all faults are over, the producers end in order, everything is delivered, and the evidence is kept.

The verdict is then a function of files: the books, the timeline, the destination's store, the gateway's store, and what
agent and gateway said last.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

from demo.parts import NotReady, wait_until
from sendoff_server.spool.items import unseal
from tests.oracle.book import read_all
from tests.oracle.destination import content_of
from tests.oracle.world import Fatal, World, wait_dead

FRESH_S = 30.0
"""After the faults, a new event is in the gateway within this."""
LOOK_MS = 1_500
"""Between the two looks that find nothing on its way: longer than the agent's tick."""
DRAIN_S = 150.0
"""Everything is delivered within this: two of the longest waits between retries, and some."""


def end_producers(world: World, slots: list[str]) -> None:
    """SIGTERM, and wait until they have flushed. Raises `Fatal`."""
    for slot in slots:
        process = world.producers[slot].process
        if process is not None and process.poll() is None:
            process.terminate()
    for slot in slots:
        if not wait_dead(world.producers[slot], 90):
            raise Fatal(f"the producer {slot} does not end")


def finish(world: World) -> None:
    """Deliver everything, and write down what is to be judged."""
    evidence: dict[str, Any] = {"fresh_s": fresh(world)}
    end_producers(world, [slot for slot in world.producers if slot != "fresh"])
    calm = Calm(world)
    wait_until("everything delivered", calm.reached, seconds=DRAIN_S)
    evidence["status"] = calm.status
    wait_until("the gateway has the agent's last books", lambda: reported(world, evidence["status"]), seconds=30)
    evidence["ledger"] = world.api("ledger")
    evidence["counts"] = world.api("counts")
    world.agent.stop()
    evidence["dead"] = dead_letters(world.folder / "agent-disk" / "agent")
    world.gateway.stop()
    (world.folder / "evidence.json").write_text(json.dumps(evidence, indent=1))


def fresh(world: World) -> float:
    """Seconds until an event that is sent now is in the gateway's store."""
    began = time.monotonic()
    world.producer_up("fresh", "fresh", 10)
    wait_until("a fresh event at the gateway", lambda: arrived(world.folder, "fresh"), seconds=FRESH_S + 60)
    took = time.monotonic() - began
    end_producers(world, ["fresh"])
    return took


def journaled(world: World) -> None:
    """Wait until all that the calm producers counted is in the journal: what is only in a window goes with the agent.

    Whether all of it comes is for the verdict to say.
    """
    calm = [account for account in read_all(world.books) if account.calm and account.ended is not None]
    counted = sum(account.ended["points"] for account in calm if account.ended and account.path != "ipc")
    with suppress(NotReady):
        wait_until("what was counted journaled", lambda: points_journaled(world, "calm") >= counted, seconds=30)
        # Over ZeroMQ the client sums points up, and how many come is not known: no more may come.
        seen = Calm(world)
        wait_until("all windows journaled", seen.journaled, seconds=30)


def points_journaled(world: World, source: str) -> int:
    books: Any = world.status()["books"]
    return sum(row["journaled"] for row in books["points_in"] if row["source"] == source)


def arrived(folder: Path, service: str) -> int:
    """Events of a service in the gateway's store."""
    store = apsw.Connection(str(folder / "gateway" / "gateway.sqlite3"), flags=apsw.SQLITE_OPEN_READONLY)
    store.set_busy_timeout(5_000)
    try:
        count: int = store.execute("SELECT count(*) FROM events WHERE service = ?", (service,)).get
        return count
    finally:
        store.close()


class Calm:
    """Whether everything is delivered, and still was at a later look, with nothing new in between.

    One look is not enough: an agent that was busy may not have read yet what the producers wrote last.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.status: dict[str, Any] = {}

    def reached(self) -> bool:
        before, self.status = self.status, self.world.status()
        books: Any = self.status["books"]
        waits = any(row["pending"] for row in books["events"] + books["points_out"]) or books["in_windows"]
        calm = not waits and before and before["books"] == books and self.status["now"] - before["now"] > LOOK_MS
        if not calm and before and before["books"] == books:
            self.status = before  # the two looks are to lie apart
        return bool(calm)

    def journaled(self) -> bool:
        """Whether no point was in a window at two looks, with nothing new in between."""
        before, self.status = self.status, self.world.status()
        books: Any = self.status["books"]
        same = bool(before) and before["books"]["points_in"] == books["points_in"] and not books["in_windows"]
        if same and self.status["now"] - before["now"] <= LOOK_MS:
            self.status = before  # the two looks are to lie apart
            return False
        return same


def reported(world: World, status: Any) -> bool:
    """Whether the gateway has the books as the agent showed them."""
    agents: Any = world.api("ledger")["agents"]
    return len(agents) == 1 and comparable(agents[0]["books"], "events") == comparable(
        status["books"]["events"], "events"
    )


def comparable(books: list[dict[str, Any]], name: str) -> list[tuple[str, str, int, int]]:
    """Books of events in the order of their names, with what must agree everywhere."""
    own = [book for book in books if book.get("book", name) == name]
    return sorted((book["source"], book["output"], book["received"], book["delivered"]) for book in own)


def dead_letters(spool: Path) -> list[dict[str, Any]]:
    """What destinations refused for good: output, and of each event its ref and digest."""
    path = spool / "spool.db"
    store = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = []
    for output, status, n, blob in store.execute("SELECT output, status, n, blob FROM dead"):
        header, lines = unseal(blob)
        events = [json.loads(line) for line in lines] if header["type"] == "events" else []
        refs = [(event["fields"].get("ref"), content_of(event)) for event in events]
        found.append({"output": output, "status": status, "n": n, "type": header["type"], "refs": refs})
    store.close()
    return found
