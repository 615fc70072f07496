"""`sendoff doctor` with a real agent and a real gateway, and every fault that it names, provoked for real."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo.parts import BIN, Part, Stage, free_port, get_json, wait_until
from sendoff_server.doctor.places import look
from sendoff_server.doctor.running import examine
from sendoff_server.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator

STRANGER = 54_321
"""A user that no machine has."""
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user, or mount a small disk")


def run(stage: Stage, *arguments: str, weak: bool = False, **environ: str) -> subprocess.CompletedProcess[str]:
    """`weak`: without root's right to pass over the permissions of files."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SENDOFF_", "XDG_"))}
    env |= {"SENDOFF_SOCKET": f"{stage.folder}/agent.sock"} | environ
    return subprocess.run(
        [*(without("dac_override", "dac_read_search") if weak else []), BIN / "sendoff", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"SENDOFF_CONFIG": str(stage.config)} | env,
        check=False,
    )


def without(*capabilities: str) -> list[str]:
    """The beginning of a command that runs without some of root's capabilities."""
    listed = ",".join(f"-{name}" for name in capabilities)
    return ["setpriv", f"--bounding-set={listed}", f"--inh-caps={listed}"]


def report(stage: Stage, *arguments: str, weak: bool = False, **environ: str) -> dict[str, Any]:
    done = run(stage, "--json", *arguments, weak=weak, **environ)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["well"] is (done.returncode == 0)
    for fault in found["faults"]:
        assert fault["words"], fault
        assert fault["remedy"], fault
    return found


def codes(found: dict[str, Any]) -> set[str]:
    return {fault["code"] for fault in found["faults"]}


def fault(found: dict[str, Any], code: str) -> dict[str, Any]:
    named: dict[str, Any] = next(each for each in found["faults"] if each["code"] == code)
    return named


def hops(found: dict[str, Any], probe: str) -> dict[str, str]:
    """State by the first words of a hop's name."""
    return {hop["name"].partition(",")[0]: hop["state"] for hop in found["hops"] if hop["probe"] == probe}


def edit(stage: Stage, old: str, new: str) -> None:
    text = stage.config.read_text()
    assert old in text
    stage.config.write_text(text.replace(old, new))


@contextlib.contextmanager
def alive(stage: Stage, part: Part | None = None) -> Iterator[Part]:
    """The stage's agent, or another part in its place."""
    started = part or stage.agent()
    started.start(f"{stage.agent_url}/readyz")
    try:
        yield started
    finally:
        started.stop(5)


class _Answers(http.server.BaseHTTPRequestHandler):
    """A destination with one answer for everything, and a clock of its own."""

    status = 200
    late_s = 0.0
    of = ""

    def do_HEAD(self) -> None:
        spared = not self.headers.get("Idempotency-Key", "").startswith(self.of)
        self.send_response(200 if spared else self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.do_HEAD()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() - self.late_s, usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def destination(
    *, status: int = 200, of: str = "", late_s: float = 0.0, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """A small HTTP server on loopback; its address. `of`: how the ids begin of what gets another status than 200."""
    handler = type("Handler", (_Answers,), {"status": status, "of": of, "late_s": late_s})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def self_signed(folder: Path) -> ssl.SSLContext:
    """A certificate that nobody vouches for."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Part]]:
    """A stage whose gateway and agent run, and the agent: for all tests that leave both as they found them."""
    made = Stage(tmp_path_factory.mktemp("whole"))
    made.write_config(key=None)
    made.write_config(key=made.make_key("demo"))
    edit(made, "interval = 2", "interval = 1")
    gateway = made.gateway()
    gateway.start(f"{made.gateway_url}/readyz")
    try:
        with alive(made) as agent:
            yield made, agent
    finally:
        gateway.stop()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A stage of which nothing runs. Its output has a key that no gateway knows."""
    made = Stage(tmp_path)
    made.write_config(key="sk_wrong")
    edit(made, "[agent]\n", "[agent]\ndrain = 0\n")
    edit(made, "interval = 2", "interval = 1")
    return made


@pytest.fixture
def open_stage() -> Iterator[Stage]:
    """A stage in a folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="sendoff-doctor-"))
    folder.chmod(0o755)
    made = Stage(folder)
    made.write_config(key=None)
    edit(made, "[agent]\n", "[agent]\ndrain = 0\n")
    yield made
    shutil.rmtree(folder)


# ---- all is well ----


def test_both_probes_arrive_over_every_hop_and_the_doctor_says_when(whole: tuple[Stage, Part]) -> None:
    stage, _ = whole
    before = its_clients(stage)
    found = report(stage)
    assert found["faults"] == []
    assert found["well"]
    ways = [hop["name"] for hop in found["hops"]]
    assert any("unix" in way for way in ways)
    assert any("tcp" in way for way in ways)
    assert any("udp" in way for way in ways)
    behind = ["delivered to main", "stored at the gateway of main"]
    assert set(hops(found, "event")) == {"client → agent", "spooled", *behind}
    assert set(hops(found, "counter")) == {"client → agent", "journaled", *behind}
    assert all(hop["ms"] >= 0 for hop in found["hops"])
    event = get_json(f"{stage.gateway_url}/api/v1/demo/events/{found['event']}")
    assert (event["name"], event["service"]) == ("sendoff.doctor", "sendoff-doctor")
    wait_until("all its clients ended", lambda: new(stage, before) == ["ended"] * 4)


def its_clients(stage: Stage) -> dict[str, str]:
    """The doctor's clients, and how each is."""
    clients = get_json(f"{stage.agent_url}/status.json")["clients"]
    return {each["client"]: each["state"] for each in clients if each["service"] == "sendoff-doctor"}


def new(stage: Stage, before: dict[str, str]) -> list[str]:
    return [state for client, state in its_clients(stage).items() if client not in before]


def test_what_the_doctor_prints_is_for_people(whole: tuple[Stage, Part]) -> None:
    done = run(whole[0])
    assert done.returncode == 0, done.stdout
    assert "stored at the gateway of main" in done.stdout
    assert "nothing is wrong with the set-up" in done.stdout


# ---- the agent and its sockets ----


def test_without_an_agent_the_set_up_alone_is_looked_at(stage: Stage) -> None:
    found = report(stage)
    assert found["hops"] == []
    assert codes(found) == {"agent_not_running", "socket_missing", "unreachable"}


def test_sockets_that_a_killed_agent_left_over_are_named(stage: Stage) -> None:
    with alive(stage) as agent:
        assert agent.process is not None
        agent.process.kill()
        agent.process.wait()
        found = report(stage)
    assert {"agent_not_running", "socket_stale", "control_stale"} <= codes(found)


def test_a_stopped_agent_is_told_from_none_and_not_waited_for_longer_than_asked(whole: tuple[Stage, Part]) -> None:
    stage, agent = whole
    assert agent.process is not None
    agent.process.send_signal(19)
    try:
        found = report(stage, "--wait", "1")
    finally:
        agent.process.send_signal(18)
    assert "control_silent" in codes(found)
    [way] = found["hops"]
    assert way["state"] == "failed"
    assert way["detail"] == "the agent did not acknowledge it within 2 s"


def test_a_path_that_is_too_long_for_a_socket_is_named(stage: Stage) -> None:
    found = report(stage, SENDOFF_SOCKET=f"/tmp/{'x' * 110}.sock")
    assert "107" in fault(found, "path_too_long")["words"]


def test_a_client_whose_environment_points_elsewhere_is_told_where_the_agent_is(
    whole: tuple[Stage, Part],
) -> None:
    stage, _ = whole
    found = report(stage, SENDOFF_SOCKET=f"{stage.folder}/elsewhere.sock")
    assert {"socket_missing", "client_elsewhere"} <= codes(found)
    assert f"SENDOFF_SOCKET={stage.folder}/agent.sock" in fault(found, "client_elsewhere")["remedy"]
    assert all(hop["state"] == "arrived" for hop in found["hops"])


@needs_root
def test_a_user_who_may_not_write_to_the_socket_is_told_who_may(open_stage: Stage) -> None:
    with alive(open_stage):
        for name in ("agent.sock", "control.sock"):
            os.chown(open_stage.folder / name, STRANGER, STRANGER)
        found = report(open_stage, weak=True)
    assert {"socket_forbidden", "control_forbidden"} <= codes(found)
    assert f"owner user {STRANGER}, group {STRANGER}, mode 0660" in fault(found, "socket_forbidden")["words"]


@needs_root
def test_a_user_whom_a_folder_does_not_let_through_is_told_which(open_stage: Stage) -> None:
    folder = open_stage.folder / "private"
    edit(open_stage, f"{open_stage.folder}/agent.sock", f"{folder}/agent.sock")
    with alive(open_stage):
        folder.chmod(0o700)
        os.chown(folder, STRANGER, STRANGER)
        found = report(open_stage, weak=True, SENDOFF_SOCKET=f"{folder}/agent.sock")
    assert str(folder) in fault(found, "folder_forbidden")["words"]


@needs_root
def test_a_folder_in_tmp_that_somebody_else_made_is_not_trusted() -> None:
    folder = Path(f"/tmp/sendoff-{STRANGER}")
    folder.mkdir(mode=0o700)
    try:
        [found] = look({}, STRANGER, None)
        os.chown(folder, STRANGER, STRANGER)
        assert list(look({}, STRANGER, None)) == []
        folder.chmod(0o755)
        [open_to_others] = look({}, STRANGER, None)
    finally:
        folder.rmdir()
    assert (found.code, open_to_others.code) == ("folder_unsafe", "folder_unsafe")
    assert "belongs to root" in found.words
    assert "is open to others" in open_to_others.words


def test_two_agents_on_one_host_are_named(stage: Stage, tmp_path: Path) -> None:
    other = Stage(tmp_path / "second")
    (other.folder / "run/sendoff").mkdir(parents=True)
    other.write_config(key=None)
    edit(other, f"{other.folder}/agent.sock", f"{other.folder}/run/sendoff/agent.sock")
    with alive(stage), alive(other):
        found = report(stage, "--wait", "0", XDG_RUNTIME_DIR=str(other.folder / "run"))
    assert str(other.folder) in fault(found, "two_agents")["words"]


def test_settings_that_the_agent_does_not_run_with_are_named(stage: Stage) -> None:
    with alive(stage):
        edit(stage, "[outputs.main]", "[outputs.other]")
        found = report(stage, "--wait", "0")
    assert "other" in fault(found, "settings_differ")["words"]


def test_an_agent_without_an_output_is_named(stage: Stage) -> None:
    stage.write_config(key=None)
    with alive(stage):
        found = report(stage)
    assert codes(found) == {"no_output"}
    assert hops(found, "counter")["journaled"] == "arrived"


# ---- the machine ----


@needs_root
def test_a_receive_buffer_smaller_than_asked_for_is_good_to_know(open_stage: Stage) -> None:
    edit(open_stage, "[inputs.udp]\n", '[inputs.udp]\nreceive_buffer = "1GiB"\n')
    part = open_stage.agent()
    part.command = [*without("net_admin"), *part.command]
    with alive(open_stage, part):
        found = report(open_stage, "--wait", "0")
    small = fault(found, "receive_buffer_small")
    assert "sysctl -w net.core.rmem_max" in small["remedy"]
    assert not small["serious"]


@needs_root
def test_a_disk_that_is_nearly_full_is_named_and_a_spool_that_takes_nothing(open_stage: Stage) -> None:
    disk = open_stage.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=True)
    try:
        edit(open_stage, f'data_dir = "{open_stage.folder}"\n[inputs', f'data_dir = "{disk}"\n[inputs')
        with alive(open_stage):
            found = report(open_stage, "--wait", "0")
            assert codes(found) == {"disk_nearly_full", "no_output"}
            with (disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(b"x" * 65_536)
                    filler.flush()
            found = report(open_stage, "--wait", "0")
        assert {"disk_nearly_full", "spool_blocked"} <= codes(found)
        assert hops(found, "event") == {"client → agent": "failed"}
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_spool_that_is_damaged_is_named(whole: tuple[Stage, Part]) -> None:
    stage, _ = whole
    status = get_json(f"{stage.agent_url}/status.json")
    status["spool"]["damaged"] = "a page is not what was written"
    [found] = examine(status, load(stage.config, {}))
    assert (found.code, status["spool"]["damaged"] in found.words) == ("spool_damaged", True)


# ---- the destinations ----


def test_a_gateway_that_is_not_there_is_named_and_what_is_kept_meanwhile(stage: Stage, agent: Part) -> None:
    found = report(stage, "--wait", "1")
    assert "connection refused" in fault(found, "unreachable")["words"]
    assert hops(found, "event") == {
        "client → agent": "arrived",
        "spooled": "arrived",
        "delivered to main": "under way",
    }


@pytest.mark.parametrize(
    ("url", "code"),
    [("http://no-such-host.invalid", "name_unknown"), ("http://127.0.0.1:{port}", "unreachable")],
)
def test_an_address_that_leads_nowhere_is_named(stage: Stage, url: str, code: str) -> None:
    edit(stage, f'url = "{stage.gateway_url}"', f'allow_plaintext = true\nurl = "{url.format(port=free_port())}"')
    assert code in codes(report(stage, "--wait", "0"))


def test_a_certificate_that_nobody_vouches_for_is_named(stage: Stage, tmp_path: Path) -> None:
    with destination(tls=self_signed(tmp_path)) as url:
        edit(stage, f'url = "{stage.gateway_url}"', f'url = "{url}"')
        found = report(stage, "--wait", "0")
    assert "the certificate of 127.0.0.1" in fault(found, "certificate")["words"]


def test_a_destination_that_speaks_no_tls_is_named(stage: Stage) -> None:
    with destination() as url:
        edit(stage, f'url = "{stage.gateway_url}"', f'url = "{url.replace("http:", "https:")}"')
        found = report(stage, "--wait", "0")
    assert "does not speak TLS" in fault(found, "tls")["words"]


def test_a_key_that_is_refused_is_named_and_the_output_that_is_parked_for_it(
    stage: Stage, whole: tuple[Stage, Part]
) -> None:
    edit(stage, stage.gateway_url, whole[0].gateway_url)
    with alive(stage):
        assert "key_refused" in codes(report(stage, "--wait", "0"))
        wait_until("parked", lambda: output_of(stage)["state"] == "parked")
        found = report(stage, "--wait", "0")
    assert {"key_refused", "output_parked"} <= codes(found)
    assert "401" in fault(found, "key_refused")["words"]


@pytest.mark.parametrize("late_s", [-90.0, 90.0])
def test_clocks_that_differ_are_named(stage: Stage, late_s: float) -> None:
    with destination(late_s=late_s) as url:
        edit(stage, 'type = "gateway"', 'type = "http"')
        edit(stage, f'url = "{stage.gateway_url}"', f'url = "{url}"')
        found = report(stage, "--wait", "0")
    assert ("ahead of" if late_s > 0 else "behind") in fault(found, "clock_off")["words"]


def test_dead_letters_that_wait_are_named_and_the_probe_that_became_one(stage: Stage) -> None:
    with destination(status=422, of="ev-") as url:
        edit(stage, 'type = "gateway"', 'type = "http"')
        edit(stage, f'url = "{stage.gateway_url}"', f'url = "{url}"')
        with alive(stage):
            found = report(stage)
    assert "422" in fault(found, "dead_letters")["words"]
    assert hops(found, "event")["delivered to main"] == "failed"


def test_a_destination_that_fails_is_named(stage: Stage) -> None:
    with destination(status=503) as url:
        edit(stage, 'type = "gateway"', 'type = "http"')
        edit(stage, f'url = "{stage.gateway_url}"', f'url = "{url}"')
        with alive(stage):
            report(stage, "--wait", "0")
            wait_until("the agent has tried", lambda: output_of(stage)["state"] == "waiting")
            found = report(stage, "--wait", "0")
    assert {"destination_failing", "output_waiting"} <= codes(found)


def output_of(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any]
    [found] = get_json(f"{stage.agent_url}/status.json")["outputs"]
    return found
