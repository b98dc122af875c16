"""Holes that hold a constant become part of the prompt's text, and thus of its shared prefix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Distinct, Filter, Limit, LlmFilter, LlmMap, LlmTopK, LogicalPlan, Project, Sort
from halo_sql.ir.prompt import Hole, LlmCall, Prompt, Segment
from halo_sql.optimizer.nodes import calls_of, string_constant
from halo_sql.optimizer.plan_context import PlanContext


def fold_constant_prompts(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``LLM['a ' {{ v }}](… Project[v := 'b'](X)) => LLM['a b'](… Project[v := 'b'](X))``; neighbouring texts join.

    Safe: the rendered prompt is the same, byte by byte. Not for what is no string literal: a NULL makes the answer
    NULL, other constants would need DuckDB's rendering::

        SELECT LLM_MAP('since {{ DATE '2024-01-01' }}: {{ NULL }}') FROM t
    """
    if not isinstance(node, LlmMap | LlmFilter | LlmTopK):
        return None
    source: Any = node.input if ctx.has_string_constants else None  # without one only the call's own texts matter
    pending = [call for call in calls_of(node) if (id(call), id(source)) not in ctx.settled]
    if not pending:
        return None
    folded = {id(call): _fold(call, source) for call in pending}
    ctx.settled.update({(id(call), id(source)): (call, source) for call in folded.values()})
    if all(folded[id(call)] is call for call in pending):
        return None
    calls = tuple(folded.get(id(call), call) for call in calls_of(node))
    return replace(node, calls=calls) if isinstance(node, LlmMap) else replace(node, call=calls[0])


def _fold(call: LlmCall, source: Any) -> LlmCall:
    segments: list[Segment] = []
    for segment in call.prompt.user:
        folded: Segment = segment
        if isinstance(segment, Hole):
            text = _constant(source, segment.column)
            folded = segment if text is None else text
        if folded == "" and len(call.prompt.user) > 1:
            continue
        if isinstance(folded, str) and segments and isinstance(segments[-1], str):
            segments[-1] += folded
        else:
            segments.append(folded)
    if tuple(segments) == call.prompt.user:
        return call
    return replace(call, prompt=Prompt(tuple(segments), call.prompt.system))


def _constant(node: Any, column: ColumnId) -> str | None:
    """The text of the string literal that defines the column, if one does."""
    while True:
        while isinstance(node, Filter | Limit | Sort | Distinct | LlmMap | LlmFilter):
            node = node.input
        if not isinstance(node, Project):
            return None
        expr = next((expr for own, expr in node.exprs if own.id == column), None)
        if expr is None:
            return None
        source = expr.as_column()
        if source is None:
            return string_constant(expr)
        node, column = node.input, source
