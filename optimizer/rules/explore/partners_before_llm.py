"""LLM nodes on the right of a left, semi or anti-join, over the rows that find a partner on its left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import Join, LlmMap, LogicalPlan
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import columns_of, is_llm, is_volatile, outputs
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.rules.explore.reducing import is_reduced, narrowed, readable_twice


def partners_before_llm(expr: Any, memo: Memo, ctx: PlanContext) -> list[LogicalPlan]:
    """``Join left[p, q](X, LLM(Y)) => Join left[p, q](X, LLM(Join semi[p](Y, X)))`` where p reads no answer;
    the same of a semi or anti-join.

    Safe: rows of Y without a partner are in no row of the left join, and decide nothing in the others; fewer calls are
    made, and none besides (semi-join reduction: Bernstein and Chiu, JACM 1981). It pays when many rows of Y have no
    partner. Not for volatile calls, not when every condition reads an answer, and not when X may differ from one
    reading to the next::

        SELECT * FROM u LEFT JOIN (SELECT *, LLM_CLASSIFY('{{ b }}', ['x', 'y']) AS c FROM t) s ON s.c = u.c
    """
    if expr.kind == "inner" or len(expr.inputs) != 2:
        return []
    left, right = expr.inputs
    found: list[LogicalPlan] = []
    for below in memo.expressions(right) if readable_twice(left, memo, ctx) else ():
        if not is_llm(below) or is_volatile(below) or is_reduced(below.input, [left], memo):
            continue
        answers = outputs(below) if isinstance(below, LlmMap) else frozenset()
        on = tuple(condition for condition in expr.on if not condition.columns() & answers)
        if on:
            partners = Join((below.input, narrowed(left, columns_of(on))), on, "semi")
            found.append(replace(expr, inputs=(left, replace(below, input=partners))))
    return found
