"""The settings of the gateway."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from sendoff_server.settings import units
from sendoff_server.settings.kinds import (
    Count,
    Duration,
    Folder,
    Kind,
    Listen,
    Section,
    Size,
    data_dir,
    read_file,
    within,
)
from sendoff_server.settings.units import wrong


class RetentionSettings(Section):
    """How long the gateway keeps what it took in. Old metric windows are merged into longer ones, totals unchanged."""

    raw: Annotated[Duration, within(1, 3650 * 86400, units.say_duration)] = Field(
        default=2 * 86400.0, description="Metric windows as they came"
    )
    minute: Annotated[Duration, within(1, 3650 * 86400, units.say_duration)] = Field(
        default=30 * 86400.0, description="Metric windows of one minute"
    )
    ten_minutes: Annotated[Duration, within(1, 3650 * 86400, units.say_duration)] = Field(
        default=396 * 86400.0, description="Metric windows of ten minutes"
    )
    events: Annotated[Duration, within(1, 3650 * 86400, units.say_duration)] = Field(
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


class GatewayZmqSettings(Section):
    """Clients without an agent, and agents, over ZeroMQ: one port for all customers, each known by its CURVE key."""

    listen: Listen = Field(
        default="",
        description="Any address, such as 0.0.0.0:8702: always encrypted, and only for keys made with `sendoff gateway "
        'keys create PROJECT --curve`. "" is off',
    )
    public: Listen = Field(
        default="",
        description="The address under which clients reach it, for the line that is printed with a key. Default: this "
        "host's name and the port of listen, or listen itself if that is a loopback address",
    )


class DirectSettings(Section):
    """What one project may send without an agent, by HTTP or ZeroMQ. Beyond it, its clients are told to come again."""

    rate: Annotated[Size, within(1024, 2**40, units.say_size)] = Field(
        default=16 * 2**20, description="Bytes a second; a burst of two seconds is let through"
    )
    in_flight: Annotated[Size, within(2**20, 2**40, units.say_size)] = Field(
        default=32 * 2**20, description="Bytes taken in and not stored yet"
    )
    max_series: Annotated[Count, within(100, 10_000_000, str)] = Field(
        default=20_000, description="Series held at once; more of a name are summed in an overflow series"
    )
    max_clients: Annotated[Count, within(10, 1_000_000, str)] = Field(
        default=10_000, description="Clients (processes) that are known at once; the one longest unheard gives way"
    )


class GatewaySettings(Section):
    """The gateway: takes batches in, keeps them, shows them."""

    listen: Listen = Field(
        default="127.0.0.1:8700",
        description="Any address: senders need a key. One that others can reach needs TLS: a certificate here, or a "
        "proxy in front",
    )
    certificate: Annotated[
        Path | None, BeforeValidator(read_file), Kind("path", lambda value: str(value) if value else "")
    ] = Field(
        default=None,
        description="PEM file with the certificate and its chain: `listen` then speaks HTTPS. Read again when it "
        "changes",
    )
    certificate_key: Annotated[
        Path | None, BeforeValidator(read_file), Kind("path", lambda value: str(value) if value else "")
    ] = Field(default=None, description="PEM file with its private key. Default: the key is in the same file")
    data_dir: Folder = Field(
        default_factory=data_dir,
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
