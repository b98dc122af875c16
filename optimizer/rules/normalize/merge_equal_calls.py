"""Equal calls over equal values are made once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import ColumnId, ColumnRef, SqlExpr, column_expr
from halo_sql.ir.logical import Filter, LlmFilter, LlmMap, LogicalPlan, Project
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.plan_context import PlanContext


def merge_equal_calls(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``LlmMap[s := c, r := c](X) => Project[s, r := s](LlmMap[s := c](X))``; also when s comes from an LLM node
    below, and ``LlmFilter[c](X) => Filter[s](X)`` when X holds c's answer s.

    Safe for deterministic calls with the same prompt over equal values, the same options and an equal guard: they have
    the same answer in every row. Not for volatile calls and not under different guards::

        SELECT LLM_MAP('joke', temperature => 1), LLM_MAP('joke', temperature => 1) FROM t
        SELECT CASE WHEN a THEN LLM_MAP('x {{ b }}') END, CASE WHEN c THEN LLM_MAP('x {{ b }}') END FROM t
    """
    if not isinstance(node, LlmMap | LlmFilter):
        return None
    keys = ctx.values.keys(node.input)
    known = ctx.values.holders(node.input)
    if isinstance(node, LlmFilter):
        key = ctx.values.call_key(node.call, keys)
        same = None if key is None else known.get(key)
        if same is None or node.call.on_error == "struct":  # a struct is no predicate
            return None
        return Filter(node.input, SqlExpr((ColumnRef(same),), node.call.returns, row_wise=True))
    kept: list[LlmCall] = []
    own: dict[int, ColumnId] = {}  # value key -> the call of this node that answers it
    equal: dict[ColumnId, ColumnId] = {}
    for call in node.calls:
        key = ctx.values.call_key(call, keys)
        same = None if key is None else known.get(key, own.get(key))
        if same is not None:
            equal[call.output] = same
            continue
        kept.append(call)
        if key is not None:
            own[key] = call.output
    if not equal:
        return None
    lower = replace(node, calls=tuple(kept)) if kept else node.input
    items = []
    for column in output_columns(node):
        source = replace(column, id=equal.get(column.id, column.id))
        items.append((column, column_expr(source)))
    return Project(lower, tuple(items))
