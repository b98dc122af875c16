"""An LLM filter before an LLM map: fewer rows to map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import LlmFilter, LlmMap, LogicalPlan
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import is_volatile, outputs, reads
from halo_sql.optimizer.plan_context import PlanContext


def llm_filter_past_llm_map(expr: Any, memo: Memo, ctx: PlanContext) -> list[LogicalPlan]:
    """``LlmFilter(LlmMap(X)) => LlmMap(LlmFilter(X))`` when the filter reads no answer of the map.

    Safe: the map's answers depend on its own row only. Not when the filter asks about the answer, and not for
    volatile nodes::

        SELECT s FROM (SELECT LLM_MAP('a {{ b }}') AS s FROM t) WHERE LLM_FILTER('c {{ s }}')
    """
    if not isinstance(expr, LlmFilter) or is_volatile(expr):
        return []
    found: list[LogicalPlan] = []
    for below in memo.expressions(expr.input):
        if isinstance(below, LlmMap) and not is_volatile(below) and not reads(expr) & outputs(below):
            found.append(replace(below, input=replace(expr, input=below.input)))
    return found
