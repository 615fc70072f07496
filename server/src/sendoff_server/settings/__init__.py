"""Settings: declared once (`model` and what it is made of), read by `load`, written out by `written`."""

from sendoff_server.settings.agent import AgentSettings, SpoolSettings, WebSettings
from sendoff_server.settings.faults import Fault, SettingsError
from sendoff_server.settings.gateway import DirectSettings, GatewaySettings, GatewayZmqSettings, RetentionSettings
from sendoff_server.settings.inputs import (
    InputsSettings,
    TcpSettings,
    UdpSettings,
    UnixDatagramSettings,
    UnixSettings,
    ZmqInputSettings,
)
from sendoff_server.settings.kinds import default_data_dir
from sendoff_server.settings.load import find_file, load
from sendoff_server.settings.model import Settings
from sendoff_server.settings.outputs import OutputSettings
from sendoff_server.settings.units import Address, split_listen

__all__ = [
    "Address",
    "AgentSettings",
    "DirectSettings",
    "Fault",
    "GatewaySettings",
    "GatewayZmqSettings",
    "InputsSettings",
    "OutputSettings",
    "RetentionSettings",
    "Settings",
    "SettingsError",
    "SpoolSettings",
    "TcpSettings",
    "UdpSettings",
    "UnixDatagramSettings",
    "UnixSettings",
    "WebSettings",
    "ZmqInputSettings",
    "default_data_dir",
    "find_file",
    "load",
    "split_listen",
]
