"""ToolApply as a streaming operator."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.logical import ToolApply
from halo_sql.ir.physical import ToolApplyExec
from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.llm import llm_alternatives


def tool_apply(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``ToolApply(X) => ToolApplyExec(X)``: calls as rows come, equal ones once unless the tool is volatile.

    Safe: rows and their order stay. Whether many calls of an SQL tool become one join is decided when they are there.
    Not for a node of calls of a model::

        SELECT LLM_MAP('a {{ b }}') FROM t
    """
    if not isinstance(expr, ToolApply):
        return []
    return llm_alternatives(expr, ToolApplyExec(expr.calls, expr.distinct), group, required, 1.0, memo, ctx)
