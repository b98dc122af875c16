"""What a statement without LLM calls costs on top of DuckDB. Goal: within 1.05 times DuckDB + 1 ms.

Both sides run the same statement on the same data in turns, so that what else the machine does meets both; medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import duckdb
from report import finish, show, verdict

import halo_sql

SETUP = "CREATE TABLE t AS SELECT range AS id, range % 100 AS grp, 'row ' || range AS label FROM range(1_000_000)"
STATEMENTS = {
    "constant": ("SELECT 1", 300),
    "point lookup": ("SELECT label FROM t WHERE id = 4711", 100),
    "10,000 rows fetched": ("SELECT * FROM t LIMIT 10000", 40),
    "aggregate": ("SELECT grp, count(*), min(label) FROM t GROUP BY grp ORDER BY grp", 20),
    "join": ("SELECT count(*) FROM t a JOIN t b ON a.id = b.id", 10),
    "insert": ("INSERT INTO sink SELECT 1", 100),
}
ALLOWED_RATIO, ALLOWED_MS = 1.05, 1.0


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    config = {"threads": 2}
    plain = duckdb.connect(config=config)
    halo = halo_sql.connect(config={**config, "halo_store": "off"})
    for statement in (SETUP, "CREATE TABLE sink (a INTEGER)"):
        plain.execute(statement).fetchall()
        halo.execute(statement).fetchall()
    rows, all_reached = [], True
    for name, (statement, rounds) in STATEMENTS.items():
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds + 3):
            theirs.append(seconds(lambda: plain.execute(statement).fetchall()))  # noqa: B023 - called at once
            ours.append(seconds(lambda: halo.execute(statement).fetchall()))  # noqa: B023
        duckdb_ms, halo_ms = median(theirs[3:]) * 1e3, median(ours[3:]) * 1e3
        reached = halo_ms <= ALLOWED_RATIO * duckdb_ms + ALLOWED_MS
        all_reached &= reached
        added = halo_ms - duckdb_ms
        rows.append(
            [
                name,
                f"{duckdb_ms:.3f}",
                f"{halo_ms:.3f}",
                f"{halo_ms / duckdb_ms:.2f}",
                f"{added:+.3f}",
                verdict(reached),
            ]
        )
    head = ["statement", "DuckDB ms", "HaloSQL ms", "ratio", "added ms", "<= 1.05x + 1 ms"]
    show("Statements without LLM calls (median of interleaved runs)", head, rows)
    halo.close()
    plain.close()
    finish(all_reached)


if __name__ == "__main__":
    main()
