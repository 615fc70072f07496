"""Who may come by ZeroMQ, and what is done with what they send: one `Reception` for all customers.

Keys are looked up in memory, for each connection that is made; what the table says is read again twice a second, as
`sendoff gateway keys` changes it from another process. What a key may do is bounded: connections a second, those that
never say anything, batches on their way. What a project may send is bounded by its `Allowance`, over HTTP as well.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sendoff_server.gateway import batch_frames
from sendoff_server.gateway.direct import Direct
from sendoff_server.gateway.ingest import Ingest
from sendoff_server.gateway.keys import Holder
from sendoff_server.gateway.problems import retry_later
from sendoff_server.inputs.contract import Link, Session
from sendoff_server.wire.batch_frame import BatchFrame, decode_batch_frame, encode_problem
from sendoff_server.wire.frame import FrameError, encode_again

log = logging.getLogger(__name__)

ORIGIN = "zmq"
CONNECTIONS_A_S = 20.0
CONNECTIONS_AT_ONCE = 500.0
"""Connections that one key may make: a whole fleet at once, then so many a second."""
MUTE_MOST = 100
"""Connections that said nothing, of one key in WINDOW_S seconds. No client makes such; who guesses routing ids does."""
WINDOW_S = 600.0
LOCKED_S = 600.0
LEAST = 512
"""Bytes that a message counts for at least: a flood of tiny ones costs time, and not bytes."""
BATCHES_HELD = 33_554_432
"""Bytes of batches of one key that are on their way to the store; others are to come a second later."""


@dataclass(slots=True, eq=False)
class Customer:
    """One key that works. `let_in`, `met`: connections that ZAP let in, and that said something, in this window."""

    holder: Holder
    public: bytes
    tokens: float = CONNECTIONS_AT_ONCE
    tokens_at: float = 0.0
    let_in: int = 0
    met: int = 0
    window_at: float = 0.0
    locked_until: float = 0.0
    batches: int = 0
    distrusted: int = 0

    @property
    def user(self) -> str:
        return str(self.holder.key)


class Customers:
    """See `inputs.zmq.reception.Reception`. `clock`: monotonic seconds."""

    lines = False

    def __init__(self, direct: Direct, ingest: Ingest, clock: Callable[[], float]) -> None:
        self._direct = direct
        self._ingest = ingest
        self._clock = clock
        self._by_key: dict[bytes, Customer] = {}
        self._by_user: dict[str, Customer] = {}
        self._answering: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Customers {len(self._by_key)} keys, {len(self._answering)} batches on their way>"

    def __len__(self) -> int:
        return len(self._by_key)

    # ---- keys ----

    def refresh(self, known: Mapping[bytes, Holder]) -> list[str]:
        """These keys work now, and no other. The users whose keys worked until now."""
        gone = [each for each in self._by_key.values() if known.get(each.public) != each.holder]
        for each in gone:
            del self._by_key[each.public], self._by_user[each.user]
        for public, holder in known.items():
            if public not in self._by_key:
                made = Customer(holder, public, tokens_at=self._clock())
                self._by_key[public] = self._by_user[made.user] = made
        return [each.user for each in gone]

    def allowed(self, public: bytes) -> str | None:
        """See `inputs.zmq.router.Allowed`."""
        customer = self._by_key.get(public)
        if customer is None:
            return None
        now = self._clock()
        grown = customer.tokens + (now - customer.tokens_at) * CONNECTIONS_A_S
        customer.tokens, customer.tokens_at = min(CONNECTIONS_AT_ONCE, grown), now
        if now - customer.window_at > WINDOW_S:
            customer.window_at, customer.let_in, customer.met = now, 0, 0
        if customer.let_in - customer.met > MUTE_MOST:
            self._lock_out(customer, f"{customer.let_in - customer.met} connections that said nothing")
        if now < customer.locked_until or customer.tokens < 1.0:
            self._told_later(customer, "connections")
            return ""
        customer.tokens -= 1.0
        customer.let_in += 1
        return customer.user

    def met(self, user: str) -> None:
        if (customer := self._by_user.get(user)) is not None:
            customer.met += 1

    def distrust(self, user: str, why: str, *, forged: bool) -> None:
        customer = self._by_user.get(user)
        if customer is None:
            return
        customer.distrusted += 1
        if forged:
            self._lock_out(customer, why)
        elif customer.distrusted & (customer.distrusted - 1) == 0:  # said at 1, 2, 4, 8 …
            log.warning("zmq: a client of key %s (%s) was cut off: %s", user, customer.holder.project_name, why)

    def _told_later(self, customer: Customer, reason: str) -> None:
        """Counted with what its project was refused otherwise: see the ledger page."""
        self._direct.project(customer.holder.project).allowance.refused[reason] += 1

    def _lock_out(self, customer: Customer, why: str) -> None:
        now = self._clock()
        if now >= customer.locked_until:
            words = "zmq: key %s (%s) may not connect for %g s: %s. If that was not a fault, revoke it"
            log.error(words, customer.user, customer.holder.project_name, LOCKED_S, why)
        customer.locked_until = now + LOCKED_S
        customer.window_at, customer.let_in, customer.met = now, 0, 0

    # ---- what they send ----

    def connected(self, link: Link, user: str) -> Session | float:
        customer = self._by_user.get(user)
        if customer is None:
            return 60.0  # revoked just now
        project = self._direct.project(customer.holder.project)
        project.use_key(customer.holder.key)
        return project.connected(ORIGIN, link)

    def admit(self, user: str, size: int) -> float:
        customer = self._by_user.get(user)
        size = max(size, LEAST)
        return self._direct.project(customer.holder.project).admit(size) if customer is not None else 60.0

    def batch(self, link: Link, user: str, data: bytes) -> bool:
        customer = self._by_user.get(user)
        try:
            frame = decode_batch_frame(data)
        except FrameError as error:
            link.reply(batch_frames.refuse(error))
            return True
        if frame is None:
            return False
        if customer is None:
            link.reply(encode_again(60.0))
        elif customer.batches and customer.batches + len(data) > BATCHES_HELD:
            self._put_off(link, customer, frame)
        else:
            customer.batches += len(frame.payload)
            task = asyncio.create_task(self._answer(link, customer, frame), name=f"batch of key {user}")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        return True

    def _put_off(self, link: Link, customer: Customer, frame: BatchFrame) -> None:
        """Too many on their way. Who goes on all the same is charged for it as for frames, and told to go."""
        self._told_later(customer, "batches")
        if wait := self._direct.project(customer.holder.project).admit(len(frame.payload)):
            link.reply(encode_again(wait))
            return
        detail = f"{customer.batches:,} bytes of this key are being stored"
        problem = retry_later("Too many batches at once", detail, 1, status=429)
        link.reply(encode_problem(frame.batch, problem.as_json(), problem.headers.get("Retry-After")))

    async def _answer(self, link: Link, customer: Customer, frame: BatchFrame) -> None:
        try:
            link.reply(await batch_frames.answer(self._ingest, customer.holder, frame))
        finally:
            customer.batches -= len(frame.payload)

    async def finish(self, seconds: float) -> None:
        """Wait for batches that are on their way."""
        if self._answering:
            await asyncio.wait(self._answering, timeout=seconds)
        for task in self._answering:
            task.cancel()
