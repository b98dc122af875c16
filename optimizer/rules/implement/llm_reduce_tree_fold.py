"""LlmReduce with a tree of requests per group."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.logical import LlmReduce
from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.reduce import folds_of, reduce_alternatives


def llm_reduce_tree_fold(
    expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext
) -> list[Alternative]:
    """``LlmReduce(X) => LlmReduceExec[tree fold](X)`` when the average group is expected to take several requests.

    Safe: the answers of the parts are combined by the same instruction, in the order of their items; a group that fits
    one request takes one. Not when the average group fits the context, and no smaller fan_in is set::

        SELECT channel, LLM_REDUCE('Summarise', body) FROM tickets GROUP BY channel
    """
    if not isinstance(expr, LlmReduce):
        return []
    folds = folds_of(expr, memo, ctx)
    if all(fold.levels == 1 for fold in folds):
        return []
    return reduce_alternatives(expr, "tree fold", folds, group, required, memo, ctx)
