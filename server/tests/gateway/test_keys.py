"""Keys are made and listed while another thread of the same process is writing to the store."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sendoff_server.gateway import keys
from sendoff_server.gateway.address import public_address
from sendoff_server.gateway.store.database import open_for_writing
from sendoff_server.inputs import InputError
from sendoff_server.wire.curve import to_text


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


@pytest.mark.parametrize(
    ("listen", "public", "shown"),
    [
        ("0.0.0.0:8702", "gw.example:443", "gw.example:443"),
        ("0.0.0.0:8702", "", f"{socket.getfqdn()}:8702"),
        ("127.0.0.1:8702", "", "127.0.0.1:8702"),
        ("[::1]:8702", "", "[::1]:8702"),
        ("", "gw.example:443", "gw.example:443"),
    ],
)
def test_a_key_is_printed_with_an_address_that_its_clients_can_reach(listen: str, public: str, shown: str) -> None:
    assert public_address(listen, public) == shown


def test_no_address_is_made_up(tmp_path: Path) -> None:
    for listen in ("", "127.0.0.1:0"):
        with pytest.raises(InputError, match=r"set gateway\.zmq\.listen"):
            public_address(listen, "")


def test_of_a_key_for_zeromq_the_store_has_the_public_half_only_and_it_is_no_key_for_http(tmp_path: Path) -> None:
    pair = keys.create_curve(tmp_path, "shop")
    [listed] = keys.list_keys(tmp_path)
    assert (listed.curve, listed.hint) == (True, to_text(pair.public)[:7])
    db = open_for_writing(tmp_path)
    [holder] = keys.find_curve(db).values()
    assert holder.project_name == "shop"
    for presented in (pair.public, pair.secret):
        assert keys.find(db, to_text(presented)) is None
    assert all(pair.secret not in row for row in db.execute("SELECT * FROM keys"))
    db.close()
    assert keys.revoke(tmp_path, listed.id)
    assert keys.list_keys(tmp_path)[0].revoked
