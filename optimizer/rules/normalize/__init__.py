"""Rewrites that are always good: one rule per file."""
