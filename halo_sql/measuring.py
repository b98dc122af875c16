"""What calls over a relational tree will ask, counted by DuckDB in one query over the tree; over several trees in one
where the calls of each ask for one column alone.

Three ways, by how many rows the query is expected to touch: counted exactly; counted with HyperLogLog sketches
(Flajolet et al., AofA 2007); read off the first rows, distinct values scaled by the estimator of Charikar et al.
(PODS 2000): values seen once stand for sqrt(rows / rows seen) of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

from halo_sql.duck import Duck
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.physical import batch_name
from halo_sql.optimizer.context import ColumnStats, FragmentStats, InputKey, InputStats

EXACT_ROWS = 200_000  # counted exactly up to here: some 25 ms
SKETCH_ROWS = 4_000_000  # with sketches up to here: some 60 ms per million rows
SAMPLE_ROWS = 10_000
NULL_CHARS = 4  # of a NULL in an object hole


def measure(
    duck: Duck, sql: str, columns: Sequence[Column], keys: Sequence[InputKey], rows: float, touched_rows: float
) -> FragmentStats:
    """Statistics of the result of ``sql``, whose columns are named by ``batch_name``.

    columns       those to describe: VARCHAR or VARCHAR[]
    keys          over these columns, and guards
    rows          DuckDB's estimate, used where only the first rows are read
    touched_rows  rows that running ``sql`` is expected to touch

    Raises Error when the query fails.
    """
    sampled = touched_rows > SKETCH_ROWS
    source = f"SELECT {_facts(columns, keys)} FROM ({sql}\n)" + (f" LIMIT {SAMPLE_ROWS}" if sampled else "")
    lists = frozenset(column.id for column in columns if column.type.kind == "list")
    if EXACT_ROWS < touched_rows <= SKETCH_ROWS:
        values = [*_of_columns(columns, "approx_count_distinct({})"), *(_sketch(key, lists) for key in keys)]
        query = f"SELECT {', '.join(values)} FROM ({source})"
    elif not sampled and is_alone(columns, keys):
        return measure_alone(duck, [(sql, columns[0])])[0]
    else:
        parts = [f"(SELECT {', '.join(_of_columns(columns, 'count(DISTINCT {})'))} FROM r)"]
        parts += [_groups(key, lists) for key in keys]
        query = f"WITH r AS MATERIALIZED ({source}) SELECT * FROM {', '.join(parts)}"
    found = duck.rows(query)[0]
    seen = float(found[0])
    scale = max(1.0, rows / seen) if sampled and seen >= SAMPLE_ROWS else 1.0
    stats = {}
    for place, column in enumerate(columns):
        chars, items, distinct = found[1 + 3 * place : 4 + 3 * place]
        stats[column.id] = ColumnStats(_distinct(distinct, seen, scale), _float(chars), _float(items))
    rest = found[1 + 3 * len(columns) :]
    inputs = {key: _input(rest[4 * place : 4 * place + 4], scale) for place, key in enumerate(keys)}
    return FragmentStats(seen * scale, stats, inputs)


def _key_of(column: Column) -> InputKey:
    """What the calls ask whose prompts hold this column alone."""
    return InputKey(frozenset([column.id]), frozenset([column.id]), None)


def is_alone(columns: Sequence[Column], keys: Sequence[InputKey]) -> bool:
    """Whether ``measure_alone`` may count: the calls over a tree read one text, and nothing but that."""
    return len(columns) == 1 and list(keys) == [_key_of(columns[0])] and columns[0].type.kind != "list"


def measure_alone(duck: Duck, asked: Sequence[tuple[str, Column]]) -> list[FragmentStats]:
    """``measure`` for several queries of which calls read one column alone: all by one query, exactly. Planning a query
    takes DuckDB longer than grouping some thousand rows.

    Raises Error when the query fails, whichever of them is the reason.
    """
    parts = [
        f"SELECT {place} AS q, CASE WHEN {name} IS NOT NULL THEN hash({name}) END AS v, "
        f"coalesce(length({name}), {NULL_CHARS}) AS chars FROM ({sql}\n)"
        for place, (sql, column) in enumerate(asked)
        for name in [batch_name(column.id)]
    ]
    groups = f"SELECT q, v, count(*) AS n, any_value(chars) AS chars FROM ({' UNION ALL '.join(parts)}) GROUP BY q, v"
    asking = "FILTER (v IS NOT NULL)"
    query = (
        f"SELECT q, sum(n), sum(n * chars) / sum(n), count(v), coalesce(sum(n) {asking}, 0), avg(chars) {asking}, "
        f"count(*) FILTER (v IS NOT NULL AND n = 1) FROM ({groups}) GROUP BY q"
    )
    found = {row[0]: row[1:] for row in duck.rows(query)}
    stats = []
    for place, (_, column) in enumerate(asked):
        rows, chars, distinct, asking_rows, each, once = found.get(place, (0, None, 0, 0, None, 0))
        own = ColumnStats(float(distinct), _float(chars))
        inputs = {_key_of(column): _input((asking_rows, distinct, each, once), 1.0)}
        stats.append(FragmentStats(float(rows), {column.id: own}, inputs))
    return stats


def _facts(columns: Sequence[Column], keys: Sequence[InputKey]) -> str:
    """What is kept of the rows, whatever the length of their texts: per column a hash (NULL of NULL), characters and
    items; guards."""
    facts = ["1 AS one"]
    for column in columns:
        name, number = batch_name(column.id), column.id
        chars, items = f"coalesce(length({name}), {NULL_CHARS})", "NULL"
        if column.type.kind == "list":
            chars = f"coalesce(list_sum(list_transform({name}, lambda item: length(item) + 1)), 0)"
            items = f"len({name})"
        facts.append(f"CASE WHEN {name} IS NOT NULL THEN hash({name}) END AS hash_{number}")
        facts.append(f"{chars} AS chars_{number}, {items} AS items_{number}")
    guards = dict.fromkeys(key.guard for key in keys if key.guard is not None)
    return ", ".join(facts + [f"{batch_name(guard)} AS guard_{guard}" for guard in guards])


def _of_columns(columns: Sequence[Column], count: str) -> list[str]:
    """Rows; per column average characters and items, and different values."""
    found = ["count(*)"]
    for column in columns:
        found += [f"avg(chars_{column.id})", f"avg(items_{column.id})", count.format(f"hash_{column.id}")]
    return found


def _asking(key: InputKey, lists: frozenset[ColumnId]) -> str:
    conditions = [f"hash_{column} IS NOT NULL" for column in sorted(key.needed)]
    conditions += [f"items_{column} > 0" for column in sorted(key.needed & lists)]
    conditions += [] if key.guard is None else [f"guard_{key.guard}"]
    return " AND ".join(conditions) or "true"


def _chars(key: InputKey) -> str:
    return " + ".join(f"chars_{column}" for column in sorted(key.columns)) or "0"


def _names(key: InputKey) -> str:
    return ", ".join(f"hash_{column}" for column in sorted(key.columns)) or "one"


def _groups(key: InputKey, lists: frozenset[ColumnId]) -> str:
    """Rows that ask, different ones, their average characters, those that are there once."""
    inner = f"SELECT count(*) AS n, any_value({_chars(key)}) AS chars FROM r WHERE {_asking(key, lists)}"
    return (
        "(SELECT coalesce(sum(n), 0), count(*), avg(chars), count(*) FILTER (n = 1)"
        f" FROM ({inner} GROUP BY {_names(key)}))"
    )


def _sketch(key: InputKey, lists: frozenset[ColumnId]) -> str:
    """The same, the last left out."""
    asking = f"FILTER ({_asking(key, lists)})"
    return f"count(*) {asking}, approx_count_distinct(({_names(key)})) {asking}, avg({_chars(key)}) {asking}, 0"


def _input(values: Sequence[Any], scale: float) -> InputStats:
    rows, distinct, chars, once = values
    asked = float(rows) * scale
    different = float(distinct) + (sqrt(scale) - 1.0) * float(once)
    return InputStats(asked, min(asked, different), float(chars or 0.0))


def _distinct(distinct: int, seen: float, scale: float) -> float:
    """Values that a sample has seen twice on average have been seen all."""
    if scale == 1.0 or distinct * 2 <= seen:
        return float(distinct)
    return min(distinct * sqrt(scale), seen * scale)


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
