"""`sendoff doctor`: an event and a counter sent through every hop, and what is wrong with the set-up, in plain words.

It sees the agent as an application does, through the sockets (`probe`), and asks the agent (`journey`, through the
control socket) and its gateways (`destinations`) what arrived. What it finds wrong are `report.Fault`s, each with its
remedy.
"""

from sendoff_server.doctor.examine import examine
from sendoff_server.doctor.report import Fault, Hop, Report

__all__ = ["Fault", "Hop", "Report", "examine"]
