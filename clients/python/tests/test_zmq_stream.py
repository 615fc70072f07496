"""One connection by ZeroMQ, alone: against a real ROUTER, and against everything that is none."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from clients.python.tests.peer import until
from clients.python.tests.zmq_peer import Key, RouterPeer
from sendoff import frame
from sendoff.frame import Ack
from sendoff.sending.contract import Absent, Answered, Gone, Job
from sendoff.sending.zmq import HELLO, SILENCE, ZmqOpener, ZmqStream
from sendoff.sending.zmq_monitor import CONNECTED
from sendoff.settings import Settings

SERVER, CLIENT, STRANGER = Key(), Key(), Key()
ID = "0" * 32
HELLO_FRAME = frame.hello(ID, {"service": "test"}, 1, 1, {})
GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x00NULL" + b"\0" * 48
READY = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06ROUTER"


def opener(port: int, client: Key | None = None, server: Key = SERVER, linger: float = 0.5) -> ZmqOpener:
    address = f"zmq+tcp://127.0.0.1:{port}"
    if client is not None:
        address = f"zmq+curve://{client.secret_text}@127.0.0.1:{port}?server={server.public_text}"
    return ZmqOpener(Settings({"address": address}, {}).address, linger)


def connect(port: int, client: Key | None = None, server: Key = SERVER) -> ZmqStream:
    stream = opener(port, client, server).open("127.0.0.1", socket.AF_INET)
    stream.job = Job(HELLO_FRAME)
    return stream


def event(seq: int, size: int = 5_000) -> Job:
    return Job(frame.durable(ID, "event", seq, "x" * 36, 0, b'{"name":"x"}' + b" " * size, {}), seq=seq)


def port_of(peer: RouterPeer) -> int:
    return int(peer.endpoint.rsplit(":", 1)[1])


def heard(stream: ZmqStream) -> list[Ack]:
    """The first answers, waiting as the client's thread does: on the descriptors, and no longer than `due_at`."""
    return sleep_until(stream, lambda: (stream.go_on(), stream.read())[1])


def sleep_until(stream: ZmqStream, step: Callable[[], list[Ack]], seconds: float = 10) -> list[Ack]:
    import select

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := step():
            return found
        poll = select.poll()
        for descriptor, _ in stream.watch():
            poll.register(descriptor, select.POLLIN)
        due_at = min(end, end if stream.due_at is None else stream.due_at)
        poll.poll(max(0, (due_at - time.monotonic()) * 1000))
    raise AssertionError(f"nothing was heard: {stream}")


def end_of(stream: ZmqStream) -> Gone:
    """How it ends, found by sleeping on the descriptors alone."""
    try:
        with pytest.raises(Gone) as caught:
            sleep_until(stream, lambda: [ack for ack in (stream.go_on(), stream.read())[1] if ack is None])
        return caught.value
    finally:
        stream.close()


@pytest.fixture
def peer() -> Iterator[RouterPeer]:
    made = RouterPeer("tcp://127.0.0.1:*")
    yield made
    made.close()
    assert made.complaints == []


@pytest.fixture
def guarded() -> Iterator[RouterPeer]:
    made = RouterPeer("tcp://127.0.0.1:*", SERVER, (CLIENT.public,))
    yield made
    made.close()
    assert made.complaints == []


@contextmanager
def raw(say: bytes | None, *, slowly: bool = False) -> Iterator[int]:
    """A plain TCP port that says something to whoever connects, or closes at once."""
    listening = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                taken.append(listening.accept()[0])
                if say is None:
                    taken[-1].close()
                    continue
                for part in [say[i : i + 1] for i in range(len(say))] if slowly else [say]:
                    taken[-1].sendall(part)
                    time.sleep(0.001 if slowly else 0)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    for each in (listening, *taken):
        each.close()


@pytest.mark.parametrize("keys", [True, False], ids=["curve", "plain"])
def test_a_hello_is_handed_over_once_connected_and_answered(peer: RouterPeer, guarded: RouterPeer, keys: bool) -> None:
    stream = connect(port_of(guarded), CLIENT) if keys else connect(port_of(peer))
    assert [ack.upto for ack in heard(stream)] == [0]
    assert [got.kind for got in (guarded if keys else peer).got] == ["hello"]
    stream.close()


def test_nothing_is_queued_for_a_connection_that_is_not_there() -> None:
    with raw(b"") as port:
        stream = connect(port)
        until(lambda: stream.read() == [] and stream._monitor.stage == CONNECTED, "a connection, without a handshake")
        assert not stream.go_on()
        stream.close()


def test_a_job_that_is_done_is_not_handed_over_again(peer: RouterPeer) -> None:
    stream = connect(port_of(peer))
    heard(stream)
    assert stream.go_on()
    assert stream.go_on()
    stream.close()
    assert len(peer.got) == 1


def test_an_unknown_key_is_said_to_be_one_and_not_tried_again_soon(guarded: RouterPeer) -> None:
    gone = end_of(connect(port_of(guarded), STRANGER))
    assert "does not know this key, or it was revoked" in str(gone)
    assert gone.wait == 30
    assert guarded.got == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ((CLIENT, STRANGER), "is the server's key its own?"),
        ((None, SERVER), "the address is zmq+curve://"),
    ],
    ids=["wrong server key", "no key"],
)
def test_keys_that_do_not_fit_the_server_are_told_apart(
    guarded: RouterPeer, keys: tuple[Key | None, Key], words: str
) -> None:
    gone = end_of(connect(port_of(guarded), *keys))
    assert words in str(gone)


def test_a_server_without_curve_is_sent_nothing(peer: RouterPeer) -> None:
    assert "CURVE" in str(end_of(connect(port_of(peer), CLIENT)))
    assert peer.got == []


@pytest.mark.parametrize("keys", [CLIENT, None], ids=["curve", "plain"])
@pytest.mark.parametrize(
    "say",
    [None, b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 200, b"\0" * 500, b"\xff" * 500, os.urandom(5_000)],
    ids=["closes", "http", "zeros", "ones", "noise"],
)
def test_what_is_no_zeromq_ends_the_connection_in_words(
    keys: Key | None, say: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff.sending.zmq.HELLO", 0.3)  # HTTP is taken for the first version of ZeroMQ
    with raw(say) as port:
        assert "127.0.0.1" in str(end_of(connect(port, keys)))


def test_nobody_there_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert str(end_of(connect(port))) == f"nobody listens at 127.0.0.1:{port}"


def test_a_path_where_nothing_is_counts_as_absent(tmp_path: Path) -> None:
    made = ZmqOpener(Settings({"address": f"zmq+ipc://{tmp_path}/agent.zmq"}, {}).address, 0.5)
    with pytest.raises(Absent, match="there is no"):
        made.open("", socket.AF_UNIX)
    (tmp_path / "agent.zmq").touch()
    assert "nobody listens" in str(end_of(made.open("", socket.AF_UNIX)))


def test_a_path_carries_frames(tmp_path: Path) -> None:
    peer = RouterPeer(f"ipc://{tmp_path}/agent.zmq")
    made = ZmqOpener(Settings({"address": f"zmq+ipc://{tmp_path}/agent.zmq"}, {}).address, 0.5)
    stream = made.open("", socket.AF_UNIX)
    stream.job = Job(HELLO_FRAME)
    assert heard(stream)
    stream.close()
    peer.close()


def test_a_peer_that_dribbles_its_greeting_is_understood() -> None:
    with raw(GREETING + READY, slowly=True) as port:
        stream = connect(port)
        until(stream.go_on, "the hello was taken")
        stream.close()


@pytest.mark.parametrize("say", [b"", GREETING[:30], GREETING], ids=["nothing", "half a greeting", "no READY"])
def test_a_handshake_that_is_never_finished_ends_with_the_limit(say: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sendoff.sending.zmq.HANDSHAKE", 0.2)
    with raw(say) as port:
        assert "the handshake was not finished in time" in str(end_of(connect(port)))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([b"garbage"], "answered something else"),
        ([b'{"ack": "1"}'], "answered something else"),
        ([b'{"ack": 1}', b"more"], "in several parts"),
        ([b"x" * (frame.UNIT_LIMIT + 1)], "ended"),
    ],
    ids=["no JSON", "wrong type", "parts", "too long"],
)
def test_an_answer_that_is_none_ends_the_connection(peer: RouterPeer, answer: list[bytes], words: str) -> None:
    peer.answer_with = lambda got: answer
    assert words in str(end_of(connect(port_of(peer))))


def test_answers_are_given_before_the_end_is_raised(peer: RouterPeer) -> None:
    peer.answer_with = lambda got: [peer.ack(ID)]
    stream = connect(port_of(peer))
    assert heard(stream)
    peer.answer_with = lambda got: [b"garbage"]
    stream.job = Job(HELLO_FRAME)
    assert "something else" in str(end_of(stream))
    peer.complaints.clear()  # of the second hello


def test_a_full_queue_takes_no_more_and_says_when_it_does(peer: RouterPeer) -> None:
    stream = connect(port_of(peer))
    heard(stream)
    peer.reading = peer.acknowledging = False
    taken = 0
    while taken < 100_000:
        stream.job = event(taken + 1)
        if not stream.go_on():
            break
        taken += 1
    assert 900 <= taken < 100_000, "the high-water mark holds"
    assert stream.due_at is not None, "and the thread looks again"
    peer.reading = peer.acknowledging = True

    def step() -> list[Ack]:
        stream.read()
        return [Ack(0)] if stream.go_on() else []

    assert sleep_until(stream, step)
    until(lambda: len(peer.durable) == taken + 1, "all that was taken")
    stream.close()


def test_a_hello_that_is_not_answered_ends_the_connection(peer: RouterPeer) -> None:
    peer.acknowledging = False
    now = [time.monotonic()]
    stream = ZmqStream(opener(port_of(peer)), "127.0.0.1", clock=lambda: now[0])
    stream.job = Job(HELLO_FRAME)
    until(stream.go_on, "connected")
    until(lambda: peer.got, "the hello")
    assert stream.read() == []
    assert stream.due_at is not None
    assert stream.due_at <= now[0] + HELLO
    now[0] += HELLO
    with pytest.raises(Gone, match="the hello was not answered in time"):
        stream.read()
    stream.close()


@pytest.mark.parametrize("points", [True, False], ids=["points", "an event"])
def test_silence_while_something_is_unacknowledged_ends_the_connection(peer: RouterPeer, points: bool) -> None:
    now = [time.monotonic()]
    stream = ZmqStream(opener(port_of(peer)), "127.0.0.1", clock=lambda: now[0])
    stream.job = Job(HELLO_FRAME)
    heard(stream)
    now[0] += 10 * SILENCE
    assert stream.read() == [], "nothing is due while nothing is unacknowledged"
    assert stream.due_at is None
    peer.acknowledging = False
    if points:
        from sendoff.sending.buffer import Parcel

        stream.job = Job(frame.metrics(ID, 0, b"a:1|c", t=None, dropped={}), parcel=Parcel(b"a:1|c", 1, 0), n=1)
    else:
        stream.job = event(1)
    assert stream.go_on()
    until(lambda: len(peer.got) == 2, "the frame")
    now[0] += SILENCE - 0.001
    assert stream.read() == []
    now[0] += 0.001
    with pytest.raises(Gone, match="nothing was acknowledged in time"):
        stream.read()
    stream.close()


def test_the_death_of_the_peer_wakes_the_thread(peer: RouterPeer) -> None:
    stream = connect(port_of(peer))
    heard(stream)
    peer.close()
    assert "ended" in str(end_of(stream))


def test_the_last_frames_go_out_after_the_end_and_it_is_said_when_they_have(peer: RouterPeer) -> None:
    stream = connect(port_of(peer))
    heard(stream)
    peer.acknowledging = False
    for seq in range(1, 201):
        stream.job = event(seq)
        assert stream.go_on()
    stream.job = Job(frame.bye(ID, 0, 0, {}))
    assert stream.go_on()
    stream.end_writing()
    with pytest.raises(Answered):
        sleep_until(stream, stream.read)
    stream.close()
    until(lambda: peer.of("bye"), "the bye")
    assert len(peer.durable) == 200


def test_the_end_waits_no_longer_than_it_may_for_a_peer_that_does_not_read() -> None:
    with raw(GREETING + READY) as port:
        made = opener(port, linger=60)
        stream = made.open("127.0.0.1", socket.AF_INET)
        stream.job = Job(HELLO_FRAME)
        until(stream.go_on, "connected")
        for _ in range(900):
            stream.job = Job(HELLO_FRAME + b" " * 20_000)
            stream.go_on()
        stream.end_writing()
        stream.close()
        began = time.monotonic()
        made.close(0.2)
        assert 0.2 <= time.monotonic() - began < 1


def test_descriptors_do_not_grow_with_connections(peer: RouterPeer) -> None:
    def connect_often() -> int:
        for _ in range(20):
            stream = connect(port_of(peer))
            heard(stream)
            stream.close()
        time.sleep(0)
        return len(os.listdir("/proc/self/fd"))

    before = connect_often()
    until(lambda: connect_often() <= before + 8, "no more descriptors than before")


SCARCE = """
import os, resource, sys
from clients.python.tests.test_zmq_stream import connect, heard
from sendoff.sending.contract import Gone
before = len(os.listdir("/proc/self/fd"))
said = set()
for room in range(0, 60):
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + room, 4096))
    try:
        stream = connect(int(sys.argv[1]))
        heard(stream)
        stream.close()
        said.add("connected")
    except Gone as gone:
        said.add(str(gone))
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    for each in taken: os.close(each)
print(sorted(said))
os._exit(0)
"""


def test_a_process_without_descriptors_is_told_so_and_lives(peer: RouterPeer) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 4096
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, str(port_of(peer))], capture_output=True, text=True, timeout=60, check=True
    )
    assert "'connected'" in done.stdout, done.stdout
    assert "no descriptors left" in done.stdout


def test_what_is_ready_is_found_though_another_thread_took_the_edge(peer: RouterPeer) -> None:
    stream = connect(port_of(peer))
    heard(stream)
    stream.job = event(1)
    assert stream.go_on()
    until(lambda: stream.due_at is not None and stream.due_at <= time.monotonic(), "the answer, without any descriptor")
    assert [ack.upto for ack in stream.read()] == [1]
    stream.close()
