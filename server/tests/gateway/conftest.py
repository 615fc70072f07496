"""A running gateway for each test that asks for one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .support import Running, running


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as started:
        yield started
