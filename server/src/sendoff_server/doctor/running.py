"""What the running agent says of itself that is wrong, and whether it is the one that is meant."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sendoff_server.cli.control import TIMEOUT_S, Silent, ask_one
from sendoff_server.doctor import host
from sendoff_server.doctor.report import Fault
from sendoff_server.outputs.words import plain_url
from sendoff_server.settings import Settings

LEAST_ANSWER_S = 2.0
"""What an agent that is busy gets for its answer, however short the wait for everything is to be."""
NEARLY = 0.9
"""Of a limit of the spool: the next outage soon costs something."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """An agent that answers on a control socket."""

    control: Path
    status: Json


def agents(places: Sequence[Path], uid: int, patience_s: float) -> tuple[list[Answer], list[Silent]]:
    """Every agent that answers on one of these control sockets, and why the others do not."""
    found: dict[int, Answer] = {}
    silent = []
    for place in dict.fromkeys(places):
        answer = ask_one("/status.json", place, uid, min(max(patience_s, LEAST_ANSWER_S), TIMEOUT_S))
        if isinstance(answer, Silent):
            silent.append(answer)
        else:
            found.setdefault(answer["pid"], Answer(place, answer))
    return list(found.values()), silent


def which(found: Sequence[Answer], silent: Sequence[Silent]) -> Iterator[Fault]:
    """None, or more than one."""
    if not found:
        yield Fault("agent_not_running", "no agent answers on this host", "start one with `sendoff agent`")
    if len(found) > 1:
        named = " and ".join(f"{each.control} (pid {each.status['pid']})" for each in found)
        words = f"{len(found)} agents run: {named}. Applications send to the one whose socket they find first"
        yield Fault("two_agents", words, "stop all but one")
    for each in silent:
        if each.why == "stale":
            words = f"{each.place} is left over from an agent that is gone: nobody listens there"
            yield Fault("control_stale", words, f"start the agent, which clears it away, or: rm {each.place}")
        elif each.why == "forbidden":
            words = f"the control socket {each.place} belongs to another user"
            yield Fault("control_forbidden", words, "run `sendoff doctor` as the agent's user, or as root")
        elif each.why != "absent":
            words = f"the control socket {each.place} does not answer as it should: {each.words}"
            yield Fault("control_silent", words, "look at the agent's log; is it stopped, or overloaded?")


def examine(status: Json, settings: Settings) -> Iterator[Fault]:
    """Faults that the agent knows of."""
    if status["spool"]["blocked"]:
        words = f"the agent takes no events at the moment: {status['spool']['blocked']}"
        yield Fault(
            "spool_blocked", words, "make room on its disk, mend the output that does not flow, or raise the limit"
        )
    if status["spool"]["damaged"]:
        words = f"the agent's spool is damaged: {status['spool']['damaged']}"
        yield Fault("spool_damaged", words, "restart the agent, which rescues what can be read; look at the disk")
    yield from _limits(status["spool"])
    for output in status["outputs"]:
        if output["state"] == "parked":
            words = f"the output {output['name']} is parked, nothing is sent to it: {output['last_error']}"
            yield Fault("output_parked", words, "mend that; it goes on by itself within a minute")
        elif output["state"] == "waiting" and output["last_error"]:
            words = f"the output {output['name']} does not get through: {output['last_error']}"
            yield Fault("output_waiting", words, "see above; everything is kept meanwhile")
    dead = sum(book["dead"] for book in (*status["books"]["events"], *status["books"]["points_out"]))
    if status["dead_letters"]:
        newest = status["dead_letters"][0]
        words = (
            f"{dead:,} messages were refused for good by an output and are kept as dead letters, the newest by "
            f"{newest['output']}: {newest['code']} {newest['excerpt'][:100]}".rstrip()
        )
        yield Fault(
            "dead_letters",
            words,
            "see them with `sendoff spool ls --dead`, mend the cause, then `sendoff spool replay` or `purge`",
        )
    if status["books"]["imbalances"]:
        words = f"the books do not balance: {status['books']['imbalances'][0]}"
        yield Fault("books", words, "this is a fault in Sendoff: please report it")
    yield from _meant(status, settings)
    for each in status["inputs"]:
        if each["name"] == "udp" and "receive_buffer" in each:
            yield from host.receive_buffer(settings.inputs.udp.receive_buffer, each["receive_buffer"])


def _limits(spool: Mapping[str, Any]) -> Iterator[Fault]:
    for name in ("events", "metrics"):
        used, limit = spool.get(f"{name}_bytes", 0), spool.get(f"{name}_limit_bytes", 0)
        if limit and used > limit * NEARLY:
            words = f"{name} take {used / 2**20:,.0f} of the {limit / 2**20:,.0f} MiB that they may in the spool"
            yield Fault("spool_nearly_full", words, f"mend the output that does not flow, or raise spool.{name}.limit")


def _meant(status: Json, settings: Settings) -> Iterator[Fault]:
    """Whether the agent runs with the settings that are looked at here."""
    if not status["outputs"]:
        words = "the agent has no output: it keeps everything, and sends nothing on"
        yield Fault("no_output", words, "add [outputs.NAME] to its settings, then `sendoff reload`")
    if status.get("first_look"):
        return  # its folder and its output are its own, and in no settings
    meant = {name: plain_url(output.url).rstrip("/") for name, output in settings.outputs.items()}
    runs = {output["name"]: output["url"] for output in status["outputs"]}
    if set(meant) != set(runs) or any(not runs[name].startswith(url) for name, url in meant.items()):
        words = (
            f"the agent (pid {status['pid']}) does not run with these settings: its outputs are {json.dumps(runs)}, "
            f"theirs {json.dumps(meant)}"
        )
        remedy = "`sendoff reload` lets it take its file anew; or name the file that it runs with by --config"
        yield Fault("settings_differ", words, remedy)
    data_dir = Path(status["spool"]["path"]).parent
    if data_dir != settings.agent.data_dir and os.path.realpath(data_dir) != os.path.realpath(settings.agent.data_dir):
        words = f"the agent keeps its data in {data_dir}, and these settings say {settings.agent.data_dir}"
        yield Fault("settings_differ", words, "restart the agent, or name its file of settings with --config")
