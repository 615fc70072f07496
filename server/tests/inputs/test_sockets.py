"""Where sockets are made, with which rights, in nobody's place."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sendoff_server.inputs import InputError, open_inputs
from sendoff_server.inputs.sockets import (
    default_unix_path,
    kernel_drops,
    listen_ip,
    listen_unix,
    make_directory,
    set_receive_buffer,
)
from sendoff_server.settings import InputsSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture
def uid() -> Iterator[int]:
    """A user id that owns nothing in /tmp; what a test makes for it is removed."""
    number = 3_000_000_000 + os.getpid()
    yield number
    left = Path(tempfile.gettempdir()) / f"sendoff-{number}"
    if left.is_symlink() or left.is_file():
        left.unlink()
    elif left.exists():
        left.rmdir()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_socket_has_its_mode_and_its_directory_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "agent.sock"
    make_directory(path, mode=0o660)
    listen_unix(path, STREAM, 0o620, "inputs.unix.path").close()
    assert mode_of(path) == 0o620
    assert mode_of(path.parent) == 0o755
    private = tmp_path / "private" / "agent.sock"
    make_directory(private, mode=0o600)
    assert mode_of(private.parent) == 0o700


def test_a_path_that_is_too_long_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"inputs\.unix\.path: .* is longer than the 107 bytes .*shorter"):
        listen_unix(tmp_path / ("x" * 108), STREAM, 0o660, "inputs.unix.path")


@pytest.mark.parametrize("kind", [STREAM, DGRAM])
def test_a_socket_file_that_nobody_answers_on_is_replaced(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "agent.sock"
    listen_unix(path, kind, 0o660, "here").close()
    inode = path.lstat().st_ino
    listen_unix(path, kind, 0o660, "here").close()
    assert path.lstat().st_ino != inode or path.exists()


@pytest.mark.parametrize("kind", [STREAM, DGRAM])
def test_a_socket_that_somebody_answers_on_is_left_alone(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "agent.sock"
    with listen_unix(path, kind, 0o660, "here"), pytest.raises(InputError, match="another agent answers on"):
        listen_unix(path, kind, 0o660, "here")
    assert path.exists()


def test_an_agent_whose_queue_is_full_counts_as_there(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(InputError, match="another agent answers on"):
            listen_unix(path, STREAM, 0o660, "here")


def test_another_file_in_its_place_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("precious")
    with pytest.raises(InputError, match="exists and is no socket"):
        listen_unix(path, STREAM, 0o660, "here")
    assert path.read_text() == "precious"


def test_a_stream_is_not_mistaken_for_a_datagram_socket(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with listen_unix(path, DGRAM, 0o660, "here"), pytest.raises(InputError, match="another type is in use"):
        listen_unix(path, STREAM, 0o660, "here")


def test_a_port_that_is_taken_is_refused_in_words() -> None:
    with listen_ip("127.0.0.1:0", STREAM, "inputs.tcp.listen") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"inputs\.tcp\.listen: cannot listen on .*:{port}: .*another port"):
            listen_ip(f"127.0.0.1:{port}", STREAM, "inputs.tcp.listen")


def test_if_one_input_cannot_listen_none_does(tmp_path: Path) -> None:
    with listen_ip("127.0.0.1:0", STREAM, "taken") as taken:
        port = taken.getsockname()[1]
        chosen = InputsSettings.model_validate(
            {
                "unix": {"path": str(tmp_path / "a.sock")},
                "udp": {"listen": "127.0.0.1:0"},
                "tcp": {"listen": f"127.0.0.1:{port}"},
            }
        )
        with pytest.raises(InputError, match=r"inputs\.tcp\.listen"):
            open_inputs(chosen, None, float)  # type: ignore[arg-type]
    assert not (tmp_path / "a.sock").exists()


def test_the_places_are_tried_in_the_order_of_the_wire_format(tmp_path: Path, uid: int) -> None:
    environ = {"SENDOFF_SOCKET": str(tmp_path / "own/x.sock"), "XDG_RUNTIME_DIR": str(tmp_path / "xdg")}
    assert default_unix_path(environ, uid, shared=tmp_path / "run") == tmp_path / "own/x.sock"
    del environ["SENDOFF_SOCKET"]
    assert default_unix_path(environ, uid, shared=tmp_path / "run") == tmp_path / "xdg/sendoff/agent.sock"
    assert default_unix_path({}, uid, shared=tmp_path / "run") == tmp_path / "run/sendoff/agent.sock"


def test_a_place_may_be_named_from_the_working_directory(
    tmp_path: Path, uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_unix_path({"SENDOFF_SOCKET": "agent.sock"}, uid) == Path("agent.sock")


def test_a_place_that_cannot_be_used_is_passed_over_and_in_the_end_all_are_named(tmp_path: Path, uid: int) -> None:
    """For root every directory is writable, so what is in the way is a file."""
    (tmp_path / "file").write_text("")
    environ = {"SENDOFF_SOCKET": str(tmp_path / "file/agent.sock"), "XDG_RUNTIME_DIR": str(tmp_path / "xdg")}
    assert default_unix_path(environ, uid, shared=tmp_path / "file") == tmp_path / "xdg/sendoff/agent.sock"
    del environ["XDG_RUNTIME_DIR"]
    with pytest.raises(InputError, match=r"set inputs\.unix\.path.*file.*must belong to user"):
        default_unix_path(environ, uid, shared=tmp_path / "file")


def test_the_directory_in_tmp_must_be_ones_own_closed_and_no_link(tmp_path: Path) -> None:
    path = tmp_path / "sendoff-0" / "agent.sock"
    make_directory(path, owner=os.getuid())
    assert mode_of(path.parent) == 0o700
    path.parent.chmod(0o755)
    with pytest.raises(InputError, match="closed to others"):
        make_directory(path, owner=os.getuid())
    path.parent.chmod(0o700)
    with pytest.raises(InputError, match="must belong to user"):
        make_directory(path, owner=os.getuid() + 1)
    link = tmp_path / "link"
    link.symlink_to(path.parent)
    with pytest.raises(InputError, match="is no directory"):
        make_directory(link / "agent.sock", owner=os.getuid())


def test_the_receive_buffer_is_asked_for_and_a_smaller_one_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listen_ip("127.0.0.1:0", DGRAM, "inputs.udp.listen") as sock:
        assert set_receive_buffer(sock, 65_536, "inputs.udp.receive_buffer") >= 65_536
        assert not caplog.records
        monkeypatch.setattr("sendoff_server.inputs.sockets.SO_RCVBUFFORCE", socket.SO_RCVBUF)
        given = set_receive_buffer(sock, 2**30 - 1, "inputs.udp.receive_buffer")
        assert given < 2**30 - 1
        assert f"sysctl -w net.core.rmem_max={2**30 - 1}" in caplog.text


def test_the_kernel_says_what_it_dropped() -> None:
    with listen_ip("127.0.0.1:0", DGRAM, "x") as sock, socket.socket(socket.AF_INET, DGRAM) as out:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        assert kernel_drops(sock) == 0
        for _ in range(100):
            out.sendto(b"x" * 500, sock.getsockname())
        kept = 0
        try:
            while sock.recv(1_000):
                kept += 1
        except BlockingIOError:
            pass
        assert kernel_drops(sock) == 100 - kept > 0
