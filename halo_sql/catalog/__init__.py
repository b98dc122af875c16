"""Catalog: MODEL, PROMPT, TOOL and AGENT objects, versioned rows in the user's DuckDB database."""
