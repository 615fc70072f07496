"""Bodies of ``POST /v1/frames`` under mutation: whatever stands in them, what was taken can be stored, and the books of
the direct path balance.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import apsw

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.gateway.direct import frames, ledger, storing
from sendoff_server.gateway.direct.client import DirectClient
from sendoff_server.gateway.direct.intake import DirectIntake
from sendoff_server.gateway.direct.limits import Allowance, Held
from sendoff_server.gateway.direct.rounds import Round, Rounds
from sendoff_server.gateway.store.sql import SCHEMA
from sendoff_server.intake.clients import Clients
from sendoff_server.wire.batch import BodyError

from .mutate import run

CLIENT = "c" * 32
ID = "01930000-0000-7000-8000-%012d"
CALL = {"file": "a.py", "line": 1, "func": "f", "in_app": True, "pre": ["x"], "code": "y", "vars": {"password": "1"}}
EVENT = {"name": "order.placed", "user": {"id": 7}, "tags": {"a": "b"}, "fields": {"x": {"y": [1]}}}
EXCEPTION = EVENT | {
    "fingerprint": "f" * 32,
    "chain": [{"type": "A", "message": "m", "frames": [CALL]}, {"type": "B", "parent": 0, "link": "cause"}],
    "request": {"method": "GET", "url": "/?token=1"},
}
LINES = b"a:1|c\nb:2.5:3|ms|@0.5|#k:v\nc:+3|g\nd:x|s\n_e{5,4}:title|text\n_sc|up|0"


def unit(kind: str, payload: object = b"", **header: Any) -> bytes:
    head = json.dumps({"v": 1, "client": CLIENT, "kind": kind} | header).encode()
    data = head + b"\n" + (payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    return len(data).to_bytes(4, "little") + data


CORPUS = [
    unit("hello", {"service": "web", "env": "p", "pid": 1, "resume_from": 1})
    + unit("event", EVENT, seq=1, id=ID % 1, t=1)
    + unit("metrics", LINES, n=0, dropped={"metric.closed": 2})
    + unit("exception", EXCEPTION, seq=2, id=ID % 2, t=2)
    + unit("metrics", LINES, n=9, t=1_764_000_000_000)
    + unit("bye", {"last_seq": 2, "last_n": 30, "dropped": {}}),
    unit("hello", {"service": "web"}) + unit("metrics", b"a:1|c", n=5) + unit("metrics", b"a:1|c", n=2),
]


class NoLink:
    def reply(self, data: bytes) -> bool:
        return len(data) > 0

    def close(self) -> None: ...


def test_whatever_comes_is_stored_or_refused_and_the_books_balance() -> None:
    db = apsw.Connection(":memory:")
    db.execute(SCHEMA)
    core = make_core(Limits(max_series=200), ord=(1, 1))
    clients = Clients([], 0.0, most=50, kind=DirectClient)
    allowance = Allowance(1e9, 10**9, Held())
    told: Counter[str] = Counter()

    def nobody(*_: object) -> Any:
        raise AssertionError("the round is made here")

    def clock() -> int:
        return time.time_ns() // 1_000_000

    rounds = Rounds(core, allowance, nobody, lambda _: None, nobody, clock=clock, running=time.monotonic)
    intake = DirectIntake(core, clients, rounds, clock=clock, running=time.monotonic)
    begun = storing.begin_run(db, 1, 1, "a" * 32)

    def target(data: bytes) -> None:
        # Others each time: what is known of a client would hide what it sends.
        number = told["rounds"]
        data = data.replace(CLIENT.encode(), b"%032x" % number).replace(b"7000-8000", b"7%03x-8000" % (number % 0x1000))
        session = intake.connected("http", NoLink())
        try:
            for number, (start, end) in enumerate(frames._units(data)):
                item = frames._decode(data[start:end])
                if number == 0:
                    frames._require_hello(item)
                session.take(item)
        except BodyError as error:
            told[error.title] += 1
        round_: Round = rounds._make(with_points=True)
        with db:
            storing.store_round(db, 1, begun, round_, clock(), core.merge)
        rounds._stored(round_)
        session.ended(orderly=True)
        clients.settle(float("inf"), {})
        assert allowance.held == 0
        told["rounds"] += 1
        if told["rounds"] % 50 == 0:
            check()

    def check() -> None:
        found = ledger.read(db, 1)
        assert found is not None
        for book in found["books"]:
            first, *rest = (value for value in book.values() if isinstance(value, int))
            assert first == sum(rest) + sum(sum(value.values()) for value in book.values() if isinstance(value, dict))
        for client in found["memos"]:
            assert json.dumps(client)

    run(target, CORPUS)
    check()
