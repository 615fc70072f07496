"""The settings of the agent and its spool."""

import socket
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sendoff_server.settings import units
from sendoff_server.settings.kinds import (
    Count,
    Duration,
    Folder,
    Kind,
    LoopbackListen,
    Section,
    Size,
    data_dir,
    read_text,
    within,
)


class AgentSettings(Section):
    """The agent: takes in, aggregates, keeps on disk, delivers."""

    data_dir: Folder = Field(
        default_factory=data_dir,
        examples=["/var/lib/sendoff"],
        description="Folder of the spool; the agent uses its subfolder agent/. Default for a user other than root: "
        "$XDG_STATE_HOME/sendoff, else ~/.local/state/sendoff",
    )
    host: Annotated[str, BeforeValidator(read_text), Kind("text")] = Field(
        default_factory=socket.gethostname,
        examples=["web-1"],
        description="Name of this host in everything that is sent on. Default: the system's host name",
    )
    drain: Annotated[Duration, within(0, 600, units.say_duration)] = Field(
        default=10.0,
        description="How long the agent goes on delivering after it was asked to stop; the rest stays on disk",
    )
    max_series: Annotated[Count, within(100, 10_000_000, str)] = Field(
        default=50_000,
        description="Series (name and tags) held at once; more of a name are summed in an overflow series",
    )
    gauge_minus: Annotated[Literal["auto", "set", "subtract"], Kind("auto, set or subtract")] = Field(
        default="auto",
        description='What the line "x:-5|g" means: auto subtracts once the series got a "+", as StatsD clients do it',
    )


class EventsLimitSettings(Section):
    """How much of the events may wait in the spool. They are durable: what is full asks for a decision."""

    limit: Annotated[Size, within(8 * 2**20, 2**50, units.say_size)] = Field(
        default=1536 * 2**20, description="How much disk waiting events and their dead letters may take"
    )
    age: Annotated[Duration, within(60, 3650 * 86400, units.say_duration)] = Field(
        default=30 * 86400.0,
        description="Events that waited longer are given up and counted (expired). Only time in which the agent runs "
        "counts, so that a jump of the clock expires nothing",
    )
    when_full: Annotated[Literal["hold", "drop_oldest"], Kind("hold or drop_oldest")] = Field(
        default="hold",
        description="hold: no event is acknowledged until there is room, and clients keep theirs. drop_oldest: those "
        "that waited longest are given up and counted (spool_full)",
    )


class MetricsLimitSettings(Section):
    """How much of the metrics may wait in the spool. A growing backlog is merged, totals unchanged."""

    limit: Annotated[Size, within(8 * 2**20, 2**50, units.say_size)] = Field(
        default=512 * 2**20, description="How much disk waiting metrics and their dead letters may take"
    )
    age: Annotated[Duration, within(60, 3650 * 86400, units.say_duration)] = Field(
        default=30 * 86400.0, description="Metrics that waited longer are given up and counted (expired)"
    )
    when_full: Annotated[Literal["drop_oldest", "drop_new"], Kind("drop_oldest or drop_new")] = Field(
        default="drop_oldest",
        description="What is given up and counted (spool_full) when even the longest windows do not fit",
    )


class SpoolSettings(Section):
    """What the agent keeps on disk until it is delivered, and for how long."""

    events: EventsLimitSettings = Field(default_factory=EventsLimitSettings)
    metrics: MetricsLimitSettings = Field(default_factory=MetricsLimitSettings)
    receipts: Annotated[Duration, within(0, 3650 * 86400, units.say_duration)] = Field(
        default=7 * 86400.0,
        description="How long `sendoff receipt` can say what became of an event that was sent with confirm=True",
    )
    storm: Annotated[Count, within(0, 1_000_000, str)] = Field(
        default=100,
        description="Exceptions of one fingerprint that are kept one by one in a minute; those beyond are folded into "
        "one that says how many more it stands for. 0 folds none",
    )


class WebSettings(Section):
    """The agent's own pages: status, health, Prometheus metrics."""

    listen: LoopbackListen = Field(default="127.0.0.1:8701", description='A loopback address. "" switches them off')
