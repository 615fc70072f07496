"""`sendoff spool` and `sendoff receipt` as commands, with a real agent, a real destination, and without any agent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import apsw
import pytest

from server.tests.cli.support import COMMAND, Sendoff, read_until, wait_until
from server.tests.outputs.destination import KEY, Destination

if TYPE_CHECKING:
    from pathlib import Path

SENDS = """
import sendoff, sys
sendoff.init(service="shop")
receipts = [sendoff.event(name, confirm=True) for name in sys.argv[1:]]
assert all(receipt.wait(30) for receipt in receipts), receipts
print(*(receipt.id for receipt in receipts))
"""
READING = [
    ("ls",),
    ("ls", "--dead"),
    ("ls", "--output", "main", "--limit", "3"),
    ("show", "1"),
    ("check",),
    ("purge", "--waiting"),
    ("purge", "--dead"),
    ("replay", "--all"),
]
HOSTILE = [
    ("show", "dead/../../etc/passwd"),
    ("show", "9" * 5_000),
    ("show", "\x1b[2J"),
    ("show", "1", "--lines", "0"),
    ("ls", "--limit", "-1"),
    ("ls", "--limit", "1e9"),
    ("replay",),
    ("replay", "--all", "1"),
    ("replay", "one"),
    ("replay", "1", "--output", "main"),
    ("replay", "99999999999999999999"),
    ("replay", "77"),
    ("purge",),
    ("purge", "--dead", "--older", "soon"),
    ("purge", "--dead", "--older", "-1d"),
    ("purge", "--waiting", "x; DROP TABLE item"),
    ("purge", "--waiting", "--yes", "dead/1"),
    ("export", "--to", "/nowhere/at/all"),
]


def add_output(sendoff: Sendoff, url: str) -> None:
    with sendoff.config.open("a") as file:
        file.write(f'[outputs.main]\ntype = "gateway"\nurl = "{url}"\nkey = "{KEY}"\n')


def begin_agent(sendoff: Sendoff) -> subprocess.Popen[str]:
    agent = sendoff.begin("agent")
    read_until(agent, "listens on")
    return agent


def send(sendoff: Sendoff, *names: str) -> list[str]:
    """Events of these names, each on the agent's disk; their ids."""
    done = subprocess.run(
        [sys.executable, "-c", SENDS, *names],
        capture_output=True, text=True, timeout=60, env=sendoff.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def answer(sendoff: Sendoff, *arguments: str, code: int = 0) -> Any:
    done = sendoff(*arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


async def run(sendoff: Sendoff, *arguments: str) -> tuple[int, str, str]:
    """The command beside a destination in this loop."""
    process = await asyncio.create_subprocess_exec(
        str(COMMAND), *arguments, env=sendoff.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def until(what: str, condition: Any) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.1)


async def test_a_poison_event_is_replayed_once_its_destination_is_mended_and_arrives_once(
    sendoff: Sendoff,
) -> None:
    destination = Destination()
    await destination.start()
    destination.always = destination.refuse_lines(poison="invalid")
    add_output(sendoff, destination.url)
    await asyncio.to_thread(begin_agent, sendoff)
    try:
        good, bad = await asyncio.to_thread(send, sendoff, "order", "poison")

        async def status() -> tuple[int, int, int]:
            code, out, err = await run(sendoff, "status", "--json")
            assert code == 0, err  # 4: the books do not balance
            books = json.loads(out)["books"]["events"]
            return tuple(sum(row[name] for row in books) for name in ("delivered", "pending", "dead"))

        async def settled() -> bool:
            return await status() == (1, 0, 1)

        await until("one is delivered, one dead", settled)
        code, out, _ = await run(sendoff, "receipt", bad)
        assert (code, "invalid: poison is not wanted" in out) == (5, True)
        assert (await run(sendoff, "receipt", good))[0] == 0
        _, out, _ = await run(sendoff, "status")
        assert "dead/1" in out
        assert "sendoff spool replay" in out
        code, out, _ = await run(sendoff, "spool", "show", "dead/1")
        about, header, line = out.split("\nanswer       poison is not wanted\n")[0], *out.splitlines()[-2:]
        assert code == 0
        assert [row.split("  ")[0] for row in about.splitlines()] == [
            "dead letter", "batch", "output", "kind", "holds", "refused",
        ]  # fmt: skip
        assert (json.loads(header)["count"], json.loads(line)["id"]) == (1, bad)

        code, out, _ = await run(sendoff, "spool", "replay", "dead/1")
        assert (code, out) == (0, "to be sent again: 1 dead letter with 1 event and 0 points\n")

        async def refused_again() -> bool:
            listed = json.loads((await run(sendoff, "spool", "ls", "--json"))[1])
            return [letter["dead"] for letter in listed["dead"]] == [2]

        await until("it is refused once more, under a new number", refused_again)
        assert await status() == (1, 0, 1)
        destination.always = None
        assert (await run(sendoff, "spool", "replay", "--all"))[0] == 0

        async def delivered() -> bool:
            return await status() == (2, 0, 0)

        await until("both are delivered", delivered)
        assert (await run(sendoff, "receipt", bad, "--wait", "30"))[0] == 0
        ids = [json.loads(line)["id"] for line in destination.stored_lines]
        assert sorted(ids) == sorted([good, bad])
        assert (await run(sendoff, "spool", "check"))[0] == 0
    finally:
        sendoff.end_all()
        await destination.stop()
    assert destination.complaints == []


def test_each_command_answers_the_same_through_the_agent_and_on_the_files(sendoff: Sendoff) -> None:
    agent = begin_agent(sendoff)
    (event,) = send(sendoff, "order")
    online = {arguments: answer(sendoff, "spool", *arguments) for arguments in READING}
    known = answer(sendoff, "receipt", event, code=3)
    exported = sendoff("spool", "export")
    assert "through its agent" in sendoff("spool", "ls").stdout
    shown = sendoff("spool", "show", "1").stdout
    assert "output       unassigned\nkind         events\nholds        1 event, " in shown
    assert "nothing wrong in 1 item and 0 dead letters" in sendoff("spool", "check").stdout
    assert "exported: /nowhere/at/all: No such file" in sendoff("spool", "export", "--to", "/nowhere/at/all").stderr
    agent.terminate()
    assert agent.wait(30) == 0
    assert "no agent runs" in sendoff("spool", "ls").stdout
    for arguments in READING:
        offline = answer(sendoff, "spool", *arguments)
        for found in (offline, online[arguments]):
            for row in found.get("waiting", [found]):
                row.pop("age_s", None)
        assert offline == online[arguments], arguments
    assert answer(sendoff, "receipt", event, code=3) == known
    again = sendoff("spool", "export")
    assert (again.returncode, again.stdout) == (0, exported.stdout)
    header, line = exported.stdout.splitlines()
    assert json.loads(header)["count"] == 1
    assert json.loads(line)["id"] == event


@pytest.mark.parametrize("with_agent", [True, False])
def test_hostile_arguments_get_one_sentence_and_change_nothing(sendoff: Sendoff, with_agent: bool) -> None:
    agent = begin_agent(sendoff)
    send(sendoff, "order")
    if not with_agent:
        agent.terminate()
        agent.wait(30)
    before = answer(sendoff, "spool", "ls")["totals"]
    for arguments in HOSTILE if not with_agent else HOSTILE[::3]:
        done = sendoff("spool", *arguments)
        assert done.returncode in (1, 2), arguments
        assert done.stderr, arguments
        assert "Traceback" not in done.stderr + done.stdout, arguments
        assert "\x1b" not in done.stderr, arguments
    assert answer(sendoff, "spool", "ls")["totals"] == before


def test_a_purge_asks_first_and_then_the_events_are_lost_and_counted(sendoff: Sendoff) -> None:
    begin_agent(sendoff)
    (event,) = send(sendoff, "order")
    assert "Nothing was changed; --yes does it" in sendoff("spool", "purge", "--waiting").stdout
    assert answer(sendoff, "receipt", event, code=3)["outputs"][0]["state"] == "pending"
    assert answer(sendoff, "spool", "purge", "--waiting", "--yes")["gone"]["events"] == 1
    found = sendoff("receipt", event)
    assert found.returncode == 5
    assert found.stdout.rstrip().endswith("purged")
    books = answer(sendoff, "status")["books"]
    assert books["balanced"]
    assert books["events"][0]["lost"] == {"purged": 1}


def test_an_export_that_fails_leaves_the_file_that_was_there(sendoff: Sendoff, tmp_path: Path) -> None:
    file = tmp_path / "out.ndjson"
    file.write_text("before")
    begin_agent(sendoff)
    send(sendoff, "order")
    limited = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -f 0; exec {COMMAND} spool export --to {file}"],
        capture_output=True, text=True, timeout=60, env=sendoff.environ, check=False,
    )  # fmt: skip
    assert limited.returncode != 0
    assert file.read_text() == "before"
    assert sendoff("spool", "export", "--to", str(file)).returncode == 0
    assert len(file.read_text().splitlines()) == 2
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".out")] == []


def test_receipts_are_there_after_the_agent_was_killed(sendoff: Sendoff) -> None:
    agent = begin_agent(sendoff)
    (event,) = send(sendoff, "order")
    agent.send_signal(signal.SIGKILL)
    agent.wait(30)
    assert answer(sendoff, "receipt", event, code=3)["state"] == "spooled"
    begin_agent(sendoff)
    assert answer(sendoff, "receipt", event, code=3)["outputs"][0]["state"] == "pending"
    nothing = sendoff("receipt", "01939c5a-7c00-7000-8000-000000000001")
    assert (nothing.returncode, "nothing is known of" in nothing.stdout) == (4, True)


def test_a_receipt_that_names_no_output_is_no_proof_of_delivery(sendoff: Sendoff, tmp_path: Path) -> None:
    agent = begin_agent(sendoff)
    (event,) = send(sendoff, "order")
    agent.terminate()
    assert agent.wait(30) == 0
    (file,) = tmp_path.rglob("spool.db")
    connection = apsw.Connection(str(file))
    connection.execute("DELETE FROM standing")
    connection.close()
    found = sendoff("receipt", event)
    assert (found.returncode, "what became of it then is not known" in found.stdout) == (4, True)


async def test_none_of_it_is_to_be_had_on_an_address(sendoff: Sendoff) -> None:
    await asyncio.to_thread(begin_agent, sendoff)
    _, out, _ = await run(sendoff, "status", "--json")
    web = json.loads(out)["addresses"]["web"]
    async with aiohttp.ClientSession() as http:
        for method, path in [
            ("GET", "/spool"), ("GET", "/spool/show?name=1"), ("GET", "/spool/export?what=waiting"),
            ("GET", "/spool/check"), ("GET", "/spool/place"), ("GET", "/receipts/x"),
            ("POST", "/spool/replay"), ("POST", "/spool/purge"), ("POST", "/reload"),
        ]:  # fmt: skip
            async with http.request(method, f"http://{web}{path}") as found:
                assert found.status == 404, path


def test_a_spool_that_somebody_else_holds_is_said_to_be(sendoff: Sendoff, tmp_path: Path) -> None:
    agent = begin_agent(sendoff)
    (tmp_path / "run/sendoff/control.sock").unlink()
    done = sendoff("spool", "ls")
    assert done.returncode == 1
    assert f"is held by process {agent.pid}, but no agent answers" in done.stderr


def test_another_agent_than_the_settings_name_is_not_touched(sendoff: Sendoff, tmp_path: Path) -> None:
    begin_agent(sendoff)
    other = tmp_path / "other.toml"
    other.write_text(f'[agent]\ndata_dir = "{tmp_path}/other"\n')
    os.makedirs(tmp_path / "other/agent")
    (tmp_path / "other/agent/spool.db").touch()
    done = sendoff("spool", "purge", "--waiting", "--yes", "--config", str(other))
    assert done.returncode == 1
    assert "keeps its spool in" in done.stderr
    wait_until(lambda: sendoff("spool", "ls").returncode == 0)


def test_whoever_waits_for_a_receipt_keeps_no_agent_from_starting(sendoff: Sendoff) -> None:
    agent = begin_agent(sendoff)
    (event,) = send(sendoff, "order")
    agent.terminate()
    agent.wait(30)
    waits = sendoff.begin("receipt", event, "--wait", "60")
    lock = sendoff.folder / "agent/spool.lock"
    wait_until(lambda: lock.read_text().strip() == str(waits.pid))  # it has looked into the files
    wait_until(lambda: sendoff("spool", "ls").returncode == 0)  # and let go of them
    begin_agent(sendoff)
    assert waits.poll() is None
    assert sendoff("spool", "purge", "--waiting", "--yes").returncode == 0
    assert waits.wait(60) == 5
