"""From a file and an environment to settings, or to all that is wrong with them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sendoff.settings import DECLARED
from sendoff_server.settings import Fault, SettingsError, find_file, load

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "sendoff.toml"
        path.write_text(text)
        return path

    return write


def faults_of(path: Path | None, environ: dict[str, str] | None = None) -> tuple[Fault, ...]:
    with pytest.raises(SettingsError) as caught:
        load(path, environ or {})
    return caught.value.faults


def test_without_a_file_everything_has_its_default() -> None:
    settings = load(None, {"XDG_STATE_HOME": "/home/ada/state"}, uid=1000)
    assert settings.agent.data_dir == Path("/home/ada/state/sendoff")
    assert settings.gateway.data_dir == settings.agent.data_dir
    assert settings.inputs.udp.listen == "127.0.0.1:8125"
    assert settings.gateway.retention.events == 90 * 86400
    assert settings.outputs == {}
    assert settings.origins == {}


def test_root_keeps_its_data_in_var_lib() -> None:
    assert load(None, {"XDG_STATE_HOME": "/x"}, uid=0).agent.data_dir == Path("/var/lib/sendoff")


def test_the_command_line_beats_the_environment_which_beats_the_file(write: Write) -> None:
    path = write('[agent]\ndrain = 1\nhost = "file"\nmax_series = 1000\n')
    environ = {"SENDOFF_AGENT_DRAIN": "2 s", "SENDOFF_AGENT_HOST": "variable"}
    settings = load(path, environ, {"agent.drain": 3})
    assert (settings.agent.drain, settings.agent.host, settings.agent.max_series) == (3, "variable", 1000)
    assert settings.origins == {
        "agent.drain": "command line",
        "agent.host": "SENDOFF_AGENT_HOST",
        "agent.max_series": str(path),
    }


def test_all_faults_are_reported_at_once_each_with_its_place(write: Write) -> None:
    path = write(
        '[inputs.udp]\nreceive_buffer = "4 XiB"\nlisen = "x"\n[web]\nlisten = "0.0.0.0:1"\n'
        '[gateway]\nlisten = "127.0.0.1:8125"\n'
    )
    faults = faults_of(path, {"SENDOFF_AGENT_DRAIN": "soon", "SENDOFF_INPUT_UDP_LISTEN": "x"})
    assert {(fault.where, fault.key) for fault in faults} == {
        ("SENDOFF_AGENT_DRAIN", "agent.drain"),
        ("SENDOFF_INPUT_UDP_LISTEN", ""),
        (str(path), "inputs.udp.receive_buffer"),
        (str(path), "inputs.udp.lisen"),
        (str(path), "web.listen"),
        (str(path), ""),  # tcp and gateway on one port
    }
    assert all(fault.problem and fault.remedy for fault in faults)


def test_a_wrong_name_of_an_output_hides_no_other_fault_of_outputs(write: Write) -> None:
    path = write('[outputs."My Out"]\nurl = "x"\n[outputs.main]\ncompresion = "zstd"\n[outputs.unassigned]\n')
    assert {(fault.key, fault.value) for fault in faults_of(path, {})} == {
        ("outputs.My Out", None),
        ("outputs.My Out.url", '"x"'),
        ("outputs.main.url", None),
        ("outputs.main.compresion", None),
        ("outputs.unassigned", None),
        ("outputs.unassigned.url", None),
    }


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[agnt]\n", "agent"),
        ("[inputs.udp]\nlisen = 1\n", "inputs.udp.listen"),
        ('[outputs.main]\nurl = "https://x"\nkey = "k"\nintervall = 3\n', "outputs.main.interval"),
        ("[agent]\nretention = 3\n", "gateway.retention"),
        ("[web]\nmax_series = 3\n", "agent.max_series"),
    ],
)
def test_a_misspelt_key_gets_the_one_that_was_meant(write: Write, text: str, meant: str) -> None:
    (fault,) = faults_of(write(text))
    assert fault.remedy == f"did you mean {meant}?"


@pytest.mark.parametrize(
    ("variable", "word"),
    [
        ("SENDOFF_INPUT_UDP_LISTEN", "SENDOFF_INPUTS_UDP_LISTEN"),
        ("SENDOFF_AGENT_DRIAN", "SENDOFF_AGENT_DRAIN"),
        ("SENDOFF_GATEWAY_COLOUR", "sendoff check --show"),
        ("SENDOFF_OUTPUTS_MAIN_URI", "URL"),
    ],
)
def test_a_misspelt_variable_gets_the_one_that_was_meant(variable: str, word: str) -> None:
    (fault,) = faults_of(None, {variable: "x"})
    assert fault.where == variable
    assert word in fault.remedy


@pytest.mark.parametrize("variable", [*(each.variable for each in DECLARED), "SENDOFF_A_CLIENT_OF_TOMORROW"])
def test_variables_of_the_client_are_left_alone(variable: str) -> None:
    load(None, {variable: "anything"})


@pytest.mark.parametrize("variable", ["SENDOFF_SOCKET", "SENDOFF_CORE", "SENDOFF_LOG"])
def test_variables_that_are_read_before_there_are_settings_are_left_alone(variable: str) -> None:
    load(None, {variable: "anything"})


@pytest.mark.parametrize(
    "variable",
    [
        "SENDOFF_SERVICE_HOST",
        "SENDOFF_PORT",
        "SENDOFF_PORT_8700_TCP",
        "SENDOFF_PORT_8700_TCP_ADDR",
        "SENDOFF_GATEWAY_SERVICE_HOST",
        "SENDOFF_GATEWAY_SERVICE_PORT_HTTP",
        "SENDOFF_GATEWAY_PORT",
        "SENDOFF_AGENT_PORT_8125_UDP_PROTO",
    ],
)
def test_variables_that_kubernetes_makes_for_services_are_left_alone(variable: str) -> None:
    load(None, {variable: "tcp://10.0.0.7:8700"})


def test_an_output_can_be_set_up_by_variables_alone() -> None:
    environ = {
        "SENDOFF_OUTPUTS_MY_SHOP_URL": "https://gateway.example.com",
        "SENDOFF_OUTPUTS_MY_SHOP_KEY": "sk_secret",
        "SENDOFF_OUTPUTS_MY_SHOP_INTERVAL": "20 s",
        "SENDOFF_OUTPUTS_MY_SHOP_HEADERS": '{"X-Team": "shop"}',
    }
    output = load(None, environ).outputs["my_shop"]
    assert output.key is not None
    assert output.key.get_secret_value() == "sk_secret"
    assert (output.interval, output.headers) == (20, {"X-Team": "shop"})


def test_a_variable_finds_the_output_whose_name_has_a_hyphen(write: Write) -> None:
    path = write('[outputs.my-shop]\nurl = "https://x.example"\n')
    settings = load(path, {"SENDOFF_OUTPUTS_MY_SHOP_KEY": "sk_secret"})
    assert list(settings.outputs) == ["my-shop"]


def test_a_secret_is_never_part_of_a_fault(write: Write) -> None:
    path = write(
        '[outputs.a]\nurl = "https://u:hush@x.example"\nkey = "sk hush"\nkyi = "hush"\n'
        '[outputs.b]\nurl = "https://x.example"\nkey = ["hush"]\n[outputs.b.headers]\nX = "hush\\n"\n'
    )
    environ = {"SENDOFF_OUTPUTS_B_KEYS": "hush", "SENDOFF_OUTPUTS_A_HEADERS": "hush"}
    with pytest.raises(SettingsError) as caught:
        load(path, environ)
    assert len(caught.value.faults) == 7
    assert "hush" not in str(caught.value)
    assert "hush" not in repr(caught.value.as_json())


def test_a_syntax_error_names_its_line(write: Write) -> None:
    (fault,) = faults_of(write("[agent]\n\nhost = web\n"))
    assert "line 3" in fault.problem


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b"\n\n# \xff"), "line 3 is not UTF-8"),
        (lambda path: path.write_bytes(b"#" * (2**20 + 1)), "longer than 1 MiB"),
        (lambda path: path.write_text("a = " + "[" * 5000), "nested|TOML"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_fault(
    tmp_path: Path, prepare: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / "sendoff.toml"
    prepare(path)
    (fault,) = faults_of(path)
    assert any(word in fault.problem for word in words.split("|"))
    assert fault.where == str(path)


def test_the_file_is_the_given_one_else_the_variables_else_the_systems(tmp_path: Path) -> None:
    system = tmp_path / "system.toml"
    assert find_file(None, {}, system) is None
    system.touch()
    assert find_file(None, {}, system) == system
    assert find_file(None, {"SENDOFF_CONFIG": "/x"}, system) == Path("/x")
    assert find_file(Path("/y"), {"SENDOFF_CONFIG": "/x"}, system) == Path("/y")


@pytest.mark.parametrize(
    "text", ["agent = 3\n", "inputs = [1]\n", "outputs = 3\n", "[outputs]\nmain = 3\n", "[[agent]]\n"]
)
def test_a_value_in_a_tables_place_is_a_fault(write: Write, text: str) -> None:
    (fault,) = faults_of(write(text), {"SENDOFF_WEB_LISTEN": "127.0.0.1:1"})
    assert "table" in fault.problem
