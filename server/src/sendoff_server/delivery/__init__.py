"""Delivery: what is waiting in the spool goes to the outputs, each by itself, until the answer is definite."""

from sendoff_server.delivery.delivery import Delivery, SystemClock
from sendoff_server.delivery.outcome import Outcome, Output, Result, Trouble
from sendoff_server.delivery.worker import Worker

__all__ = ["Delivery", "Outcome", "Output", "Result", "SystemClock", "Trouble", "Worker"]
