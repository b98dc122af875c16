"""Rows and column statistics of logical nodes, derived from their inputs'.

Independence and containment are assumed, as in System R (Selinger et al., SIGMOD 1979); unknown selectivities are the
constants below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr
from halo_sql.ir.logical import (
    CteScan,
    Demand,
    Distinct,
    Filter,
    Fragment,
    Join,
    Limit,
    LlmFilter,
    LlmMap,
    LlmTopK,
    Project,
)
from halo_sql.ir.prompt import Hole, ItemsHole, LlmCall
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.context import ColumnStats, FragmentStats, InputKey, InputStats, OptimizerContext
from halo_sql.quick import quick_init

DEFAULT_ROWS = 1_000.0
DEFAULT_CHARS = 40.0
FILTER_SELECTIVITY = 0.33
LLM_FILTER_SELECTIVITY = 0.5
#: Output tokens expected of a free answer, and of answers that have a form: yes or no, a number, a vector.
MAP_OUTPUT_TOK = 32.0
FORMED_OUTPUT_TOK = {"filter": 1.0, "score": 2.0, "rank": 2.0, "embed": 0.0}
CHARS_PER_TOK = 4.0
#: Output tokens of a member of a JSON object beside its value.
MEMBER_TOK = 5.0
#: Rows in a group, as long as nothing is known of the keys.
GROUP_ROWS = 10.0


@quick_init
@dataclass(frozen=True, slots=True)
class Known:
    """A column as estimated: distinct values (at most the rows), average characters, items of a list (0: unknown)."""

    distinct: float
    chars: float
    items: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """A node's result as estimated. ``columns`` may hold columns that were projected away.

    inputs  what calls over these rows ask, where it was measured
    """

    rows: float
    columns: Mapping[ColumnId, Known]
    inputs: Mapping[InputKey, InputStats] = field(default_factory=dict)

    def known(self, column: ColumnId) -> Known:
        """A column's estimate, the default when there is none."""
        found = self.columns.get(column)
        if found is None:
            return Known(max(1.0, self.rows), DEFAULT_CHARS)
        return Known(max(1.0, min(found.distinct, self.rows)), found.chars, found.items)

    def domain(self, column: ColumnId) -> Known:
        """The same before filters took rows out."""
        return self.columns.get(column) or self.known(column)

    def distinct(self, columns: Sequence[ColumnId]) -> float:
        """Distinct combinations of these columns: the product, at most the rows."""
        product = 1.0
        for column in columns:
            product = min(product * self.known(column).distinct, max(1.0, self.rows))
        return product

    def asked(self, call: LlmCall) -> InputStats | None:
        """What was measured of the rows that ask a call; None: nothing."""
        return self.inputs.get(input_key(call)) if self.inputs else None

    def requests(self, call: LlmCall) -> float:
        """Requests of a call over these rows."""
        asked = self.asked(call)
        if asked is not None:
            return asked.distinct if call.deterministic else asked.rows
        return min(self.rows, self.distinct(call.prompt.columns())) if call.deterministic else self.rows

    def some(self, rows: float, by: frozenset[ColumnId] = frozenset()) -> Profile:
        """``rows`` of these rows; which, is decided by the columns ``by`` (none: independently of all values).

        Of d values over n rows, d (1 - (1 - s)^(n/d)) are left by a part s of the rows taken at random (Cardenas,
        CACM 1975), and s d when the value itself decides.
        """
        part = min(1.0, rows / self.rows) if self.rows else 0.0
        if part >= 1.0 or not self.inputs:
            return Profile(rows, self.columns, self.inputs)
        inputs = {}
        for key, asked in self.inputs.items():
            each = asked.rows / asked.distinct if asked.distinct else 1.0
            left = part if by and by <= key.columns else 1.0 - (1.0 - part) ** each
            inputs[key] = InputStats(asked.rows * part, asked.distinct * left, asked.chars)
        return Profile(rows, self.columns, inputs)


def derive(node: Any, inputs: Sequence[Profile], options: OptimizerContext) -> Profile:
    """The estimate for a node from its inputs' (children may be memo groups)."""
    if isinstance(node, Fragment):
        return _fragment(node, inputs, options)
    if isinstance(node, Demand):
        stats = options.stats.get(node)
        if stats is not None:
            return measured(stats, node.columns)
        rows = max((source.rows for source in inputs), default=DEFAULT_ROWS)
        return Profile(rows, {column.id: Known(rows, _chars(column)) for column in node.columns})
    if isinstance(node, Join):
        return _join(node, inputs)
    source = inputs[0]
    if isinstance(node, Filter):
        return source.some(source.rows * FILTER_SELECTIVITY, node.predicate.columns())
    if isinstance(node, LlmFilter):
        return source.some(source.rows * true_share(node.call, options), node.call.columns())
    if isinstance(node, Limit | LlmTopK):
        left = max(0.0, source.rows - node.offset)
        return source.some(left if node.count is None else min(float(node.count), left))
    if isinstance(node, Distinct):
        return Profile(source.distinct([column.id for column in output_columns(node)]), source.columns)
    if isinstance(node, Project):
        shown = {column.id for column, _ in node.exprs}
        kept = {key: asked for key, asked in source.inputs.items() if key.read <= shown}
        return Profile(source.rows, {column.id: _expr(expr, source) for column, expr in node.exprs}, kept)
    if isinstance(node, CteScan):
        pairs = zip(node.columns, output_columns(node.input), strict=True)
        return Profile(source.rows, {column.id: source.domain(below.id) for column, below in pairs})
    if isinstance(node, LlmMap):
        answers = {call.output: _answer(call, source, options) for call in node.calls}
        return Profile(source.rows, {**source.columns, **answers}, source.inputs)
    return source


def _join(node: Join, inputs: Sequence[Profile]) -> Profile:
    """All combinations, less what conditions refuse. An equality keeps one in the distinct values of the richer column;
    when each has as many as rows (both are keys or unknown) of the poorer, as many as it had before rows were taken
    out: one of them is taken for a foreign key. The partners of an anti-join are taken to fall on its rows at random:
    with m of them on average, exp(-m) of the rows have none (Poisson)."""
    rows = 1.0
    known: dict[ColumnId, Known] = {}
    for source in inputs:
        rows *= source.rows
        known.update(source.columns)
    together = Profile(rows, known)
    for condition in node.on:
        sides = equated(condition)
        if sides is None:
            rows *= FILTER_SELECTIVITY
        else:
            values = [_side(column, inputs, together) for column in sides]
            unknown = all(known.distinct >= max(1.0, source.rows) for known, _, source in values)
            rows /= min(domain for _, domain, _ in values) if unknown else max(known.distinct for known, _, _ in values)
    if node.kind == "semi":
        return inputs[0].some(min(rows, inputs[0].rows))
    if node.kind == "anti":
        return inputs[0].some(inputs[0].rows * exp(-rows / max(1.0, inputs[0].rows)))
    rows = max(rows, inputs[0].rows) if node.kind == "left" else rows
    asked = {key: own for source in inputs for key, own in source.some(min(rows, source.rows)).inputs.items()}
    return Profile(rows, known, asked)


def _side(column: ColumnId, inputs: Sequence[Profile], together: Profile) -> tuple[Known, float, Profile]:
    """A column's values, how many they were before filters, and the input it belongs to."""
    source = next((one for one in inputs if column in one.columns), together)
    return source.known(column), max(1.0, source.domain(column).distinct), source


def equated(condition: SqlExpr) -> tuple[ColumnId, ColumnId] | None:
    """The columns of a condition that is nothing but ``a = b``."""
    match condition.parts:
        case (ColumnRef(left), str(text), ColumnRef(right)) if text.strip() in ("=", "=="):
            return left, right
    return None


def input_key(call: LlmCall) -> InputKey:
    """Which rows ask a call, and which of them the same."""
    needed = (segment.column for segment in call.prompt.user if isinstance(segment, Hole | ItemsHole))
    return InputKey(frozenset(call.prompt.columns()), frozenset(needed), call.guard)


def true_share(call: LlmCall, options: OptimizerContext) -> float:
    """The part of its rows that an LLM filter is expected to keep, never 0 or 1: nothing is sure."""
    learnt = options.call(call).true_share
    return LLM_FILTER_SELECTIVITY if learnt is None else min(0.99, max(0.01, learnt))


def output_tok(call: LlmCall, options: OptimizerContext) -> float:
    """Tokens expected of one answer."""
    learnt = options.call(call).output_tok
    if learnt is None and call.fused:
        return sum(output_tok(part, options) + MEMBER_TOK for part in call.fused)
    return min(_expected_tok(call), float(call.sampling.max_tokens)) if learnt is None else learnt


def _expected_tok(call: LlmCall) -> float:
    if call.kind in FORMED_OUTPUT_TOK:
        return FORMED_OUTPUT_TOK[call.kind]
    if call.kind == "classify":
        label = sum(map(len, call.labels)) / max(1, len(call.labels)) / CHARS_PER_TOK
        several = 1.0 if call.returns.kind == "varchar" else min(2.0, float(len(call.labels)))
        return (label + 1.0) * several + 1.0
    return MAP_OUTPUT_TOK


def _fragment(node: Fragment, inputs: Sequence[Profile], options: OptimizerContext) -> Profile:
    stats = options.stats.get(node) if not node.inputs else None
    if stats is not None:
        return measured(stats, node.columns)
    rows = max((source.rows for source in inputs), default=DEFAULT_ROWS)
    if node.keys is not None:
        return _groups(node, rows)
    if node.unnested is not None and inputs:
        rows *= inputs[0].known(node.unnested).items or 1.0
    return Profile(rows, {column.id: Known(rows, _chars(column)) for column in node.columns})


def measured(stats: FragmentStats, columns: Sequence[Column], derived: Profile | None = None) -> Profile:
    """The profile of a result that statistics were taken of; where nothing is known of its columns, they are those of
    ``derived``."""
    if derived is not None and not stats.columns:
        return Profile(stats.rows, derived.columns, stats.inputs)
    known = {}
    for column in columns:
        own = stats.columns.get(column.id, ColumnStats())
        distinct = stats.rows if own.distinct is None else own.distinct
        known[column.id] = Known(distinct, _chars(column) if own.chars is None else own.chars, own.items or 0.0)
    return Profile(stats.rows, known, stats.inputs)


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
        return source.domain(column)
    columns = sorted(expr.columns())
    if not columns:
        literal = sum(len(part) for part in expr.parts if isinstance(part, str))
        return Known(max(1.0, source.rows) if expr.volatile else 1.0, float(literal))
    return Known(source.distinct(columns), sum(source.known(column).chars for column in columns))


def _answer(call: LlmCall, source: Profile, options: OptimizerContext) -> Known:
    if call.kind == "tool":
        tool = options.tool(call.target)
        values = max(1.0, source.requests(call))
        items = 0.0 if tool.rows is None else max(0.01, tool.rows)
        return Known(values, DEFAULT_CHARS if tool.chars is None else tool.chars, items)
    learnt = options.call(call)
    chars = learnt.answer_chars
    if chars is None:
        chars = call.returns.size * 4.0 if call.kind == "embed" else output_tok(call, options) / learnt.tok_per_char
    if not call.deterministic:
        return Known(max(1.0, source.rows), chars)
    distinct = max(1.0, source.requests(call))
    if call.kind == "filter":
        distinct = min(distinct, 2.0)
    elif call.labels and call.returns.kind == "varchar":
        distinct = min(distinct, float(len(call.labels)))
    return Known(distinct, chars)
