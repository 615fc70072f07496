"""Keys are made and listed while another thread of the same process is writing to the store."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sendoff_server.gateway import keys
from sendoff_server.gateway.store.database import open_for_writing


@pytest.fixture
def busy_writer(tmp_path: Path) -> Iterator[None]:
    """A thread that holds the store's write lock until a quarter of a second after it began."""
    db = open_for_writing(tmp_path)
    begun = threading.Event()

    def write() -> None:
        db.execute("BEGIN IMMEDIATE")
        begun.set()
        threading.Event().wait(0.25)
        db.execute("COMMIT")
        db.close()

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    yield
    thread.join()


def test_a_key_is_made_as_soon_as_a_writer_in_the_same_process_lets_go(tmp_path: Path, busy_writer: None) -> None:
    assert keys.create(tmp_path, "shop").startswith("sk_")


def test_keys_are_listed_without_waiting_for_a_writer(tmp_path: Path, busy_writer: None) -> None:
    assert keys.list_keys(tmp_path) == []
