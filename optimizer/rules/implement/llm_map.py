"""LlmMap as a streaming operator."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.logical import LlmMap
from halo_sql.ir.physical import LlmMapExec
from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.llm import llm_alternatives


def llm_map(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``LlmMap(X) => LlmMapExec(X)``, over clustered rows too when they are required.

    Safe: rows and their order stay. Not over clustered rows when a cluster key is one of its own answers, as the lower
    map's is when the upper one wants rows clustered by s::

        SELECT LLM_MAP('{{ s }} {{ c }}') FROM (SELECT c, LLM_MAP('a {{ b }}') AS s FROM t)
    """
    if type(expr) is not LlmMap:
        return []
    return llm_alternatives(expr, LlmMapExec(expr.calls, expr.distinct), group, required, 1.0, memo, ctx)
