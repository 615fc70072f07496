"""What every page of a project stands on: the project, the range of time, and whether its numbers can be trusted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote, urlencode

import apsw
from aiohttp import web
from markupsafe import Markup

from sendoff_server.gateway import books, look, params
from sendoff_server.gateway.api import Api
from sendoff_server.gateway.pages import charts, words

P = ParamSpec("P")
T = TypeVar("T")
SILENT_MS = 30_000
"""An agent reports its books every ten seconds; after three beats it is called silent."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The books of all agents of the project, in one line."""

    bar: Markup
    balanced: bool
    known: bool
    lost: int
    received: int


@dataclass(frozen=True, slots=True)
class Scope:
    project: str
    number: int
    within: params.Range
    now: int
    agents: list[dict[str, Any]]
    trust: Trust
    path: str
    query: dict[str, str]
    origin: str
    _api: Api

    @classmethod
    async def of(cls, api: Api, request: web.Request) -> "Scope":
        """Raises ``Problem`` when the reader may not see the project or the range is not valid."""
        number = await api.project(request)
        now = api.now()
        within = params.time_range(request.query, now)
        agents = (await api.read(look.ledger, number))["agents"]
        name = request.match_info["project"]
        return cls(
            name,
            number,
            within,
            now,
            agents,
            _trust(agents),
            request.path,
            dict(request.query),
            f"{request.scheme}://{request.host}",  # what a bad Host header holds is shown, never parsed
            api,
        )

    async def read(
        self, query: Callable[Concatenate[apsw.Connection, int, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Ask about this project."""
        return await self._api.read(query, self.number, *args, **kwargs)

    @property
    def ranges(self) -> list[tuple[str, bool]]:
        return [(name, name == self.within.name) for name in params.RANGES]

    @property
    def range_words(self) -> str:
        name = self.within.name
        return words.span(self.within.length) if name is None else f"{name[:-1]}{words.NBSP}{name[-1]}"

    @property
    def heard(self) -> int | None:
        """When an agent was heard of last."""
        return max((agent["received"] for agent in self.agents), default=None)

    @property
    def silent(self) -> list[dict[str, Any]]:
        """Agents that missed three beats. Who sends without an agent owes none."""
        return [agent for agent in self.agents if self.now - agent["received"] > SILENT_MS and not agent["direct"]]

    def with_range(self, name: str) -> str:
        """This very page in another range."""
        kept = {key: value for key, value in self.query.items() if key not in ("range", "from", "to", "cursor")}
        return "?" + urlencode(kept | {"range": name})

    def link(self, path: str = "", **query: str | int | None) -> str:
        """An address below the project that keeps the range."""
        kept: dict[str, str | int | None]
        kept = {"range": self.within.name} if self.within.name else {"from": self.within.start, "to": self.within.end}
        wanted = {name: value for name, value in (kept | query).items() if value not in (None, "")}
        if wanted.get("range") == "24h":
            del wanted["range"]
        text = urlencode(wanted)
        return f"/{self.project}/{quote(path)}" + (f"?{text}" if text else "")


def _trust(agents: list[dict[str, Any]]) -> Trust:
    all_books = [book for agent in agents for book in agent["books"]]
    sums = [books.add_up(all_books, name) for name in ("events", "points_out")]
    received = sum(one.received for one in sums)
    delivered = sum(one.delivered + one.folded for one in sums)
    pending = sum(one.pending for one in sums)
    lost = sum(one.lost_total + one.dead for one in sums)
    before = books.add_up(all_books, "points_in")
    lost += before.lost_total
    label = f"{received:,} received: {delivered:,} delivered, {pending:,} pending, {lost:,} lost"
    bar = charts.ledger_bar((("b-delivered", delivered), ("stripe", pending), ("hatch", lost)), label)
    return Trust(bar, all(agent["balanced"] for agent in agents), bool(agents), lost, received)
