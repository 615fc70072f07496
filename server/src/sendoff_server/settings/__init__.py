"""Settings: declared once in `model`, read by `load`, written out by `written`."""

from sendoff_server.settings.faults import Fault, SettingsError
from sendoff_server.settings.load import find_file, load
from sendoff_server.settings.model import (
    AgentSettings,
    GatewaySettings,
    InputsSettings,
    OutputSettings,
    RetentionSettings,
    Settings,
    SpoolSettings,
    TcpSettings,
    UdpSettings,
    UnixDatagramSettings,
    UnixSettings,
    WebSettings,
    default_data_dir,
)
from sendoff_server.settings.units import Address, split_listen

__all__ = [
    "Address",
    "AgentSettings",
    "Fault",
    "GatewaySettings",
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
    "default_data_dir",
    "find_file",
    "load",
    "split_listen",
]
