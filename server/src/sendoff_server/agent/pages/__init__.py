"""The status page, from the same object as `/status.json`. Its heading is the answer: is this host delivering?"""

import re
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

NBSP = "\u00a0"
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"))
INPUT_NAMES = {"unix": "Unix stream", "unix_datagram": "Unix datagram", "udp": "UDP", "tcp": "TCP", "zmq": "ZeroMQ"}


def render(status: dict[str, Any]) -> str:
    """The whole page."""
    kind, heading, sentences = verdict(status)
    rows = [_book(row, "events") for row in _by_output(status)] + [
        _book(row, "points") for row in status["books"]["points_out"]
    ]
    return _template().render(status=status, kind=kind, heading=heading, sentences=sentences, rows=rows)


def verdict(status: dict[str, Any]) -> tuple[str, str, list[str]]:
    """(good, warn or bad; the heading; what is behind it). What is worst comes first."""
    outputs = status["outputs"]
    books = status["books"]
    parked = [output["name"] for output in outputs if output["state"] == "parked"]
    waiting = [output["name"] for output in outputs if output["state"] == "waiting"]
    causes = [f"{o['name']}: {o['last_error']}" for o in outputs if o["state"] != "flowing" and o["last_error"]]
    if not books["balanced"]:
        return "bad", "The books do not balance", ["This is a defect of Sendoff’s.", *books["imbalances"][:3]]
    if status["spool"]["blocked"]:
        return "bad", "Nothing is acknowledged: the spool takes no events", [status["spool"]["blocked"]]
    if status["spool"]["damaged"]:
        return (
            "bad",
            "The spool is damaged: restart the agent, which rescues what can be read",
            [status["spool"]["damaged"]],
        )
    if parked:
        return "bad", f"Stopped delivering to {_and(parked)}, which needs a person", causes
    if waiting:
        held = "the others are not held up" if len(waiting) < len(outputs) else "everything is kept on this disk"
        count = f"{len(waiting)} of {len(outputs)} outputs not answering"
        return "warn", f"Delivering, but {_and(waiting)} is not answering", [f"{count}; {held}", *causes]
    if not outputs:
        return "warn", "Keeping everything, delivering nothing", ["No output is set up: add [outputs.NAME]."]
    if dead := sum(row["dead"] for row in books["events"] + books["points_out"]):
        return "warn", f"Delivering; {dead:,} were refused for good", ["They are kept as dead letters, below."]
    lost = sum(sum(row["lost"].values()) for row in books["events"] + books["points_in"] + books["points_out"])
    if lost:
        return "warn", f"Delivering; {lost:,} were lost on this host", ["Each with its reason, below."]
    if status["spool"]["unknown"]:
        return "warn", "Delivering; something was lost that nobody can count", ["When and why is said below."]
    if any(status["kernel_drops"].values()):
        n = sum(status["kernel_drops"].values())
        points = sum(status.get("kernel_points", {}).values())
        same = [f"{points:,} points in them are in the gaps of clients as well: the same loss."] if points else []
        return "warn", f"Delivering; the kernel dropped {n:,} datagrams", ["Raise inputs.udp.receive_buffer.", *same]
    received = sum(row["received"] for row in books["events"] + books["points_in"])
    return "good", "Everything that came in is accounted for" if received else "Ready; nothing has come yet", []


def _by_output(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The books of events, all sources of an output together."""
    rows: dict[str, dict[str, Any]] = {}
    for book in status["books"]["events"]:
        row = rows.setdefault(book["output"], {"output": book["output"], "lost": {}})
        for name, value in book.items():
            if isinstance(value, int):
                row[name] = row.get(name, 0) + value
        for reason, n in book["lost"].items():
            row["lost"][reason] = row["lost"].get(reason, 0) + n
    return [rows[name] for name in sorted(rows)]


def _book(row: dict[str, Any], what: str) -> dict[str, Any]:
    """One book as the table shows it: the bar's parts are widened so that the smallest can be seen."""
    received = row["received"] if what == "events" else row["journaled"]
    lost = sum(row["lost"].values()) + row["dead"]
    pending = row["pending"]
    parts = [row["delivered"] + row.get("folded", 0) + row["not_routed"], pending, lost]
    total = sum(max(part, received * 0.012) if part else 0 for part in parts) or 1
    bars, at = [], 0.0
    for css, part in zip(("b-delivered", "stripe", "hatch"), parts, strict=True):
        if part:
            width = max(part, received * 0.012) / total * 100
            bars.append((css, f"{at:.2f}%", f"{width:.2f}%"))
            at += width
    return {**row, "what": what, "received": received, "lost_total": lost, "bars": bars}


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def shown(text: object, most: int = 200) -> Markup:
    """Somebody else's text: cut, without control characters, and isolated from what turns the direction of writing."""
    whole = str(text)
    cut = _CONTROLS.sub("\ufffd", whole if len(whole) <= most else whole[: most - 1] + "…")
    return Markup("<bdi>{}</bdi>").format(cut)


def size(n: float) -> str:
    """Bytes for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= factor:
            return f"{n / factor:.3g}{NBSP}{unit}"
    return f"{n:.0f}{NBSP}B"


def span(seconds: float) -> str:
    """A duration for people: its two largest units."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for factor, unit in _SPANS:
        if left >= factor or parts:
            parts.append(f"{left // factor}{NBSP}{unit}")
            left %= factor
    return " ".join([*parts, f"{left}{NBSP}s"][:2])


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__name__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "size": size, "span": span, "n": lambda value: f"{value:,}"}
    environment.globals["input_names"] = INPUT_NAMES
    return environment.get_template("status.html")
