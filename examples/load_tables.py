"""Fill a DuckDB file with text that every machine has: the tables of the examples.

packages(name, version, summary)   one row per installed Python package: its own one-line summary
topics(name, body)                 CPython's documentation topics (what ``help('for')`` shows), long texts

Usage: python examples/load_tables.py FILE
"""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path
from pydoc_data.topics import topics

import halo_sql


def package_rows() -> list[tuple[str, str, str]]:
    """Name, version and summary of the installed packages that have a summary, by name."""
    rows = set()
    for package in distributions():
        summary = (package.metadata["Summary"] or "").strip()
        if summary and summary != "UNKNOWN":
            rows.add((package.metadata["Name"].lower(), package.version, summary))
    return sorted(rows)


def main(path: Path) -> None:
    """Create or replace the tables in the database file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with halo_sql.connect(str(path)) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE OR REPLACE TABLE packages (name VARCHAR, version VARCHAR, summary VARCHAR)")
        connection.executemany("INSERT INTO packages VALUES (?, ?, ?)", package_rows())
        connection.execute("CREATE OR REPLACE TABLE topics (name VARCHAR, body VARCHAR)")
        connection.executemany("INSERT INTO topics VALUES (?, ?)", sorted(topics.items()))
        connection.execute("COMMIT")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
