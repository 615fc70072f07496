"""Every setting there is, declared once: name, type, default, help. Environment variables, the sample file, the page
`docs/configuration.md` and what `sendoff check` shows all derive from these classes.

A class checks itself, however it was made, so nothing unsafe can be built past `load`. Values that depend on the
machine (data folder, host name) have factories here; `load` takes the environment that it was given instead.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from sendoff_server.settings.agent import AgentSettings, SpoolSettings, WebSettings
from sendoff_server.settings.gateway import GatewaySettings
from sendoff_server.settings.inputs import InputsSettings
from sendoff_server.settings.kinds import Section
from sendoff_server.settings.outputs import OutputSettings
from sendoff_server.settings.units import Address, split_listen, wrong

OUTPUT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


def _outputs(value: object) -> object:
    if not isinstance(value, dict):
        raise wrong("is not a table of outputs", "write a section [outputs.NAME] for each output")
    return value


def _output_name(name: str) -> str:
    if not OUTPUT_NAME.fullmatch(name) or name == "unassigned":
        raise wrong(
            "cannot be the name of an output",
            "use 1 to 40 of a-z, 0-9, - and _, beginning with a letter; unassigned is taken",
        )
    return name


class Settings(Section):
    """Everything that can be set. Made by `load`; tests may make one directly."""

    agent: AgentSettings = Field(default_factory=AgentSettings)
    spool: SpoolSettings = Field(default_factory=SpoolSettings)
    inputs: InputsSettings = Field(default_factory=InputsSettings)
    web: WebSettings = Field(default_factory=WebSettings)
    outputs: Annotated[
        dict[Annotated[str, AfterValidator(_output_name)], OutputSettings], BeforeValidator(_outputs)
    ] = Field(default_factory=dict)
    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each value that is no default came from: ``file PATH``, the variable's name, ``command line``."""
        return self._origins

    @model_validator(mode="after")
    def _one_thing_a_port(self) -> Self:
        found = port_conflict(
            {
                "inputs.tcp.listen": self.inputs.tcp.listen,
                "inputs.zmq.listen": tcp_of(self.inputs.zmq.listen),
                "web.listen": self.web.listen,
                "gateway.listen": self.gateway.listen,
                "gateway.zmq.listen": self.gateway.zmq.listen,
            }
        )
        if found:
            raise wrong(*found)
        return self


def tcp_of(endpoint: str) -> str:
    """Host and port of a ZeroMQ socket that is bound by tcp; else ""."""
    scheme, _, place = endpoint.partition("://")
    return place if scheme == "tcp" else ""


def port_conflict(listens: Mapping[str, str]) -> tuple[str, str] | None:
    """Problem and remedy when two of these TCP addresses cannot be had at once."""
    seen: list[tuple[str, Address]] = []
    for key, text in listens.items():
        if not text:
            continue
        address = split_listen(text)
        for other_key, other in seen:
            same_host = address.host == other.host or address.wildcard or other.wildcard
            if same_host and address.port == other.port != 0:
                return f"{other_key} and {key} share the port {address.port}", f"give {key} another port"
        seen.append((key, address))
    return None
