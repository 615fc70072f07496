"""The outputs, asked directly: is the destination there, does it take the key, is its clock right; and what it stores.

A gateway is sent an empty body, which it refuses after it has looked at the key; any other destination a HEAD.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import aiohttp

from sendoff_server.doctor.probe import NAME
from sendoff_server.doctor.report import Fault
from sendoff_server.outputs.words import explain, explain_status
from sendoff_server.settings import OutputSettings
from sendoff_server.wire.batch import CONTENT_TYPE

TIMEOUT_S = 5.0
CLOCK_OFF_S = 30.0
PATH = "/v1/batches"
LONGEST_ANSWER = 4 * 2**20


@dataclass(slots=True)
class Destination:
    """One output's destination. ``projects``: at a gateway, those that may be looked at with the output's key."""

    name: str
    settings: OutputSettings
    session: aiohttp.ClientSession
    projects: list[str] = field(default_factory=list)
    counted: float = 0.0
    """The sum of the probe counter before this probe."""

    @property
    def is_gateway(self) -> bool:
        return self.settings.type == "gateway"

    @property
    def can_be_asked(self) -> bool:
        return self.is_gateway and bool(self.projects)

    async def examine(self) -> list[Fault]:
        """What is wrong with it."""
        if self.settings.url.lower().startswith("zmq+curve:"):
            from sendoff_server.doctor import zmq  # most outputs need no ZeroMQ

            return await zmq.examine(self.name, self.settings, TIMEOUT_S)
        url = self.settings.url.rstrip("/")
        if self.is_gateway and not url.endswith(PATH):
            url += PATH
        began = time.time()
        try:
            async with self.session.request(
                "POST" if self.is_gateway else "HEAD",
                url,
                data=b"" if self.is_gateway else None,
                headers={**self.settings.headers, **self._key(), "Content-Type": CONTENT_TYPE},
                allow_redirects=False,
            ) as answer:
                status, date = answer.status, answer.headers.get("Date", "")
                detail = _problem(await answer.content.read(65_536)) if self.is_gateway else ""
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            words = f"no answer within {TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else explain(error, url)
            remedy = "mend that; until then everything is kept in the spool"
            return [Fault(_code(error), f"output {self.name}: {words}", remedy)]
        faults = list(self._status(status, detail, url)) + list(self._clock(date, began, time.time()))
        if self.is_gateway and not faults:
            await self._learn_projects()
        return faults

    def _status(self, status: int, detail: str, url: str) -> Iterator[Fault]:
        words = f"output {self.name}: {explain_status(status, detail, url)}"
        if status in (401, 403):
            remedy = f"set outputs.{self.name}.key to what `sendoff gateway keys create PROJECT` printed"
            yield Fault("key_refused", words, remedy)
        elif 300 <= status < 400 or (self.is_gateway and status in (404, 405)):
            yield Fault("address_wrong", words, f"set outputs.{self.name}.url to the right address")
        elif status >= 500 or status == 429:
            remedy = "look at the destination's own log; everything is kept meanwhile"
            yield Fault("destination_failing", words, remedy)

    def _clock(self, date: str, began: float, ended: float) -> Iterator[Fault]:
        try:
            theirs = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        off = began - theirs if theirs < began else theirs - ended
        if off > CLOCK_OFF_S + 1:  # the header has whole seconds
            side = "ahead of" if theirs < began else "behind"
            words = f"the clock of this host is {off:,.0f} s {side} that of the destination of output {self.name}"
            remedy = "set both by NTP; until then times on the gateway's pages are wrong"
            yield Fault("clock_off", words, remedy)

    async def _learn_projects(self) -> None:
        found = await self.ask("projects")
        self.projects = [each["name"] for each in (found or {}).get("projects", [])]
        self.counted = await self.total()

    async def stored(self, event_id: str) -> bool:
        """Whether the gateway has an event."""
        for project in self.projects:
            if await self.ask(f"{quote(project, safe='')}/events/{event_id}"):
                return True
        return False

    async def total(self) -> float:
        """The sum of the probe counter, as the gateway knows it."""
        total = 0.0
        for project in self.projects:
            found = await self.ask(f"{quote(project, safe='')}/metrics/total?name={NAME}&range=24h")
            total += sum(each.get("sum", 0.0) for each in (found or {}).get("totals", []))
        return total

    async def ask(self, path: str) -> Any:
        """The gateway's JSON at a path of its API; None if it gives none."""
        base = self.settings.url.rstrip("/").removesuffix(PATH)
        try:
            async with self.session.get(f"{base}/api/v1/{path}", headers=self._key()) as answer:
                return json.loads(await answer.content.read(LONGEST_ANSWER)) if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None

    def _key(self) -> dict[str, str]:
        key = self.settings.key
        return {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}


def new_session() -> aiohttp.ClientSession:
    """What destinations are asked through."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar())


async def examine_all(destinations: list[Destination]) -> list[Fault]:
    """All at once: one that hangs costs the others nothing."""
    found = await asyncio.gather(*(each.examine() for each in destinations))
    return [fault for faults in found for fault in faults]


def _code(error: BaseException) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "certificate"
        case aiohttp.ClientConnectorDNSError():
            return "name_unknown"
        case aiohttp.ClientSSLError():
            return "tls"
    return "unreachable"


def _problem(body: bytes) -> str:
    try:
        found = json.loads(body)
        return str(found.get("detail") or found.get("title") or "")[:300]
    except (ValueError, AttributeError):
        return ""
