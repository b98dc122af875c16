"""Rules that deliver a required property by an extra operator: one per file."""
