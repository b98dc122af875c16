"""Projections that only pick columns move above LLM nodes, so that LLM nodes become neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import Filter, LlmFilter, LlmMap, LogicalPlan, Project
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.nodes import is_over_llm, pick, picked, remap_call
from halo_sql.optimizer.plan_context import PlanContext


def lift_pick_above_llm(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``LLM₂(Project[pick](LLM₁(X))) => Project[pick](LLM₂(LLM₁(X)))``, the same for a Filter in the place of LLM₂.

    Safe: picking computes nothing; the upper node reads the same values under the ids they had below.
    Not for a projection that computes something::

        … LLM_FILTER('b {{ v }}') over SELECT n + 1 AS v over LLM_FILTER('a {{ n }}')

    nor above a source, where picking early keeps rows narrow.
    """
    if not isinstance(node, LlmMap | LlmFilter | Filter):
        return None
    project = node.input
    if not isinstance(project, Project) or not is_over_llm(project.input):
        return None
    below = picked(project)
    if below is None:
        return None
    if isinstance(node, Filter):
        return replace(project, input=Filter(project.input, node.predicate.remap(below)))
    if isinstance(node, LlmFilter):
        return replace(project, input=replace(node, input=project.input, call=remap_call(node.call, below)))
    lower = replace(node, input=project.input, calls=tuple(remap_call(call, below) for call in node.calls))
    added = output_columns(node)[len(project.exprs) :]
    return Project(lower, project.exprs + pick(added))
