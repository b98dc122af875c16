"""LIMIT before LLM_MAP: only rows that are returned are sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import Limit, LlmFilter, LlmMap, LogicalPlan, Project
from halo_sql.ir.walk import with_children
from halo_sql.optimizer.nodes import is_llm, is_row_wise
from halo_sql.optimizer.plan_context import PlanContext


def push_limit_below_llm(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Limit[n](LlmMap(X)) => LlmMap(Limit[n](X))``, also past row-wise projections, and down to an LlmFilter.

    Safe: both keep rows and order one to one. Not past an LlmFilter, Filter or Sort (they decide which rows the
    limit counts), and not past a projection that looks at other rows or is volatile::

        SELECT LLM_MAP('a {{ b }}') FROM t WHERE LLM_FILTER('c {{ b }}') LIMIT 10
        SELECT LLM_MAP('a {{ b }}'), count(*) OVER () FROM t LIMIT 10
    """
    if not isinstance(node, Limit):
        return None
    path: list[Any] = []
    current: Any = node.input
    while isinstance(current, LlmMap) or (isinstance(current, Project) and _one_to_one(current)):
        path.append(current)
        current = current.input
    if not path or not (isinstance(current, LlmFilter) or any(is_llm(above) for above in path)):
        return None
    result: Any = replace(node, input=current)
    for above in reversed(path):
        result = with_children(above, (result,))
    return result  # type: ignore[no-any-return]


def _one_to_one(project: Project) -> bool:
    return all(expr.as_column() is not None or (is_row_wise(expr) and not expr.volatile) for _, expr in project.exprs)
