"""SQL filters on the answers of two maps: the cheap map, or the one whose filter keeps fewer rows, first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import Filter, LlmMap, LogicalPlan
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import is_volatile, outputs, reads, sees_one_row
from halo_sql.optimizer.plan_context import PlanContext


def order_map_filters(expr: Any, memo: Memo, ctx: PlanContext) -> list[LogicalPlan]:
    """``Filter[q](Map b(Filter[p](Map a(X)))) => Filter[p](Map a(Filter[q](Map b(X))))``, of models, tools and agents.

    Safe: a conjunction has no order. Not when b or q reads an answer of a, not for volatile maps and predicates, and
    not for predicates that look at other rows. The cheaper plan is the one in the order of cost ÷ (1 − selectivity)
    (Hellerstein and Stonebraker, SIGMOD 1993). It stays as it is in::

        SELECT * FROM (SELECT TOOL(find, name) AS id FROM t) WHERE id > 0 AND TOOL(price, id) > 10
    """
    if not isinstance(expr, Filter) or not _moves(expr):
        return []
    found: list[LogicalPlan] = []
    for upper in memo.expressions(expr.input):
        if not isinstance(upper, LlmMap) or is_volatile(upper) or not expr.predicate.columns() & outputs(upper):
            continue
        for between in memo.expressions(upper.input):
            if not isinstance(between, Filter) or not _moves(between):
                continue
            for lower in memo.expressions(between.input):
                if (
                    not isinstance(lower, LlmMap)
                    or is_volatile(lower)
                    or not between.predicate.columns() & outputs(lower)
                ):
                    continue
                if (reads(upper) | expr.predicate.columns()) & outputs(lower):
                    continue
                first = replace(expr, input=replace(upper, input=lower.input))
                found.append(replace(between, input=replace(lower, input=first)))
    return found


def _moves(node: Filter) -> bool:
    return not node.predicate.volatile and sees_one_row(node.predicate)
