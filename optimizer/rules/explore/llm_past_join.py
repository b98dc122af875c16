"""LLM nodes above a join: only the rows that find a partner are asked about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import Filter, Join, LlmFilter, LlmMap, LogicalPlan
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.comparisons import all_never_fail
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import column_ids, columns_of, is_llm, is_row_wise, is_volatile, outputs
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.rules.explore.reducing import is_reduced


def llm_past_join(expr: Any, memo: Memo, ctx: PlanContext) -> list[LogicalPlan]:
    """``Join(LLM(X), Y) => LLM(Join(X, Y))``, and ``Join(Filter[p](LlmMap(X)), Y) => Filter[p](LlmMap(Join(X, Y)))``.

    Safe: an answer depends on its row's columns only, and equal ones are asked once; so the calls are those of the rows
    that the join keeps, at most as many as before, and an error can come from these rows only. It pays when the
    join drops rows of X. Not when the join's conditions read an answer, or could fail on a row that a filter takes out
    before the join, for volatile calls (a row with two partners would be asked twice), and on the right of a left join,
    whose rows may come back as NULLs, or of a semi or anti-join, whose rows do not come back::

        SELECT * FROM (SELECT * FROM t WHERE LLM_FILTER('is {{ b }} a number?')) JOIN u ON CAST(b AS INTEGER) = u.k
        SELECT * FROM t JOIN (SELECT *, LLM_CLASSIFY('{{ b }}', ['x', 'y']) AS c FROM u) v ON t.c = v.c
        SELECT * FROM t LEFT JOIN (SELECT * FROM u WHERE LLM_FILTER('a {{ b }}')) v USING (k)
    """
    if not isinstance(expr, Join):
        return []
    found: list[LogicalPlan] = []
    read = columns_of(expr.on)
    harmless = all_never_fail(expr.on, [column for side in expr.inputs for column in output_columns(side)])
    for place, side in enumerate(expr.inputs if expr.kind == "inner" else expr.inputs[:1]):
        others = expr.inputs[:place] + expr.inputs[place + 1 :]
        for below in memo.expressions(side):
            if not harmless and isinstance(below, Filter | LlmFilter):
                continue
            if isinstance(below, Filter) and not below.predicate.volatile and is_row_wise(below.predicate):
                for lowest in memo.expressions(below.input):
                    if isinstance(lowest, LlmMap) and _may_pass(lowest, read):
                        above = replace(lowest, input=_over(expr, place, lowest.input))
                        found.append(replace(below, input=above))
            elif is_llm(below) and _may_pass(below, read) and not is_reduced(below.input, others, memo):
                found.append(replace(below, input=_over(expr, place, below.input)))
    return found


def _may_pass(node: Any, read: frozenset[Any]) -> bool:
    return not is_volatile(node) and not (isinstance(node, LlmMap) and outputs(node) & read)


def _over(join: Join, place: int, side: LogicalPlan) -> Any:
    others = [other for index, other in enumerate(join.inputs) if index != place]
    assert column_ids(side).isdisjoint(column for other in others for column in column_ids(other))
    return replace(join, inputs=(*join.inputs[:place], side, *join.inputs[place + 1 :]))
