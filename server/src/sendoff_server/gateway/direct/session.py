"""One connection of a client without an agent: what a stream's session does, once it is known who is there.

The project and the client may have to be read from the store first. Frames wait meanwhile, bounded. Where nothing can
be taken, the client is told when to come again, and what follows on this connection is not looked at.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from sendoff_server.gateway.direct.client import DirectClient
from sendoff_server.gateway.direct.rounds import ENTRY_COSTS
from sendoff_server.gateway.store import Busy, DiskFailed
from sendoff_server.inputs import Link
from sendoff_server.inputs.kept import KeptSession
from sendoff_server.intake.intake import StreamSession
from sendoff_server.wire.frame import Frame, FrameError, Item, Lines, encode_again

if TYPE_CHECKING:
    from sendoff_server.gateway.direct.project import Project

log = logging.getLogger(__name__)

BLOCKED_S = 5.0
"""After how many seconds to come again while nothing can be stored."""
CROWDED_S = 60.0
OPENING_S = 10.0
"""Seconds in which a project and a client must be read."""
MOST_POINTS = 65_536
"""Bytes of lines in one frame: it is taken in at once, a few thousand series at worst. A Sendoff client puts half as
many into one.
"""
WAIT_ITEMS = 1_000
WAIT_BYTES = 2 * 1024 * 1024


class DirectSession:
    """See `inputs.Session`. ``client`` is known from the hello on."""

    def __init__(self, project: "Project", origin: str, link: Link) -> None:
        self._project = project
        self._origin = origin
        self._link = link
        self._inner: StreamSession | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: list[Item] = []
        self._waiting_bytes = 0
        self._greeted = False
        self._deaf = False
        self._over = False
        self._unsaid: float | None = None
        self.client = ""

    def __repr__(self) -> str:
        state = "deaf" if self._deaf else "open" if self._inner else "opening" if self._opening else "no hello yet"
        return f"<DirectSession {self._origin} {self.client[:8]} {state}>"

    def take(self, item: Item) -> None:
        if self._deaf:
            return
        if self._project.blocked:
            self.later(BLOCKED_S)
        elif self._inner is not None:
            self._go_on(self._inner, item)
        elif self._opening is not None:
            self._wait(item)
        elif isinstance(item, FrameError):
            self._project.refuse(item, self._origin)
        elif isinstance(item, Frame) and item.kind == "hello":
            self._open(item)
        else:
            self.later(0)

    def _go_on(self, inner: StreamSession, item: Item) -> None:
        """The answer to a hello may be hundreds of times its size: a connection has one."""
        if isinstance(item, Frame) and item.kind == "hello" and self._greeted:
            self.later(0)
            return
        self._greeted = True
        if isinstance(item, Frame) and item.kind == "metrics" and len(item.payload) > MOST_POINTS:
            detail = f"{len(item.payload):,} bytes of lines; at most {MOST_POINTS:,} are allowed"
            item = FrameError("payload_too_long", detail, client=item.client)
        inner.take(item)

    def later(self, seconds: float) -> None:
        """Nothing more is taken on this connection: tell the client to come again after so many seconds."""
        self._deaf = True
        self._let_go()
        self.say_later(seconds)

    def say_later(self, seconds: float) -> None:
        self._unsaid = None if self._link.reply(encode_again(seconds)) else seconds

    def failed(self) -> None:
        """A round could not be stored. Who waits for it is told to come again."""
        client = self.stored_as
        if client is not None and not client.is_stored and not self._deaf:
            self.later(BLOCKED_S)

    @property
    def stored_as(self) -> DirectClient | None:
        """The client, once it is known."""
        client = self._inner.client if self._inner is not None else None
        assert client is None or isinstance(client, DirectClient)
        return client

    def writable(self) -> None:
        if self._unsaid is not None:
            self.say_later(self._unsaid)
        elif self._inner is not None:
            self._inner.writable()

    def acknowledge(self) -> None:
        """Say what is stored."""
        if self._inner is not None:
            self._inner.acknowledge()

    def ended(self, *, orderly: bool) -> None:
        self._over = True
        self._project.sessions.discard(self)
        if self._inner is not None:
            self._inner.ended(orderly=orderly)
        elif self._opening is None:
            self._link.close()

    def keep(self) -> KeptSession:
        raise NotImplementedError("connections of clients without an agent do not outlive the process")

    async def opened(self) -> None:
        """Wait until what came so far was taken, or refused."""
        if self._opening is not None:
            await asyncio.shield(self._opening)

    def _open(self, hello: Frame) -> None:
        self.client = hello.client
        project = self._project
        if project.is_open and project.clients.knows(self.client):
            self._begin([hello])
        else:
            self._wait(hello)
            self._opening = asyncio.create_task(self._read(), name=f"open {self._origin} {self.client[:8]}")

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(OPENING_S):
                await self._project.know(self.client)
        except (Busy, DiskFailed, TimeoutError) as error:
            log.warning("a client cannot be let in now: %s", str(error) or "the store does not answer")
            self._fail(BLOCKED_S)
        except Exception:
            log.exception("a client cannot be let in")
            self._fail(BLOCKED_S)
        else:
            items = self._let_go()
            if not self._deaf:
                self._begin(items)
            elif self._over:
                self._link.close()
        finally:
            self._opening = None

    def _fail(self, seconds: float) -> None:
        if not self._deaf:
            self.later(seconds)
        if self._over:
            self._link.close()

    def _begin(self, items: list[Item]) -> None:
        if not self._project.has_room(self.client):
            self._fail(CROWDED_S)
            return
        self._inner = StreamSession(self._project.intake, self._origin, self._link)
        for item in items:
            self.take(item)
        if self._over:
            self._inner.ended(orderly=True)

    def _wait(self, item: Item) -> None:
        size = len(item.payload) if isinstance(item, Frame) else len(item.data) if isinstance(item, Lines) else 0
        size += ENTRY_COSTS
        if len(self._waiting) >= WAIT_ITEMS or self._waiting_bytes + size > WAIT_BYTES:
            self.later(1.0)
        else:
            self._waiting.append(item)
            self._waiting_bytes += size
            self._project.allowance.hold(size)

    def _let_go(self) -> list[Item]:
        """What waited."""
        self._project.allowance.release(self._waiting_bytes)
        items, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return items
