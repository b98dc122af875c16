"""Two LLM filters in either order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import LlmFilter, LogicalPlan
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import is_volatile
from halo_sql.optimizer.plan_context import PlanContext


def order_llm_filters(expr: Any, memo: Memo, ctx: PlanContext) -> list[LogicalPlan]:
    """``LlmFilter[a](LlmFilter[b](X)) => LlmFilter[b](LlmFilter[a](X))``.

    Safe: a conjunction has no order, each call reads X, and failures of a wait for b (``defer.py``). Which order wins
    is the cost model's: the least cost ÷ (1 − selectivity) first (Hellerstein and Stonebraker, "Predicate Migration",
    SIGMOD 1993). Not for volatile filters, whose calls would be made for other rows::

        … WHERE LLM_FILTER('a {{ x }}', temperature => 1) AND LLM_FILTER('b {{ x }}')
    """
    if not isinstance(expr, LlmFilter) or is_volatile(expr):
        return []
    found: list[LogicalPlan] = []
    for below in memo.expressions(expr.input):
        if isinstance(below, LlmFilter) and not is_volatile(below):
            found.append(replace(below, input=replace(expr, input=below.input)))
    return found
