"""Clients that send without an agent: by requests of HTTP, or by connections of ZeroMQ.

What they send is aggregated per project, stored, and only then acknowledged.
"""

from sendoff_server.gateway.direct.direct import Direct
from sendoff_server.gateway.direct.project import Project

__all__ = ["Direct", "Project"]
