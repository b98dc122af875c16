"""Calls that are not made: duplicates, LIMIT, rows that SQL filters out, unused calls, untaken branches.

Counters, not times: LLM requests that reach the echo engine, against one call per row of the table.
"""

from __future__ import annotations

from report import finish, show, verdict

import halo_sql

ROWS = 100_000
WINDOW = 4096  # rows an LLM node may read ahead of the first unfinished one

SETUP = f"""
CREATE TABLE t AS
SELECT range AS id, range % 250 AS grp, 'document ' || range AS body FROM range({ROWS})
"""
#: name -> (statement, most calls allowed)
CASES = {
    "duplicates: 250 distinct prompts": ("SELECT count(LLM_MAP('Group {{ grp }}')) FROM t", 250),
    "the same call twice": ("SELECT count(LLM_MAP('G {{ grp }}')), count(DISTINCT LLM_MAP('G {{ grp }}')) FROM t", 250),
    "LIMIT 10, distinct prompts": ("SELECT LLM_MAP('{{ body }}') FROM t LIMIT 10", 10 + WINDOW),
    "ORDER BY id LIMIT 10": ("SELECT id, LLM_MAP('{{ body }}') FROM t ORDER BY id LIMIT 10", 10),
    "filter, LIMIT 10": (
        "SELECT id FROM t WHERE LLM_FILTER('{{ (id % 2 = 0) || repeat('' '', id % 5000) }}') LIMIT 10",
        10 + WINDOW,
    ),
    "WHERE id < 100": ("SELECT LLM_MAP('{{ body }}') FROM t WHERE id < 100", 100),
    "WHERE above the call": ("SELECT m FROM (SELECT id, LLM_MAP('{{ body }}') AS m FROM t) WHERE id < 100", 100),
    "unused column": ("SELECT id FROM (SELECT id, LLM_MAP('{{ body }}') AS m FROM t)", 0),
    "unused, below count(*)": ("SELECT count(*) FROM (SELECT id, LLM_MAP('{{ body }}') AS m FROM t)", 0),
    "CASE branch of 50 rows": (
        "SELECT count(CASE WHEN id < 50 THEN LLM_MAP('{{ body }}') ELSE body END) FROM t",
        50,
    ),
    "NULL hole": ("SELECT count(LLM_MAP('{{ nullif(grp, grp) }}')) FROM t", 0),
    "constant prompt": ("SELECT count(LLM_MAP('the same for all')) FROM t", 1),
}


def main() -> None:
    config = {"halo_store": "off", "halo_default_model": "echo", "halo_max_calls": 0}
    rows, all_reached = [], True
    with halo_sql.connect(config=config) as connection:
        connection.execute(SETUP)
        for name, (statement, allowed) in CASES.items():
            connection.execute(statement).fetchall()
            calls = connection.last_profile()["totals"]["llm_calls"]
            all_reached &= calls <= allowed
            rows.append([name, f"{ROWS:,}", f"{calls:,}", f"{allowed:,}", verdict(calls <= allowed)])
    show(f"LLM calls over a table of {ROWS:,} rows", ["statement", "rows", "calls", "allowed", ""], rows)
    finish(all_reached)


if __name__ == "__main__":
    main()
