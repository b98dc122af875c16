"""Sorting before LLM nodes: the LLM's rows then stream, and a LIMIT can follow the sort."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import SqlExpr
from halo_sql.ir.logical import Filter, LlmFilter, LlmMap, LogicalPlan, Project, Sort
from halo_sql.ir.walk import with_children
from halo_sql.optimizer.nodes import cannot_fail, is_llm, is_row_wise, outputs, through_project
from halo_sql.optimizer.plan_context import PlanContext


def sort_below_llm(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Sort[k](LLM(X)) => LLM(Sort[k](X))`` when k reads no answer; on the way also past row-wise Project and Filter.

    Safe: LLM nodes and streamed relational nodes keep the order of their rows. Past a filter, keys must be
    ones that cannot fail on the rows it takes out. Not when a key is an answer or needs names rebuilt::

        SELECT id, LLM_MAP('score {{ b }}', returns => 'INTEGER') AS s FROM t ORDER BY s LIMIT 10

    See also the explore rule ``sort_past_llm_filter``.
    """
    if not isinstance(node, Sort):
        return None
    keys = [key.expr for key in node.keys]
    if any(key.scope for key in keys):
        return None
    path: list[Any] = []
    below: list[list[SqlExpr]] = []  # the keys as they read under each node of the path
    current: Any = node.input
    while True:
        passed = _past(keys, current)
        if passed is None:
            break
        keys = passed
        path.append(current)
        below.append(keys)
        current = current.input
    length = _landing(path, current)
    if not length:
        return None
    lowered = tuple(replace(key, expr=expr) for key, expr in zip(node.keys, below[length - 1], strict=True))
    result: Any = Sort(path[length - 1].input, lowered)
    for above in reversed(path[:length]):
        result = with_children(above, (result,))
    return result  # type: ignore[no-any-return]


def _landing(path: list[Any], stop: Any) -> int:
    """How many nodes of the path the sort passes.

    All down to the last LLM node when no LLM node is left below; otherwise it stays above the first LlmFilter: whether
    that one runs before the rest or after the sort is for the search to decide.
    """
    last = max((place for place, node in enumerate(path, 1) if is_llm(node)), default=0)
    while isinstance(stop, Filter | Project):
        stop = stop.input
    if not is_llm(stop):
        return last
    first_filter = next((place for place, node in enumerate(path) if isinstance(node, LlmFilter)), None)
    return last if first_filter is None else first_filter


def _past(keys: list[SqlExpr], node: Any) -> list[SqlExpr] | None:
    if isinstance(node, LlmMap):
        return None if any(key.columns() & outputs(node) for key in keys) else keys
    if isinstance(node, LlmFilter) or (isinstance(node, Filter) and is_row_wise(node.predicate)):
        return keys if all(key.volatile or cannot_fail(key) for key in keys) else None
    if isinstance(node, Project) and all(expr.as_column() is not None or is_row_wise(expr) for _, expr in node.exprs):
        below = [through_project(key, node) for key in keys]
        ready = [key for key in below if key is not None]
        return ready if len(ready) == len(keys) else None
    return None
