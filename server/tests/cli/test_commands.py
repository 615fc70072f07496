"""The commands that do one thing and end."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sendoff_server.cli.reference import reference
from sendoff_server.settings.pages import with_generated
from server.tests.cli.support import Sendoff

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_page_of_commands_is_what_the_commands_say() -> None:
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert with_generated(page, reference()) == page, "run `make format`"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sendoff_server.cli.main import main; main(['--help'], standalone_mode=False);"
        "print(sorted({'aiohttp', 'pydantic', 'apsw', 'uvloop', 'jinja2'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_right_file_is_said_to_be_right(sendoff: Sendoff) -> None:
    done = sendoff("check", str(sendoff.config))
    assert (done.returncode, done.stdout) == (0, f"{sendoff.config}: nothing wrong\n")


def test_a_wrong_file_gets_every_fault_on_standard_error_and_exit_code_2(sendoff: Sendoff) -> None:
    sendoff.config.write_text('[agent]\ndrain = "soon"\nhots = "x"\n')
    done = sendoff("check", str(sendoff.config))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sendoff: 2 faults in the settings\n")
    assert "did you mean agent.host?" in done.stderr
    faults = json.loads(sendoff("check", "--json", "--config", str(sendoff.config)).stdout)["faults"]
    assert {fault["key"] for fault in faults} == {"agent.drain", "agent.hots"}


@pytest.mark.parametrize("command", [["agent"], ["gateway"], ["dev"], ["status"], ["gateway", "keys", "list"]])
def test_no_command_begins_with_wrong_settings(sendoff: Sendoff, command: list[str]) -> None:
    done = sendoff(*command, SENDOFF_WEB_LISTEN="0.0.0.0:80")
    assert (done.returncode, done.stdout) == (2, "")
    assert "SENDOFF_WEB_LISTEN: web.listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reload_by_a_faulty_file_says_that_the_agent_goes_on(sendoff: Sendoff) -> None:
    done = sendoff("reload", SENDOFF_WEB_LISTEN="0.0.0.0:80")
    assert done.returncode == 2
    assert done.stderr.endswith("The agent was not asked, and goes on as before.\n")


def test_check_shows_where_each_value_came_from_and_no_secret(sendoff: Sendoff) -> None:
    with sendoff.config.open("a") as file:
        file.write('[outputs.main]\nurl = "https://gateway.example.com"\nkey = "sk_hush"\n')
    done = sendoff("check", "--show", SENDOFF_AGENT_DRAIN="3 s")
    assert re.search(r"^agent.drain +3 s +SENDOFF_AGENT_DRAIN$", done.stdout, re.MULTILINE)
    assert re.search(rf"^web.listen +127.0.0.1:0 +{sendoff.config}$", done.stdout, re.MULTILINE)
    assert re.search(r"^agent.max_series +50000 +default$", done.stdout, re.MULTILINE)
    assert "hush" not in done.stdout + done.stderr
    shown = json.loads(sendoff("check", "--show", "--json").stdout)["settings"]
    assert shown["outputs.main.key"]["variable"] == "SENDOFF_OUTPUTS_MAIN_KEY"


def test_naming_the_file_twice_is_refused(sendoff: Sendoff) -> None:
    assert sendoff("check", "a.toml", "--config", "b.toml").returncode == 2


def test_a_key_is_made_shown_once_listed_and_revoked(sendoff: Sendoff) -> None:
    made = sendoff("gateway", "keys", "create", "shop", "--config", str(sendoff.config))
    key = made.stdout.strip()
    assert re.fullmatch(r"sk_[A-Za-z0-9_-]{43}", key)
    listed = sendoff("gateway", "keys", "list")
    assert "shop" in listed.stdout
    assert key not in listed.stdout
    assert sendoff("gateway", "--config", str(sendoff.config), "keys", "revoke", "1").returncode == 0
    (row,) = json.loads(sendoff("gateway", "keys", "list", "--json").stdout)
    assert row["revoked"] is not None


def test_a_key_that_is_not_there_cannot_be_revoked(sendoff: Sendoff) -> None:
    sendoff("gateway", "keys", "create", "shop")
    done = sendoff("gateway", "keys", "revoke", "7")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no key 7" in done.stderr
    for number in ("0", "99999999999999999999"):
        done = sendoff("gateway", "keys", "revoke", number)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr


def test_a_project_name_that_cannot_be_an_address_is_refused_in_one_line(sendoff: Sendoff) -> None:
    done = sendoff("gateway", "keys", "create", "My Shop")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def test_the_store_of_the_keys_is_closed_to_others(sendoff: Sendoff) -> None:
    sendoff("gateway", "keys", "create", "shop")
    files = [path for path in (sendoff.folder / "gateway").rglob("*") if path.is_file()]
    assert files
    closed_above = not (sendoff.folder / "gateway").stat().st_mode & 0o077
    assert closed_above or not any(path.stat().st_mode & (stat.S_IRWXO | stat.S_IRWXG) for path in files)


def test_where_no_agent_runs_status_says_where_it_looked_and_what_to_do(sendoff: Sendoff) -> None:
    sendoff.config.write_text(f'[inputs.unix]\npath = "{sendoff.folder}/agent.sock"\n')
    done = sendoff("status")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{sendoff.folder}/control.sock: nothing there" in done.stderr
    assert "`sendoff agent`" in done.stderr


def test_version_says_what_it_runs_on(sendoff: Sendoff) -> None:
    assert json.loads(sendoff("version", "--json").stdout).keys() == {"sendoff", "core", "python", "loop", "sqlite"}


def test_a_curve_key_for_a_client_of_the_agent_goes_where_it_is_said_and_works(sendoff: Sendoff) -> None:
    with sendoff.config.open("a") as file:
        file.write('[inputs.zmq]\nlisten = "tcp://0.0.0.0:8703"\n')
    assert sendoff("check").returncode == 2, "nobody may send yet, so it may not listen there"
    made = sendoff("agent", "curve", "shop")
    app = re.fullmatch(r"zmq\+curve://([\w-]{43})@[\w.-]+:8703\?server=([\w-]{43})\n", made.stdout)
    assert app, made.stderr
    assert app[1] not in made.stderr, "the secret is in one place only"
    listed = made.stderr[made.stderr.index("    [inputs.zmq]") :]
    kept = sendoff.config.read_text().partition("[inputs.zmq]")[0]
    sendoff.config.write_text(kept + listed)
    assert sendoff("check").returncode == 0
    second = json.loads(sendoff("agent", "--config", str(sendoff.config), "curve", "blog", "--json").stdout)
    assert second["server"] == app[2], "the agent's own key is made once"
    assert second["app"].startswith("zmq+curve://")
    assert sendoff("agent", "curve", "blog").stderr.count(" = ") == 4, "those who are known stay"


def test_a_curve_key_needs_an_address_and_a_plain_name(sendoff: Sendoff) -> None:
    done = sendoff("agent", "curve", "shop")
    assert (done.returncode, done.stdout) == (2, "")
    assert "set inputs.zmq.listen" in done.stderr
    assert sendoff("agent", "curve", "a b").returncode == 2
