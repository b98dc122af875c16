"""LlmTopK by a grade per row."""

from __future__ import annotations

from typing import Any

from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.top_k import top_k_alternatives


def llm_top_k_score(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``LlmTopK(X) => LlmTopKExec[score](X)``: one call per distinct criterion, the best rows kept.

    Safe: a stable sort by the grades, cut to the rows wanted. Not when comparisons are asked for, or cost less::

        SELECT * FROM tickets ORDER BY LLM_RANK('Urgent? {{ body }}', method => 'tournament') DESC LIMIT 3
    """
    return top_k_alternatives(expr, "score", group, required, memo, ctx)
