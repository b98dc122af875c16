"""Statistics of a statement's sources: DuckDB's row estimates, and samples of text columns."""

from __future__ import annotations

import json

from halo_sql.duck import Duck
from halo_sql.errors import Error
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Fragment
from halo_sql.ir.physical import batch_name
from halo_sql.ir.sql import render
from halo_sql.optimizer.context import ColumnStats, FragmentStats

SAMPLE_ROWS = 2048
SAMPLE_COLUMNS = 16
ALL_DISTINCT = 0.9  # share of distinct values in a sample above which a column is taken for a key
SATURATED = 0.1  # share below which the sample has seen all the values there are


def fragment_stats(
    duck: Duck, fragment: Fragment, sample_above_rows: int, estimates: dict[str, float | None]
) -> FragmentStats | None:
    """Rows of a source and, when it has more than ``sample_above_rows`` (0: never), its text columns' values.

    ``estimates`` keeps row estimates by text: many places of a statement read the same source. None when DuckDB gives
    no estimate. The sample is the first rows: it costs one scan that stops early.
    """
    text = "".join(part for part in fragment.parts if isinstance(part, str))
    if text not in estimates:
        estimates[text] = estimated_rows(duck, render(fragment, []))
    rows = estimates[text]
    if rows is None:
        return None
    if not sample_above_rows or rows <= sample_above_rows or fragment.volatile:
        return FragmentStats(rows)
    return FragmentStats(rows, _sample(duck, fragment, rows))


def _sample(duck: Duck, fragment: Fragment, rows: float) -> dict[ColumnId, ColumnStats]:
    texts = [column for column in fragment.columns if column.type.kind == "varchar"][:SAMPLE_COLUMNS]
    if not texts:
        return {}
    names = [batch_name(column.id) for column in texts]
    items = ", ".join(f"count(DISTINCT {name}), avg(length({name}))" for name in names)
    try:
        found = duck.rows(
            f"SELECT count(*), {items} FROM (SELECT * FROM ({render(fragment, [])}) LIMIT {SAMPLE_ROWS})"
        )[0]
    except Error:
        return {}  # it will be raised, with its position, when the statement runs
    seen, values = found[0], found[1:]
    stats = {}
    for place, column in enumerate(texts):
        distinct, chars = values[2 * place], values[2 * place + 1]
        stats[column.id] = ColumnStats(_scaled(distinct, seen, rows), None if chars is None else float(chars))
    return stats


def _scaled(distinct: int, seen: int, rows: float) -> float | None:
    """Distinct values of a column from those of a sample; None: as many as rows."""
    if not seen or distinct >= ALL_DISTINCT * seen:
        return None
    return float(distinct) if distinct <= SATURATED * seen else distinct * rows / seen


def estimated_rows(duck: Duck, sql: str) -> float | None:
    """DuckDB's estimate of a query's rows; None when it gives none."""
    try:
        plan = json.loads(duck.rows(f"EXPLAIN (FORMAT json) {sql}")[0][1])
    except (Error, ValueError, IndexError):
        return None
    nodes = plan if isinstance(plan, list) else [plan]
    while nodes:
        node = nodes[0]
        known = node.get("extra_info", {}).get("Estimated Cardinality")
        if known is not None:
            try:
                return float(known)
            except (TypeError, ValueError):
                return None
        nodes = node.get("children", [])
    return None
