"""What the doctor says: hops with their times, and faults with their remedies."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Probe = Literal["event", "counter"]
Arrival = Literal["arrived", "under way", "failed"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: a stable word, a sentence, and what to do about it.

    ``serious``: it costs messages, or will; else it is only good to know, and changes no exit code.
    """

    code: str
    words: str
    remedy: str
    serious: bool = True


@dataclass(slots=True)
class Hop:
    """One step of a probe's way. ``ms``: since the probe was sent, None while it is not known."""

    probe: Probe
    name: str
    state: Arrival = "under way"
    ms: float | None = None
    detail: str = ""

    def arrive(self, ms: float, detail: str = "") -> None:
        if self.state == "under way":
            self.state, self.ms, self.detail = "arrived", round(max(ms, 0.0), 1), detail

    def fail(self, detail: str) -> None:
        if self.state == "under way":
            self.state, self.detail = "failed", detail


@dataclass(slots=True)
class Report:
    """All of it."""

    event: str
    """The probe event's id."""
    hops: list[Hop] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Everything arrived, and nothing serious is wrong."""
        arrived = all(hop.state == "arrived" for hop in self.hops)
        return bool(self.hops) and arrived and not any(fault.serious for fault in self.faults)

    def as_json(self) -> dict[str, Any]:
        return {
            "well": self.well,
            "event": self.event,
            "hops": [asdict(hop) for hop in self.hops],
            "faults": [asdict(fault) for fault in self.faults],
        }
