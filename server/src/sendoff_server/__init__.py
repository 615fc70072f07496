"""Sendoff's server side: the agent and the gateway."""
