"""AgentApply as a streaming operator."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.logical import AgentApply
from halo_sql.ir.physical import AgentApplyExec
from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.llm import llm_alternatives


def agent_apply(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``AgentApply(X) => AgentApplyExec(X)``: the conversations of all rows advance together.

    Safe: rows and their order stay; a row's conversation depends on nothing but its own data. Not for a tool that a
    statement calls itself, without an agent::

        SELECT TOOL('weather', city) FROM t
    """
    if not isinstance(expr, AgentApply):
        return []
    return llm_alternatives(expr, AgentApplyExec(expr.calls, expr.distinct), group, required, 1.0, memo, ctx)
