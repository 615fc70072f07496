"""What the writer's thread does for the direct path, each piece in one transaction: begin a run, store a round."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import apsw
import msgspec

from sendoff_server.aggregate.snapshot import decode
from sendoff_server.gateway.check import Checked, Window
from sendoff_server.gateway.direct.client import DirectState
from sendoff_server.gateway.direct.rounds import Round, Tally
from sendoff_server.gateway.store.sql import DIRECT, QUERIES
from sendoff_server.gateway.store.take import MOST, Merge, Taker

WINDOW_MS = 10_000
MOST_LISTED = 100_000
"""Clients that are read when a project is opened: more than settings allow at once."""


class Superseded(Exception):
    """Another run of the project has begun: what this one has in memory is not true of the store any more."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a project goes on from. `agent`: the id that its windows are stored under."""

    agent: str
    epoch: int
    clients: list[DirectState] = field(default_factory=list)
    gauges: list[bytes] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)


def begin_run(db: apsw.Connection, project: int, now_ms: int, agent: str) -> Run:
    """A core is going to be made. `agent`: 32 hex digits, used if the project has none yet."""
    ((known, epoch),) = db.execute(DIRECT["begin_run"], (project, agent, now_ms)).fetchall()
    clients = [read_state(state) for (state,) in db.execute(DIRECT["clients"], (project, MOST_LISTED))]
    gauges = [key + b"\0" + state for key, state in db.execute(DIRECT["gauges"], (project,))]
    sources = [source for (source,) in db.execute(DIRECT["sources"], (project,))]
    return Run(str(known), int(str(epoch)), clients[::-1], gauges, sources)


def find_client(db: apsw.Connection, project: int, name: str) -> DirectState | None:
    """A client that is stored; one whose numbers stand in totals has none."""
    for seen, upto, n, state, totals in db.execute(DIRECT["client"], (project, name)):
        if state is not None:
            return read_state(state)
        folded = msgspec.json.decode(totals, type=dict[str, int]) if totals else {}
        return DirectState(name, upto=upto, next_n=n, seen=seen, since=seen, state="ended", folded=folded)
    return None


def read_state(state: bytes) -> DirectState:
    return msgspec.json.decode(state, type=DirectState)


def store_round(db: apsw.Connection, project: int, run: Run, round_: Round, now_ms: int, merge: Merge) -> None:
    """Store a round, unless it is stored. Raises ``Superseded``."""
    db.execute(DIRECT["begin_round"], (project, run.epoch, round_.number))
    if not db.changes():
        if db.execute(DIRECT["run"], (project,)).get != run.epoch:
            raise Superseded(f"run {run.epoch} of project {project} is over: another has begun")
        return
    if round_.windows is None:
        round_.windows = _windows(round_, merge)
    taker = Taker(db, project, now_ms, merge)
    batch = Checked(f"direct-{run.epoch}-{round_.number}", "events", run.agent, "", now_ms)
    delivered: Tally = Counter()
    for source, event in round_.events:
        taker.event(batch, event)
        delivered["events", source, "delivered"] += event.weight
    for window in round_.windows:
        taker.window(run.agent, window)
        delivered["points_out", "", "delivered"] += window.n
    taker.write_counts()
    for rotation in round_.rotations:
        _set_gauges(db, project, rotation.gauges)
    for state in round_.states:
        body = msgspec.json.encode(state)
        db.execute(DIRECT["put_client"], (project, state.client, state.seen, state.upto, state.next_n, body, None))
    for key in round_.keys:
        db.execute(QUERIES["touch_key"], (key, now_ms))
    for (book, source, name), n in (round_.tally + delivered + _fold(db, project, round_, now_ms)).items():
        db.execute(DIRECT["book"], (project, book, source, name, min(n, MOST)))


def _windows(round_: Round, merge: Merge) -> list[Window]:
    """The rotations of a round as what is stored of them: longer windows."""
    lines = merge([rotation.lines for rotation in round_.rotations], WINDOW_MS)
    found = []
    for line in lines:
        series = decode(line, longest=None)
        identity = (series.name, series.type, series.unit, series.tags_text)
        found.append(Window(*identity, series.start_ms, series.length_ms, series.value.n, line))
    return found


def _set_gauges(db: apsw.Connection, project: int, gauges: Iterable[bytes]) -> None:
    for gauge in gauges:
        key, _, state = gauge.partition(b"\0")
        if state:
            db.execute(DIRECT["put_gauge"], (project, key, state))
        else:
            db.execute(DIRECT["drop_gauge"], (project, key))


def _fold(db: apsw.Connection, project: int, round_: Round, now_ms: int) -> Tally:
    """The numbers of clients that ended long ago go into the totals of their service; their `upto` and `n` stay."""
    tally: Tally = Counter()
    for state in round_.folded:
        totals = msgspec.json.encode(Counter(state.folded) + Counter(state.dropped))
        row = (project, state.client, state.seen or now_ms, state.upto, state.next_n, None, totals)
        db.execute(DIRECT["put_client"], row)
        numbers = {"clients": 1, "events": state.events, "points": state.points, "gap": state.gap}
        numbers |= {f"dropped.{reason}": n for reason, n in state.dropped.items()}
        for name, n in numbers.items():
            if n > 0:
                tally["folded", state.source, name] += n
    return tally
