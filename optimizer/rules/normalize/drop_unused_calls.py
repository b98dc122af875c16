"""Calls whose answer nobody reads are not made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import LlmMap, LogicalPlan
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.required import Required, rewrite_down


def drop_unused_calls(plan: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Project[a](LlmMap[s := …](X)) => Project[a](X)`` when nothing above reads s. Over the whole plan.

    Safe: SQL may leave an expression nobody reads unevaluated, as DuckDB does; so a call with on_error 'fail'
    that would have failed fails no more, and a volatile one is left out like any other. Not when the answer is read
    anywhere above, by a filter, a sort key or a guard too::

        SELECT id FROM (SELECT id, LLM_MAP('a {{ b }}') AS s FROM t) WHERE s <> ''
    """
    rewritten: LogicalPlan = rewrite_down(plan, _drop)
    return None if rewritten is plan else rewritten


def _drop(node: Any, required: Required) -> Any:
    if not isinstance(node, LlmMap):
        return node
    # a call of the same node cannot read another's answer: calls read the node's input
    calls = tuple(call for call in node.calls if call.output in required)
    if len(calls) == len(node.calls):
        return node
    return replace(node, calls=calls) if calls else node.input
