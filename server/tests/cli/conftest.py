"""What the tests of the command share; the class is in `support`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.tests.cli.support import Sendoff


@pytest.fixture
def sendoff(tmp_path: Path) -> Iterator[Sendoff]:
    made = Sendoff(tmp_path)
    yield made
    made.end_all()
