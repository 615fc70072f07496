"""The spool's folder and files at work: written by their owner, sent by an heir. Real files, locks and sockets; the
connection is the plain stream of a Unix socket, as what carries the frames does not matter here.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from clients.python.tests.peer import Peer, listening, until
from sendoff.frame import durable
from sendoff.sending import folder as folders
from sendoff.sending.direct import DirectRoute
from sendoff.sending.folder import ASIDE, MAKING, OURS, Folder
from sendoff.sending.keep import Keep, OwnFile
from sendoff.sending.kept import Found, Label, hash_of, look_through, record
from sendoff.sending.stream import SocketStream
from sendoff.sending.unix import open_unix
from sendoff.settings import Address
from sendoff.tally import Tally

WHO = {"service": "shop", "env": "test", "release": "7", "host": "web-1", "lib": "sendoff-python/0"}
KEY = hash_of("sk_secret")


class UnixOpener:
    """Connections to the tests' peer."""

    reaches = "", 0
    ready = True

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def open(self, host: str, family: int) -> SocketStream:
        return open_unix(self.path)

    def prepare(self) -> None: ...

    def close(self, left: float) -> None: ...

    def forget(self) -> None: ...


def label(client: str = "", key_hash: str = KEY) -> Label:
    return Label(client or os.urandom(16).hex(), WHO, os.getpid(), key_hash)


def frame_of(client: str, number: int, size: int = 0) -> bytes:
    event_id = f"00000000-0000-7000-8000-{number:012d}"
    body = b'{"name":"kept","fields":{"n":%d,"x":"%s"}}' % (number, b"x" * size)
    return durable(client, "event", number, event_id, 1, body, {})


def keep_for(spool: Path, socket_path: Path, of: Label, limit: int = 8_388_608) -> Keep:
    def route(dead: Label) -> DirectRoute:
        address, opener = Address("zmq+ipc", path=str(socket_path)), UnixOpener(socket_path)
        return DirectRoute(address, opener, dead.client, dead.who, dead.pid, Tally(), lambda: 0.1)

    return Keep(str(spool), of, limit, route, lambda: 0.0, lambda: False)


@contextmanager
def keeping(spool: Path, socket_path: Path, of: Label, limit: int = 8_388_608) -> Iterator[Keep]:
    keep = keep_for(spool, socket_path, of, limit)
    try:
        yield keep
    finally:
        keep.close(5.0)
        assert keep.done or not keep.runs


def leave(spool: Path, of: Label, numbers: range, settled: int = 0, size: int = 0) -> Path:
    """What a client leaves that is killed: a file that nobody has locked."""
    spool.mkdir(mode=0o700, exist_ok=True)
    path = spool / (of.client + OURS)
    data = of.to_bytes() + b"".join(record(number, frame_of(of.client, number, size)) for number in numbers)
    path.write_bytes(data + (record(settled) if settled else b""))
    path.chmod(0o600)
    return path


def found_in(path: Path) -> Found:
    data = path.read_bytes()
    return look_through(lambda at, count: data[at : at + count], len(data))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_a_frame_is_in_the_file_soon_after_it_got_its_number_and_gone_when_all_is_settled(
    spool: Path, socket_path: Path
) -> None:
    of = label()
    with keeping(spool, socket_path, of) as keep:
        for number in range(1, 101):
            keep.add(number, frame_of(of.client, number))
        path = spool / (of.client + OURS)
        until(lambda: keep.written and len(keep.kept()) == 100, "all is written")
        assert found_in(path).frames == 100
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(spool.stat().st_mode) == 0o700
        keep.settle(60)
        until(lambda: found_in(path).frames == 40, "the progress is noted")
        keep.settle(100)
        until(lambda: path.stat().st_size == len(of.to_bytes()), "it is empty but for its label")
        keep.add(101, frame_of(of.client, 101))
        until(lambda: found_in(path).frames == 1, "it is used again")
        keep.settle(101)
    assert list(spool.iterdir()) == [], "an owner that leaves nothing behind deletes its file"


def test_what_is_not_settled_at_the_end_is_left_for_an_heir(spool: Path, socket_path: Path) -> None:
    of = label()
    with keeping(spool, socket_path, of) as keep:
        for number in range(1, 11):
            keep.add(number, frame_of(of.client, number))
        keep.settle(4)
    assert keep.kept() == set(range(5, 11))
    assert found_in(spool / (of.client + OURS)).frames == 6


def test_a_file_that_is_mostly_settled_is_written_anew(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sendoff.sending.keep.COMPACT", 2_000)
    of, place = label(), Folder(str(spool))
    place.use()
    file = OwnFile(place, of)
    path = spool / (of.client + OURS)
    largest = 0
    for number in range(1, 400):
        file.append([(number, frame_of(of.client, number))])
        file.settle(number - 3)
        largest = max(largest, path.stat().st_size)
        assert file.end == path.stat().st_size
        assert {number for number, _ in file.marks} == set(range(max(1, number - 2), number + 1))
    assert found_in(path).frames == 3
    assert largest < 6_000
    assert place.take(path.name) is None, "it is locked all the time"
    file.close()
    place.close()


def test_an_heir_sends_what_the_dead_left_as_they_would_have_and_deletes_it(
    spool: Path, peer: Peer, socket_path: Path
) -> None:
    dead = [label() for _ in range(3)]
    for each in dead:
        leave(spool, each, range(3, 23), settled=7)
    with keeping(spool, socket_path, label()) as keep:
        keep.start()
        until(lambda: not list(spool.glob("*" + OURS)), "all files are sent and deleted")
        assert keep.heir.stats()["adopted"] == 3 * 15
        assert keep.heir.stats()["adopted_files"] == 3
    for each in dead:
        hello = next(got for got in peer.of("hello") if got.client == each.client)
        assert hello.body == {**WHO, "pid": each.pid, "resume_from": 8}
        assert [got.header["seq"] for got in peer.durable if got.client == each.client] == list(range(8, 23))
    assert not peer.of("bye")


def test_more_than_fits_a_portion_is_sent_whole(
    spool: Path, peer: Peer, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff.sending.heir.PORTION", 20_000)
    dead = label()
    leave(spool, dead, range(1, 301), size=900)
    with keeping(spool, socket_path, label()) as keep:
        keep.start()
        until(lambda: not list(spool.glob("*" + OURS)), "it is sent and deleted")
    assert [got.header["seq"] for got in peer.durable] == list(range(1, 301))


def test_an_heir_waits_for_a_gateway_that_is_not_there_yet(spool: Path, tmp_path: Path) -> None:
    dead, socket_path = label(), tmp_path / "late.sock"
    path = leave(spool, dead, range(1, 6))
    with keeping(spool, socket_path, label()) as keep:
        keep.start()
        until(lambda: "late.sock" in keep.trouble, "the trouble says what it waits for")
        assert path.exists()
        with listening(socket_path) as peer:
            until(lambda: not path.exists(), "it is sent")
            assert len(peer.durable) == 5


def test_what_an_heir_gives_up_is_counted(spool: Path, peer: Peer, socket_path: Path) -> None:
    peer.acknowledging, peer.hang_up_after = False, 2
    path = leave(spool, label(), range(1, 2))
    with keeping(spool, socket_path, label()) as keep:
        keep.start()
        until(lambda: not path.exists(), "the file is done", 20)
        until(lambda: not keep.heir.runs, "the heir is")
        assert keep.heir.refused == {"unacceptable": 1}


def test_a_file_whose_owner_lives_is_left_alone(spool: Path, peer: Peer, socket_path: Path) -> None:
    alive, dead = label(), label()
    path = leave(spool, alive, range(1, 4))
    leave(spool, dead, range(1, 4))
    with path.open("rb+") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        with keeping(spool, socket_path, label()) as keep:
            keep.start()
            until(lambda: keep.heir.adopted_files, "the other one is sent")
    assert {got.client for got in peer.durable} == {dead.client}
    assert path.exists()


def test_what_was_written_for_another_key_is_never_sent(spool: Path, peer: Peer, socket_path: Path) -> None:
    other, same = label(key_hash=hash_of("sk_of_another_customer")), label()
    path = leave(spool, other, range(1, 4))
    leave(spool, same, range(1, 4))
    with keeping(spool, socket_path, label()) as keep:
        keep.start()
        until(lambda: keep.heir.adopted_files and keep.heir.stats()["other_key"], "both were looked at")
        assert "1 file" in keep.trouble
        assert "another key" in keep.trouble
    assert {got.client for got in peer.durable} == {same.client}
    assert path.exists()


def test_of_a_damaged_file_the_good_part_is_sent_and_the_rest_is_counted(
    spool: Path, peer: Peer, socket_path: Path
) -> None:
    dead = label()
    path = leave(spool, dead, range(1, 11))
    data = bytearray(path.read_bytes())
    data[len(data) - 300] ^= 8
    path.write_bytes(data)
    good = found_in(path).frames
    assert 0 < good < 10
    with keeping(spool, socket_path, label()) as keep:
        keep.start()
        until(lambda: not path.exists(), "it is done with")
        assert keep.heir.damaged == 1
        assert keep.heir.damaged_bytes > 0
    assert [got.header["seq"] for got in peer.durable] == list(range(1, good + 1))


def test_files_that_nobody_can_read_are_set_aside_and_harm_nobody(spool: Path, peer: Peer, socket_path: Path) -> None:
    dead = label()
    leave(spool, dead, range(1, 4))
    named_like_another = leave(spool, label(), range(1, 4))
    named_like_another.rename(spool / ("f" * 32 + OURS))
    for number, garbage in enumerate((b"", b"garbage", b"sendoff1" + b"\xff" * 5000, dead.to_bytes()[:30])):
        (spool / (f"{number:032x}" + OURS)).write_bytes(garbage)
        (spool / (f"{number:032x}" + OURS)).chmod(0o600)
    (spool / "notes.txt").write_text("not ours")
    (spool / ("A" * 32 + OURS)).write_text("not named like ours")
    with keeping(spool, socket_path, label()) as keep:
        keep.start()
        until(lambda: keep.heir.adopted_files == 1 and keep.heir.damaged == 5, "all are dealt with")
        assert "set aside" in keep.trouble
    assert len(list(spool.glob("*" + ASIDE))) == 5
    assert (spool / "notes.txt").exists()
    assert (spool / ("A" * 32 + OURS)).exists()
    assert len(peer.durable) == 3


def test_no_more_unreadable_files_are_kept_than_ten(spool: Path, socket_path: Path) -> None:
    spool.mkdir(mode=0o700)
    for number in range(25):
        path = spool / (f"{number:032x}" + OURS)
        path.write_bytes(b"garbage")
        path.chmod(0o600)
    with keeping(spool, socket_path, label()) as keep:
        keep.start()
        until(lambda: keep.heir.damaged == 25, "all are set aside")
    assert len(list(spool.iterdir())) == folders.MAX_ASIDE


def test_links_and_files_that_others_could_have_written_are_not_touched(
    spool: Path, tmp_path: Path, peer: Peer, socket_path: Path
) -> None:
    elsewhere = leave(tmp_path / "elsewhere", label(), range(1, 4))
    good = leave(spool, label(), range(1, 4))
    (spool / ("a" * 32 + OURS)).symlink_to(elsewhere)
    (spool / ("b" * 32 + OURS)).hardlink_to(elsewhere)
    open_to_all = leave(spool, label(), range(1, 4))
    open_to_all.chmod(0o666)
    os.mkfifo(spool / ("c" * 32 + OURS))
    (spool / ("d" * 32 + OURS)).mkdir()
    with keeping(spool, socket_path, label()) as keep:
        keep.start()
        until(lambda: not good.exists(), "the good one is sent")
        until(lambda: not keep.heir.runs, "the heir has looked at all")
    assert {got.client for got in peer.durable} == {good.name.removesuffix(OURS)}
    assert elsewhere.exists()
    assert open_to_all.exists()


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_that_others_can_write_to_is_refused_and_said(spool: Path, socket_path: Path, mode: int) -> None:
    spool.mkdir()
    spool.chmod(mode)
    of = label()
    with keeping(spool, socket_path, of) as keep:
        keep.add(1, frame_of(of.client, 1))
        until(lambda: keep.trouble, "it is refused")
        assert "writable by nobody else" in keep.trouble
        assert keep.stats()["waiting"] == 1
        spool.chmod(0o700)
        until(lambda: keep.written, "it is used once that is mended")
        assert keep.trouble == ""


@pytest.mark.parametrize("name", ["link", "missing/spool"])
def test_a_folder_that_is_a_link_or_cannot_be_made_is_refused_and_said(
    tmp_path: Path, socket_path: Path, name: str
) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    of = label()
    with keeping(tmp_path / name, socket_path, of) as keep:
        keep.add(1, frame_of(of.client, 1))
        until(lambda: keep.trouble, "it is refused")
    assert list((tmp_path / "real").iterdir()) == []


def test_a_full_folder_takes_nothing_more_until_there_is_room(
    spool: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff.sending.keep.RETRY", 0.05)
    spool.mkdir(mode=0o700)
    large = spool / ("e" * 32 + ASIDE)
    with large.open("wb") as sparse:
        sparse.truncate(folders.MAX_BYTES)
    of = label()
    with keeping(spool, socket_path, of, limit=2_000) as keep:
        for number in range(1, 31):
            keep.add(number, frame_of(of.client, number))
        until(lambda: "64 MiB" in keep.trouble, "it is full")
        assert keep.unkept > 0, "beyond what may wait in memory nothing is kept"
        assert keep.unkept + int(str(keep.stats()["waiting"])) == 30
        large.unlink()
        until(lambda: keep.written, "what waited is written")
        assert len(keep.kept()) == 30 - keep.unkept
        assert keep.trouble == ""


def test_a_folder_with_too_many_files_takes_no_new_one(
    spool: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff.sending.keep.RETRY", 0.05)
    spool.mkdir(mode=0o700)
    for number in range(folders.MAX_FILES):
        (spool / (f"{number:032x}" + ASIDE)).touch()
    of = label()
    with keeping(spool, socket_path, of) as keep:
        keep.add(1, frame_of(of.client, 1))
        until(lambda: "1000 files" in keep.trouble, "there are too many")
        (spool / ("0" * 32 + ASIDE)).unlink()
        until(lambda: keep.written, "there is room for one")


def test_a_file_that_somebody_deleted_is_written_anew(
    spool: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff.sending.keep.LOOK_EVERY", 0.05)
    of = label()
    with keeping(spool, socket_path, of) as keep:
        keep.add(1, frame_of(of.client, 1))
        path = spool / (of.client + OURS)
        until(lambda: path.exists() and keep.written, "it is written")
        path.unlink()
        until(lambda: path.exists() and found_in(path).frames == 1, "it is there again")
        keep.add(2, frame_of(of.client, 2))
        until(lambda: found_in(path).frames == 2, "and goes on")


def test_what_a_maker_that_died_left_unfinished_is_cleared_away(spool: Path, socket_path: Path) -> None:
    spool.mkdir(mode=0o700)
    for name, age in (("a", folders.UNFINISHED_AGE + 60), ("b", 0)):
        path = spool / (name * 32 + MAKING)
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))
    with keeping(spool, socket_path, label()) as keep:
        keep.start()
        until(lambda: not (spool / ("a" * 32 + MAKING)).exists(), "the old one is gone")
    assert (spool / ("b" * 32 + MAKING)).exists()


ADOPTER = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from clients.python.tests.test_keep import keeping, label
with keeping(Path({spool!r}), Path({socket!r}), label()) as keep:
    sys.stdin.readline()
    keep.start()
    while keep.heir.runs or not keep.runs or list(Path({spool!r}).glob("*.sendoff")):
        time.sleep(0.001)
"""


def test_processes_that_race_to_adopt_send_each_file_once(spool: Path, peer: Peer, socket_path: Path) -> None:
    clients = [label() for _ in range(12)]
    for each in clients:
        leave(spool, each, range(1, 31))
    script = ADOPTER.format(path=sys.path, spool=str(spool), socket=str(socket_path))
    racers = [subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) for _ in range(4)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"\n")
        racer.stdin.close()
    for racer in racers:
        assert racer.wait(30) == 0
    sent = [(got.client, got.header["seq"]) for got in peer.durable]
    assert sorted(sent) == sorted((each.client, number) for each in clients for number in range(1, 31))
    hellos = [got.client for got in peer.of("hello")]
    assert sorted(hellos) == sorted(each.client for each in clients), "each on one connection, of one heir"


FORKER = """
import os, signal, sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from clients.python.tests.test_keep import frame_of, keep_for, label
of = label({client!r})
keep = keep_for(Path({spool!r}), Path("/nowhere"), of)
keep.add(1, frame_of(of.client, 1))
while not (keep.written and keep.kept()):
    time.sleep(0.001)
os.open({spool!r} + "/" + of.client + ".sendoff", os.O_RDWR)  # as another thread may have, just then
child = os.fork()
if child == 0:
    keep.abandon()
    print(os.getpid(), flush=True)
signal.pause()
"""


def test_a_child_leaves_its_parents_file_alone_and_does_not_keep_its_lock(spool: Path) -> None:
    of, place = label(), Folder(str(spool))
    script = FORKER.format(path=sys.path, client=of.client, spool=str(spool))
    name = of.client + OURS
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            place.use()
            assert name not in open_files(child)
            assert name in open_files(parent.pid)
            assert place.take(name) is None, "the parent still has its lock: the child has not unlocked it"
            parent.kill()
            parent.wait()
            fd = place.take(name)
            assert fd is not None, "with the parent's death the lock is gone, although the child lives"
            os.close(fd)
        finally:
            parent.kill()
            os.kill(child, signal.SIGKILL)
            place.close()


def open_files(pid: int) -> set[str]:
    """The names of what a process has open."""
    names = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            names.add(Path(os.readlink(fd)).name)
    return names
