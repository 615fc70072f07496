"""What clients send, understood: which client a frame is of, what of it is new, what is missing, and what is stored
before it is acknowledged. Used by the agent for all that it takes in, by the gateway for who sends without an agent.
"""
