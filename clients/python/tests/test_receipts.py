"""Receipts: whoever asks learns what became of an event, whoever does not ask pays nothing, and nobody hangs."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

import sendoff
from clients.python.tests.peer import Peer, listen, listen_tcp, until
from sendoff import current
from sendoff.client import Client
from sendoff.receipt import Receipt
from sendoff.testing import recording

GENEROUS = 30.0
Run = Callable[..., subprocess.CompletedProcess[str]]


def fate(receipt: Receipt) -> tuple[str, str]:
    return receipt.state, receipt.reason


def test_a_receipt_says_spooled_once_the_agent_has_acknowledged(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    receipt = sendoff.event("paid", confirm=True, order=17)
    until(lambda: peer.durable, "the event")
    assert peer.durable[0].header["id"] == receipt.id
    assert peer.durable[0].header["confirm"] is True
    assert peer.durable[0].body["fields"] == {"order": 17}
    assert fate(receipt) == ("pending", "")
    assert receipt.wait(0.05) is False
    peer.acknowledge(peer.connections[0], peer.durable[0].client)
    assert receipt.wait(GENEROUS) is True
    assert fate(receipt) == ("spooled", "")


def test_an_event_without_confirm_says_nothing_of_it(peer: Peer, address: str) -> None:
    sendoff.init(address)
    assert isinstance(sendoff.event("paid", confirm=False), str)
    until(lambda: peer.durable, "the event")
    assert "confirm" not in peer.durable[0].header


def test_a_copy_of_a_receipt_is_the_receipt_and_one_that_was_pickled_says_what_was_known_then(
    peer: Peer, address: str
) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    receipt = sendoff.event("paid", confirm=True)
    kept = copy.deepcopy({"receipt": receipt, "again": copy.copy(receipt)})
    until(lambda: peer.durable, "the event")
    before = pickle.loads(pickle.dumps(receipt))
    assert (before.id, *fate(before)) == (receipt.id, "unknown", "forked")
    peer.acknowledge(peer.connections[0], peer.durable[0].client)
    assert kept["receipt"].wait(GENEROUS)
    assert kept["again"].wait(GENEROUS)
    assert fate(pickle.loads(pickle.dumps(receipt))) == ("spooled", "")


def test_a_receipt_names_why_the_agent_refused(peer: Peer, address: str) -> None:
    peer.refusals[2] = "payload_too_deep"
    sendoff.init(address)
    receipts = [sendoff.event("paid", confirm=True, number=number) for number in range(3)]
    assert [receipt.wait(GENEROUS) for receipt in receipts] == [True, False, True]
    assert fate(receipts[1]) == ("refused", "payload_too_deep")


def test_what_the_client_dropped_is_said_with_its_reason(address: str) -> None:
    assert fate(sendoff.event("before init", confirm=True)) == ("dropped", "no_client")
    sendoff.init(address, buffer=65_536)
    assert fate(sendoff.event("", confirm=True)) == ("dropped", "invalid")
    assert fate(sendoff.event("long", confirm=True, **{f"f{n}": "x" * 9_000 for n in range(40)})) == (
        "dropped",
        "too_long",
    )
    kept = sendoff.event("kept", confirm=True, text="x" * 8_000)
    while (last := sendoff.event("more", confirm=True, text="x" * 8_000)).state == "pending":
        assert isinstance(last.id, str)
    assert fate(last) == ("dropped", "buffer_full")
    assert last.wait(GENEROUS) is False
    assert fate(kept) == ("pending", "")
    sendoff.close(0)
    assert fate(kept) == ("dropped", "closed")
    assert fate(sendoff.event("after", confirm=True)) == ("dropped", "closed")


def test_of_what_was_written_and_not_answered_a_closed_client_knows_nothing(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    receipt = sendoff.event("paid", confirm=True)
    until(lambda: peer.durable, "the event")
    sendoff.close(0)
    assert fate(receipt) == ("unknown", "closed")
    assert receipt.wait(GENEROUS) is False


def test_a_frame_that_is_given_up_says_so(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    peer.hang_up_after = 2  # hello and the event
    sendoff.init(address)
    receipt = sendoff.event("poison", confirm=True)
    assert receipt.wait(GENEROUS) is False
    assert fate(receipt) == ("dropped", "unacceptable")


def test_a_wait_ends_true_after_the_event_was_sent_again(socket_path: Path, address: str) -> None:
    first = listen(socket_path)
    first.acknowledging = False
    sendoff.init(address)
    receipt = sendoff.event("paid", confirm=True)
    until(lambda: first.durable, "the event")
    first.close()
    second = listen(socket_path)
    assert receipt.wait(GENEROUS) is True
    assert [got.header["id"] for got in second.durable] == [receipt.id]
    sendoff.close(1)
    second.close()


def test_a_wait_does_the_sending_where_no_thread_runs(peer: Peer, address: str) -> None:
    sendoff.init(address)
    assert isinstance(current.client, Client)
    current.client.outbox._thread_after = float("inf")
    assert sendoff.event("paid", confirm=True).wait(GENEROUS) is True
    assert asyncio.run(sendoff.event("paid", confirm=True).spooled(GENEROUS)) is True
    assert not current.client.outbox.thread_runs


def test_over_tcp_beside_udp_receipts_are_the_same() -> None:
    peer = listen_tcp()
    sendoff.init(f"udp://127.0.0.1:{peer.listening.getsockname()[1]}")
    assert sendoff.event("paid", confirm=True).wait(GENEROUS) is True
    sendoff.close(1)
    peer.close()


def test_a_thousand_receipts_are_awaited_without_holding_up_the_loop(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def work() -> list[bool]:
        ticking = asyncio.create_task(tick())
        receipts = [sendoff.event("paid", confirm=True, number=number) for number in range(1_000)]
        waits = [asyncio.ensure_future(receipt.spooled(GENEROUS)) for receipt in receipts[:500]]
        waits += [asyncio.create_task(await_it(receipt)) for receipt in receipts[500:]]
        await asyncio.to_thread(until, lambda: len(peer.durable) == 1_000, "all events", GENEROUS)
        assert not any(wait.done() for wait in waits)
        before = turns
        peer.acknowledge(peer.connections[0], peer.durable[0].client)
        found = await asyncio.gather(*waits)
        assert turns > before
        ticking.cancel()
        assert [receipt._waiters for receipt in receipts] == [[]] * 1_000
        return found

    async def await_it(receipt: Receipt) -> bool:
        while receipt.state == "pending":
            await receipt
        return await receipt

    assert asyncio.run(work()) == [True] * 1_000


def test_an_await_that_is_cancelled_or_too_late_leaves_nothing_behind(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    receipt = sendoff.event("paid", confirm=True)

    async def work() -> None:
        assert await receipt.spooled(0.01) is False
        waiting = asyncio.ensure_future(receipt.spooled(GENEROUS))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()

    asyncio.run(work())
    assert receipt._waiters == []


def test_a_loop_that_ended_while_its_receipt_was_open_harms_nobody(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    receipt = sendoff.event("paid", confirm=True)
    loop = asyncio.new_event_loop()
    receipt._waiters = [(loop, loop.create_future())]
    loop.close()
    until(lambda: peer.durable, "the event")
    peer.acknowledge(peer.connections[0], peer.durable[0].client)
    assert receipt.wait(GENEROUS) is True


class Watched(Receipt):
    """A receipt whose end can be seen."""

    __slots__ = ("__weakref__",)


def test_receipts_that_nobody_keeps_go_with_their_frames(
    peer: Peer, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff.client.Receipt", Watched)
    peer.acknowledging = False
    sendoff.init(address)
    seen: weakref.WeakSet[Receipt] = weakref.WeakSet()
    for _ in range(100):
        seen.add(sendoff.event("paid", confirm=True))
    assert len(seen) == 100, "the frames hold them"
    until(lambda: len(peer.durable) == 100, "all events")
    peer.acknowledge(peer.connections[0], peer.durable[0].client)
    assert sendoff.flush(GENEROUS)
    gc.collect()
    assert len(seen) == 0


def test_threads_that_wait_at_the_same_time_all_learn_it(peer: Peer, address: str) -> None:
    sendoff.init(address)
    found: list[bool] = []

    def work(number: int) -> None:
        receipts = (sendoff.event("paid", confirm=True, thread=number, index=index) for index in range(25))
        found.extend(receipt.wait(GENEROUS) for receipt in receipts)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200
    assert len({got.header["id"] for got in peer.durable}) == 200


def test_a_child_knows_nothing_of_its_parents_receipt_and_does_not_wait_for_it(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    receipt = sendoff.event("paid", confirm=True)
    until(lambda: peer.durable, "the event")
    pid = os.fork()
    if pid == 0:
        right = receipt.wait(GENEROUS) is False and fate(receipt) == ("unknown", "forked")
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    peer.acknowledge(peer.connections[0], peer.durable[0].client)
    assert receipt.wait(GENEROUS) is True


def test_a_wait_inside_a_signal_handler_that_interrupted_a_send_ends(peer: Peer, address: str) -> None:
    sendoff.init(address)
    assert isinstance(current.client, Client)
    found: list[tuple[bool, str]] = []

    def handler(number: int, frame: object) -> None:
        receipt = sendoff.event("from the handler", confirm=True)
        found.append((receipt.wait(0.05), receipt.state))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        assert current.client.outbox.lock.run(signal.raise_signal, signal.SIGUSR1)
        assert found == [(False, "pending")], "the send that was interrupted holds the lock"
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sendoff.flush(GENEROUS)
    assert len(peer.durable) == 2


def test_greenlets_go_on_while_one_of_them_waits(peer: Peer, run: Run) -> None:
    pytest.importorskip("gevent")
    peer.acknowledging = False
    script = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, sendoff, os\n"
        "sendoff.init()\n"
        "turns = []\n"
        "def others():\n"
        "    while len(turns) < 5:\n"
        "        gevent.sleep(0.01); turns.append(1)\n"
        "    print('others went on', flush=True)\n"
        "gevent.spawn(others)\n"
        "receipt = sendoff.event('paid', confirm=True)\n"
        f"print(receipt.wait({GENEROUS}), len(turns), flush=True)\n"
    )
    answering = threading.Thread(target=_answer_late, args=(peer,))
    answering.start()
    done = run(script)
    answering.join()
    assert done.stdout.split() == ["others", "went", "on", "True", "5"]


def _answer_late(peer: Peer) -> None:
    until(lambda: peer.durable, "the event", GENEROUS)
    threading.Event().wait(0.3)
    peer.acknowledge(peer.connections[0], peer.durable[0].client)


def test_in_tests_of_an_application_a_receipt_says_spooled() -> None:
    with recording() as sent:
        receipt = sendoff.event("paid", confirm=True, order=17)
        sendoff.event("seen")
        assert receipt.wait() is True
        assert asyncio.run(receipt.spooled()) is True
        assert fate(sendoff.event("", confirm=True)) == ("dropped", "invalid")
    assert sent.one("paid")["fields"] == {"order": 17}
    assert sent.confirmed_ids == [sent.one("paid")["id"]] == [receipt.id]


def test_a_wait_for_what_is_no_number_of_seconds_ends_at_once(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    receipt = sendoff.event("paid", confirm=True)
    for timeout in (None, "2", float("nan"), -1):
        assert receipt.wait(timeout) is False  # type: ignore[arg-type]
        assert asyncio.run(receipt.spooled(timeout)) is False  # type: ignore[arg-type]
    assert sendoff.flush(float("nan")) is False


def test_a_receipt_can_be_read_by_people(address: str) -> None:
    sendoff.init(address)
    receipt = sendoff.event("paid", confirm=True)
    assert repr(receipt) == f"Receipt(id={receipt.id}, pending)"
    assert repr(sendoff.event("", confirm=True)) == "Receipt(id=None, dropped: invalid)"


def test_the_types_of_event_follow_confirm(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "typed.py"
    script.write_text(
        "import sendoff\n"
        "def f(choice: bool) -> None:\n"
        "    reveal_type(sendoff.event('a', confirm=True, x=1))\n"
        "    reveal_type(sendoff.event('a', x=1))\n"
        "    reveal_type(sendoff.event('a', confirm=choice))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(script)],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    found = [line.split('"')[1] for line in done.stdout.splitlines() if "Revealed type" in line]
    assert found == ["sendoff.receipt.Receipt", "str | None", "sendoff.receipt.Receipt | str | None"], done.stdout
