"""What may not be set up, and why."""

from typing import Any

import pytest

from sendoff_server.settings import Settings, SettingsError, load

GATEWAY = {"url": "https://x.example", "key": "sk_a"}


def problem(overrides: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        load(None, {}, overrides)
    (fault,) = caught.value.faults
    return f"{fault.key}: {fault.problem}; {fault.remedy}"


@pytest.mark.parametrize("key", ["inputs.udp.listen", "inputs.tcp.listen", "web.listen"])
@pytest.mark.parametrize("address", ["0.0.0.0:9999", "[::]:9999", "10.1.2.3:9999", "web-1:9999"])
def test_what_asks_nobody_who_he_is_listens_on_this_machine_only(key: str, address: str) -> None:
    said = problem({key: address})
    assert said.startswith(key)
    assert "127.0.0.1" in said


def test_the_gateway_may_listen_anywhere_since_senders_need_a_key() -> None:
    assert load(None, {}, {"gateway.listen": "0.0.0.0:8700"}).gateway.listen == "0.0.0.0:8700"


@pytest.mark.parametrize("value", ["", False])
def test_an_input_is_switched_off_by_an_empty_address(value: object) -> None:
    settings = load(
        None, {}, {"inputs.udp.listen": value, "inputs.unix.path": value, "inputs.unix_datagram.path": value}
    )
    assert settings.inputs.udp.listen == ""
    assert settings.inputs.unix.path is False
    assert settings.inputs.unix_datagram.path is None


def test_a_gateway_output_needs_a_key_and_an_http_output_does_not() -> None:
    assert "sendoff gateway keys create" in problem({"outputs.a": {"url": "https://x.example"}})
    load(None, {}, {"outputs.a": {"type": "http", "url": "https://x.example"}})


@pytest.mark.parametrize(
    "output",
    [
        {"url": "http://x.example", "key": "sk_a"},
        {"url": "HTTP://10.0.0.1:8700/", "key": "sk_a"},
        {"type": "http", "url": "http://x.example", "headers": {"authorization": "Basic eA=="}},
        {"url": "http://localhost.example.com", "key": "sk_a"},
    ],
)
def test_a_key_does_not_cross_a_network_unencrypted_unless_told_so(output: dict[str, Any]) -> None:
    assert "allow_plaintext" in problem({"outputs.a": output})
    load(None, {}, {"outputs.a": {**output, "allow_plaintext": True}})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8700", "http://[::1]:8700/x", "http://localhost", "https://x.example"]
)
def test_a_key_may_go_to_this_machine_or_through_tls(url: str) -> None:
    load(None, {}, {"outputs.a": {"url": url, "key": "sk_a"}})


@pytest.mark.parametrize(
    "change",
    [
        {"interval": 0},
        {"interval": "1500 ms"},
        {"interval": "2 h"},
        {"timeout": 0},
        {"type": "kafka"},
        {"compression": "br"},
        {"headers": {"Content-Length": "3"}},
        {"headers": {"X": "a\r\nY: b"}},
        {"headers": {"a b": "c"}},
        {"headers": {"Authorization": "x"}},
        {"headers": "x"},
        {"key": ""},
        {"key": "two words"},
    ],
)
def test_an_output_that_cannot_work_is_refused(change: dict[str, Any]) -> None:
    problem({"outputs.a": {**GATEWAY, **change}})


@pytest.mark.parametrize("name", ["Main", "", "unassigned", "a.b", "1st", "a" * 41])
def test_an_outputs_name_is_short_and_plain(name: str) -> None:
    with pytest.raises(ValueError, match="output"):
        Settings.model_validate({"outputs": {name: GATEWAY}})


@pytest.mark.parametrize(
    "overrides",
    [
        {"web.listen": "127.0.0.1:8700"},
        {"inputs.tcp.listen": "localhost:8700", "gateway.listen": "0.0.0.0:8700"},
        {"gateway.listen": "[::]:8701"},
    ],
)
def test_two_things_on_one_port_are_refused(overrides: dict[str, Any]) -> None:
    assert "share the port" in problem(overrides)


def test_port_0_is_never_a_conflict() -> None:
    load(None, {}, {"web.listen": "127.0.0.1:0", "gateway.listen": "127.0.0.1:0", "inputs.tcp.listen": "127.0.0.1:0"})


def test_two_sockets_at_one_path_are_refused() -> None:
    assert "one path" in problem({"inputs.unix.path": "/run/x.sock", "inputs.unix_datagram.path": "/run/x.sock"})


def test_longer_windows_are_kept_at_least_as_long_as_short_ones() -> None:
    assert "raw at most minute" in problem({"gateway.retention.raw": "60 d"})


@pytest.mark.parametrize(
    "overrides",
    [
        {"spool.events.limit": "1 MiB"},
        {"agent.max_series": -1},
        {"agent.max_series": True},
        {"agent.max_series": 1.5},
        {"agent.drain": "1 h"},
        {"agent.host": ""},
        {"agent.host": "a\nb"},
        {"agent.data_dir": "data"},
        {"agent.data_dir": 3},
        {"agent.gauge_minus": "maybe"},
        {"inputs.unix.mode": "rw"},
        {"inputs.unix.mode": 660},
        {"gateway.listen": ""},
    ],
)
def test_values_that_make_no_sense_are_refused_with_one_fault(overrides: dict[str, Any]) -> None:
    assert problem(overrides).startswith((*overrides, "gateway:"))


def test_the_key_does_not_show_in_what_settings_print() -> None:
    settings = load(None, {}, {"outputs.a": GATEWAY})
    assert "sk_a" not in repr(settings)
    assert "sk_a" not in str(settings.model_dump())
