"""Independent LlmMaps in a row are one node, whose calls run side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import LlmMap, LogicalPlan
from halo_sql.optimizer.nodes import is_volatile, outputs, reads
from halo_sql.optimizer.plan_context import PlanContext


def merge_llm_maps(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``LlmMap[s](LlmMap[r](X)) => LlmMap[r, s](X)`` when s does not read r.

    Safe: prompts stay as they are, each call keeps its column. Not when the upper prompt or guard holds the lower
    answer, not for a volatile with a deterministic one (the node could not work per distinct value), and not for an
    LlmMap with an LlmReduce::

        SELECT LLM_MAP('translate {{ s }}') FROM (SELECT LLM_MAP('summarise {{ b }}') AS s FROM t)
    """
    if not isinstance(node, LlmMap) or not isinstance(node.input, LlmMap):
        return None
    lower = node.input
    if type(node) is not type(lower):
        return None
    if reads(node) & outputs(lower) or is_volatile(node) != is_volatile(lower):
        return None
    return replace(lower, calls=lower.calls + node.calls, distinct=lower.distinct and node.distinct)
