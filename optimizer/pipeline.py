"""Stacks of calls as graphs: rows advance through them on their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.expr import Column
from halo_sql.ir.physical import LlmFilterExec, LlmMapExec, PhysicalNode, RowGraphExec, calls_by
from halo_sql.ir.row_graph import MARKS, OPEN
from halo_sql.ir.row_stack import can_join, graph_of, tested

#: Its name in ``halo_disabled_rules``.
ROW_GRAPH = "row_graph"
_CALLERS = (LlmMapExec, LlmFilterExec)


def row_graphs(nodes: Sequence[PhysicalNode], root: int) -> tuple[list[PhysicalNode], int]:
    """``Map(Select(Tool(X))) => RowGraph(Map(Select(Tool(X))))``: the nodes with a RowGraphExec on each stack of nodes
    that work row by row, and the root's new id. ``nodes`` stand inputs first, ids being places.

    Safe: each call reads the same values and is made for the same rows: what stands above a filter, for those that
    pass it; rows leave in their order; of several failing calls of a row the lowest is raised. Under a LIMIT rows are
    read as far ahead as the most careful node of the stack says, those of a filter as the nodes above it say, so that
    no more calls are made. Not for stacks with one node of calls, where rows have no columns below or above, and not
    past what counts or orders rows, filters that failures wait for, nodes with several readers, or calls of volatile
    tools, which may act::

        SELECT LLM_MAP('a {{ x }}') FROM (SELECT DISTINCT LLM_MAP('b {{ b }}') AS x FROM t)
    """
    uses = Counter(source for node in nodes for source in node.inputs)
    stacks: dict[int, list[PhysicalNode]] = {}  # by the node on top
    for node in nodes:
        if can_join(node):
            below = stacks.get(node.inputs[0], []) if uses[node.inputs[0]] == 1 else []
            stacks[node.id] = [*below, node] if _agree(below, node) else [node]
            if below and len(stacks[node.id]) > 1:
                del stacks[node.inputs[0]]
    graphs: dict[int, RowGraphExec] = {}
    for stack in map(_trimmed, stacks.values()):
        op = _op(stack, nodes[stack[0].inputs[0]].columns) if stack else None
        if op is not None:
            graphs[stack[-1].id] = op
    if not graphs:
        return list(nodes), root
    result: list[PhysicalNode] = []
    place: dict[int, int] = {}
    for node in nodes:
        inputs = tuple(place[source] for source in node.inputs)
        result.append(replace(node, id=len(result), inputs=inputs))
        if node.id in graphs:
            top = PhysicalNode(
                len(result), graphs[node.id], (len(result) - 1,), node.columns, Estimate(node.estimate.rows)
            )
            result.append(top)
        place[node.id] = len(result) - 1
    return result, place[root]


def without_row_graphs(nodes: Sequence[PhysicalNode], root: int) -> tuple[list[PhysicalNode], int]:
    """``RowGraph(X) => X``: the stacks as they were, and the root's new id. ``nodes`` stand inputs first."""
    result: list[PhysicalNode] = []
    place: dict[int, int] = {}
    for node in nodes:
        if isinstance(node.op, RowGraphExec):
            place[node.id] = place[node.inputs[0]]
            continue
        place[node.id] = len(result)
        result.append(replace(node, id=len(result), inputs=tuple(place[source] for source in node.inputs)))
    return result, place[root]


def _agree(stack: Sequence[PhysicalNode], node: PhysicalNode) -> bool:
    """Whether failures of the node come by turn as those of the stack do, or all at once; and none of the stack's
    waits for it."""
    lower = next((each.op.by_turn for each in stack if isinstance(each.op, _CALLERS)), None)
    if lower is not None and isinstance(node.op, _CALLERS) and node.op.by_turn != lower:
        return False
    waiting = {each.op.failed.column.id for each in stack if isinstance(each.op, _CALLERS) and each.op.failed}
    return not waiting & tested(node)


def _trimmed(stack: Sequence[PhysicalNode]) -> list[PhysicalNode]:
    """The stack from its lowest to its highest node of calls; [] when it has fewer than two."""
    if sum(isinstance(node.op, _CALLERS) for node in stack) < 2:
        return []
    low = len(list(takewhile(lambda node: not calls_by(node.op), stack)))
    high = len(list(takewhile(lambda node: not calls_by(node.op), reversed(stack))))
    return list(stack[low : len(stack) - high])


def _op(stack: Sequence[PhysicalNode], source: Sequence[Column]) -> RowGraphExec | None:
    if not source:
        return None
    graph = graph_of(stack, source)
    if not graph.outputs or any(slot.step == MARKS for step in graph.steps for _, slot in step.reads):
        return None
    callers = [node.op for node in stack if isinstance(node.op, _CALLERS)]
    return RowGraphExec(
        len(stack),
        graph.lookaheads()[OPEN],
        callers[0].by_turn,
        sum(len(calls_by(op)) for op in callers),
        max(graph.remaining(), default=0),
        graph.seconds(),
    )
