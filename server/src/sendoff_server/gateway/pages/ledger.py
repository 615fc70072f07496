"""Can I trust the numbers?"""

from typing import Any

from aiohttp import web

from sendoff_server.gateway import books, look
from sendoff_server.gateway.books import Statement
from sendoff_server.gateway.pages import charts, words
from sendoff_server.gateway.pages.scope import Scope

Json = dict[str, Any]
MEMOS = ("frames", "kernel", "folded", "later")
ROWS = (
    ("delivered", "Delivered", "b-delivered"),
    ("folded", "Folded into an earlier one", "b-delivered"),
    ("pending", "Pending", "stripe"),
    ("dead", "Dead letters", "hatch"),
    ("not_routed", "Not routed", "f0"),
)


async def page(scope: Scope, request: web.Request) -> Json:
    all_books = [book for agent in scope.agents for book in agent["books"]]
    outputs = sorted({book["output"] for book in all_books if isinstance(book.get("output"), str)})
    statements = [_statement(all_books, output) for output in outputs[:6]]
    before = books.add_up(all_books, "points_in")
    return {
        "page": "ledger",
        "heading": _heading(scope),
        "lede": _lede(scope),
        "statements": statements,
        "points_in": before,
        "points_in_lost": sorted(before.lost.items()),
        "agents": [_agent(agent, scope) for agent in scope.agents],
        "counts": await scope.read(look.counts),
    }


def _heading(scope: Scope) -> str:
    if not scope.agents:
        return "No agent has reported its books yet"
    if not scope.trust.balanced:
        return "The books do not balance"
    if scope.silent:
        return f"The books balance; {words.plural(len(scope.silent), 'agent is', 'agents are')} silent"
    return "Every message is accounted for"


def _lede(scope: Scope) -> str:
    if not scope.agents:
        return ""
    trust = scope.trust
    lost = f"{trust.lost:,} were lost, each with its reason" if trust.lost else "none were lost"
    return f"{trust.received:,} events and metric points since the agents' books began; {lost}."


def _statement(all_books: list[Json], output: str) -> Json:
    """One output's books, events beside metric points, summed over agents and sources."""
    own = [book for book in all_books if book.get("output") == output]
    columns = [books.add_up(own, "events"), books.add_up(own, "points_out")]
    rows = [
        {"label": label, "shape": shape, "values": [getattr(column, name) for column in columns]}
        for name, label, shape in ROWS
    ]
    rows = [row for row in rows if any(row["values"]) or row["label"] in ("Delivered", "Pending")]
    reasons = sorted({reason for column in columns for reason in column.lost})
    return {
        "output": output,
        "received": [column.received for column in columns],
        "rows": rows,
        "lost": [column.lost_total for column in columns],
        "reasons": [(reason, [column.lost.get(reason, 0) for column in columns]) for reason in reasons],
        "balanced": not any(column.off for column in columns),
        "sums": [_sum(column) for column in columns],
    }


def _sum(column: Statement) -> int:
    named = column.delivered + column.folded + column.pending + column.dead + column.not_routed
    return named + column.lost_total


def _agent(agent: Json, scope: Scope) -> Json:
    events, points = (books.add_up(agent["books"], name) for name in ("events", "points_out"))
    arrived = books.add_up(agent["books"], "points_in")
    lost = events.lost_total + points.lost_total + arrived.lost_total
    delivered = events.delivered + events.folded + points.delivered
    pending = events.pending + points.pending
    received = events.received + points.received
    dead = events.dead + points.dead
    label = f"{received:,} received: {delivered:,} delivered, {pending:,} pending, {lost + dead:,} lost or dead letters"
    clients = [memo for memo in agent["memos"] if memo.get("memo") == "client"]
    return {
        "host": agent["host"] or "unnamed host",
        "id": agent["agent"],
        "silent": agent in scope.silent,
        "heard": words.ago(agent["received"], scope.now),
        "balanced": agent["balanced"],
        "received": received,
        "delivered": delivered,
        "pending": pending,
        "dead": dead,
        "lost": lost,
        "bar": charts.ledger_bar((("b-delivered", delivered), ("stripe", pending), ("hatch", lost + dead)), label),
        "verdict": _verdict(agent),
        "clients": [_client(memo, scope.now) for memo in clients[:200]],
        "clients_left_out": max(len(clients) - 200, 0),
        "memos": [_memo(memo) for memo in agent["memos"] if memo.get("memo") in MEMOS],
        "books": [_book(book) for book in agent["books"]],
    }


def _verdict(agent: Json) -> str:
    if agent["balanced"]:
        return "Its books balance: what came in equals what was delivered, waits, or was lost with a reason."
    first = agent["imbalances"][0]
    book, off = first["book"], first["off"]
    source = words.plain(book.get("source") or book.get("output") or "")
    return f"The book {book['book']} of {source} is off by {off:,}. Please report this: it is a fault of Sendoff."


def _book(book: Json) -> Json:
    total, parts, by_reason = books.PARTS[book["book"]]
    terms = [(name.replace("_", " "), book.get(name, 0)) for name in parts if book.get(name, 0)]
    terms += [(f"{by_reason}: {reason}", n) for reason, n in sorted(book.get(by_reason, {}).items())]
    where = " to ".join(str(book[name]) for name in ("source", "output") if isinstance(book.get(name), str))
    return {
        "name": book["book"].replace("_", " "),
        "where": where,
        "total": book.get(total, 0),
        "terms": terms,
        "off": books.imbalance(book),
    }


def _client(memo: Json, now: int) -> Json:
    dropped = memo.get("dropped") if isinstance(memo.get("dropped"), dict) else {}
    seen = memo.get("seen")
    return {
        "service": words.cut(memo.get("service") or "unknown", 100),
        "pid": memo.get("pid"),
        "lib": words.cut(memo.get("lib") or "", 100),
        "release": words.cut(memo.get("release") or "", 60),
        "state": words.cut(memo.get("state") or "unknown", 20),
        "seen": words.ago(seen, now) if isinstance(seen, int) and not isinstance(seen, bool) else "",
        "events": _number(memo.get("events")),
        "points": _number(memo.get("points")),
        "gap": _number(memo.get("gap")),
        "dropped": sorted((dropped or {}).items()),
    }


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _memo(memo: Json) -> str:
    if memo["memo"] == "kernel":
        said = (
            f"The kernel dropped {_number(memo.get('dropped')):,} datagrams at {words.plain(memo.get('socket'), 100)}"
        )
        if points := _number(memo.get("points")):
            said += f", and in them {points:,} points that the gaps of clients name as well: one loss"
        return f"{said}."
    if memo["memo"] == "folded":
        said = (
            f"{words.plural(_number(memo.get('clients')), 'client')} of {words.plain(memo.get('service'), 100)} ended"
        )
        said += f" long ago: {_number(memo.get('events')):,} events, {_number(memo.get('points')):,} points"
        return f"{said}, {_number(memo.get('gap')):,} missing, dropped by them: {_reasons(memo.get('dropped'))}."
    if memo["memo"] == "later":
        return f"Told to come again later, as too much came at once: {_reasons(memo.get('reasons'))}."
    return f"Frames refused at {words.plain(memo.get('input'), 100)}: {_reasons(memo.get('refused'))}."


def _reasons(counts: object) -> str:
    listed = counts.items() if isinstance(counts, dict) else ()
    return words.plain(", ".join(f"{reason} {_number(n):,}" for reason, n in sorted(listed)) or "none", 300)
