"""Ranking before LLM_MAP: only the rows that are returned are sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import LlmMap, LlmTopK, LogicalPlan, Project
from halo_sql.optimizer.nodes import is_pick, outputs, remap_call
from halo_sql.optimizer.plan_context import PlanContext


def top_k_below_llm(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``LlmTopK(LlmMap(X)) => LlmMap(LlmTopK(X))`` when the criterion reads no answer of the map; also past a
    projection between them that only picks columns.

    Safe: the map keeps rows and order one to one. Not when an answer is ranked, and not past an LlmFilter, which
    decides which rows are counted::

        SELECT LLM_MAP('a {{ b }}') AS s FROM t ORDER BY LLM_RANK('{{ s }}') DESC LIMIT 3
    """
    if not isinstance(node, LlmTopK):
        return None
    call, below = node.call, node.input
    between: Project | None = None
    if isinstance(below, Project) and is_pick(below):
        sources: dict[ColumnId, ColumnId] = {}
        for column, expr in below.exprs:
            source = expr.as_column()
            assert source is not None
            sources[column.id] = source
        call, between, below = remap_call(call, sources), below, below.input
    if not isinstance(below, LlmMap) or call.columns() & outputs(below):
        return None
    lowered = replace(below, input=replace(node, input=below.input, call=call))
    return lowered if between is None else replace(between, input=lowered)
