"""Agents: conversations of a model with its tools, all rows at once, inside hard limits."""
