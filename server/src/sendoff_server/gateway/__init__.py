"""The gateway: takes batches from agents, recognises repeats, stores, and shows what came."""

from sendoff_server.gateway import keys
from sendoff_server.gateway.server import Gateway

__all__ = ["Gateway", "keys"]
