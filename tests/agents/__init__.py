"""Agents: the loop, its rules, and what a hostile model cannot do."""
