"""Deterministic calls are made once per distinct combination of what they read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import LlmFilter, LlmMap, LlmReduce, LogicalPlan
from halo_sql.optimizer.nodes import is_volatile
from halo_sql.optimizer.plan_context import PlanContext


def distinct_before_llm(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``LLM(X) => LLM distinct(X)`` when every call of the node is deterministic.

    Safe: equal arguments have equal answers; rows and order stay. Not for volatile calls, where every row has an answer
    of its own::

        SELECT LLM_MAP('a name like {{ b }}', temperature => 1) FROM t

    nor for an LlmReduce: comparing whole lists costs more than it saves (equal requests are asked once in any case).
    """
    if not isinstance(node, LlmMap | LlmFilter) or isinstance(node, LlmReduce) or node.distinct or is_volatile(node):
        return None
    return replace(node, distinct=True)
