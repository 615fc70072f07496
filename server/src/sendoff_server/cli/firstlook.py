"""Agent and gateway in one process, wired to each other without a setting: what `sendoff dev` runs."""

import os
import socket
from pathlib import Path

from pydantic import SecretStr

from sendoff_server.agent import Agent
from sendoff_server.gateway import Gateway, keys
from sendoff_server.inputs.sockets import MAX_PATH, default_unix_path
from sendoff_server.settings import OutputSettings, Settings, split_listen

PROJECT = "dev"
INTERVAL_S = 2.0
"""Metric windows are short here, since somebody is watching."""


class FirstLook:
    """Starts the gateway, makes a key if there is none, then starts the agent with an output to that gateway."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder = folder
        self.socket: Path | None = None
        self.socket_is_unusual = False
        self.agent: Agent
        self.page = ""
        self._settings = settings
        self._gateway: Gateway | None = None

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = self._placed(self._settings)
        # Before the gateway runs, so that nobody waits for a lock that this process itself holds.
        key = self._key()
        gateway = Gateway(settings)
        await gateway.start()
        try:
            url = gateway.url
            # The gateway is this process, also where it listens on every address.
            output = OutputSettings(url=url, key=SecretStr(key), interval=INTERVAL_S, allow_plaintext=True)
            agent = Agent(settings.model_copy(update={"outputs": {**settings.outputs, PROJECT: output}}))
            agent.first_look = True
            await agent.start()
        except BaseException:
            await gateway.stop(0)
            raise
        self._gateway, self.agent = gateway, agent
        self.page = f"{url}/{PROJECT}/"

    async def watch(self) -> None:
        await self.agent.watch()

    async def stop(self, drain_s: float) -> None:
        if self._gateway is None:
            return
        try:
            await self.agent.stop(drain_s)
        finally:
            await self._gateway.stop(0)

    def _placed(self, settings: Settings) -> Settings:
        """The settings with every folder below ours, and with free places where the usual ones are taken."""
        inputs = settings.inputs
        statsd = _free(inputs.udp.listen, inputs.tcp.listen)
        unix = inputs.unix.path
        if unix is None:
            unix = default_unix_path(os.environ, os.getuid())
            if _answers(unix):
                unix, self.socket_is_unusual = self.folder / "agent.sock", True
        self.socket = unix or None
        moved = {
            "unix": inputs.unix.model_copy(update={"path": unix}),
            "udp": inputs.udp.model_copy(update={"listen": statsd[0]}),
            "tcp": inputs.tcp.model_copy(update={"listen": statsd[1]}),
            "zmq": inputs.zmq.model_copy(update={"listen": inputs.zmq.listen or self._ipc()}),
        }
        return settings.model_copy(
            update={
                "inputs": inputs.model_copy(update=moved),
                "agent": settings.agent.model_copy(update={"data_dir": self.folder}),
                "web": settings.web.model_copy(update={"listen": _free(settings.web.listen)[0]}),
                "gateway": settings.gateway.model_copy(
                    update={"data_dir": self.folder, "listen": _free(settings.gateway.listen)[0], "certificate": None}
                ),
            }
        )

    def _ipc(self) -> str:
        """A place for ZeroMQ, unless its path would be too long for a socket."""
        path = self.folder / "agent.zmq"
        return f"ipc://{path}" if len(os.fsencode(path)) <= MAX_PATH else ""

    def _key(self) -> str:
        """The key of the project; the one of the last time, if the gateway still knows it."""
        kept, store = self.folder / "key", self.folder / "gateway"
        if kept.exists():
            key = kept.read_text().strip()
            known = {each.hint for each in keys.list_keys(store) if each.project == PROJECT and each.revoked is None}
            if key[:7] in known:
                return key
        key = keys.create(store, PROJECT)
        kept.touch(mode=0o600)
        kept.write_text(key + "\n")
        return key


def _free(*listens: str) -> list[str]:
    """The addresses as they are if all can be had, else all on one free port: UDP and TCP of StatsD share theirs."""
    wanted = [split_listen(each) for each in listens if each]
    if all(_can_listen(each.host, each.port) for each in wanted):
        return list(listens)
    for _ in range(20):
        with socket.create_server((wanted[0].host, 0), family=_family(wanted[0].host)) as probe:
            port = probe.getsockname()[1]
        if all(_can_listen(each.host, port) for each in wanted):
            break
    return [str(split_listen(each)._replace(port=port)) if each else "" for each in listens]


def _can_listen(host: str, port: int) -> bool:
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(_family(host), kind) as probe:
                if kind == socket.SOCK_STREAM:  # As the parts do it; for UDP it would let two share one port.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
    except OSError:
        return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(str(path))
    except OSError:
        return False
    return True
