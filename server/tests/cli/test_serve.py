"""The life of a long-lived command, in processes of their own: signals, exit codes, failures, the word to systemd."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

HEAD = """
import asyncio, signal, sys, threading, time
from sendoff_server.process import serve

def say(word):
    print(word, flush=True)

class Part:
    async def start(self): pass
    async def stop(self, drain_s): say("stopped")
"""
READY = "lambda: say('ready')"
Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run() -> Iterator[Run]:
    begun: list[subprocess.Popen[str]] = []

    def run(code: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD + textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SENDOFF_LOG": "text", **environ},
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    for line in pipe(process.stdout):
        if line.strip() == word:
            return
    raise AssertionError(f"ended without {word!r}: {pipe(process.stderr).read()}")


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_and_the_exit_code_is_0(run: Run, number: signal.Signals) -> None:
    process = run(f"sys.exit(serve(Part(), drain_s=5, announce={READY}))")
    wait_for(process, "ready")
    process.send_signal(number)
    code, out, err = end(process)
    assert (code, out) == (0, "stopped\n")
    assert number.name in err
    assert "Traceback" not in err


def test_the_second_signal_ends_the_process_at_once(run: Run) -> None:
    process = run(f"""
        class Slow(Part):
            async def stop(self, drain_s):
                say("stopping")
                threading.Thread(target=time.sleep, args=(60,)).start()
                await asyncio.sleep(60)
        sys.exit(serve(Slow(), drain_s=60, announce={READY}))
    """)
    wait_for(process, "ready")
    process.terminate()
    wait_for(process, "stopping")
    process.terminate()
    code, _, err = end(process)
    assert code == 128 + signal.SIGTERM
    assert "ending at once" in err


def test_a_part_that_does_not_stop_in_time_is_left_behind_and_the_exit_code_says_so(run: Run) -> None:
    process = run(f"""
        import sendoff_server.process.serve as module
        module.GRACE_S = 0.1
        class Slow(Part):
            async def stop(self, drain_s):
                await asyncio.sleep(60)
        sys.exit(serve(Part(), Slow(), drain_s=0.1, announce={READY}))
    """)
    wait_for(process, "ready")
    process.terminate()
    code, out, err = end(process)
    assert (code, out) == (3, "stopped\n"), "the other part is stopped all the same"
    assert "slow did not stop within" in err


def test_parts_are_started_in_order_and_stopped_in_reverse(run: Run) -> None:
    process = run(f"""
        class Named(Part):
            def __init__(self, name): self.name = name
            async def start(self): say("start " + self.name)
            async def stop(self, drain_s): say("stop " + self.name)
        sys.exit(serve(Named("a"), Named("b"), drain_s=5, announce={READY}))
    """)
    wait_for(process, "start b")
    wait_for(process, "ready")
    process.terminate()
    assert end(process)[:2] == (0, "stop b\nstop a\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("OSError(98, 'Address already in use')", "change the address"),
        (
            "__import__('sendoff_server.spool', fromlist=['x']).SpoolError('the spool is held by process 7')",
            "process 7",
        ),
    ],
)
def test_a_start_that_fails_says_one_sentence_and_stops_what_had_started(run: Run, error: str, words: str) -> None:
    process = run(f"""
        class Bad(Part):
            async def start(self): raise {error}
        sys.exit(serve(Part(), Bad(), drain_s=5, announce={READY}))
    """)
    code, out, err = end(process)
    assert (code, out) == (1, "stopped\n")
    assert "could not start: " in err
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_start_that_fails_by_our_own_fault_shows_where(run: Run) -> None:
    code, _, err = end(
        run("""
        class Bad(Part):
            async def start(self): {}["missing"]
        sys.exit(serve(Bad(), drain_s=5))
    """)
    )
    assert code == 1
    assert "a fault in Sendoff" in err
    assert "KeyError" in err


def test_a_part_that_dies_is_named_and_the_others_stop_cleanly(run: Run) -> None:
    code, out, err = end(
        run("""
        class Mortal(Part):
            async def watch(self):
                await asyncio.sleep(0.05)
                raise RuntimeError("the tick ended")
        sys.exit(serve(Part(), Mortal(), drain_s=5))
    """)
    )
    assert (code, out) == (1, "stopped\nstopped\n")
    assert "mortal cannot go on" in err
    assert "the tick ended" in err


def test_a_signal_during_the_start_gives_it_up(run: Run) -> None:
    process = run("""
        class Endless(Part):
            async def start(self):
                say("starting")
                await asyncio.sleep(60)
        sys.exit(serve(Part(), Endless(), drain_s=5))
    """)
    wait_for(process, "starting")
    process.terminate()
    assert end(process)[:2] == (0, "stopped\n")


def test_a_part_that_fails_while_stopping_does_not_keep_the_others_from_it(run: Run) -> None:
    process = run(f"""
        class Bad(Part):
            async def stop(self, drain_s): raise RuntimeError("no")
        sys.exit(serve(Part(), Bad(), drain_s=5, announce={READY}))
    """)
    wait_for(process, "ready")
    process.terminate()
    code, out, err = end(process)
    assert (code, out) == (1, "stopped\n")
    assert "bad failed while stopping" in err


def test_handlers_that_were_installed_before_come_back(run: Run) -> None:
    process = run(f"""
        def mine(number, frame): say("mine")
        signal.signal(signal.SIGTERM, mine)
        interrupt = signal.getsignal(signal.SIGINT)  # ignored where this runs as a shell's background job
        code = serve(Part(), drain_s=5, announce={READY})
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is interrupt
        signal.raise_signal(signal.SIGTERM)
        sys.exit(code)
    """)
    wait_for(process, "ready")
    process.terminate()
    assert end(process)[:2] == (0, "stopped\nmine\n")


def test_systemd_is_told_when_the_process_is_ready_and_when_it_stops(run: Run, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        process = run("sys.exit(serve(Part(), drain_s=5))", NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert manager.recv(100) == b"READY=1"
        process.terminate()
        assert manager.recv(100) == b"STOPPING=1"
    assert end(process)[0] == 0


def test_an_abstract_socket_of_systemd_is_understood(run: Run) -> None:
    name = f"sendoff-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(30)
        process = run("sys.exit(serve(Part(), drain_s=5))", NOTIFY_SOCKET="@" + name)
        assert manager.recv(100) == b"READY=1"
        process.terminate()
    assert end(process)[0] == 0


def test_the_log_is_json_where_nobody_sits_at_a_terminal(run: Run) -> None:
    code, _, err = end(
        run(
            """
        import logging
        class Bad(Part):
            async def start(self):
                logging.getLogger("sendoff_server.spool").warning("quarantined %s", "a")
                raise OSError("no")
        sys.exit(serve(Bad(), drain_s=5))
    """,
            SENDOFF_LOG="",
        )
    )
    lines = [json.loads(line) for line in err.splitlines()]
    assert code == 1
    assert [(line["level"], line["message"]) for line in lines] == [
        ("WARNING", "quarantined a"),
        ("ERROR", "could not start: no"),
    ]
    assert all(line["time"].endswith("Z") for line in lines)


def test_a_reader_of_the_log_that_is_gone_stops_nothing(run: Run) -> None:
    process = run("""
        import logging
        def announce():
            for _ in range(100): logging.getLogger("x").warning("a line")
            say("ready")
        sys.exit(serve(Part(), drain_s=5, announce=announce))
    """)
    pipe(process.stderr).close()
    wait_for(process, "ready")
    process.terminate()
    out = pipe(process.stdout).read()
    assert process.wait(30) == 0
    assert out == "stopped\n"


RENEWABLE = """
import os
from sendoff_server.process import Handover, Refused, Renewal
from sendoff_server.process import renewal as module

class Renewable(Part):
    def __init__(self, handover): self.handover = handover
    async def start(self): say(f"started {self.handover.state.decode() if self.handover else 'anew'}")
    async def watch(self): await asyncio.sleep(3600)
    async def settle(self): say("settled")
    async def let_go(self): return Handover(b"with the state", ())
"""


def test_a_process_that_cannot_be_replaced_goes_on_from_what_it_let_go(run: Run) -> None:
    process = run(
        RENEWABLE
        + """
words = iter([["/bin/true"], ["/nowhere/python", "x"]])
module.command = lambda: next(words)
sys.exit(serve(renewal=Renewal(Renewable, None), drain_s=5, announce=lambda: say("ready")))
"""
    )
    wait_for(process, "started anew")
    wait_for(process, "ready")
    process.send_signal(signal.SIGHUP)
    wait_for(process, "started with the state")
    wait_for(process, "ready")
    process.send_signal(signal.SIGTERM)
    code, out, err = end(process)
    assert (code, out) == (0, "stopped\n")
    assert "the new code could not be run, so the old goes on: /nowhere/python: No such file" in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ('Refused("the disk is full")', "the disk is full"),
        ('KeyError("of ours")', "a fault in Sendoff: KeyError('of ours')"),
    ],
)
def test_a_part_that_cannot_settle_refuses_to_be_replaced_and_systemd_is_told(
    run: Run, tmp_path: Path, error: str, words: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        process = run(
            RENEWABLE
            + f"""
class Full(Renewable):
    async def settle(self): raise {error}
module.command = lambda: ["/bin/true"]
sys.exit(serve(renewal=Renewal(Full, None), drain_s=5, announce=lambda: say("ready")))
""",
            NOTIFY_SOCKET=str(tmp_path / "notify"),
        )
        wait_for(process, "ready")
        process.send_signal(signal.SIGHUP)
        said = [systemd.recv(1000).decode() for _ in range(4)]
        assert said[:2] == ["READY=1", "STATUS=running"]
        assert said[2].startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert said[3].startswith("READY=1\nSTATUS=")
        process.send_signal(signal.SIGTERM)
        code, out, err = end(process)
        assert (code, out) == (0, "stopped\n")
        assert f"not reloaded, everything goes on as before: {words}" in err


def test_a_hangup_during_the_start_waits_for_it_and_systemd_is_told_of_no_earlier_readiness(
    run: Run, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        process = run(
            RENEWABLE
            + """
class Slow(Renewable):
    async def start(self):
        signal.raise_signal(signal.SIGHUP)
        while not renewal._busy: await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # long enough for a reload that does not wait
        say("started")
    async def settle(self): raise Refused("the disk is full")
async def no_fault(arguments): say("checked")
module.check = no_fault
renewal = Renewal(Slow, None)
sys.exit(serve(renewal=renewal, drain_s=5, announce=lambda: say("ready")))
""",
            NOTIFY_SOCKET=str(tmp_path / "notify"),
        )
        wait_for(process, "started")
        wait_for(process, "ready")
        wait_for(process, "checked")
        said = [systemd.recv(1000).decode().partition("\n")[0] for _ in range(4)]
        assert said == ["READY=1", "STATUS=running", "RELOADING=1", "READY=1"]
        process.send_signal(signal.SIGTERM)
        assert end(process)[:2] == (0, "stopped\n")


def test_a_run_that_cannot_go_on_says_so_also_if_it_was_told_to_stop_meanwhile(run: Run) -> None:
    process = run(
        RENEWABLE
        + """
class Broken(Renewable):
    async def start(self):
        say("starting")
        await asyncio.to_thread(sys.stdin.readline)
        raise OSError("the spool is gone")
sys.exit(serve(renewal=Renewal(Broken, Handover(b"", ())), drain_s=5))
"""
    )
    wait_for(process, "starting")
    process.send_signal(signal.SIGTERM)
    for line in pipe(process.stderr):
        if "SIGTERM: stopping" in line:
            break
    pipe(process.stdin).write("\n")
    code, _, err = end(process)
    assert code == 1
    assert "could not start: the spool is gone" in err


def test_a_hangup_where_nothing_can_be_reloaded_is_answered_in_the_log(run: Run) -> None:
    process = run(f"sys.exit(serve(Part(), drain_s=5, announce={READY}))")
    wait_for(process, "ready")
    process.send_signal(signal.SIGHUP)
    for line in pipe(process.stderr):
        if "SIGHUP changes nothing here: to take new settings, stop it and start it again" in line:
            break
    process.send_signal(signal.SIGTERM)
    code, out, _ = end(process)
    assert (code, out) == (0, "stopped\n")
