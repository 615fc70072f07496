"""The order of it all: what there is, the probes out, the set-up meanwhile, then waiting for the probes to arrive."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sendoff_server.cli.control import control_places
from sendoff_server.doctor import certificate, destinations, host, places, probe, running
from sendoff_server.doctor.destinations import Destination
from sendoff_server.doctor.journey import DATAGRAMS, STREAMS, Journey
from sendoff_server.doctor.report import Fault, Report
from sendoff_server.doctor.running import Answer
from sendoff_server.settings import Settings

BEYOND_S = 10.0
"""How much longer than the longest interval of an output the counter gets."""


def patience_s(settings: Settings) -> float:
    """How long the doctor waits for the probes, in seconds, if nobody says otherwise."""
    return max((output.interval for output in settings.outputs.values()), default=0.0) + BEYOND_S


async def examine(settings: Settings, environ: Mapping[str, str], uid: int, wait_s: float) -> Report:
    """Send the probes, look at everything, and wait for them at most ``wait_s`` seconds."""
    until = time.monotonic() + wait_s
    configured = settings.inputs.unix.path or None
    report = Report(probe.new_event_id(time.time_ns() // 1_000_000))
    found, silent = running.agents(_controls(configured, environ, uid), uid, wait_s)
    report.faults += running.which(found, silent)
    report.faults += places.look(environ, uid, configured)
    report.faults += certificate.look(settings.gateway.certificate, settings.gateway.certificate_key, time.time())
    agent = _chosen(found, settings)
    entrance, faults = _entrance(agent, environ, uid, configured)
    report.faults += faults
    async with destinations.new_session() as session:
        asked = [Destination(name, output, session) for name, output in settings.outputs.items()]
        journey = Journey(report.event, agent.control if agent else None, uid, asked, _zmq_key(settings, agent))
        report.hops = journey.hops
        try:
            await _travel(journey, report, settings, agent, entrance, until)
        finally:
            journey.close()
    return report


async def _travel(
    journey: Journey, report: Report, settings: Settings, agent: Answer | None, entrance: Path | None, until: float
) -> None:
    if entrance is not None:
        journey.send_event(str(entrance), until)
    report.faults += await destinations.examine_all(journey.destinations)
    if agent is not None:
        journey.send_counters(_inputs(agent.status["addresses"]), agent.status, until)
        journey.expect(agent.status)
    if journey.hops:
        await journey.follow(until)
    report.faults += _set_up(settings, journey.latest or (agent.status if agent else None))


def _inputs(addresses: Mapping[str, str]) -> dict[str, str]:
    """The inputs among an agent's addresses."""
    return {name: addresses[name] for name in (*STREAMS, *DATAGRAMS) if name in addresses}


def _zmq_key(settings: Settings, agent: Answer | None) -> Path | None:
    return Path(agent.status["spool"]["path"]) / "zmq.key" if agent and settings.inputs.zmq.clients else None


def _controls(configured: Path | None, environ: Mapping[str, str], uid: int) -> list[Path]:
    """Also where clients would look: an agent with other settings may be there."""
    everywhere = control_places(None, environ, uid)
    return [*(control_places(configured, environ, uid) if configured else []), *everywhere]


def _chosen(found: list[Answer], settings: Settings) -> Answer | None:
    """The agent that these settings mean, else the first."""
    meant = [each for each in found if Path(each.status["spool"]["path"]).parent == settings.agent.data_dir]
    return next(iter(meant or found), None)


def _entrance(
    agent: Answer | None, environ: Mapping[str, str], uid: int, configured: Path | None
) -> tuple[Path | None, list[Fault]]:
    """The stream socket that the event goes in by, and what is wrong with it."""
    by_clients = places.found_by_clients(environ, uid)
    listens = agent.status["addresses"].get("unix") if agent else None
    own = Path(listens) if listens else configured or by_clients
    if own is None:
        tcp = agent.status["addresses"].get("tcp") if agent else None
        first = places.client_places(environ, uid)[0]
        missing = Fault("socket_missing", f"there is no socket where clients look, first at {first}", _START)
        return (Path(tcp) if tcp else None), [] if tcp else [missing]
    faults = []
    if (fault := places.reach(own)) is not None:
        return None, [fault]
    given = environ.get("SENDOFF_SOCKET")
    if given and not Path(given).exists():
        words = f"SENDOFF_SOCKET names {given}, and there is no socket: clients with this environment look elsewhere"
        faults.append(Fault("socket_missing", words, f"set SENDOFF_SOCKET={own}"))
    if by_clients is None or not _same(by_clients, own):
        where = f"find {by_clients} first" if by_clients else "find no socket"
        words = f"the agent listens on {own}, but clients with this environment {where}"
        faults.append(Fault("client_elsewhere", words, f"start the application with SENDOFF_SOCKET={own}"))
    return own, faults


_START = "start the agent with `sendoff agent`, or set inputs.unix.path and SENDOFF_SOCKET to the same path"


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _set_up(settings: Settings, status: dict[str, Any] | None) -> list[Fault]:
    if status is not None:
        return [*host.disk(Path(status["spool"]["path"])), *running.examine(status, settings)]
    udp = settings.inputs.udp
    faults = [*host.disk(settings.agent.data_dir), *host.writable(settings.agent.data_dir)]
    faults += host.receive_buffer(udp.receive_buffer, None) if udp.listen else []
    if not settings.outputs:
        words = "the settings name no output: an agent would keep everything, and send nothing on"
        faults.append(Fault("no_output", words, "add [outputs.NAME] to them"))
    return faults
