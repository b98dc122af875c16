"""LlmTopK by comparisons of a few rows at a time."""

from __future__ import annotations

from typing import Any

from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.top_k import top_k_alternatives


def llm_top_k_tournament(
    expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext
) -> list[Alternative]:
    """``LlmTopK(X) => LlmTopKExec[tournament](X)``: about n / (m - 1) + k log n comparisons, never n².

    Safe where the model compares as it grades: the first of equals wins, so ties stay in X's order. Not when grades
    are asked for, cost less, or may be NULL (on_error), and not for volatile calls::

        SELECT * FROM tickets ORDER BY LLM_RANK('Urgent? {{ body }}', on_error => 'null') DESC LIMIT 3
    """
    return top_k_alternatives(expr, "tournament", group, required, memo, ctx)
