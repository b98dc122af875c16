"""What llm_map and llm_filter share: rows read, lookahead, what is required of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.physical import AgentApplyExec, LlmFilterExec, LlmMapExec, ToolApplyExec
from halo_sql.ir.prompt import LlmCall
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cost import CALLER_ROW_S, OPERATOR_S, Level, cpu, levels, llm_estimate
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import calls_of
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Clustering, Form, Properties

#: Rows read ahead when all are wanted; fewest when only some are (a batch is worth having in flight).
LOOKAHEAD = 4096
LOOKAHEAD_LEAST = 16
_RULES = {
    LlmMapExec: "llm_map",
    ToolApplyExec: "tool_apply",
    AgentApplyExec: "agent_apply",
    LlmFilterExec: "llm_filter",
}


def llm_alternatives(
    expr: Any,
    op: LlmMapExec | LlmFilterExec,
    group: int,
    required: Properties,
    kept: float,
    memo: Memo,
    ctx: PlanContext,
) -> list[Alternative]:
    """The operator over rows as they come, or over clustered ones when that is required.

    ``kept`` is the part of its input's rows that it passes on. The position column of clustered rows passes through.
    """
    if required.form not in (Form.ROWS, Form.LLM):
        return []
    child = memo.group(expr.input)
    if required.clustered is not None and not set(required.clustered.keys) <= {column.id for column in child.columns}:
        return []
    goal = None if required.row_goal is None else required.row_goal / kept
    read = child.profile.rows if goal is None else min(child.profile.rows, goal)
    calls = calls_of(expr)
    clustered = required.clustered is not None and all(
        serves(required.clustered, levels(call.prompt, child.profile)) for call in calls
    )
    estimate = llm_estimate(calls, child.profile, read, clustered, ctx.options)
    own = cpu(OPERATOR_S + read * CALLER_ROW_S)
    estimate = replace(estimate, rows=memo.group(group).profile.rows, cost=estimate.cost + own)
    below = Properties(Form.ROWS, required.order, required.clustered, goal)
    op = replace(op, lookahead=lookahead(calls, goal, ctx), by_turn=goal is not None)
    rule = _RULES[type(op)]
    return [Alternative(op, (Requirement(child.id, below),), estimate, rule)]


def lookahead(calls: Sequence[LlmCall], goal: float | None, ctx: PlanContext) -> int:
    """Rows to read ahead: under a LIMIT what it is expected to take, at most the engine's window (so that the
    calls stay below limit + window)."""
    if goal is None:
        return LOOKAHEAD
    window = min(ctx.options.engine(call.model).window_requests for call in calls)
    return max(1, min(window, max(LOOKAHEAD_LEAST, ceil(goal))))


def serves(clustering: Clustering, parts: Sequence[Level]) -> bool:
    """Whether rows clustered like this put a prompt's equal leading values side by side."""
    own = parts[-1].columns
    length = min(len(own), len(clustering.keys))
    return length > 0 and own[:length] == clustering.keys[:length]


def estimate_of_rows(memo: Memo, group: int, seconds: float) -> Estimate:
    """An estimate for a node that only moves a group's rows."""
    return Estimate(memo.group(group).profile.rows, cost=cpu(seconds))
