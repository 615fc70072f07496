"""The client of a process: holds the settings and the outbox, and hands on. Everything that may not raise is caught
here.
"""

from __future__ import annotations

import os
import random
import sys
import time
import weakref

from sendoff import frame, guard
from sendoff.content import payload
from sendoff.content.chain import MESSAGE, Capturer, mark, reported
from sendoff.content.fingerprint import custom, fingerprint
from sendoff.content.render import TooLarge, word
from sendoff.content.scrub import Scrubber
from sendoff.receipt import DROPPED, Receipt
from sendoff.scope import in_force
from sendoff.sending.holder import Durable
from sendoff.sending.outbox import Outbox
from sendoff.sending.routes import UdpRoute, UnixRoute
from sendoff.tally import Tally
from sendoff.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sendoff.sending.direct import DirectRoute
    from sendoff.sending.kept import Label
    from sendoff.sending.routes import Route
    from sendoff.settings import Settings

alive: weakref.WeakSet[Client] = weakref.WeakSet()
"""Clients with descriptors, for the child after a fork."""


class Client:
    """One set of settings at work."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.scrubber = Scrubber(settings.scrub)
        self._capturer = Capturer(settings, self.scrubber)
        self._start()
        alive.add(self)

    def _start(self) -> None:
        self._random = random.Random(int.from_bytes(os.urandom(8), "big")).random  # noqa: S311 - for sampling and jitter
        self.outbox = Outbox(self._route, self.settings.buffer, self._random, self.settings.linger)
        self.point = self.outbox.point
        self.named = self.outbox.named

    def _route(self, tally: Tally) -> Route:
        settings = self.settings
        who = {
            "service": settings.service,
            "env": settings.env,
            "release": settings.release,
            "host": frame.cut(os.uname().nodename, frame.STRING_LIMIT),
            "lib": f"sendoff-python/{__version__}",
        }
        scheme = settings.address.scheme
        if scheme.startswith(("zmq", "http")):
            from sendoff.sending.direct import DirectRoute, make_opener

            opener = make_opener(settings.address, settings.linger)
            direct = DirectRoute(settings.address, opener, new_client(), who, os.getpid(), tally, self._random)
            if settings.spool:
                self._keep(direct, who)
            return direct
        if scheme == "udp":
            return UdpRoute(settings.address, new_client, who, os.getpid(), tally, self._random)
        return UnixRoute(settings.address, new_client(), who, os.getpid(), tally, self._random)

    def _keep(self, direct: DirectRoute, who: Mapping[str, str]) -> None:
        """Give a route a spool, which can make routes for clients that are dead."""
        from sendoff.sending.direct import DirectRoute, make_opener
        from sendoff.sending.keep import Keep
        from sendoff.sending.kept import Label, hash_of

        settings = self.settings

        def route_of(dead: Label) -> DirectRoute:
            opener = make_opener(settings.address, 0.0)
            return DirectRoute(settings.address, opener, dead.client, dead.who, dead.pid, Tally(), self._random)

        channel = direct.channel
        label = Label(channel.client, who, os.getpid(), hash_of(settings.address.secret))
        channel.keep = Keep(
            settings.spool, label, settings.buffer, route_of, self._random, lambda: channel.held.to_write
        )

    @property
    def tally(self) -> Tally:
        """What was dropped, and errors of our own."""
        return self.outbox.tally

    @property
    def linger(self) -> float:
        """Seconds that the end may wait."""
        return self.settings.linger

    def event(self, name: str, fields: dict[str, object], receipt: Receipt | None = None) -> str | None:
        """See `sendoff.event`. With a `receipt`, that is told what becomes of it."""
        tally = self.outbox.tally
        reason = "invalid"
        try:
            if type(name) is str and name:
                return self._submit("event", payload.event(name, in_force(), self.scrubber, fields), receipt)
        except TooLarge:
            reason = "too_long"
        except RecursionError:
            tally.full_stack += 1
            return None
        except Exception as error:  # noqa: BLE001 - nothing may reach the application
            guard.keep(error, tally)
        tally.one(f"event.{reason}")
        if receipt is not None:
            receipt.settle(DROPPED, reason)
        return None

    def confirmed(self, name: str, fields: dict[str, object]) -> Receipt:
        """See `sendoff.event` with `confirm=True`."""
        receipt = Receipt()
        if self.event(name, fields, receipt) is None:
            receipt.settle(DROPPED, "invalid")  # unless it knows better: this is the recursion limit
        return receipt

    def exception(
        self,
        error: BaseException | None,
        *,
        tags: dict[str, object] | None = None,
        fields: dict[str, object] | None = None,
        fingerprint: list[str] | None = None,
        again: bool = True,
    ) -> str | None:
        """See `sendoff.capture_exception`. Not `again`: only if it was not reported already."""
        tally = self.outbox.tally
        try:
            error = sys.exc_info()[1] if error is None else error
            if not issubclass(type(error), BaseException) or error is None:
                tally.one("event.invalid")
                return None
            before = None if again else reported(error)
            return before or self._exception(error, tags or {}, fields or {}, fingerprint)
        except RecursionError:
            tally.full_stack += 1
        except Exception as wrong:  # noqa: BLE001 - nothing may reach the application
            guard.keep(wrong, tally)
            tally.one("event.invalid")
        return None

    def _exception(
        self, error: BaseException, tags: dict[str, object], fields: dict[str, object], own: list[str] | None
    ) -> str | None:
        chain = self._capturer.chain(error)
        group = custom([word(part) for part in own]) if own else fingerprint(chain)
        event_id = self._submit("exception", payload.exception(in_force(), self.scrubber, chain, group, tags, fields))
        if event_id is not None:
            mark(error, event_id)
        return event_id

    def log(self, template: str, message: str, logger: str, frame: dict[str, object]) -> str | None:
        """A log message without an exception, as one of the type `log` with one frame (`file`, `line`, `func`,
        `module`).
        """
        tally = self.outbox.tally
        try:
            place = self._capturer.place(
                str(frame["file"]), int(str(frame["line"])), str(frame["func"]), str(frame["module"])
            )
            chain = [{"type": "log", "message": self.scrubber.text(message[:MESSAGE]), "frames": [place]}]
            group = custom(["log", logger, template])
            return self._submit(
                "exception", payload.exception(in_force(), self.scrubber, chain, group, {"logger": logger}, {})
            )
        except RecursionError:
            tally.full_stack += 1
        except Exception as wrong:  # noqa: BLE001 - nothing may reach the application
            guard.keep(wrong, tally)
            tally.one("event.invalid")
        return None

    def _submit(self, kind: str, body: bytes, receipt: Receipt | None = None) -> str | None:
        if self.outbox.pid != os.getpid():  # a fork that ran no hooks
            self.after_fork()
        t = time.time_ns() // 1_000_000
        event_id = frame.uuid7(t, os.urandom(10))
        if receipt is not None:
            receipt.belongs_to(self.outbox, event_id)
        return event_id if self.outbox.submit(Durable(kind, event_id, t, body, receipt)) else None

    def flush(self, timeout: float) -> bool:
        """See `sendoff.flush`."""
        try:
            return self.outbox.flush(timeout)
        except RecursionError:
            self.outbox.tally.full_stack += 1
        except Exception as error:  # noqa: BLE001 - nothing may reach the application
            guard.keep(error, self.outbox.tally)
        return False

    def close(self, timeout: float | None) -> None:
        """See `sendoff.close`."""
        try:
            self.outbox.close(self.settings.linger if timeout is None else timeout)
        except RecursionError:
            self.outbox.tally.full_stack += 1
        except Exception as error:  # noqa: BLE001 - nothing may reach the application
            guard.keep(error, self.outbox.tally)

    def stats(self) -> dict[str, object]:
        """See `sendoff.stats`."""
        return self.outbox.stats()

    def after_fork(self) -> None:
        """In the child: close what was inherited, and begin anew under a new id. What the parent holds stays the
        parent's.
        """
        old = self.outbox
        try:
            if not old.ended:
                self._start()
        finally:
            old.abandon()

    def __repr__(self) -> str:
        return f"Client({self.settings.address}, {self.outbox})"


def new_client() -> str:
    """A client id: 16 random bytes in hex."""
    return os.urandom(16).hex()


def after_fork_in_child() -> None:
    """For `os.register_at_fork`."""
    for client in list(alive):
        try:
            client.after_fork()
        except Exception as error:  # noqa: BLE001 - a fork must not fail because of us
            guard.keep(error, client.outbox.tally)
