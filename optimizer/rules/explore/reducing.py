"""What rules share that reduce the rows of LLM nodes by a semi-join."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Filter, Fragment, Join, LogicalPlan, Project
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import pick
from halo_sql.optimizer.plan_context import PlanContext


def narrowed(side: LogicalPlan, kept: frozenset[ColumnId]) -> LogicalPlan:
    """A join's input with these columns of it only; one at least."""
    columns = output_columns(side)
    wanted = [column for column in columns if column.id in kept] or list(columns[:1])
    return side if len(wanted) == len(columns) else Project(side, pick(wanted))


def is_reduced(group: Any, memo: Memo) -> bool:
    """Whether a group's rows are what is left of others by a semi-join."""
    return any(isinstance(expr, Join) and expr.kind == "semi" for expr in memo.expressions(group))


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
