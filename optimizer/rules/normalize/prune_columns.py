"""Projections, and queries with calls in their text, compute only what somebody reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import SqlExpr
from halo_sql.ir.logical import Demand, LogicalPlan, Project
from halo_sql.ir.physical import batch_name
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.required import Required, rewrite_down


def prune_columns(plan: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Project[a](… Project[a, b](X)) => Project[a](… Project[a](X))`` when nothing in between reads b. Whole plan.
    ``Demand[a, b](text) => Demand[a](SELECT a FROM (text))`` likewise.

    Safe: DuckDB computes no column that nobody reads either. Not below DISTINCT, and not inside a
    CTE with several readers (they share one computation)::

        SELECT a FROM (SELECT DISTINCT a, LLM_MAP('x {{ b }}') AS s FROM t)
    """
    rewritten: LogicalPlan = rewrite_down(plan, _prune)
    return None if rewritten is plan else rewritten


def _prune(node: Any, required: Required) -> Any:
    if isinstance(node, Demand):
        return _prune_demand(node, required)
    if not isinstance(node, Project):
        return node
    kept = tuple(item for item in node.exprs if item[0].id in required)
    if not kept:  # one column at least (batches without columns have no row count), but nothing computed for it
        column, expr = node.exprs[0]
        if len(node.exprs) == 1 and not expr.columns():
            return node
        nothing = SqlExpr((f"CAST(NULL AS {column.type.text})",), column.type, row_wise=True)
        return replace(node, exprs=((column, nothing),))
    return node if len(kept) == len(node.exprs) else replace(node, exprs=kept)


def _prune_demand(node: Demand, required: Required) -> Demand:
    """DuckDB leaves out what the outer SELECT does not name, calls included; order and rows stay."""
    kept = tuple(column for column in node.columns if column.id in required) or node.columns[:1]
    if len(kept) == len(node.columns) or node.write:
        return node
    names = ", ".join(batch_name(column.id) for column in node.columns)
    wanted = ", ".join(batch_name(column.id) for column in kept)
    parts = (f"SELECT {wanted} FROM (", *node.parts, f"\n) AS f({names})")
    return replace(node, parts=parts, columns=kept)
