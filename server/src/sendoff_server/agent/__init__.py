"""The agent: builds the parts, starts them in order, watches them, stops them in reverse."""

from sendoff_server.agent.agent import Agent, AgentFailed

__all__ = ["Agent", "AgentFailed"]
