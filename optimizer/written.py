"""What the calls of a plan come after, as written: the conditions below them, and whether a LIMIT stops them.

Conditions are numbered, sets of them are integers with one bit each: plans may be deep.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from halo_sql.ir.expr import ColumnId, SqlExpr
from halo_sql.ir.logical import Filter, Join, Limit, LlmFilter
from halo_sql.ir.walk import children
from halo_sql.optimizer.nodes import calls_of, is_llm, passes_goal

Bits = int


@dataclass(slots=True)
class Conditions:
    """Conditions that take rows out: calls of LLM filters (by their output) and predicates, each with a bit."""

    _bits: dict[Hashable, Bits] = field(default_factory=dict)

    def of(self, keys: Iterable[Hashable]) -> Bits:
        """The set of some conditions."""
        found = 0
        for key in keys:
            found |= self._bits.setdefault(key, 1 << len(self._bits))
        return found

    def own(self, node: Any) -> Bits:
        """The set of the conditions that a logical node tests."""
        if isinstance(node, LlmFilter):
            return self.of((node.call.output,))
        return self.of(predicates(node))


def predicates(node: Any) -> tuple[SqlExpr, ...]:
    """The predicates that a relational node tests."""
    if isinstance(node, Filter):
        return (node.predicate,)
    return node.on if isinstance(node, Join) else ()


@dataclass(frozen=True, slots=True)
class Written:
    """Of each call by its output.

    after  the conditions that its rows have met
    whole  calls made for all rows of their inputs; the others stop when a LIMIT above has its rows
    """

    after: dict[ColumnId, Bits]
    whole: frozenset[ColumnId]


def as_written(plan: Any, conditions: Conditions) -> Written:
    """What a logical plan says of its calls. A sub-tree with two ways to it is read whole if one of them does."""
    return Written(_after(plan, conditions), _whole(plan))


def _after(plan: Any, conditions: Conditions) -> dict[ColumnId, Bits]:
    after: dict[ColumnId, Bits] = {}
    below: dict[int, Bits] = {}  # by node identity: its own conditions and those under it
    stack = [plan]
    while stack:
        node = stack[-1]
        waiting = [child for child in children(node) if id(child) not in below]
        if id(node) in below or not waiting:
            stack.pop()
            if id(node) in below:
                continue
            met = 0
            for child in children(node):
                met |= below[id(child)]
            if is_llm(node):
                after.update((call.output, met) for call in calls_of(node))
            below[id(node)] = met | conditions.own(node)
        else:
            stack += waiting
    return after


def _whole(plan: Any) -> frozenset[ColumnId]:
    whole: set[ColumnId] = set()
    seen: set[tuple[int, bool]] = set()
    stack = [(plan, False)]
    while stack:
        node, stopped = stack.pop()
        if (id(node), stopped) in seen:
            continue
        seen.add((id(node), stopped))
        if is_llm(node) and not stopped:
            whole.update(call.output for call in calls_of(node))
        stops = (isinstance(node, Limit) and node.count is not None) or (stopped and passes_goal(node))
        stack += ((child, stops) for child in children(node))
    return frozenset(whole)
