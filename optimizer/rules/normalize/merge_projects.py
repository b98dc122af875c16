"""Two projections in a row are one; a projection that changes nothing is none."""

from __future__ import annotations

from collections import Counter
from typing import Any

from halo_sql.ir.expr import ColumnId, ColumnRef, SqlExpr
from halo_sql.ir.logical import LogicalPlan, Project
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.nodes import is_cheap, through_project
from halo_sql.optimizer.plan_context import PlanContext


def merge_projects(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Project[f](Project[g](X)) => Project[f ∘ g](X)`` and ``Project[all columns of X](X) => X``.

    Safe: the inner expressions are substituted as text in parentheses. Not when that would compute a costly or
    volatile inner expression twice or under another scope::

        SELECT r + r FROM (SELECT random() AS r FROM t)
    """
    if not isinstance(node, Project):
        return None
    if _changes_nothing(node):
        return node.input
    inner = node.input
    if not isinstance(inner, Project):
        return None
    if not _may_substitute(node, inner):
        return None
    defined = {column.id: expr for column, expr in inner.exprs}
    merged: list[tuple[Any, SqlExpr]] = []
    for column, expr in node.exprs:
        source = expr.as_column()
        value = defined[source] if source is not None else through_project(expr, inner)
        if value is None:
            return None
        merged.append((column, value))
    return Project(inner.input, tuple(merged))


def _changes_nothing(node: Project) -> bool:
    if any(column.id != expr.as_column() for column, expr in node.exprs):
        return False
    below = output_columns(node.input)
    return [column.id for column in below] == [column.id for column, _ in node.exprs]


def _may_substitute(outer: Project, inner: Project) -> bool:
    """Each costly inner expression is used once at most, volatile and scoped ones only as they are."""
    costly = [(column, expr) for column, expr in inner.exprs if expr.as_column() is None and not is_cheap(expr)]
    uses: Counter[ColumnId] = Counter()
    inside: set[ColumnId] = set()
    for _, expr in outer.exprs if costly else ():
        uses.update(part.id for part in expr.parts if isinstance(part, ColumnRef))
        if expr.as_column() is None:
            inside |= expr.columns()
    for column, expr in costly:
        if uses[column.id] > 1 or ((expr.volatile or expr.scope) and column.id in inside):
            return False
    scopes = {expr.scope for project in (outer, inner) for _, expr in project.exprs if expr.scope}
    return len(scopes) <= 1
