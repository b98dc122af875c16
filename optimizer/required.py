"""Which columns each node's consumers read: the basis of pruning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import CteScan, Demand, Distinct, Fragment, LlmMap, LogicalPlan, Project, Sink
from halo_sql.ir.walk import children, with_children
from halo_sql.optimizer.nodes import column_ids, outputs, reads

Required = frozenset[ColumnId]


def required_of_input(node: Any, index: int, required: Required) -> Required:
    """The columns of the ``index``-th input that are needed when ``required`` of the node's output is.

    A CTE that several places read keeps all its columns: its readers are one computation. A projection needs what it
    computes, read or not: dropping items is what ``prune_columns`` does, parents first.
    """
    if isinstance(node, Project | Fragment | Demand | Sink):
        return reads(node, index)
    if isinstance(node, CteScan | Distinct):
        return column_ids(node.input)
    if isinstance(node, LlmMap):
        required = required - outputs(node)
    return required | reads(node, index)


def rewrite_down(
    plan: LogicalPlan, change: Callable[[Any, Required], Any], edge: Callable[[Any, Any, Required], Any] | None = None
) -> Any:
    """The plan with ``change(node, required)`` applied to every node, parents first (all of the root is required).

    ``edge(parent, child, required)`` may put a node between a parent and its rewritten child. Works without
    recursion; sub-trees in which nothing changed stay the same objects.
    """
    finished: dict[tuple[int, Required], tuple[Any, Any]] = {}  # by node identity; the node itself is kept alive
    frames: list[tuple[Any, Any, Required, list[Any]]] = []  # (node, as changed, required, rewritten inputs so far)

    def enter(node: Any, required: Required) -> None:
        changed, before = change(node, required), node
        while changed is not before:
            before, changed = changed, change(changed, required)
        frames.append((node, changed, required, []))

    enter(plan, column_ids(plan))
    while True:
        node, changed, required, done = frames[-1]
        inputs = children(changed)
        if len(done) < len(inputs):
            child = inputs[len(done)]
            wanted = required_of_input(changed, len(done), required)
            known = finished.get((id(child), wanted))
            if known is None:
                enter(child, wanted)
            else:
                done.append(known[1] if edge is None else edge(changed, known[1], wanted))
            continue
        frames.pop()
        result = with_children(changed, tuple(done))
        finished[id(node), required] = (node, result)
        if not frames:
            return result
