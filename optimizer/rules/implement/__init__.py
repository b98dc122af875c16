"""Rules that turn logical expressions into physical alternatives: one per file."""
