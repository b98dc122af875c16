"""An LLM map before an LLM filter, when SQL filters on the map's answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import Filter, LlmFilter, LlmMap, LogicalPlan
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.comparisons import never_fails
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import is_volatile, outputs
from halo_sql.optimizer.plan_context import PlanContext


def llm_map_past_llm_filter(expr: Any, memo: Memo, ctx: PlanContext) -> list[LogicalPlan]:
    """``Filter[p](LlmMap(LlmFilter(X))) => LlmFilter(Filter[p](LlmMap(X)))`` when p reads the map's answer.

    Safe: a conjunction has no order, and failures of the map wait for the filter (``defer.py``). It pays when the map
    is cheap and p keeps few rows. Not without a p that reads the answer (more rows would be mapped for nothing), not
    for volatile nodes, and not for a p that looks at other rows or could fail on a row that the filter takes out::

        SELECT LLM_MAP('a {{ b }}') FROM t WHERE LLM_FILTER('c {{ b }}')
        SELECT * FROM t WHERE LLM_FILTER('is {{ b }} a number?') AND CAST(LLM_MAP('double {{ b }}') AS INTEGER) > 3
    """
    if not isinstance(expr, Filter) or not never_fails(expr.predicate, output_columns(expr.input)):
        return []
    found: list[LogicalPlan] = []
    for below in memo.expressions(expr.input):
        if not isinstance(below, LlmMap) or is_volatile(below) or not expr.predicate.columns() & outputs(below):
            continue
        for lowest in memo.expressions(below.input):
            if isinstance(lowest, LlmFilter) and not is_volatile(lowest):
                mapped = replace(below, input=lowest.input)
                found.append(replace(lowest, input=replace(expr, input=mapped)))
    return found
