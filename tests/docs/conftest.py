"""The documentation's tests run apps against a real agent and gateway: the stage of the process tests."""

from tests.process.conftest import agent, gateway, run_app, stage

__all__ = ["agent", "gateway", "run_app", "stage"]
