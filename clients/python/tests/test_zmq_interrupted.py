"""Connections of ZeroMQ, interrupted anywhere by an exception as a signal handler raises it: nothing is lost or said
twice, and nothing is left behind. Sockets closed in the wrong order stop the thread of libzmq that clears them away.
"""

from __future__ import annotations

import gc
import os
import socket
from functools import partial

import pytest

from clients.python.tests.interruption import EVENTS, Interruption, deliver
from clients.python.tests.peer import until
from clients.python.tests.zmq_peer import RouterPeer
from sendoff.sending.zmq import ZmqOpener
from sendoff.sending.zmq_context import context
from sendoff.sending.zmq_monitor import Monitor
from sendoff.settings import Settings

FILES = ("sending/zmq.py", "zmq_monitor.py")
LEFT = 10
"""Descriptors that all interruptions together may leave behind: fewer than two connections have."""


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # interrupted while it is cleared away
def test_an_exception_from_a_signal_handler_anywhere_says_nothing_twice_and_leaves_nothing_behind() -> None:
    peer = RouterPeer("tcp://127.0.0.1:*")
    address = Settings({"address": f"zmq+{peer.endpoint}"}, {}).address
    opener = ZmqOpener(address, 0.5)
    deliver(partial(opener.open, "127.0.0.1", socket.AF_INET), Interruption((), 0), 0)
    before = descriptors()
    for after in range(1, 10_000, 5):
        interruption = Interruption(FILES, after)
        channel, tally = deliver(partial(opener.open, "127.0.0.1", socket.AF_INET), interruption, after)
        where = f"interrupted at {interruption.where}, the {after}th line"
        names = [got.body["name"] for got in list(peer.durable) if got.client == channel.client]
        assert names == [f"e{event}" for event in range(2 * EVENTS)], where
        assert (channel.held.unfinished, channel.refused, tally.totals()) == (0, {}, {}), where
        if interruption.left > 0:
            break
    gc.collect()  # what was interrupted in here is not to be noticed elsewhere
    assert after > 400, "the whole way was gone"
    until(lambda: descriptors() <= before + LEFT, "all is cleared away")
    peer.close()
    assert peer.complaints == []


def test_a_descriptor_that_is_the_apps_by_now_is_left_alone_and_none_is_kept() -> None:
    monitor = Monitor(context(), Settings({"address": "zmq+tcp://127.0.0.1:9"}, {}).address)
    with open(os.devnull) as file, socket.socket() as unconnected:

        def copies() -> list[str]:
            links = [os.readlink(f"/proc/self/fd/{each.fileno()}") for each in (file, unconnected)]
            return [link for number in os.listdir("/proc/self/fd") if (link := _link(number)) in links]

        before = copies()
        for number in (file.fileno(), unconnected.fileno(), 9_999):
            assert monitor._identify(number) is None
        assert copies() == before
    monitor.close()


def _link(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""
