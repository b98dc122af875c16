"""A join's condition on one side runs before that side's LLM nodes: a row that SQL refuses is never sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import Join, LogicalPlan
from halo_sql.optimizer.nodes import column_ids
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.rules.normalize.push_filter_below_llm import sunk


def push_join_condition_below_llm(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Join[p, q](LLM(X), Y) => Join[q](LLM(Filter[p](X)), Y)`` when p reads columns of X alone; of a left
    or anti-join when p reads its right side alone.

    Safe: a pair needs p, whatever its other side is. Not for p over the first side of a left or anti-join: a row that
    fails it stays, alone::

        SELECT * FROM (SELECT *, LLM_MAP('a {{ b }}') AS s FROM t) x LEFT JOIN u ON x.k = u.k AND x.id < 10
    """
    if not isinstance(node, Join):
        return None
    sides = [column_ids(side) for side in node.inputs]
    for condition in node.on:
        read = condition.columns()
        for place, side in enumerate(node.inputs):
            if not read or not read <= sides[place] or (node.kind in ("left", "anti") and place == 0):
                continue
            deeper = sunk(condition, side)
            if deeper is not None:
                inputs = (*node.inputs[:place], deeper, *node.inputs[place + 1 :])
                return replace(node, inputs=inputs, on=tuple(other for other in node.on if other is not condition))
    return None
