"""`init` is the one place that may raise, and what importing costs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sendoff
from sendoff import current
from sendoff.sending.unix import find
from sendoff.settings import DECLARED, SettingError, Settings

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    "address",
    ["tcp://x:1", "unix://relative", "udp://host", "udp://host:0", "udp://host:99999", "udp://:1", "/path",
     "unix:///" + "x" * 120, "udp://a/b:1", 7, "http://x", "udp://h:\u0663", "https://KEY@host\n", "udp://ho\rst:1"],
)  # fmt: skip
def test_a_wrong_address_is_named_with_its_remedy(address: Any) -> None:
    with pytest.raises(SettingError, match=r"sendoff.init: address must .*, not "):
        sendoff.init(address)
    assert current.client is None


SECRET = "aB3-" * 10 + "xyz"


@pytest.mark.parametrize(
    "address",
    ["{}@gateway.example.com", "https:/{}@host", "https://{}", "https://{}/prefix", "https://{}@host:x", "http://x:{}",
     "zmq+curve://{}?server=x", "zmq+curve://{}@host:1", "zmq+curve://host:1?server={}", "zmq+curve://{} host:1",
     "zmq+curve://{}@host:1?server={}=", "HTTPS://{}@host", "udp://{}@host:1", "{}"],
)  # fmt: skip
def test_what_is_said_of_a_wrong_address_never_shows_its_secret_wherever_that_is(address: str) -> None:
    with pytest.raises(SettingError, match=r"sendoff.init: address must .*, not ") as raised:
        sendoff.init(address.replace("{}", SECRET))
    assert SECRET[:8] not in str(raised.value)


def test_a_wrong_address_is_shown_where_no_secret_can_be_in_it() -> None:
    with pytest.raises(SettingError, match=r"not 'https://gateway\.example\.com:8443/below'"):
        sendoff.init("https://gateway.example.com:8443/below")


@pytest.mark.parametrize(
    ("name", "value"),
    [("linger", -1), ("linger", "soon"), ("linger", float("nan")), ("linger", 10**5000), ("buffer", 1),
     ("buffer", "8 MiB"), ("buffer", 10**5000), ("service", 7), ("service", "x" * 201), ("service", "a\nb"),
     ("scrub", [1]), ("enabled", "maybe"), ("locals", 3)],
    ids=range(13),
)  # fmt: skip
def test_a_wrong_argument_is_named_with_its_remedy(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"sendoff.init: {name} must be .*, not "):
        sendoff.init(**{name: value})


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(SettingError, match="the environment variable SENDOFF_LINGER must be a number of seconds"):
        Settings({}, {"SENDOFF_LINGER": "soon"})


def test_arguments_win_over_the_environment_and_that_over_the_default() -> None:
    environ = {
        "SENDOFF_SERVICE": "from env",
        "SENDOFF_ENV": "prod",
        "SENDOFF_SCRUB": "iban, tax_id",
        "SENDOFF_LOCALS": "off",
    }
    made = Settings({"service": "given"}, environ)
    assert (made.service, made.env, made.release) == ("given", "prod", "")
    assert made.scrub == ("iban", "tax_id")
    assert made.locals is False
    assert made.linger == 2.0


def test_every_setting_is_an_argument_of_init() -> None:
    import inspect

    assert list(inspect.signature(sendoff.init).parameters) == [setting.name for setting in DECLARED]


def test_a_wrong_second_init_leaves_the_first_at_work(address: str) -> None:
    sendoff.init(address)
    first = current.client
    with pytest.raises(sendoff.SettingError):
        sendoff.init(linger="soon")  # type: ignore[arg-type]
    assert current.client is first


def test_disabled_means_no_client(address: str) -> None:
    sendoff.init(address, enabled=False)
    assert current.client is None
    assert sendoff.event("x") is None


def test_the_socket_is_looked_for_in_the_order_of_the_protocol(tmp_path: Path) -> None:
    import socket

    def bound(path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
        return str(path)

    runtime = bound(tmp_path / "run" / "sendoff" / "agent.sock")
    given = str(tmp_path / "given.sock")
    environ = {"SENDOFF_SOCKET": given, "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert find(environ, 0) == runtime, "what does not exist is passed over"
    bound(Path(given))
    assert find(environ, 0) == given
    assert find({"SENDOFF_SOCKET": str(tmp_path)}, 4_242_424) != str(tmp_path), "a directory is no socket"


def test_a_socket_in_a_directory_of_others_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import shutil
    import socket

    monkeypatch.setattr("sendoff.sending.unix.SYSTEM", "/nowhere")
    uid = 3_999_999_999
    folder = Path(f"/tmp/sendoff-{uid}")
    folder.mkdir(mode=0o700)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(folder / "agent.sock"))
        assert find({}, uid) != str(folder / "agent.sock"), "owned by somebody else"
        if os.getuid() == 0:
            os.chown(folder, uid, uid)
            assert find({}, uid) == str(folder / "agent.sock")
            folder.chmod(0o755)
            assert find({}, uid) != str(folder / "agent.sock"), "open to others"
    finally:
        shutil.rmtree(folder)


IMPORT = """
import sys, os, signal, threading, atexit
before = set(sys.modules)
hooks = sys.excepthook, threading.excepthook
def descriptors(): return len(os.listdir("/proc/self/fd"))
fds, count = descriptors(), threading.active_count()
handlers = [signal.getsignal(n) for n in signal.valid_signals()]
callbacks = atexit._ncallbacks()
import sendoff
sendoff.counter("x", a="b").increment(); sendoff.event("x"); sendoff.set_user(id=1)
assert (fds, count) == (descriptors(), threading.active_count())
assert handlers == [signal.getsignal(n) for n in signal.valid_signals()]
assert hooks == (sys.excepthook, threading.excepthook)
assert callbacks == atexit._ncallbacks()
print(*sorted(set(sys.modules) - before))
"""


def test_importing_does_nothing_and_loads_next_to_nothing(run: Run) -> None:
    loaded = run(IMPORT).stdout.split()
    ours = {name for name in loaded if name.startswith("sendoff")}
    assert ours == {
        "sendoff",
        "sendoff.scope",
        "sendoff.current",
        "sendoff.metrics",
        "sendoff.receipt",
        "sendoff.version",
        "sendoff.content",
        "sendoff.content.render",
        "sendoff.content.scrub",
    }
    heavy = {
        "socket",
        "ssl",
        "json",
        "logging",
        "inspect",
        "asyncio",
        "traceback",
        "linecache",
        "hashlib",
        "typing",
        "dataclasses",
        "random",
    }
    assert not heavy & set(loaded)


def test_init_opens_no_connection_and_starts_no_thread(run: Run) -> None:
    run(
        "import os, threading, _thread, sendoff\n"
        "before = _thread._count()\n"
        "sendoff.init(); sendoff.init()\n"
        "assert _thread._count() == before\n"
        "assert not sendoff.stats()['connected']\n"
    )


def test_nothing_is_printed(run: Run) -> None:
    done = run(
        "import sendoff\nsendoff.init(linger=0)\n"
        "for n in range(2000):\n    sendoff.event('x', n=n); sendoff.increment('', float('nan'))\n"
        "sendoff.event(None); sendoff.capture_exception(); sendoff.flush(0.1)"
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_the_public_names_are_the_documented_ones() -> None:
    public = {name for name in vars(sendoff) if not name.startswith("_")} - {"annotations", "TYPE_CHECKING"}
    modules = {name for name in public if type(vars(sendoff)[name]).__name__ == "module"}
    classes = {"Counter", "Distribution", "Gauge", "Timer", "Timing", "Unique"}
    assert public - modules - classes == set(sendoff.__all__) - {"SettingError", "__version__"}
