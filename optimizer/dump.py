"""The memo as text pieces for EXPLAIN (MEMO)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halo_sql.ir.walk import children
from halo_sql.optimizer.nodes import label
from halo_sql.optimizer.trace import GroupInfo, WinnerInfo

if TYPE_CHECKING:
    from halo_sql.optimizer.search import Search


def dump(search: Search) -> tuple[GroupInfo, ...]:
    """All groups with expressions and winners, in the order of their ids."""
    winners: dict[int, list[WinnerInfo]] = {}
    for requirement, context in search.contexts.items():
        if context.best is None:
            continue
        inputs = ", ".join(f"G{below.group} {below.properties}" for below in context.best.inputs)
        plan = f"{type(context.best.op).__name__}({inputs})"
        winners.setdefault(requirement.group, []).append(
            WinnerInfo(str(requirement.properties), plan, context.best_value, context.best.rule)
        )
    found: list[GroupInfo] = []
    for group in search.memo.groups.values():
        expressions = tuple(
            label(expression) + "(" + ", ".join(f"G{child.id}" for child in children(expression)) + ")"
            for expression in group.expressions
        )
        found.append(GroupInfo(group.id, group.profile.rows, expressions, tuple(winners.get(group.id, ()))))
    return tuple(sorted(found, key=lambda info: info.id))
