"""Every setting there is, declared once: name, type, default, help. Environment variables, the sample file, the page
`docs/configuration.md` and what `sendoff check` shows all derive from these classes.

A class checks itself, however it was made, so nothing unsafe can be built past `load`. Values that depend on the
machine (data folder, host name) have factories here; `load` takes the environment that it was given instead.
"""

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from sendoff_server.settings import units
from sendoff_server.settings.units import Address, split_listen, wrong


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting holds, for people, and how its value is written in a file."""

    word: str
    say: Callable[[Any], object] = str


def _within(low: float, high: float, say: Callable[[Any], str]) -> AfterValidator:
    """Refuse a number outside of the bounds, both included."""

    def check(value: Any) -> Any:
        if not low <= value <= high:
            raise wrong("is out of bounds", f"choose from {say(low)} to {say(high)}")
        return value

    return AfterValidator(check)


def _whole_seconds(value: float) -> float:
    if value != int(value):
        raise wrong("is not a whole number of seconds", 'write a duration such as "10 s"; windows begin each second')
    return value


Size = Annotated[int, BeforeValidator(units.read_size), Kind("size", units.say_size)]
Duration = Annotated[float, BeforeValidator(units.read_duration), Kind("duration", units.say_duration)]
Count = Annotated[int, BeforeValidator(units.read_count), Kind("number", int)]
Switch = Annotated[bool, BeforeValidator(units.read_switch), Kind("true or false", bool)]
Mode = Annotated[str, BeforeValidator(units.read_mode), Kind("file mode")]
Listen = Annotated[str, BeforeValidator(units.read_listen), Kind("address")]
Link = Annotated[str, BeforeValidator(units.read_link), Kind("web address")]
Folder = Annotated[Path, BeforeValidator(units.read_path), Kind("path")]


def _loopback_only(value: str) -> str:
    if value and not split_listen(value).loopback:
        raise wrong(
            "can be reached from other machines, and nothing here asks who is sending",
            "listen on 127.0.0.1, [::1] or a Unix socket, and run an agent on each host",
        )
    return value


LoopbackListen = Annotated[Listen, AfterValidator(_loopback_only)]


def _read_optional_socket(value: object) -> Path | Literal[False] | None:
    if value is None:
        return None
    if value is False or value == "":
        return False
    return units.read_socket_path(value)


def _read_file(value: object) -> Path | None:
    return None if value is None or value == "" else units.read_path(value)


def default_data_dir(environ: Mapping[str, str], uid: int) -> Path:
    """``/var/lib/sendoff`` for root, else ``sendoff`` in the user's folder for state (XDG Base Directory)."""
    if uid == 0:
        return Path("/var/lib/sendoff")
    state = environ.get("XDG_STATE_HOME", "")
    if state.startswith("/"):
        return Path(state) / "sendoff"
    home = environ.get("HOME") or str(Path("~").expanduser())
    return Path(home) / ".local/state/sendoff"


def _data_dir() -> Path:
    return default_data_dir(os.environ, os.getuid())


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= 200 or not value.isprintable():
        raise wrong("is not a text of 1 to 200 bytes", "write it in quotes")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AgentSettings(_Section):
    """The agent: takes in, aggregates, keeps on disk, delivers."""

    data_dir: Folder = Field(
        default_factory=_data_dir,
        examples=["/var/lib/sendoff"],
        description="Folder of the spool; the agent uses its subfolder agent/. Default for a user other than root: "
        "$XDG_STATE_HOME/sendoff, else ~/.local/state/sendoff",
    )
    host: Annotated[str, BeforeValidator(_text), Kind("text")] = Field(
        default_factory=socket.gethostname,
        examples=["web-1"],
        description="Name of this host in everything that is sent on. Default: the system's host name",
    )
    drain: Annotated[Duration, _within(0, 600, units.say_duration)] = Field(
        default=10.0,
        description="How long the agent goes on delivering after it was asked to stop; the rest stays on disk",
    )
    max_series: Annotated[Count, _within(100, 10_000_000, str)] = Field(
        default=50_000,
        description="Series (name and tags) held at once; more of a name are summed in an overflow series",
    )
    gauge_minus: Annotated[Literal["auto", "set", "subtract"], Kind("auto, set or subtract")] = Field(
        default="auto",
        description='What the line "x:-5|g" means: auto subtracts once the series got a "+", as StatsD clients do it',
    )


class EventsLimitSettings(_Section):
    """How much of the events may wait in the spool. They are durable: what is full asks for a decision."""

    limit: Annotated[Size, _within(8 * 2**20, 2**50, units.say_size)] = Field(
        default=1536 * 2**20, description="How much disk waiting events and their dead letters may take"
    )
    age: Annotated[Duration, _within(60, 3650 * 86400, units.say_duration)] = Field(
        default=30 * 86400.0,
        description="Events that waited longer are given up and counted (expired). Only time in which the agent runs "
        "counts, so that a jump of the clock expires nothing",
    )
    when_full: Annotated[Literal["hold", "drop_oldest"], Kind("hold or drop_oldest")] = Field(
        default="hold",
        description="hold: no event is acknowledged until there is room, and clients keep theirs. drop_oldest: those "
        "that waited longest are given up and counted (spool_full)",
    )


class MetricsLimitSettings(_Section):
    """How much of the metrics may wait in the spool. A growing backlog is merged, totals unchanged."""

    limit: Annotated[Size, _within(8 * 2**20, 2**50, units.say_size)] = Field(
        default=512 * 2**20, description="How much disk waiting metrics and their dead letters may take"
    )
    age: Annotated[Duration, _within(60, 3650 * 86400, units.say_duration)] = Field(
        default=30 * 86400.0, description="Metrics that waited longer are given up and counted (expired)"
    )
    when_full: Annotated[Literal["drop_oldest", "drop_new"], Kind("drop_oldest or drop_new")] = Field(
        default="drop_oldest",
        description="What is given up and counted (spool_full) when even the longest windows do not fit",
    )


class SpoolSettings(_Section):
    """What the agent keeps on disk until it is delivered, and for how long."""

    events: EventsLimitSettings = Field(default_factory=EventsLimitSettings)
    metrics: MetricsLimitSettings = Field(default_factory=MetricsLimitSettings)
    receipts: Annotated[Duration, _within(0, 3650 * 86400, units.say_duration)] = Field(
        default=7 * 86400.0,
        description="How long `sendoff receipt` can say what became of an event that was sent with confirm=True",
    )
    storm: Annotated[Count, _within(0, 1_000_000, str)] = Field(
        default=100,
        description="Exceptions of one fingerprint that are kept one by one in a minute; those beyond are folded into "
        "one that says how many more it stands for. 0 folds none",
    )


class UnixSettings(_Section):
    """The Unix socket that Sendoff's clients use. They look for it in the same places."""

    path: Annotated[Path | Literal[False] | None, BeforeValidator(_read_optional_socket), Kind("path")] = Field(
        default=None,
        examples=["/run/sendoff/agent.sock"],
        description="Default: $SENDOFF_SOCKET, else the first usable of $XDG_RUNTIME_DIR/sendoff/agent.sock, "
        '/run/sendoff/agent.sock and /tmp/sendoff-UID/agent.sock. "" switches it off',
    )
    mode: Mode = Field(default="0660", description="Permissions of the socket: who may send")


class UnixDatagramSettings(_Section):
    """A Unix datagram socket for StatsD clients that can use one."""

    path: Annotated[
        Path | None,
        BeforeValidator(lambda value: _read_optional_socket(value) or None),
        Kind("path", lambda value: str(value) if value else ""),
    ] = Field(default=None, description='For example "/run/sendoff/statsd.sock". "" is off')
    mode: Mode = Field(default="0660", description="Permissions of the socket: who may send")


class UdpSettings(_Section):
    """StatsD and DogStatsD lines over UDP."""

    listen: LoopbackListen = Field(default="127.0.0.1:8125", description='A loopback address. "" switches it off')
    receive_buffer: Annotated[Size, _within(4096, 2**30, units.say_size)] = Field(
        default=4 * 2**20,
        description="What the kernel is asked to hold while the agent is busy (bounded by net.core.rmem_max)",
    )


class TcpSettings(_Section):
    """Lines and frames over TCP."""

    listen: LoopbackListen = Field(default="127.0.0.1:8125", description='A loopback address. "" switches it off')


class ZmqInputSettings(_Section):
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


class InputsSettings(_Section):
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


class WebSettings(_Section):
    """The agent's own pages: status, health, Prometheus metrics."""

    listen: LoopbackListen = Field(default="127.0.0.1:8701", description='A loopback address. "" switches them off')


SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "idempotency-key",
        "sendoff-schema",
        "transfer-encoding",
    }
)


def _headers(value: object) -> object:
    remedy = 'write a table such as { "X-Team" = "shop" }'
    if not isinstance(value, dict):
        raise wrong("is not a table of headers", remedy)
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", str(name)):
            raise wrong(f"has the header {name!r}, whose name has letters that HTTP does not allow", remedy)
        if name.lower() in RESERVED_HEADERS:
            raise wrong(f"sets {name}, which Sendoff sets itself", "leave it out")
        if not isinstance(text, str) or not re.fullmatch(r"[\t -~]{0,4000}", text):
            raise wrong(f"has a value of {name} that is not plain ASCII text", remedy)
    return value


def _key(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or not re.fullmatch(r"[!-~]{1,500}", text):
        raise wrong("is not a key (visible ASCII, no spaces)", "copy what `sendoff gateway keys create` printed")
    return value


class OutputSettings(_Section):
    """One destination. Each has its own progress, retries and dead letters; any number can be set up."""

    type: Annotated[Literal["gateway", "http"], Kind("gateway or http")] = Field(
        default="gateway",
        description="gateway: a Sendoff gateway. http: any service that takes the same lines, one batch per request",
    )
    url: Link = Field(
        examples=["https://gateway.example.com"],
        description="gateway: its base address, to which /v1/batches is added, or zmq+curve://HOST:PORT?server=KEY, as "
        "`sendoff gateway keys create PROJECT --curve` prints it. http: the address to post to",
    )
    key: Annotated[SecretStr | None, BeforeValidator(lambda v: None if v is None else _key(v)), Kind("secret")] = Field(
        default=None,
        examples=["sk_made_by_sendoff_gateway_keys_create"],
        description="Sent as `Authorization: Bearer KEY`. A gateway needs one",
    )
    allow_plaintext: Switch = Field(
        default=False,
        description="Allow a key to be sent unencrypted (http://) to another machine, where it can be read on the way",
    )
    interval: Annotated[Duration, AfterValidator(_whole_seconds), _within(1, 3600, units.say_duration)] = Field(
        default=10.0, description="Length of the metric windows that this output gets, in whole seconds"
    )
    compression: Annotated[Literal["zstd", "gzip", "identity"], Kind("zstd, gzip or identity")] = Field(
        default="zstd", description="How bodies are compressed. http services that know no zstd want gzip or identity"
    )
    headers: Annotated[dict[str, str], BeforeValidator(_headers), Kind("table", dict)] = Field(
        default_factory=dict, description="More headers for each request. Their values are treated as secrets"
    )
    timeout: Annotated[Duration, _within(1, 300, units.say_duration)] = Field(
        default=30.0,
        description="How long a request may make no progress (64 KiB), and how long its answer may take once it is "
        "out; then the same is sent again under the same id",
    )

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.url.lower().startswith("zmq+curve://"):
            self._check_zmq()
        secret = self.key is not None or any(name.lower() in SECRET_HEADERS for name in self.headers)
        if self.type == "gateway" and self.key is None:
            raise wrong(
                "has no key, and a gateway asks for one", "set `key` to what `sendoff gateway keys create` printed"
            )
        if self.key is not None and any(name.lower() == "authorization" for name in self.headers):
            raise wrong("has both a key and an Authorization header", "keep one of them")
        scheme, _, rest = self.url.partition("://")
        if secret and scheme.lower() == "http" and not self.allow_plaintext and not _same_machine(rest):
            raise wrong(
                "would send its key unencrypted to another machine",
                "use an https:// address, or set allow_plaintext = true if the network in between is your own",
            )
        return self

    def _check_zmq(self) -> None:
        if self.type != "gateway":
            raise wrong("has the type http and the url of a gateway's ZeroMQ port", 'set type to "gateway"')
        if self.headers:
            raise wrong("sets headers, which ZeroMQ has none of", "leave headers out")
        if self.key is not None and not re.fullmatch(units.CURVE_KEY, self.key.get_secret_value()):
            raise wrong(
                "has a key that is no CURVE key",
                "copy the key that `sendoff gateway keys create PROJECT --curve` printed",
            )


def _same_machine(rest: str) -> bool:
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    try:
        return split_listen(authority if re.search(r":[0-9]+$", authority) else authority + ":80").loopback
    except ValueError:
        return False


class RetentionSettings(_Section):
    """How long the gateway keeps what it took in. Old metric windows are merged into longer ones, totals unchanged."""

    raw: Annotated[Duration, _within(1, 3650 * 86400, units.say_duration)] = Field(
        default=2 * 86400.0, description="Metric windows as they came"
    )
    minute: Annotated[Duration, _within(1, 3650 * 86400, units.say_duration)] = Field(
        default=30 * 86400.0, description="Metric windows of one minute"
    )
    ten_minutes: Annotated[Duration, _within(1, 3650 * 86400, units.say_duration)] = Field(
        default=396 * 86400.0, description="Metric windows of ten minutes"
    )
    events: Annotated[Duration, _within(1, 3650 * 86400, units.say_duration)] = Field(
        default=90 * 86400.0, description="Events and exceptions"
    )

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if not self.raw <= self.minute <= self.ten_minutes:
            raise wrong(
                "keeps longer windows for a shorter time than short ones",
                "make raw at most minute, and that at most ten_minutes",
            )
        return self


class GatewayZmqSettings(_Section):
    """Clients without an agent, and agents, over ZeroMQ: one port for all customers, each known by its CURVE key."""

    listen: Listen = Field(
        default="",
        description="Any address, such as 0.0.0.0:8702: always encrypted, and only for keys made with `sendoff gateway "
        'keys create PROJECT --curve`. "" is off',
    )
    public: Listen = Field(
        default="",
        description="The address under which clients reach it, for the line that is printed with a key. Default: this "
        "host's name and the port of listen",
    )


class DirectSettings(_Section):
    """What one project may send without an agent, by HTTP or ZeroMQ. Beyond it, its clients are told to come again."""

    rate: Annotated[Size, _within(1024, 2**40, units.say_size)] = Field(
        default=16 * 2**20, description="Bytes a second; a burst of two seconds is let through"
    )
    in_flight: Annotated[Size, _within(2**20, 2**40, units.say_size)] = Field(
        default=32 * 2**20, description="Bytes taken in and not stored yet"
    )
    max_series: Annotated[Count, _within(100, 10_000_000, str)] = Field(
        default=20_000, description="Series held at once; more of a name are summed in an overflow series"
    )
    max_clients: Annotated[Count, _within(10, 1_000_000, str)] = Field(
        default=10_000, description="Clients (processes) that are known at once; the one longest unheard gives way"
    )


class GatewaySettings(_Section):
    """The gateway: takes batches in, keeps them, shows them."""

    listen: Listen = Field(
        default="127.0.0.1:8700",
        description="Any address: senders need a key. One that others can reach needs TLS: a certificate here, or a "
        "proxy in front",
    )
    certificate: Annotated[
        Path | None, BeforeValidator(_read_file), Kind("path", lambda value: str(value) if value else "")
    ] = Field(
        default=None,
        description="PEM file with the certificate and its chain: `listen` then speaks HTTPS. Read again when it "
        "changes",
    )
    certificate_key: Annotated[
        Path | None, BeforeValidator(_read_file), Kind("path", lambda value: str(value) if value else "")
    ] = Field(default=None, description="PEM file with its private key. Default: the key is in the same file")
    data_dir: Folder = Field(
        default_factory=_data_dir,
        examples=["/var/lib/sendoff"],
        description="Folder of the store; the gateway uses its subfolder gateway/. Default as agent.data_dir",
    )
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    zmq: GatewayZmqSettings = Field(default_factory=GatewayZmqSettings)
    direct: DirectSettings = Field(default_factory=DirectSettings)

    @model_validator(mode="after")
    def _listens(self) -> Self:
        if not self.listen:
            raise wrong(
                "has an empty listen address, and a gateway without one is none", 'set listen to "127.0.0.1:8700"'
            )
        if self.certificate_key is not None and self.certificate is None:
            raise wrong("has a certificate_key and no certificate that it belongs to", "set certificate as well")
        return self


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


class Settings(_Section):
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
