"""LlmReduce with one request per group."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.logical import LlmReduce
from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.reduce import folds_of, reduce_alternatives


def llm_reduce_one_shot(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``LlmReduce(X) => LlmReduceExec[one shot](X)`` when the average group is expected to fit one request.

    Safe: groups and their order stay; a group that turns out too large is folded all the same. Not when more inputs
    than one request takes are expected::

        SELECT LLM_REDUCE('Summarise', body, fan_in => 8) FROM ten_thousand_rows
    """
    if not isinstance(expr, LlmReduce):
        return []
    folds = folds_of(expr, memo, ctx)
    if any(fold.levels > 1 for fold in folds):
        return []
    return reduce_alternatives(expr, "one shot", folds, group, required, memo, ctx)
