"""Bodies of requests: read as they come on the wire, within a limit and a deadline, and never all of them at once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from sendoff_server.gateway.problems import Problem, retry_later

BODY_DEADLINE = 60.0
"""Seconds for a whole body. 8 MiB in that time is 1.1 Mbit/s; slower links send smaller bodies."""
BYTES_HELD = 67_108_864
"""Bytes of bodies held at once before senders are asked to come back."""


class Bodies:
    """The bodies of one kind of request. ``most``: bytes of one, ``smaller``: what to do about one that is larger."""

    def __init__(self, most: int, smaller: str) -> None:
        self._most = most
        self._smaller = smaller
        self._held: Counter[int] = Counter()

    @property
    def held(self) -> int:
        """Bytes that bodies being read have room for."""
        return self._held.total()

    @contextmanager
    def reserve(self, length: int | None, project: int) -> Iterator[None]:
        """Hold room for a body, so that many senders at once cannot take all memory. Raises ``Problem`` 413 or 503.

        A project that has room already may have no more than is then left, so that one, however many slow bodies it
        sends, leaves as much to the others.
        """
        if length is not None and length > self._most:
            raise self._too_large(length)
        size = self._most if length is None else length
        own, left = self._held[project], BYTES_HELD - self.held - size
        if left < 0 or (own and own + size > left):
            raise retry_later("The gateway is busy", f"{self.held:,} bytes of bodies are being read", 1)
        self._held[project] += size
        try:
            yield
        finally:
            self._held[project] -= size
            if not self._held[project]:
                del self._held[project]

    async def read(self, request: web.Request) -> bytes:
        """The raw body, never decompressed by the server underneath. Raises ``Problem`` 408, 413 or 400."""
        pieces = bytearray()
        try:
            async with asyncio.timeout(BODY_DEADLINE):
                async for piece in request.content.iter_any():
                    pieces += piece
                    if len(pieces) > self._most:
                        raise self._too_large(None)
        except TimeoutError:
            detail = f"{len(pieces):,} bytes came in {BODY_DEADLINE:g} s"
            headers = {"Connection": "close"}
            raise Problem(408, "The body came too slowly", detail, self._smaller, headers=headers) from None
        except (web.HTTPException, ConnectionError):
            raise
        except ValueError as error:
            raise Problem(
                400, "The body cannot be read", str(error)[:200], "check the transfer encoding", "body"
            ) from error
        return bytes(pieces)

    def _too_large(self, length: int | None) -> Problem:
        size = "more" if length is None else f"{length:,} bytes"
        detail = f"{size} on the wire; at most {self._most:,}"
        return Problem(413, "The body is too large", detail, self._smaller, "body", {"Connection": "close"})
