"""A destination as a model: it keeps what it took, knows repeats as a gateway does, and fails as it is told to."""

import asyncio
import json
from collections.abc import Sequence
from random import Random

from sendoff_server.delivery import Outcome, Result, Trouble
from sendoff_server.spool import RefusedLine, Sealed
from sendoff_server.wire.batch import Batch, decode_body

WEATHERS = ("fine", "unreachable", "500", "stores, then 500", "400", "401", "429", "forgetful", "any")
JUST = [weather for weather in WEATHERS if weather not in ("any", "400")]
MOST_LINES = 4
"""What it takes in one body that holds a large event."""


class ModelDestination:
    """An output without a network. What it refuses, or fails on, it finds in the lines."""

    name, type, url, interval_ms, max_batches, lanes = "main", "gateway", "model", 10_000, 8, 2

    def __init__(self, random: Random) -> None:
        self.random = random
        self.weather = "fine"
        self.cursed = True
        """Whether it fails on what holds the word."""
        self.unjust = False
        """Whether it ever refused what is good: then it may be given up."""
        self.events: dict[str, bytes] = {}
        self.points: dict[str, int] = {}
        """By batch."""
        self.told: set[str] = set()
        """Batches with a definite answer that whoever sends has not forgotten."""
        self._under_way: set[str] = set()
        self._seen: dict[str, bytes] = {}
        self._covered: dict[tuple[int, int], tuple[str, int]] = {}
        self._answers: dict[str, Result] = {}

    async def close(self) -> None:
        return

    def weigh(self, batch: Sealed) -> int:
        return len(batch.blob)

    async def send(self, batches: Sequence[Sealed]) -> Outcome:
        names = {batch.id for batch in batches}
        assert not names & self._under_way, "a batch is under way twice"
        assert not names & self.told, "a batch comes again after a definite answer"
        self._under_way |= names
        try:
            await asyncio.sleep(self.random.choice([0, 0, 0.002, 0.01]))
            outcome = self._answer(batches)
            self.told.update(outcome.results)
            return outcome
        finally:
            self._under_way -= names

    def _answer(self, batches: Sequence[Sealed]) -> Outcome:
        assert len(batches) <= self.max_batches
        bodies = [decode_body(batch.blob, "zstd")[0] for batch in batches]
        for batch, body in zip(batches, bodies, strict=True):
            assert self._seen.setdefault(batch.id, batch.blob) == batch.blob, f"{batch.id} changed"
            assert batch.id == body.header["batch"]
        trouble = self._weather()
        if trouble is not None and self.weather != "stores, then 500":
            return Outcome(trouble=trouble)
        if refused := self._body_trouble(bodies):
            return Outcome(trouble=refused)
        results = {body.id: self._take(body) for body in bodies}
        if trouble is not None:
            return Outcome(trouble=trouble)
        if self.weather == "forgetful":
            results = {name: result for name, result in results.items() if self.random.random() < 0.5}
        return Outcome(results)

    def _weather(self) -> Trouble | None:
        weather = self.random.choice(JUST) if self.weather == "any" else self.weather
        match weather:
            case "unreachable":
                return Trouble("nothing listens", reached=False)
            case "500" | "stores, then 500":
                return Trouble("it has a problem of its own", 500)
            case "401":
                return Trouble("it does not accept the key", 401)
            case "429":
                return Trouble("it asks to be sent less", 429, retry_after_s=self.random.choice([None, 2.0, 90.0]))
            case "400":
                self.unjust = True
                return Trouble("it refuses whatever it gets", 400)
        return None

    def _body_trouble(self, bodies: Sequence[Batch]) -> Trouble | None:
        lines = [line for body in bodies for line in body.lines]
        if self.cursed and any(b'"cursed"' in line for line in lines):
            return Trouble("it fails on something in this", self.random.choice([500, 503, None]))
        if any(b'"toxic"' in line for line in lines):
            return Trouble("it refuses something in this", self.random.choice([400, 422]))
        if any(b'"large"' in line for line in lines) and len(lines) > MOST_LINES:
            return Trouble("that is too large", 413)
        return None

    def _take(self, body: Batch) -> Result:
        """As a gateway: once by batch, once by event; bad lines by name."""
        if body.id in self._answers:
            return self._answers[body.id]
        if body.header["type"] == "snapshot":
            self._cover(body)
            self.points[body.id] = sum(json.loads(line)["n"] for line in body.lines)
            return self._answers.setdefault(body.id, Result(stored=True))
        refused = []
        for number, line in enumerate(body.lines, 1):
            if b'"poison"' in line:
                refused.append(RefusedLine(number, "invalid", "poison is not wanted"))
                continue
            name = json.loads(line)["id"]
            assert self.events.setdefault(name, line) == line, f"{name} changed"
        return self._answers.setdefault(body.id, Result(stored=True, refused=tuple(refused)))

    def _cover(self, body: Batch) -> None:
        """A window comes once, or its totals would be wrong: under one root, and in one part of it."""
        epoch, first, last, part = body.header["covers"]
        root = body.id.partition("/")[0]
        for window in range(first, last + 1):
            before = self._covered.setdefault((epoch, window), (root.rpartition("-")[0], part))
            assert before[0] == root.rpartition("-")[0], f"window {window} came in {root} and in {before[0]}"
