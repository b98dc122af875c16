"""ToolApply as a streaming operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import ToolApply
from halo_sql.ir.physical import ToolApplyExec
from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.cost import call_levels, requests_of
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.llm import llm_alternatives
from halo_sql.optimizer.tool_cost import is_joined


def tool_apply(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``ToolApply(X) => ToolApplyExec(X)``: calls as rows come, equal ones once unless the tool is volatile.

    Safe: rows and their order stay. Calls of a query may run one by one or as one join of all arguments with it; the
    answers are the same. The plan names the number of calls from which on the join is expected to take less, and is
    priced by what the expected number gets; how many calls are there together is known when they are, so the operator
    goes by that. A choice of the plan alone would run a table of a million rows call by call after an estimate of one,
    and the break-even number is all that the two ways differ in: so they are one alternative.
    Not for a node of calls of a model::

        SELECT LLM_MAP('a {{ b }}') FROM t
    """
    if not isinstance(expr, ToolApply):
        return []
    tools = [ctx.options.tool(call.target) for call in expr.calls]
    op = ToolApplyExec(expr.calls, expr.distinct)
    if any(tool.join_from for tool in tools):
        profile = memo.group(expr.input).profile
        goal = required.row_goal
        read = profile if goal is None else profile.some(min(goal, profile.rows))
        counts = [requests_of(call, read, call_levels(call, read, ctx.options)) for call in expr.calls]
        op = replace(
            op,
            join_from=tuple(tool.join_from for tool in tools),
            joined=tuple(is_joined(tool, count) for tool, count in zip(tools, counts, strict=True)),
        )
    return llm_alternatives(expr, op, group, required, 1.0, memo, ctx)
