"""The oracle's verdict: what arrived, held against its own book. A pure function of the files that a run leaves.

**Certain** is an event that was acknowledged; that its producer, ending in order, flushed; or whose write completed,
also if its app was killed right then. There is one way out of the last: an app that is killed with an event
unacknowledged, and an agent that ends before it had time to read what the dead had written. Then nobody has it any
more, and the oracle only asks that it arrives whole or not at all.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from tests.oracle.book import Account, Sent, entries, read_all
from tests.oracle.destination import content_of
from tests.oracle.settle import FRESH_S, comparable

READ_WITHIN_S = 10.0
"""A running agent that is not held up has read and stored what a dead app had written within this."""
MARGIN_S = 1.0
"""A write is noted a little after it was made."""
UNABLE = {"agent stopped": "agent goes on", "disk full": "disk free", "agent down": "agent up"}
SHOWN = 5


@dataclass
class Verdict:
    """Faults, one sentence each, and figures for people."""

    faults: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not self.faults

    def render(self) -> str:
        lines = [*(f"  {figure}" for figure in self.figures), *(f"WRONG: {fault}" for fault in self.faults)]
        return "\n".join([*lines, "The oracle finds nothing wrong." if self.right else "The oracle objects."])

    def among(self, what: str, found: Iterable[str]) -> None:
        """A fault if there is anything found."""
        all_found = sorted(found)
        if all_found:
            shown = ", ".join(all_found[:SHOWN])
            self.faults.append(f"{what}: {len(all_found)}, such as {shown}")

    def equal(self, what: str, left: int, right: int) -> None:
        if left != right:
            self.faults.append(f"{what}: {left:,} on one side, {right:,} on the other")


@dataclass
class Arrived:
    """What a destination has: of each ref how often, its ids and digests; and of each series its sum and points."""

    times: Counter[str] = field(default_factory=Counter)
    ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    digests: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    weights: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Of each event id its service, and how many events it stands for."""
    series: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def event(self, ref: str, event_id: str, digest: str, service: str, weight: int) -> None:
        self.times[ref] += 1
        self.weights[event_id] = (service, weight)
        self.ids[ref].add(event_id)
        self.digests[ref].add(digest)

    def stands_for(self) -> Counter[str]:
        """By service, how many events the arrived ones stand for."""
        found: Counter[str] = Counter()
        for service, weight in self.weights.values():
            found[service] += weight
        return found

    def points(self) -> int:
        return sum(n for _, n in self.series.values())

    def by_tag(self, tag: str, only: str = "") -> dict[str, tuple[float, int]]:
        """Sum and points by the value of a tag, of all series or of those with one name."""
        found: dict[str, tuple[float, int]] = defaultdict(lambda: (0, 0))
        for (name, tags), (amount, n) in self.series.items():
            if only not in ("", name):
                continue
            value = json.loads(tags).get(tag, "")
            found[value] = (found[value][0] + amount, found[value][1] + n)
        return found


def judge(folder: Path) -> Verdict:
    """Read what a run has left in `folder`, and say what is wrong."""
    accounts = read_all(folder / "books")
    timeline = list(entries(folder / "timeline.jsonl"))
    evidence = json.loads((folder / "evidence.json").read_text())
    gateway, sink = gateway_has(folder / "gateway" / "gateway.sqlite3"), sink_has(folder / "sink.jsonl")
    verdict = Verdict()
    certain, allowed = sort_events(accounts, timeline, verdict)
    certain = judge_storm(verdict, accounts, gateway, certain, allowed)
    judge_events(verdict, "the gateway", gateway, certain, allowed, once=True)
    judge_sink(verdict, sink, gateway, allowed, evidence["dead"])
    judge_counters(verdict, accounts, gateway)
    judge_books(verdict, gateway, sink, evidence)
    for account in accounts:
        verdict.among(f"{account.name} had trouble", set(account.trouble))
    if evidence["fresh_s"] > FRESH_S:
        verdict.faults.append(f"a fresh event took {evidence['fresh_s']:.0f} s after the faults, not {FRESH_S:.0f} s")
    verdict.figures.append(f"a fresh event was in the gateway {evidence['fresh_s']:.1f} s after the faults")
    return verdict


def sort_events(
    accounts: list[Account], timeline: list[dict[str, Any]], verdict: Verdict
) -> tuple[dict[str, Sent], dict[str, Sent]]:
    """Events that must arrive, and all that may, by ref."""
    certain: dict[str, Sent] = {}
    allowed: dict[str, Sent] = {}
    unsure = 0
    for account in accounts:
        flushed = account.ended is not None and account.ended["flushed"]
        for ref, sent in account.events.items():
            if sent.returned and sent.event_id is None:
                continue  # dropped by the client, which said so: it must not arrive
            allowed[ref] = sent
            numbered = sent.event_id is not None
            if numbered and (sent.acknowledged or flushed or survives(sent, timeline)):
                certain[ref] = sent
            else:
                unsure += 1
    acknowledged = sum(sent.acknowledged for sent in allowed.values())
    verdict.figures.append(
        f"{len(allowed):,} events sent by {len(accounts)} processes: {acknowledged:,} seen acknowledged, "
        f"{len(certain):,} must arrive, {unsure:,} may"
    )
    return certain, allowed


def survives(sent: Sent, timeline: list[dict[str, Any]]) -> bool:
    """Whether its write completed and the agent then had time to read it, whatever became of the app."""
    if sent.written is None:
        return False
    able_since: float | None = sent.written
    for event in timeline:
        t, what = event["t"], event["what"]
        if t < sent.written - MARGIN_S:
            continue
        if able_since is not None and t - able_since > READ_WITHIN_S:
            return True
        if what == "agent killed":
            return False
        if what == "agent down" and event.get("code") not in (0, None):
            return False  # it was cut short
        if what in UNABLE:
            able_since = None
        elif what in UNABLE.values():
            able_since = t
    return True


def judge_events(
    verdict: Verdict, where: str, arrived: Arrived, certain: dict[str, Sent], allowed: dict[str, Sent], *, once: bool
) -> None:
    verdict.figures.append(f"{len(arrived.times):,} events are at {where}")
    verdict.among(f"never arrived at {where}", certain.keys() - arrived.times.keys())
    verdict.among(f"arrived at {where} although nobody sent it", arrived.times.keys() - allowed.keys())
    if once:
        verdict.among(f"arrived more than once at {where}", (ref for ref, n in arrived.times.items() if n > 1))
    known = arrived.times.keys() & allowed.keys()
    verdict.among(f"altered at {where}", (ref for ref in known if arrived.digests[ref] != {allowed[ref].digest}))
    other = (ref for ref in known if allowed[ref].event_id and arrived.ids[ref] != {allowed[ref].event_id})
    verdict.among(f"under another id at {where}", other)


def judge_storm(
    verdict: Verdict, accounts: list[Account], gateway: Arrived, certain: dict[str, Sent], allowed: dict[str, Sent]
) -> dict[str, Sent]:
    """Of a storm of one exception only the number must be right. Returns what must arrive one by one: all the rest."""
    stormy = {ref for account in accounts if account.service == "storm" for ref in account.events}
    least, most = len(stormy & certain.keys()), len(stormy & allowed.keys())
    counted = gateway.stands_for()["storm"]
    if not least <= counted <= most:
        verdict.faults.append(f"exceptions of the storm: {least:,} to {most:,} were sent, {counted:,} are counted")
    lines = sum(service == "storm" for service, _ in gateway.weights.values())
    verdict.figures.append(f"{counted:,} exceptions of a storm are at the gateway as {lines:,}")
    return {ref: sent for ref, sent in certain.items() if ref not in stormy}


def judge_sink(
    verdict: Verdict, sink: Arrived, gateway: Arrived, allowed: dict[str, Sent], dead: list[dict[str, Any]]
) -> None:
    """At the fake destination: at least once, once by id; and what it refused for good is a dead letter."""
    letters = {ref for letter in dead if letter["output"] == "sink" for ref, _ in letter["refs"]}
    poison = {ref for ref in gateway.times if ref in allowed and allowed[ref].poison}
    always = f"which always refuses {len(poison):,} of them"
    verdict.figures.append(f"{len(letters):,} events are dead letters of the fake destination, {always}")
    verdict.among("refused always, and no dead letter", poison - letters)
    verdict.among("refused always, and taken", poison & sink.times.keys())
    verdict.among("altered in a dead letter", altered_letters(dead, allowed))
    # Both outputs get all events that the agent took: what one has the other must have, or it is a dead letter.
    judge_events(verdict, "the fake destination", sink, {}, allowed, once=False)
    verdict.among("never arrived at the fake destination", gateway.times.keys() - sink.times.keys() - letters)
    verdict.among("arrived at the fake destination only", (sink.times.keys() | letters) - gateway.times.keys())
    verdict.among("refused by the gateway", (str(letter) for letter in dead if letter["output"] != "sink"))


def altered_letters(dead: list[dict[str, Any]], allowed: dict[str, Sent]) -> list[str]:
    return [
        str(ref)
        for letter in dead
        for ref, digest in letter["refs"]
        if ref not in allowed or allowed[ref].digest != digest
    ]


def judge_counters(verdict: Verdict, accounts: list[Account], gateway: Arrived) -> None:
    """No more than was counted, of any producer; and of those that lived in the calm, exactly what was counted."""
    found = gateway.by_tag("producer")
    sent = kept = 0
    for account in accounts:
        amount, points = found.get(account.name, (0, 0))
        if points > account.counted:
            verdict.faults.append(
                f"the gateway has {points:,} points of {account.name}, which counted {account.counted:,}"
            )
        if not account.calm:
            sent, kept = sent + account.counted, kept + points
            continue
        if account.ended is None or not account.ended["flushed"] or account.ended["dropped"]:
            verdict.faults.append(f"{account.name} lived in the calm and did not end well: {account.ended}")
            continue
        if account.path != "ipc":  # there the client sums them up
            verdict.equal(f"points of {account.name} and at the gateway", account.ended["points"], points)
        verdict.equal(f"the sum of {account.name} and at the gateway", account.ended["amount"], round(amount))
    verdict.figures.append(f"of {sent:,} points counted by apps among the killed, {kept:,} are at the gateway")
    strangers = found.keys() - {account.name for account in accounts} - {""}
    verdict.among("counters of producers that nobody started", strangers)


def judge_books(verdict: Verdict, gateway: Arrived, sink: Arrived, evidence: dict[str, Any]) -> None:
    """The agent's ledger says what the destinations have, and the gateway's shows the same."""
    books = evidence["status"]["books"]
    verdict.among("the agent's books do not balance", books["imbalances"])
    at_gateway = gateway.stands_for()
    for row in books["events"]:
        what = f"events of {row['source']} for {row['output']}"
        verdict.equal(f"{what}: received, and at the gateway", row["received"], at_gateway[row["source"]])
        gone = row["delivered"] + row["folded"] + row["dead"]
        verdict.equal(f"{what}: received, and delivered, folded or dead", row["received"], gone)
        verdict.among(f"{what}: lost", row["lost"])
    for row in books["points_in"]:
        points = gateway.by_tag("service").get(row["source"], (0, 0))[1]
        verdict.equal(f"points of {row['source']}: journaled, and at the gateway", row["journaled"], points)
    for row in books["points_out"]:
        has = {"main": gateway, "sink": sink}[row["output"]]
        verdict.equal(
            f"points for {row['output']}: journaled, and delivered or dead",
            row["journaled"],
            row["delivered"] + row["dead"],
        )
        if not row["dead"]:
            verdict.equal(f"points for {row['output']}: delivered, and there", row["delivered"], has.points())
        verdict.among(f"points for {row['output']}: lost", row["lost"])
    dead = sum(letter["n"] for letter in evidence["dead"])
    verdict.equal(
        "dead letters: in the books, and in the spool",
        sum(row["dead"] for row in books["events"] + books["points_out"]),
        dead,
    )
    counts = evidence["counts"]
    verdict.equal(
        "events counted by the gateway, and in its store",
        counts["events"] + counts["exceptions"],
        len(gateway.weights),
    )
    verdict.equal("points counted by the gateway, and in its store", counts["points"], gateway.points())
    verdict.equal("events that came under a known id with other content", counts["conflicts"], 0)
    for agent in evidence["ledger"]["agents"]:
        verdict.among("the books at the gateway do not balance", map(str, agent["imbalances"]))
        if comparable(agent["books"], "events") != comparable(books["events"], "events"):
            verdict.faults.append("the books at the gateway are not those of the agent")
    again = f"{counts['batches']['duplicates']:,} batches and {counts['duplicates']:,} events"
    verdict.figures.append(f"{again} came to the gateway again and were recognised")


def gateway_has(path: Path, project: str = "") -> Arrived:
    """What stands in the gateway's store, of one project or of all."""
    store = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    found = Arrived()
    of = "" if not project else "JOIN projects ON projects.id = project AND projects.name = :project"
    query = f"SELECT events.id, service, weight, line FROM events {of}"
    for event_id, service, weight, line in store.execute(query, {"project": project}):
        event = json.loads(line)
        ref = str(event["fields"].get("ref"))
        found.event(ref, event_id, content_of(event), service, weight)
    query = f"SELECT series.name, tags, line FROM windows JOIN series ON series.id = windows.series {of}"
    for name, tags, line in store.execute(query, {"project": project}):
        window = json.loads(line)
        amount, points = found.series.get((name, tags), (0, 0))
        found.series[name, tags] = (amount + window.get("sum", 0), points + window["n"])
    store.close()
    return found


def sink_has(path: Path) -> Arrived:
    """What the fake destination was given; a snapshot, or a piece of one, counts once however often it came."""
    found = Arrived()
    lines: dict[tuple[str, ...], tuple[str, str, float, int]] = {}
    for entry in entries(path):
        for event in entry.get("events", ()):
            found.event(*event)
        for name, tags, w, amount, n in entry.get("series", ()):
            lines[json.dumps(entry["covers"]), name, tags, json.dumps(w)] = (name, tags, amount or 0, n)
    for name, tags, amount, n in lines.values():
        before = found.series.get((name, tags), (0, 0))
        found.series[name, tags] = (before[0] + amount, before[1] + n)
    return found
