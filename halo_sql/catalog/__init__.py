"""Catalog: MODEL and PROMPT objects, versioned rows in the user's DuckDB database."""
