"""What may be said of ZeroMQ: where it listens, who may send, where an output leads."""

from typing import Any

import pytest

from sendoff_server.settings import SettingsError, load

KEY, OTHER = "k" * 43, "o" * 43
URL = f"zmq+curve://gateway.example.com:8702?server={KEY}"


def problem(overrides: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        load(None, {}, overrides)
    (fault,) = caught.value.faults
    return str(fault)


@pytest.mark.parametrize(
    ("listen", "clients"),
    [
        ("", {}),
        ("ipc:///run/sendoff/agent.zmq", {}),
        ("tcp://127.0.0.1:8703", {}),
        ("tcp://[::1]:8703", {"shop": KEY}),
        ("tcp://0.0.0.0:8703", {"shop": KEY, "blog": OTHER}),
    ],
)
def test_an_input_is_for_this_machine_or_for_clients_with_keys(listen: str, clients: dict[str, str]) -> None:
    found = load(None, {}, {"inputs.zmq.listen": listen, "inputs.zmq.clients": clients}).inputs.zmq
    assert (found.listen, found.clients) == (listen, clients)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"inputs.zmq.listen": "tcp://0.0.0.0:8703"}, "sendoff agent curve NAME"),
        ({"inputs.zmq.listen": "tcp://shop.example.com:8703"}, "can be reached from other machines"),
        ({"inputs.zmq.listen": "ipc:///run/a", "inputs.zmq.clients": {"shop": KEY}}, "`mode` says who may send there"),
        ({"inputs.zmq.listen": "udp://127.0.0.1:1"}, "ipc:///path"),
        ({"inputs.zmq.listen": "ipc://relative"}, "relative"),
        ({"inputs.zmq.listen": "ipc:///" + "x" * 200}, "107 bytes"),
        ({"inputs.zmq.listen": "tcp://127.0.0.1"}, "address and a port"),
        ({"inputs.zmq.clients": {"shop": "short"}}, "43 characters"),
        ({"inputs.zmq.clients": {"shop": KEY, "blog": KEY}}, "one key under two names"),
        ({"inputs.zmq.clients": "shop"}, "table"),
        ({"inputs.zmq.listen": "ipc:///run/x.sock", "inputs.unix.path": "/run/x.sock"}, "two sockets at one path"),
        (
            {"inputs.zmq.listen": "ipc:///run/x.sock", "inputs.unix_datagram.path": "/run/x.sock"},
            "two sockets at one path",
        ),
        ({"inputs.zmq.listen": "tcp://127.0.0.1:8701"}, "share the port 8701"),
        ({"gateway.zmq.listen": "0.0.0.0:8700"}, "share the port 8700"),
    ],
)
def test_an_input_that_cannot_be_is_refused_with_what_to_do(overrides: dict[str, Any], words: str) -> None:
    assert words in problem(overrides)


def test_a_shared_port_is_said_beside_other_faults() -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {}, {"inputs.zmq.listen": "tcp://127.0.0.1:8701", "agent.drain": "never"})
    assert any("share the port 8701" in str(fault) for fault in caught.value.faults)


def test_an_output_leads_to_a_gateways_port_with_a_key_of_its_kind() -> None:
    found = load(None, {}, {"outputs.a": {"url": URL, "key": OTHER}}).outputs["a"]
    assert (found.url, found.type) == (URL, "gateway")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "zmq+curve://gateway.example.com:8702"}, "ZeroMQ port"),
        ({"url": URL.replace(":8702", "")}, "ZeroMQ port"),
        ({"url": URL[:-1]}, "ZeroMQ port"),
        ({"url": URL.replace("://", "://SECRET@")}, "credentials"),
        ({"key": "sk_of_http"}, "no CURVE key"),
        ({"key": None}, "has no key"),
        ({"type": "http"}, "ZeroMQ"),
        ({"headers": {"X-Team": "shop"}}, "headers"),
    ],
)
def test_an_output_that_cannot_be_is_refused_with_what_to_do(change: dict[str, Any], words: str) -> None:
    assert words in problem({"outputs.a": {"url": URL, "key": OTHER} | change})
