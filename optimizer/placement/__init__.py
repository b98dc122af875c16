"""Placement: which device runs which node when, with which models there, and which prefixes warm."""
