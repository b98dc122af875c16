"""Relational filters run before LLM nodes: a row that SQL filters out is never sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_sql.ir.expr import SqlExpr
from halo_sql.ir.logical import Filter, LlmFilter, LlmMap, LogicalPlan, Project, Sort
from halo_sql.ir.walk import with_children
from halo_sql.optimizer.nodes import is_llm, is_row_wise, outputs, sees_one_row, through_project
from halo_sql.optimizer.plan_context import PlanContext


def push_filter_below_llm(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Filter[p](LLM(X)) => LLM(Filter[p](X))`` when p reads no answer; on the way also past
    Project (by substitution), Sort and other filters. The filters further down the row of such nodes move with it.

    Safe: LLM nodes keep rows and order, and a conjunction has no order in SQL. Not past a Limit or a Distinct
    of rows (other rows would be cut), not for volatile predicates, not into a fragment or a CTE read twice, and
    not past an LlmFilter for a predicate that looks at other rows::

        SELECT * FROM (SELECT * FROM t WHERE LLM_FILTER('a {{ b }}')) QUALIFY row_number() OVER (ORDER BY id) = 1
        SELECT * FROM (SELECT *, LLM_MAP('a {{ b }}') AS s FROM t LIMIT 10) WHERE id > 3
    """
    if not isinstance(node, Filter) or node.predicate.volatile:
        return None
    chain: list[Any] = []
    current: Any = node
    while isinstance(current, Filter | LlmMap | LlmFilter | Sort | Project):
        chain.append(current)
        current = current.input
    own = _landing(node.predicate, chain, 1) if any(map(is_llm, chain)) else None
    if own is None:
        return None
    landed = {own[0]: [own[1]]}  # place in the chain -> predicates that come to stand right above it
    moved = {0}
    for place, other in enumerate(chain[1:], 1):
        if isinstance(other, Filter) and not other.predicate.volatile:
            landing = _landing(other.predicate, chain, place + 1)
            if landing is not None:
                landed.setdefault(landing[0], []).append(landing[1])
                moved.add(place)
    for place in range(len(chain), -1, -1):
        if place < len(chain) and place not in moved:
            current = with_children(chain[place], (current,))
        for predicate in reversed(landed.get(place, ())):
            current = Filter(current, predicate)
    rewritten: LogicalPlan = current
    return rewritten


def _landing(predicate: SqlExpr, chain: Sequence[Any], start: int) -> tuple[int, SqlExpr] | None:
    """The place right above which the predicate may come at best, and how it reads there."""
    deepest: tuple[int, SqlExpr] | None = None
    for place in range(start, len(chain)):
        passed = _past(predicate, chain[place])
        if passed is None:
            break
        predicate = passed
        if is_llm(chain[place]):
            deepest = (place + 1, predicate)
    return deepest


def sunk(predicate: SqlExpr, node: Any) -> Any:
    """``node`` with the filter as deep as it may go; None when it would pass no LLM node."""
    path: list[Any] = []
    deepest: tuple[int, SqlExpr] | None = None
    current = node
    while True:
        passed = _past(predicate, current)
        if passed is None:
            break
        predicate = passed
        path.append(current)
        current = current.input
        if is_llm(path[-1]):
            deepest = (len(path), predicate)
    if deepest is None:
        return None
    length, predicate = deepest
    result: Any = Filter(path[length - 1].input, predicate)
    for above in reversed(path[:length]):
        result = with_children(above, (result,))
    return result


def _past(predicate: SqlExpr, node: Any) -> SqlExpr | None:
    """The predicate as it reads below ``node``; None when it must stay above."""
    if isinstance(node, LlmMap):
        return None if predicate.columns() & outputs(node) else predicate
    if isinstance(node, LlmFilter | Filter):
        return predicate if sees_one_row(predicate) else None
    if isinstance(node, Sort):
        return predicate if sees_one_row(predicate) else None
    if isinstance(node, Project) and sees_one_row(predicate):
        if not all(expr.as_column() is not None or is_row_wise(expr) for _, expr in node.exprs):
            return None
        return through_project(predicate, node)
    return None
