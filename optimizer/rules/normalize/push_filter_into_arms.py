"""Filters over a set operation also filter its arms, below their LLM nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import SqlExpr
from halo_sql.ir.logical import Filter, Fragment, InputRef, LogicalPlan
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.nodes import sees_one_row
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.rules.normalize.push_filter_below_llm import sunk


def push_filter_into_arms(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Filter[p](LLM(X) UNION ALL Y) => Filter[p](LLM(Filter[p](X)) UNION ALL Y)``, and for UNION, INTERSECT, EXCEPT.

    Safe: such an operation decides by a row's values alone, and the filter stays for the other arms. Not for predicates
    that are volatile, look at other rows or read an answer, nor where an arm's column is cast to another type::

        SELECT * FROM (SELECT LLM_MAP('a {{ b }}') AS m FROM t UNION ALL SELECT c FROM u) WHERE m <> ''
    """
    fragment, predicate = node.input, node.predicate
    filters = []
    while isinstance(fragment, Filter):
        filters.append(fragment)
        fragment = fragment.input
    if not isinstance(fragment, Fragment) or not fragment.by_position or predicate in fragment.filtered:
        return None
    if predicate.volatile or predicate.scope or not sees_one_row(predicate):
        return None
    arms: list[Any] = list(fragment.inputs)
    for index, arm in enumerate(arms):
        over = _over_arm(predicate, fragment, index)
        arms[index] = arm if over is None else sunk(over, arm) or arm
    if all(new is old for new, old in zip(arms, fragment.inputs, strict=True)):
        return None
    below: Any = replace(fragment, inputs=tuple(arms), filtered=(*fragment.filtered, predicate))
    for between in reversed(filters):
        below = replace(between, input=below)
    return Filter(below, predicate)


def _over_arm(predicate: SqlExpr, fragment: Fragment, index: int) -> SqlExpr | None:
    """The predicate over an arm's columns; None when they are not the operation's, one under the other."""
    refs = [part for part in fragment.parts if isinstance(part, InputRef) and part.index == index]
    if len(refs) != 1 or len(refs[0].names) != len(fragment.columns):
        return None
    types = {column.id: column.type for column in output_columns(fragment.inputs[index])}
    pairs = list(zip(fragment.columns, (column for _, column in refs[0].names), strict=True))
    read = predicate.columns()
    if any(column.id in read and types[source] != column.type for column, source in pairs):
        return None
    return predicate.remap({column.id: source for column, source in pairs})
