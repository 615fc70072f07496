"""Outputs: one kind of destination a file, all of them what ``delivery.Output`` asks for."""

from sendoff_server.delivery.outcome import Output
from sendoff_server.outputs.gateway import GatewayOutput
from sendoff_server.outputs.http import HttpOutput
from sendoff_server.settings import OutputSettings

__all__ = ["GatewayOutput", "HttpOutput", "build"]


def build(name: str, settings: OutputSettings) -> Output:
    """The output that settings ask for. Nothing is opened before the first request."""
    match settings.type:
        case "gateway" if settings.url.lower().startswith("zmq+curve:"):
            from sendoff_server.outputs.zmq.output import ZmqGatewayOutput  # most agents need no ZeroMQ

            return ZmqGatewayOutput(name, settings)
        case "gateway":
            return GatewayOutput(name, settings)
        case "http":
            return HttpOutput(name, settings)
