"""What is brought to the disk from time to time beside events and windows: clients, storms, what destinations say.

None of it is lost when the disk refuses: it is tried again with the next tick.
"""

import logging
from collections.abc import Callable

from sendoff_server.delivery import Delivery
from sendoff_server.intake.clients import Clients
from sendoff_server.intake.commit import Committer
from sendoff_server.intake.storms import Storms
from sendoff_server.spool import Spool, SpoolError

log = logging.getLogger(__name__)


class Chores:
    """One agent's. `running` gives monotonic seconds."""

    def __init__(
        self,
        spool: Spool,
        clients: Clients,
        storms: Storms,
        committer: Committer,
        delivery: Delivery,
        running: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._clients = clients
        self._storms = storms
        self._committer = committer
        self._delivery = delivery
        self._running = running
        self._recognised: dict[str, int] = {}

    async def store_clients(self, most: int, *, fold: bool = False) -> bool:
        """Store the states of up to `most` clients that changed, and fold those that ended long ago into totals."""
        changed = self._clients.changed(most)
        try:
            if changed:
                await self._spool.put([], changed)
            old = self._clients.to_fold(self._running()) if fold or self._clients.crowded else []
            if old:
                await self._spool.put([], old)
                folded = set(await self._spool.fold_clients(1))  # their copies were seen at 0
                self._clients.folded(state for state in old if state.client in folded)
        except SpoolError as error:
            self._clients.again(changed)
            log.error("what is known of the clients could not be stored: %s", error)
            return False
        return True

    async def unfold(self) -> None:
        """Of each storm whose minute is over, let the one go out that stands for all."""
        keys = self._storms.over(self._running(), self._committer.given, self._committer.stored)
        try:
            if keys:
                await self._spool.unfold(keys)
        except SpoolError as error:
            self._storms.again(keys)
            log.error("%d folded exceptions wait for the disk: %s", len(keys), error)

    async def unfold_all(self) -> None:
        """At the end: let go out what is folded, whether its minute is over or not."""
        try:
            await self._spool.unfold()
        except SpoolError as error:
            log.error("what was folded goes out at the next start: %s", error)

    async def remember(self) -> None:
        """Keep what destinations say of repeats: who sends dead letters again is told when that is over."""
        said = self._delivery.recognised()
        try:
            for output, seconds in said.items():
                if self._recognised.get(output) != seconds:
                    await self._spool.remember(output, seconds)
            self._recognised = said
        except SpoolError as error:
            log.warning("what destinations say of repeats could not be stored: %s", error)
