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
    """
    if not isinstance(node, Sort):
        return None
    keys = [key.expr for key in node.keys]
    if any(key.scope for key in keys):
        return None
    path: list[Any] = []
    deepest: tuple[int, list[SqlExpr]] | None = None
    current: Any = node.input
    while True:
        passed = _past(keys, current)
        if passed is None:
            break
        keys = passed
        path.append(current)
        current = current.input
        if is_llm(path[-1]):
            deepest = (len(path), keys)
    if deepest is None:
        return None
    length, keys = deepest
    below = tuple(replace(key, expr=expr) for key, expr in zip(node.keys, keys, strict=True))
    result: Any = Sort(path[length - 1].input, below)
    for above in reversed(path[:length]):
        result = with_children(above, (result,))
    return result  # type: ignore[no-any-return]


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
