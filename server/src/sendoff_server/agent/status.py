"""What the agent says about itself: one object, from which the page, `sendoff status` and tests all read.

Its keys are stable; new ones may come. Counts are running totals since the spool was created where they stand in
`books`, since this process began everywhere else.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sendoff_server.inputs import DatagramInput, Input
from sendoff_server.ledger import Books
from sendoff_server.settings import Settings
from sendoff_server.spool import Spool
from sendoff_server.version import __version__

if TYPE_CHECKING:
    from sendoff_server.agent.agent import Agent

MAX_CLIENTS_SHOWN = 1_000
HIDDEN = ("refused", "next_n", "folded")
"""What only the agent needs of a client."""
KEYS = {
    "version": "of this program",
    "core": "which core runs: python or rust",
    "phase": "starting, running or stopping",
    "first_look": "whether it runs in `sendoff dev`, which places and connects it by itself",
    "ready": "whether it listens and its spool takes what comes",
    "why_not_ready": "a sentence, or null",
    "host": "the name of this host in what is sent on",
    "agent": "the id of this spool, 32 hex digits",
    "pid": "process id",
    "started": "Unix ms",
    "now": "Unix ms",
    "uptime_s": "seconds",
    "memory_bytes": "resident memory",
    "addresses": "where it listens: input name, web, control",
    "inputs": "a list: name, address, per_second, what it counted, frames, lines, refused_frames {reason: n}",
    "clients": "a list of client memos (wire format, section 6), live ones first, at most 1,000",
    "clients_known": "how many there are",
    "books": "events, points_in, points_out, lines, folded_clients (lists); balanced, imbalances; in_windows: windows "
    "whose points are not journaled yet, and so in no book",
    "outputs": "a list: name, type, url, state, last_error, next_try_s, oldest_pending_ms, shelved, counters",
    "spool": "path, used_bytes, limit_bytes, commits, failures, waiting, blocked (a sentence or null), queued, "
    "unknown: what is lost and cannot be counted, a list of {at, why, kept}; damaged: "
    "what is wrong with its file since it was opened, or null",
    "dead_letters": "a list, the newest 100",
    "kernel_drops": "datagrams the kernel dropped, by input",
    "kernel_points": "points in those that are in the gaps of Sendoff's clients as well, by input: the same loss",
    "series": "series known to the core",
    "gauges": "gauges whose last value is kept",
    "overflow": "a list of {name, points}: the worst offenders against the limit of series",
    "notes": "repairs of accepted lines {note: n}",
    "rejected": "rejected lines {reason: n}, all sources together",
    "last_rejected": "the newest rejected line, scrubbed: {reason, line}, or null",
}


class Status:
    """Reads the agent's parts. Made once they are all there."""

    def __init__(self, agent: "Agent", spool: Spool, inputs: Sequence[Input], settings: Settings) -> None:
        self._agent = agent
        self._spool = spool
        self._inputs = inputs
        self._settings = settings
        self._started = agent._clock()
        self._began = agent._running()

    def why_not_ready(self) -> str | None:
        if self._agent.phase != "running":
            return f"the agent is {self._agent.phase}"
        if self._agent.committer.blocked is not None:
            return f"the spool takes no events: {self._agent.committer.blocked}"
        return None

    def kernel_drops(self) -> dict[str, int]:
        return {
            each.name: each.kernel_dropped
            for each in self._inputs
            if isinstance(each, DatagramInput) and each.name == "udp"
        }

    def totals(self) -> dict[str, int]:
        """What rates are made of: units of each input."""
        intake = self._agent.intake
        return {each.name: intake.frames[each.name] + intake.lines[each.name] for each in self._inputs}

    async def books(self) -> Books:
        """The ledger as it is now. Raises SpoolFailed."""
        return await self._agent.books()

    async def read(self) -> dict[str, Any]:
        """The whole object. Raises SpoolFailed when the disk does not give the books back."""
        agent = self._agent
        in_windows = agent.windows.open  # before the books: what is journaled in between is in them
        books, spool = await agent.books(), await self._spool.stats()
        core = agent.core.stats()
        imbalances = books.balance()
        reason = self.why_not_ready()
        dead = spool.pop("dead_letters")
        rejected: dict[str, int] = {}
        for book in books.lines:
            for why, n in book.rejected.items():
                rejected[why] = rejected.get(why, 0) + n
        return {
            "version": __version__,
            "core": core.core,
            "phase": agent.phase,
            "first_look": agent.first_look,
            "ready": reason is None,
            "why_not_ready": reason,
            "host": self._settings.agent.host,
            "agent": self._spool.agent_id,
            "pid": os.getpid(),
            "started": self._started,
            "now": agent._clock(),
            "uptime_s": round(agent._running() - self._began, 3),
            "memory_bytes": _memory(),
            "addresses": agent.addresses,
            "inputs": [self._input(each) for each in self._inputs],
            "clients": self._clients(),
            "clients_known": len(agent.clients),
            "books": {
                "balanced": not imbalances,
                "imbalances": imbalances,
                "events": [asdict(book) for book in books.events],
                "points_in": [asdict(book) for book in books.points_in],
                "points_out": [asdict(book) for book in books.points_out],
                "lines": [asdict(book) for book in books.lines],
                "folded_clients": [asdict(memo) for memo in books.folded_clients],
                "in_windows": in_windows,
            },
            "outputs": agent.delivery.status(),
            "spool": {**spool, "blocked": agent.committer.blocked, "queued": agent.committer.waiting},
            "dead_letters": dead,
            "kernel_drops": self.kernel_drops(),
            "kernel_points": {name: agent.clients.in_kernel[name] for name in self.kernel_drops()},
            "series": core.series,
            "gauges": core.gauges,
            "overflow": [{"name": name, "points": points} for name, points in core.overflow],
            "notes": core.notes,
            "rejected": rejected,
            "last_rejected": dict(zip(("reason", "line"), core.last_rejected, strict=True))
            if core.last_rejected
            else None,
        }

    def _input(self, each: Input) -> dict[str, Any]:
        intake = self._agent.intake
        shown: dict[str, Any] = {
            "name": each.name,
            "address": each.address,
            "per_second": round(self._agent.rates.per_second(each.name), 1),
            **asdict(each.counts),
            "frames": intake.frames[each.name],
            "lines": intake.lines[each.name],
            "refused_frames": dict(intake.refused.get(each.name, {})),
        }
        if isinstance(each, DatagramInput):
            shown["receive_buffer"] = each.receive_buffer
        else:
            shown |= {"open": each.open, "half_read_bytes": each.pending, "reading": not self._agent.committer.pressed}
        return shown

    def _clients(self) -> list[dict[str, Any]]:
        states = sorted(
            (client.state for client in self._agent.clients), key=lambda state: (state.state != "live", -state.seen)
        )
        return [
            {key: value for key, value in msgspec.to_builtins(state).items() if key not in HIDDEN}
            for state in states[:MAX_CLIENTS_SHOWN]
        ]


def _memory() -> int:
    """Resident memory in bytes; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
