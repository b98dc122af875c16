"""A CTE that is read once is a sub-query."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.expr import column_expr
from halo_sql.ir.logical import CteScan, LogicalPlan, Project
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.plan_context import PlanContext


def inline_single_cte(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``CteScan[a := x](P) => Project[a := x](P)`` when this is the only place that reads the CTE.

    Safe: the plan is computed once before and after, also when it is volatile or MATERIALIZED; filters and
    limits above can then move into it. Not when two places read it::

        WITH c AS (SELECT LLM_MAP('x {{ b }}') AS s FROM t) SELECT … FROM c JOIN c AS d …

    there the CTE is one computation with two consumers.
    """
    if not isinstance(node, CteScan) or ctx.cte_reads.get(node.cte, 0) != 1:
        return None
    pairs = zip(node.columns, output_columns(node.input), strict=True)
    return Project(node.input, tuple((column, column_expr(source)) for column, source in pairs))
