"""Which columns each node's consumers read: the basis of pruning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import CteScan, Demand, Distinct, Fragment, Join, LlmMap, LogicalPlan, Project, Sink
from halo_sql.ir.walk import children, with_children
from halo_sql.optimizer.nodes import column_ids, columns_of, outputs, reads, reads_of_inputs

Required = frozenset[ColumnId]


def required_of_inputs(node: Any, required: Required) -> list[Required]:
    """For each input the columns of it that are needed when ``required`` of the node's output is.

    A CTE that several places read keeps all its columns: its readers are one computation. A projection needs what it
    computes, read or not: dropping items is what ``prune_columns`` does, parents first.
    """
    if isinstance(node, Fragment):
        return reads_of_inputs(node)
    if isinstance(node, Demand):
        return [reads(node, index) for index in range(len(node.inputs))]
    if isinstance(node, Project | Sink):
        return [reads(node)]
    if isinstance(node, CteScan | Distinct):
        return [column_ids(node.input)]
    if isinstance(node, Join):
        wanted = required | columns_of(node.on)
        return [wanted & column_ids(side) for side in node.inputs]
    if isinstance(node, LlmMap):
        required = required - outputs(node)
    return [required | reads(node)]


def rewrite_down(
    plan: LogicalPlan, change: Callable[[Any, Required], Any], edge: Callable[[Any, Any, Required], Any] | None = None
) -> Any:
    """The plan with ``change(node, required)`` applied to every node, parents first (all of the root is required).

    ``edge(parent, child, required)`` may put a node between a parent and its rewritten child. Works without
    recursion; sub-trees in which nothing changed stay the same objects.
    """
    finished: dict[tuple[int, Required], tuple[Any, Any]] = {}  # by node identity; the node itself is kept alive
    # (node, as changed, required, what is needed of each input, rewritten inputs so far)
    frames: list[tuple[Any, Any, Required, list[Required], list[Any]]] = []

    def enter(node: Any, required: Required) -> None:
        changed, before = change(node, required), node
        while changed is not before:
            before, changed = changed, change(changed, required)
        frames.append((node, changed, required, required_of_inputs(changed, required) if children(changed) else [], []))

    enter(plan, column_ids(plan))
    while True:
        node, changed, required, needs, done = frames[-1]
        inputs = children(changed)
        if len(done) < len(inputs):
            child = inputs[len(done)]
            wanted = needs[len(done)]
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
