"""The doctor's part of ZeroMQ: a gateway's port asked directly, and the probe counter sent as a client sends it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from sendoff_server.doctor import probe
from sendoff_server.doctor.report import Fault
from sendoff_server.inputs import InputError
from sendoff_server.inputs.zmq.keyfile import read_pair
from sendoff_server.outputs.zmq.line import Heard
from sendoff_server.outputs.zmq.port import Port
from sendoff_server.settings import OutputSettings
from sendoff_server.wire.batch_frame import encode_batch_frame

_COPY = "copy url and key that `sendoff gateway keys create PROJECT --curve` prints into outputs.{}"
REMEDIES = {
    "key_refused": _COPY,
    "server_key_wrong": _COPY,
    "no_gateway": "set outputs.{}.url to the address of a gateway's gateway.zmq.listen",
}
LATER = "mend that; until then everything is kept in the spool"


async def examine(name: str, settings: OutputSettings, timeout_s: float) -> list[Fault]:
    """What is wrong with an output over ZeroMQ: its gateway is sent an empty batch, which it refuses if it is one."""
    port = Port(settings.model_copy(update={"timeout": timeout_s}), most=1)
    said: list[bytes] = []

    def take(answer: bytes) -> Heard:
        said.append(answer)
        return Heard.ALL

    try:
        frame = encode_batch_frame(probe.new_client(), "doctor", settings.compression, b"")
        trouble = await port.ask([frame], timeout_s, take)
    finally:
        await port.close()
    if trouble is not None:
        code = "key_refused" if trouble.status == 401 else port.code or "destination_failing"
        return [Fault(code, f"output {name}: {trouble.words}", REMEDIES.get(code, LATER).format(name))]
    return list(_judge(name, port.url, said[0]))


def _judge(name: str, url: str, answer: bytes) -> Iterator[Fault]:
    try:
        said = json.loads(answer)
        status = "come again later" if "again" in said else said["problem"]["status"]
    except (ValueError, KeyError, TypeError):
        words = f"output {name}: {url} does not answer as a Sendoff gateway does"
        yield Fault("no_gateway", words, REMEDIES["no_gateway"].format(name))
        return
    if status != 400:
        words = f"output {name}: {url} takes no batches now ({status})"
        yield Fault("destination_failing", words, "look at the gateway's own log; everything is kept meanwhile")


class Connection(probe.Connection):
    """As over a stream. `key`: the file of the agent's own key, with which the doctor may send where one is needed."""

    def __init__(self, address: str, patience_s: float, key: Path | None) -> None:
        self._key = key
        super().__init__(address, patience_s)

    def _open(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.linger = 0
        self._dealer.reconnect_ivl = -1
        self._dealer.sndtimeo = round(self._ack_s * 1000)
        try:
            if self._key is not None:
                own = read_pair(self._key)
                self._dealer.curve_serverkey, self._dealer.curve_publickey = own.public, own.public
                self._dealer.curve_secretkey = own.secret
            self._dealer.connect(f"ipc://{address}" if address.startswith("/") else f"tcp://{address}")
        except (InputError, OSError, zmq.ZMQError) as error:
            self._context.destroy(0)
            raise probe.NotTaken(f"{address}: {error}") from error

    def _let_go(self) -> None:
        self._context.destroy(500)  # so long the bye may take to get out

    def _send(self, data: bytes) -> None:
        try:
            self._dealer.send(data)
        except zmq.ZMQError as error:
            raise probe.NotTaken(f"the agent takes nothing: {error}") from error

    def _answer(self, end: float) -> dict[str, Any]:
        if not self._dealer.poll(max(0, round((end - time.monotonic()) * 1000))):
            raise probe.NotTaken(f"the agent did not acknowledge it within {self._ack_s:.0f} s")
        return probe.answer_of(self._dealer.recv())
