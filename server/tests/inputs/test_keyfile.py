"""The key of a server over ZeroMQ: made once, readable by its user alone, never made anew in another's place."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sendoff_server.inputs import InputError
from sendoff_server.inputs.zmq.keyfile import NAME, server_pair
from sendoff_server.wire.curve import from_text, to_text


def test_the_pair_is_made_once_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first = server_pair(folder)
    assert server_pair(folder) == first
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600
    assert [each.name for each in folder.iterdir()] == [NAME]
    assert (len(first.public), len(first.secret)) == (32, 32)
    assert first.public != first.secret


def test_who_begins_at_once_gets_one_and_the_same_pair(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: server_pair(tmp_path), range(8)))) == 1


@pytest.mark.parametrize("damage", [b"", b"short", b"\xff" * 43, b"A" * 44])
def test_a_file_that_holds_no_key_is_an_error_and_stays_as_it_is(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(damage)
    (tmp_path / NAME).chmod(0o600)
    with pytest.raises(InputError, match=NAME):
        server_pair(tmp_path)
    assert (tmp_path / NAME).read_bytes() == damage


def test_a_file_that_others_can_read_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    server_pair(tmp_path)
    (tmp_path / NAME).chmod(0o640)
    with pytest.raises(InputError, match=r"can be read by others \(mode 0640\).*chmod 600"):
        server_pair(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_root_makes_for_a_server_of_another_user_is_that_users(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, 12_345, 12_345)
    server_pair(folder)
    found = (folder / NAME).stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (12_345, 0o600)


def test_a_folder_that_cannot_be_written_to_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(InputError, match="data"):
        server_pair(tmp_path / "data")


def test_a_key_is_43_characters_that_an_address_can_hold(tmp_path: Path) -> None:
    text = to_text(server_pair(tmp_path).public)
    assert len(text) == 43
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert to_text(from_text(text)) == text
