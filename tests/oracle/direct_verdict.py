"""The verdict on a run without an agent. A pure function of the files that it leaves.

**Certain** is an event that was acknowledged; that its producer flushed; or that stood whole in a file of its client's
when its process was dead. Any other may be there once, or not at all: that is what a crash costs on these paths. What
came over one customer's key is in that customer's project and in no other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.oracle.book import Account, Sent, entries, read_all
from tests.oracle.settle import FRESH_S
from tests.oracle.verdict import Arrived, Verdict, gateway_has, judge_events

STORE = "store.sqlite3"
CALL_S = 0.25
"""No call takes longer, beside what it asked to wait for, when the machine and the run were not what held it up."""
REVOKED_MS = 2_000
"""An event that is made so long after its key was revoked is not taken any more."""


def judge(folder: Path) -> Verdict:
    """Read what a run has left in `folder`, and say what is wrong."""
    evidence = json.loads((folder / "evidence.json").read_text())
    accounts = read_all(folder / "books")
    timeline = list(entries(folder / "timeline.jsonl"))
    for entry in entries(folder / "kept.jsonl"):
        mark_kept(accounts, entry["refs"])
    verdict = Verdict()
    has = {project: gateway_has(folder / STORE, project) for project in evidence["projects"]}
    for project in evidence["projects"]:
        judge_project(verdict, project, [each for each in accounts if each.project == project], has[project])
        judge_books(verdict, project, has[project], evidence)
    judge_apart(verdict, accounts, has)
    judge_revoked(verdict, accounts, has, timeline)
    judge_calls(verdict, accounts, timeline)
    for account in accounts:
        verdict.among(f"{account.name} had trouble", set(account.trouble))
    for path, took in evidence["fresh_s"].items():
        verdict.figures.append(f"a fresh event was in the gateway {took:.1f} s after the faults over {path}")
        if took > FRESH_S:
            verdict.faults.append(f"a fresh event took {took:.0f} s over {path} after the faults, not {FRESH_S:.0f} s")
    return verdict


def mark_kept(accounts: list[Account], refs: list[str]) -> None:
    for account in accounts:
        for ref in refs:
            if ref in account.events:
                account.events[ref].kept = True


def judge_project(verdict: Verdict, project: str, accounts: list[Account], arrived: Arrived) -> None:
    certain: dict[str, Sent] = {}
    allowed: dict[str, Sent] = {}
    for account in accounts:
        judge_end(verdict, account, arrived)
        judge_sums(verdict, account, arrived)
        for ref, sent in account.events.items():
            if (sent.returned and sent.event_id is None) or account.kind == "wrong":
                continue
            allowed[ref] = sent
            held = sent.kept and account.kind != "revoked"  # nobody has the key any more that it would need
            if sent.event_id is not None and (sent.acknowledged or held or flushed(account)):
                certain[ref] = sent
    acknowledged = sum(sent.acknowledged for sent in allowed.values())
    unsure = len(allowed.keys() - certain.keys())
    came = len((allowed.keys() - certain.keys()) & arrived.times.keys())
    kept = sum(sent.kept for sent in allowed.values())
    verdict.figures.append(
        f"{project}: {len(allowed):,} events sent by {len(accounts)} processes: {acknowledged:,} seen acknowledged, "
        f"{kept:,} found in files, {len(certain):,} must arrive, {unsure:,} may, of which {came:,} did"
    )
    judge_events(verdict, project, arrived, certain, allowed, once=True)


def flushed(account: Account) -> bool:
    """Whether it ended in order with everything acknowledged, and it is known which of its events were dropped."""
    end = account.ended
    return end is not None and end["flushed"] and not end["unknown"]


def judge_end(verdict: Verdict, account: Account, arrived: Arrived) -> None:
    """Of an app that ended in order every event is there or counted as dropped; one without a good key kept its own."""
    end = account.ended
    if account.calm and end is None:
        verdict.faults.append(f"{account.name} was never to be killed, and did not end")
    if end is None or not end["flushed"]:
        if end is not None and account.kind not in ("revoked", "wrong", "child"):
            verdict.faults.append(f"{account.name} had a minute to flush, and did not: {end}")
        return
    there = sum(ref in arrived.times for ref in account.events)
    numbered = sum(sent.event_id is not None for sent in account.events.values())
    what = f"events of {account.name} with an id but for those dropped, and there"
    verdict.equal(what, numbered - end["unknown"], there)


def judge_sums(verdict: Verdict, account: Account, arrived: Arrived) -> None:
    """Sums never above what was counted; and exactly that, or at least what was acknowledged, where that is known."""
    amount, _ = arrived.by_tag("producer", "chaos.amount").get(account.name, (0, 0))
    sizes, values = arrived.by_tag("producer", "chaos.size").get(account.name, (0, 0))
    what = f"of {account.name} and there"
    if amount > account.amount or sizes > account.amount or values > account.counted:
        verdict.faults.append(
            f"more than was counted {what}: {amount:,} and {sizes:,} of {account.amount:,}, {values:,} values of "
            f"{account.counted:,}"
        )
    end, settled = account.ended, account.settled
    if end is not None and end["flushed"] and not dropped_points(end):
        verdict.equal(f"the sum {what}", end["amount"], round(amount))
        verdict.equal(f"the sum of values {what}", end["amount"], round(sizes))
        verdict.equal(f"values {what}", end["points"], values)
    elif settled is not None and not dropped_points(settled):
        least, points = settled["amount"], settled["points"]
        if amount < least or sizes < least or values < points:
            verdict.faults.append(
                f"less than was acknowledged {what}: {amount:,} and {sizes:,} of {least:,}, {values:,} values of "
                f"{points:,}"
            )


def dropped_points(entry: dict[str, Any]) -> bool:
    return any(reason.startswith("metric.") for reason in entry["dropped"])


def judge_apart(verdict: Verdict, accounts: list[Account], has: dict[str, Arrived]) -> None:
    """Nothing of one customer's at another's, and nothing at all of somebody without a key."""
    for project, arrived in has.items():
        others = {account.name for account in accounts if account.project != project or account.kind == "wrong"}
        foreign = (ref for ref in arrived.times if ref.rpartition("-")[0] in others)
        verdict.among(f"events at {project} that are another's", foreign)
        verdict.among(f"counters at {project} that are another's", arrived.by_tag("producer").keys() & others)


def judge_revoked(
    verdict: Verdict, accounts: list[Account], has: dict[str, Arrived], timeline: list[dict[str, Any]]
) -> None:
    at = {entry["slot"]: entry["wall_ms"] for entry in timeline if entry["what"] == "key revoked"}
    for account in accounts:
        revoked = at.get(account.name.rpartition("-")[0])
        if account.kind != "revoked" or revoked is None:
            continue
        late = [
            ref
            for ref, sent in account.events.items()
            if ref in has[account.project].times and sent.event_id and made_ms(sent.event_id) > revoked + REVOKED_MS
        ]
        verdict.among(f"{account.name}: taken although its key had been revoked", late)
        there = sum(ref in has[account.project].times for ref in account.events)
        verdict.figures.append(f"{account.name}: {there:,} of {len(account.events):,} events, the others after its key")


def made_ms(event_id: str) -> int:
    """The time in a UUIDv7, which its client made (RFC 9562, section 5.7)."""
    return int(event_id.replace("-", "")[:12], 16)


def judge_calls(verdict: Verdict, accounts: list[Account], timeline: list[dict[str, Any]]) -> None:
    """The longest calls, without the time that their process was stopped or not run by the machine."""
    longest, calls, waited = 0.0, 0, 0.0
    for account in accounts:
        calls += account.ended["calls"] if account.ended else 0
        for slow in account.slow:
            own = slow["took"] - slow["limit"] - slow["starved"] - stopped(account, slow, timeline)
            longest, waited = max(longest, own), max(waited, slow["starved"])
            if own > CALL_S:
                verdict.faults.append(f"{account.name}: a call took {own:.3f} s of its own, not {CALL_S} s: {slow}")
    verdict.figures.append(
        f"no call took longer than {max(longest, 0.02) * 1000:.0f} ms of its own ({calls:,} counted; the machine "
        f"itself held one up for {waited * 1000:.0f} ms)"
    )


def stopped(account: Account, slow: dict[str, Any], timeline: list[dict[str, Any]]) -> float:
    """Seconds of a call in which its process was stopped by the run."""
    slot = account.name.rpartition("-")[0]
    began: float | None = None
    total = 0.0
    for entry in timeline:
        if entry["what"] == f"{slot} stopped":
            began = entry["t"]
        elif entry["what"] == f"{slot} goes on" and began is not None:
            total += max(0.0, min(entry["t"], slow["began"] + slow["took"]) - max(began, slow["began"]))
            began = None
    return total


def judge_books(verdict: Verdict, project: str, arrived: Arrived, evidence: dict[str, Any]) -> None:
    """The gateway's books of what came directly say what its store has."""
    counts = evidence["counts"][project]
    stored = len(arrived.weights)
    verdict.equal(f"{project}: events counted, and in the store", counts["events"] + counts["exceptions"], stored)
    verdict.equal(f"{project}: points counted, and in the store", counts["points"], arrived.points())
    verdict.equal(f"{project}: events under a known id with other content", counts["conflicts"], 0)
    stands_for, points = arrived.stands_for(), arrived.by_tag("service")
    for agent in evidence["ledger"][project]["agents"]:
        verdict.among(f"{project}: the books do not balance", map(str, agent["imbalances"]))
        for row in agent["books"]:
            what = f"{project}: {row['book']} of {row.get('source', 'all')}"
            if row["book"] == "events":
                verdict.equal(f"{what}: received, and in the store", row["received"], stands_for.pop(row["source"], 0))
            elif row["book"] == "points_in":
                there = points.pop(row["source"], (0, 0))[1]
                verdict.equal(f"{what}: journaled, and in the store", row["journaled"], there)
            elif row["book"] == "points_out":
                verdict.equal(f"{what}: delivered, and in the store", row["delivered"], arrived.points())
    verdict.among(f"{project}: without a book", [*stands_for, *points])
