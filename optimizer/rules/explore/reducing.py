"""What rules share that reduce the rows of LLM nodes by a semi-join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Filter, Fragment, Join, LogicalPlan, Project
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import leaves_out, pick
from halo_sql.optimizer.plan_context import PlanContext


def narrowed(side: LogicalPlan, kept: frozenset[ColumnId]) -> LogicalPlan:
    """A join's input with these columns of it only; one at least."""
    columns = output_columns(side)
    wanted = [column for column in columns if column.id in kept] or list(columns[:1])
    return side if len(wanted) == len(columns) else Project(side, pick(wanted))


def is_reduced(group: Any, others: Sequence[Any], memo: Memo) -> bool:
    """Whether a group's rows are what a semi-join with one of ``others``, narrowed or not, left of it."""
    joins = [expr for expr in memo.expressions(group) if isinstance(expr, Join) and expr.kind == "semi"]
    sources = {source for join in joins for other in join.inputs[1:] for source in _sources(other, memo)}
    return bool(sources) and any(source in sources for other in others for source in _sources(other, memo))


def _sources(group: Any, memo: Memo) -> set[int]:
    """The group, and what its columns are a part of."""
    found = {memo.group(group).id}
    for expr in memo.expressions(group):
        if isinstance(expr, Project) and leaves_out(expr):
            found.add(memo.group(expr.input).id)
    return found


def readable_twice(group: Any, memo: Memo, ctx: PlanContext) -> bool:
    """Whether a group is a table's rows, filtered and projected by expressions that give the same each time."""
    node = memo.expressions(group)[0]
    while isinstance(node, Filter | Project):
        exprs = [node.predicate] if isinstance(node, Filter) else [expr for _, expr in node.exprs]
        if any(expr.volatile or not (expr.row_wise or expr.as_column() is not None) for expr in exprs):
            return False
        node = memo.expressions(node.input)[0]
    stats = ctx.options.stats.get(node) if isinstance(node, Fragment) else None
    return stats is not None and stats.is_table
