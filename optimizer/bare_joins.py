"""Joins without the calls on their sides: what is read by calls that move above a join can be counted beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from halo_sql.ir.logical import Fragment, Join, LlmFilter, LlmMap, LogicalPlan
from halo_sql.optimizer.context import FragmentStats
from halo_sql.optimizer.nodes import RELATIONAL, calls_of, columns_of, is_llm, is_volatile, outputs, walk_once

#: Sources of a join that is counted, at most: planning must not take as long as what is planned.
SIDES = 4
Known = Mapping[LogicalPlan, FragmentStats]


def bare_joins(plan: LogicalPlan) -> list[tuple[Join, Join, tuple[Any, ...]]]:
    """Joins with LLM nodes on their sides that could all move above them (``llm_past_join``): each as it is, over what
    these nodes read, and the nodes. Only those of few sources that are then relational throughout."""
    found = []
    for node in walk_once(plan):
        if isinstance(node, Join):
            moved: list[Any] = []
            sides = tuple(
                _below(side, node, moved) if node.kind == "inner" or not place else side
                for place, side in enumerate(node.inputs)
            )
            if moved and all(_is_relational(side) for side in sides) and _sources(sides) <= SIDES:
                found.append((node, replace(node, inputs=sides), tuple(moved)))
    return found


def _below(side: Any, join: Join, moved: list[Any]) -> Any:
    read = columns_of(join.on)
    while is_llm(side) and not is_volatile(side) and not (isinstance(side, LlmMap) and outputs(side) & read):
        moved.append(side)
        side = side.input
    return side


def _sources(sides: tuple[Any, ...]) -> int:
    return sum(isinstance(node, Fragment) for side in sides for node in walk_once(side))


def _is_relational(plan: Any) -> bool:
    return all(isinstance(node, RELATIONAL) and not calls_of(node) for node in walk_once(plan))


def rows_of_joins(plan: LogicalPlan, known: Known) -> dict[int, FragmentStats]:
    """By the identity of a plan's joins: their rows and what is asked of them, where they are those that were counted
    without calls."""
    found = {}
    for join, bare, moved in bare_joins(plan):
        stats = known.get(bare)
        if stats is not None and not any(isinstance(node, LlmFilter) for node in moved):
            found[id(join)] = FragmentStats(stats.rows, inputs=stats.inputs)
    return found
