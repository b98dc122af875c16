"""An LLM filter before a relational filter on an LLM map's answer, and thus before the map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import Filter, LlmFilter, LlmMap, LogicalPlan
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import is_volatile, outputs, reads, sees_one_row
from halo_sql.optimizer.plan_context import PlanContext


def llm_filter_past_filter(expr: Any, memo: Memo, ctx: PlanContext) -> list[LogicalPlan]:
    """``LlmFilter(Filter[p](LlmMap(X))) => Filter[p](LlmMap(LlmFilter(X)))`` when the LLM filter reads no answer.

    Safe: a conjunction has no order, and failures of the LLM filter wait for p (``defer.py``). It pays when the LLM
    filter keeps fewer rows for its price than map and p together. Not past a predicate over the source alone: that one
    is free and stays below::

        SELECT * FROM t WHERE a > 1 AND LLM_FILTER('c {{ b }}')
    """
    if not isinstance(expr, LlmFilter) or is_volatile(expr):
        return []
    found: list[LogicalPlan] = []
    for below in memo.expressions(expr.input):
        if not isinstance(below, Filter) or below.predicate.volatile or not sees_one_row(below.predicate):
            continue
        for lowest in memo.expressions(below.input):
            if not isinstance(lowest, LlmMap) or is_volatile(lowest) or reads(expr) & outputs(lowest):
                continue
            filtered = replace(expr, input=lowest.input)
            found.append(replace(below, input=replace(lowest, input=filtered)))
    return found
