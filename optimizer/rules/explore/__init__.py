"""Rules that add equal logical expressions to the memo: one per file."""
