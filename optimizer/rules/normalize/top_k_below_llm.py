"""Ranking before LLM_MAP: only the rows that are returned are sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import LlmMap, LlmTopK, LogicalPlan
from halo_sql.optimizer.nodes import outputs
from halo_sql.optimizer.plan_context import PlanContext


def top_k_below_llm(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``LlmTopK(LlmMap(X)) => LlmMap(LlmTopK(X))`` when the criterion reads no answer of the map.

    Safe: the map keeps rows and order one to one. Not when an answer is ranked, and not past an LlmFilter, which
    decides which rows are counted::

        SELECT LLM_MAP('a {{ b }}') AS s FROM t ORDER BY LLM_RANK('{{ s }}') DESC LIMIT 3
    """
    if not isinstance(node, LlmTopK) or not isinstance(node.input, LlmMap):
        return None
    below = node.input
    if node.call.columns() & outputs(below):
        return None
    return replace(below, input=replace(node, input=below.input))
