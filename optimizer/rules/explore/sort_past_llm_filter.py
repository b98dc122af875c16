"""Sorting by an answer before an LLM filter, so that a LIMIT can stop the filter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import LlmFilter, LogicalPlan, Project, Sort
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import cannot_fail, leaves_out
from halo_sql.optimizer.plan_context import PlanContext


def sort_past_llm_filter(expr: Any, memo: Memo, ctx: PlanContext) -> list[LogicalPlan]:
    """``Sort[k](LlmFilter(X)) => LlmFilter(Sort[k](X))``, also where a projection between them leaves columns out.

    Safe: the filter keeps the order of its rows. It pays under a LIMIT: the filter then asks about the first rows only;
    without one the filter is better off first, where it saves calls of X. Not for keys that could fail on a row
    the filter takes out, or that need names rebuilt::

        SELECT * FROM t WHERE LLM_FILTER('is {{ x }} a number?') ORDER BY x::INTEGER LIMIT 10
    """
    if not isinstance(expr, Sort) or not all(cannot_fail(key.expr) for key in expr.keys):
        return []
    found: list[LogicalPlan] = []
    for below in memo.expressions(expr.input):
        if isinstance(below, LlmFilter):
            found.append(replace(below, input=replace(expr, input=below.input)))
        elif isinstance(below, Project) and leaves_out(below):
            for lowest in memo.expressions(below.input):
                if isinstance(lowest, LlmFilter):
                    found.append(replace(below, input=replace(lowest, input=replace(expr, input=lowest.input))))
    return found
