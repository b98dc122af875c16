"""Rows and column statistics of logical nodes, derived from their inputs'.

Independence and containment are assumed, as in System R (Selinger et al., SIGMOD 1979); unknown selectivities are the
constants below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, SqlExpr
from halo_sql.ir.logical import CteScan, Demand, Distinct, Filter, Fragment, Limit, LlmFilter, LlmMap, LlmTopK, Project
from halo_sql.ir.prompt import LlmCall, ObjectHole
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.context import ColumnStats, OptimizerContext

DEFAULT_ROWS = 1_000.0
DEFAULT_CHARS = 40.0
FILTER_SELECTIVITY = 0.33
LLM_FILTER_SELECTIVITY = 0.5
#: Output tokens expected of a free answer and of a yes / no (or a score).
MAP_OUTPUT_TOK = 32.0
FILTER_OUTPUT_TOK = 2.0
CHARS_PER_TOK = 4.0
#: Rows in a group, as long as nothing is known of the keys.
GROUP_ROWS = 10.0


@dataclass(frozen=True, slots=True)
class Known:
    """A column as estimated: distinct values (at most the rows) and average characters."""

    distinct: float
    chars: float


@dataclass(frozen=True, slots=True)
class Profile:
    """A node's result as estimated. ``columns`` may hold columns that were projected away."""

    rows: float
    columns: Mapping[ColumnId, Known]

    def known(self, column: ColumnId) -> Known:
        """A column's estimate, the default when there is none."""
        found = self.columns.get(column)
        if found is None:
            return Known(max(1.0, self.rows), DEFAULT_CHARS)
        return Known(max(1.0, min(found.distinct, self.rows)), found.chars)

    def distinct(self, columns: Sequence[ColumnId]) -> float:
        """Distinct combinations of these columns: the product, at most the rows."""
        product = 1.0
        for column in columns:
            product = min(product * self.known(column).distinct, max(1.0, self.rows))
        return product


def derive(node: Any, inputs: Sequence[Profile], options: OptimizerContext) -> Profile:
    """The estimate for a node from its inputs' (children may be memo groups)."""
    if isinstance(node, Fragment):
        return _fragment(node, inputs, options)
    if isinstance(node, Demand):
        rows = max((source.rows for source in inputs), default=DEFAULT_ROWS)
        return Profile(rows, {column.id: Known(rows, _chars(column)) for column in node.columns})
    source = inputs[0]
    if isinstance(node, Filter):
        return Profile(source.rows * FILTER_SELECTIVITY, source.columns)
    if isinstance(node, LlmFilter):
        return Profile(source.rows * LLM_FILTER_SELECTIVITY, source.columns)
    if isinstance(node, Limit | LlmTopK):
        left = max(0.0, source.rows - node.offset)
        return Profile(left if node.count is None else min(float(node.count), left), source.columns)
    if isinstance(node, Distinct):
        return Profile(source.distinct([column.id for column in output_columns(node)]), source.columns)
    if isinstance(node, Project):
        return Profile(source.rows, {column.id: _expr(expr, source) for column, expr in node.exprs})
    if isinstance(node, CteScan):
        pairs = zip(node.columns, output_columns(node.input), strict=True)
        return Profile(source.rows, {column.id: source.known(below.id) for column, below in pairs})
    if isinstance(node, LlmMap):
        return Profile(source.rows, {**source.columns, **{call.output: _answer(call, source) for call in node.calls}})
    return source


def output_tok(call: LlmCall) -> float:
    """Tokens expected of one answer."""
    return min(_expected_tok(call), float(call.sampling.max_tokens))


def _expected_tok(call: LlmCall) -> float:
    if call.kind in ("filter", "score", "rank"):
        return FILTER_OUTPUT_TOK
    if call.kind == "embed":
        return 0.0
    if call.kind == "classify":
        label = sum(map(len, call.labels)) / max(1, len(call.labels)) / CHARS_PER_TOK
        several = 1.0 if call.returns.kind == "varchar" else min(2.0, float(len(call.labels)))
        return (label + 1.0) * several + 1.0
    return MAP_OUTPUT_TOK


def _fragment(node: Fragment, inputs: Sequence[Profile], options: OptimizerContext) -> Profile:
    stats = options.stats.get(node) if not node.inputs else None
    if stats is None:
        rows = max((source.rows for source in inputs), default=DEFAULT_ROWS)
        if node.keys is not None:
            return _groups(node, rows)
        return Profile(rows, {column.id: Known(rows, _chars(column)) for column in node.columns})
    known = {}
    for column in node.columns:
        own = stats.columns.get(column.id, ColumnStats())
        distinct = stats.rows if own.distinct is None else own.distinct
        known[column.id] = Known(distinct, _chars(column) if own.chars is None else own.chars)
    return Profile(stats.rows, known)


def _groups(node: Fragment, rows: float) -> Profile:
    """The groups of ``rows`` rows; a list column holds a value of each row."""
    groups = max(1.0, rows / GROUP_ROWS) if node.keys else 1.0
    known = {}
    for column in node.columns:
        is_list = column.type.kind == "list"
        chars = max(1.0, rows / groups) * (DEFAULT_CHARS + 1.0) if is_list else _chars(column)
        known[column.id] = Known(groups, chars)
    return Profile(groups, known)


def _chars(column: Column) -> float:
    return DEFAULT_CHARS if column.type.kind in ("varchar", "json", "struct", "list", "map") else 8.0


def _expr(expr: SqlExpr, source: Profile) -> Known:
    column = expr.as_column()
    if column is not None:
        return source.known(column)
    columns = sorted(expr.columns())
    if not columns:
        literal = sum(len(part) for part in expr.parts if isinstance(part, str))
        return Known(max(1.0, source.rows) if expr.volatile else 1.0, float(literal))
    return Known(source.distinct(columns), sum(source.known(column).chars for column in columns))


def _answer(call: LlmCall, source: Profile) -> Known:
    chars = call.returns.size * 4.0 if call.kind == "embed" else output_tok(call) * CHARS_PER_TOK
    if not call.deterministic:
        return Known(max(1.0, source.rows), chars)
    distinct = source.distinct(call.prompt.columns())
    if call.kind == "filter":
        distinct = min(distinct, 2.0)
    elif call.labels and call.returns.kind == "varchar":
        distinct = min(distinct, float(len(call.labels)))
    return Known(distinct, chars)


def object_chars(hole: ObjectHole) -> float:
    """Characters of a JSON object's punctuation and names."""
    return 2.0 + sum(len(name) + 6.0 for name, _ in hole.fields)
