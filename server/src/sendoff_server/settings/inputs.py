"""The settings of the agent's inputs: where it listens, and who may send there."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sendoff_server.settings import units
from sendoff_server.settings.kinds import Kind, LoopbackListen, Mode, Section, Size, read_optional_socket, within
from sendoff_server.settings.units import split_listen, wrong


class UnixSettings(Section):
    """The Unix socket that Sendoff's clients use. They look for it in the same places."""

    path: Annotated[Path | Literal[False] | None, BeforeValidator(read_optional_socket), Kind("path")] = Field(
        default=None,
        examples=["/run/sendoff/agent.sock"],
        description="Default: $SENDOFF_SOCKET, else the first usable of $XDG_RUNTIME_DIR/sendoff/agent.sock, "
        '/run/sendoff/agent.sock and /tmp/sendoff-UID/agent.sock. "" switches it off',
    )
    mode: Mode = Field(default="0660", description="Permissions of the socket: who may send")


class UnixDatagramSettings(Section):
    """A Unix datagram socket for StatsD clients that can use one."""

    path: Annotated[
        Path | None,
        BeforeValidator(lambda value: read_optional_socket(value) or None),
        Kind("path", lambda value: str(value) if value else ""),
    ] = Field(default=None, description='For example "/run/sendoff/statsd.sock". "" is off')
    mode: Mode = Field(default="0660", description="Permissions of the socket: who may send")


class UdpSettings(Section):
    """StatsD and DogStatsD lines over UDP."""

    listen: LoopbackListen = Field(default="127.0.0.1:8125", description='A loopback address. "" switches it off')
    receive_buffer: Annotated[Size, within(4096, 2**30, units.say_size)] = Field(
        default=4 * 2**20,
        description="What the kernel is asked to hold while the agent is busy (bounded by net.core.rmem_max)",
    )


class TcpSettings(Section):
    """Lines and frames over TCP."""

    listen: LoopbackListen = Field(default="127.0.0.1:8125", description='A loopback address. "" switches it off')


class ZmqInputSettings(Section):
    """Frames and lines over ZeroMQ: from this machine, or with CURVE from the clients that are named here."""

    listen: Annotated[str, BeforeValidator(units.read_endpoint), Kind("address")] = Field(
        default="",
        examples=["ipc:///run/sendoff/agent.zmq"],
        description='"ipc:///path" or "tcp://HOST:PORT". "" is off. Clients use it as zmq+ipc:///path, '
        "zmq+tcp://HOST:PORT or, with CURVE, the line that `sendoff agent curve NAME` prints",
    )
    mode: Mode = Field(default="0660", description="Permissions of an ipc socket: who may send")
    clients: Annotated[dict[str, str], BeforeValidator(units.read_curve_clients), Kind("table", dict)] = Field(
        default_factory=dict,
        description="Names and public keys of the clients that may send by tcp. With one, CURVE is asked of all; a "
        "tcp address that is not a loopback one needs one",
    )

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        scheme, _, place = self.listen.partition("://")
        if scheme == "ipc" and self.clients:
            raise wrong("has clients with keys on an ipc socket", "leave clients out: `mode` says who may send there")
        if scheme == "tcp" and not self.clients and not split_listen(place).loopback:
            raise wrong(
                "can be reached from other machines, and nothing there asks who is sending",
                "add clients = { NAME = KEY } with what `sendoff agent curve NAME` printed, or listen on 127.0.0.1",
            )
        return self


class InputsSettings(Section):
    """Where the agent listens. None but zmq with clients asks who is sending, so no other leaves this machine."""

    unix: UnixSettings = Field(default_factory=UnixSettings)
    unix_datagram: UnixDatagramSettings = Field(default_factory=UnixDatagramSettings)
    udp: UdpSettings = Field(default_factory=UdpSettings)
    tcp: TcpSettings = Field(default_factory=TcpSettings)
    zmq: ZmqInputSettings = Field(default_factory=ZmqInputSettings)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.unix.path and self.unix.path == self.unix_datagram.path:
            raise wrong("has two sockets at one path", "give inputs.unix_datagram.path a path of its own")
        if self.zmq.listen in (f"ipc://{self.unix.path}", f"ipc://{self.unix_datagram.path}"):
            raise wrong("has two sockets at one path", "give inputs.zmq.listen a path of its own")
        return self
