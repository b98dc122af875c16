"""From winners to a DAG: equal sub-plans are one node, and a node with several consumers is materialized.

Physical nodes are hash-consed on (operator, inputs). Equal means equal column ids: two readers of one CTE, never two
volatile calls that merely look alike (the binder gives those different columns).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.expr import Column
from halo_sql.ir.logical import Filter, Fragment, LlmMap, Project
from halo_sql.ir.physical import (
    DemandExec,
    DuckFragmentExec,
    Input,
    LlmMapExec,
    LlmReduceExec,
    MaterializeExec,
    PhysicalNode,
    PhysicalOp,
    PrefixClusterExec,
    RestoreOrderExec,
    SelectExec,
)
from halo_sql.ir.walk import output_columns, walk, with_children
from halo_sql.optimizer.alternative import Alternative, Leaf, Requirement, Run, Same, Tree
from halo_sql.optimizer.nodes import is_row_wise


class DagBuilder:
    """Collects physical nodes; ids are places in ``nodes``, inputs first."""

    def __init__(self, winners: Mapping[Requirement, Alternative]) -> None:
        self.nodes: list[PhysicalNode] = []
        self._winners = winners
        self._known: dict[tuple[PhysicalOp, tuple[int, ...]], int] = {}

    def build(self, root: Requirement) -> int:
        """Adds the winner of ``root`` and all it needs; returns its id. Each requirement is built once."""
        done: dict[Requirement, int] = {}
        stack = [root]
        while stack:
            wanted = stack[-1]
            tree, leaves = self._fragment(wanted)
            waiting = [leaf for leaf in leaves if leaf not in done]
            if wanted in done or not waiting:
                stack.pop()
                if wanted not in done:
                    done[wanted] = self._add_winner(wanted, tree, [done[leaf] for leaf in leaves])
                continue
            stack += reversed(waiting)
        return done[root]

    def add(self, op: PhysicalOp, inputs: tuple[int, ...], columns: tuple[Column, ...], estimate: Estimate) -> int:
        """The node for an operator over inputs, made when it does not exist yet."""
        known = self._known.get((op, inputs))
        if known is None:
            known = self._known[op, inputs] = len(self.nodes)
            self.nodes.append(PhysicalNode(known, op, inputs, columns, estimate))
        return known

    def _fragment(self, wanted: Requirement) -> tuple[Requirement | None, list[Requirement]]:
        """For a fragment: its tree's requirement and its leaves in order, each once; else the operator's inputs."""
        alternative = self._winners[wanted]
        if not isinstance(alternative.op, Run):
            return None, list(alternative.inputs)
        leaves: dict[Requirement, None] = {}
        stack = [alternative.inputs[0]]
        while stack:
            piece = self._winners[stack.pop()]
            if isinstance(piece.op, Leaf):
                leaves.setdefault(piece.inputs[0])
            else:
                stack += reversed(piece.inputs)
        return alternative.inputs[0], list(leaves)

    def _add_winner(self, wanted: Requirement, tree: Requirement | None, inputs: list[int]) -> int:
        alternative = self._winners[wanted]
        if tree is None:
            assert not isinstance(alternative.op, Same | Tree | Leaf | Run)
            op: PhysicalOp = alternative.op
            return self.add(op, tuple(inputs), self._columns(op, inputs), alternative.estimate)
        _, leaves = self._fragment(wanted)
        # two leaves may be one node by now
        slots = list(dict.fromkeys(inputs))
        index = {leaf: slots.index(node) for leaf, node in zip(leaves, inputs, strict=True)}
        estimates = [alternative.estimate]
        relation = self._tree(tree, index, slots, estimates)
        cost = estimates[0].cost
        for estimate in estimates[1:]:
            cost += estimate.cost
        columns = output_columns(relation)
        op = DuckFragmentExec(relation, _is_streaming(relation))
        return self.add(op, tuple(slots), columns, replace(alternative.estimate, cost=cost))

    def _tree(
        self, wanted: Requirement, index: dict[Requirement, int], slots: list[int], estimates: list[Estimate]
    ) -> Any:
        piece = self._winners[wanted]
        estimates.append(piece.estimate)
        if isinstance(piece.op, Leaf):
            slot = index[piece.inputs[0]]
            return Input(slot, self.nodes[slots[slot]].columns)
        inputs = tuple(self._tree(below, index, slots, estimates) for below in piece.inputs)
        return with_children(piece.op.node, inputs) if isinstance(piece.op, Tree) else inputs[0]

    def _columns(self, op: PhysicalOp, inputs: list[int]) -> tuple[Column, ...]:
        if isinstance(op, DemandExec):
            return op.columns
        below = self.nodes[inputs[0]].columns
        if isinstance(op, SelectExec):
            return tuple(column for column, _ in op.columns)
        if isinstance(op, LlmMapExec | LlmReduceExec):
            source: Any = Input(0, below)
            return output_columns(LlmMap(source, op.calls))
        if isinstance(op, PrefixClusterExec):
            return (*below, op.position)
        if isinstance(op, RestoreOrderExec):
            return tuple(column for column in below if column.id != op.position)
        return below


def materialize_shared(nodes: list[PhysicalNode], root: int) -> tuple[list[PhysicalNode], int]:
    """The same nodes with a MaterializeExec behind each that several others (or one, twice) read."""
    uses = Counter(source for node in nodes for source in node.inputs)
    result: list[PhysicalNode] = []
    place: dict[int, int] = {}
    for node in nodes:
        inputs = tuple(place[source] for source in node.inputs)
        result.append(replace(node, id=len(result), inputs=inputs))
        place[node.id] = len(result) - 1
        if uses[node.id] > 1 and not isinstance(node.op, MaterializeExec):
            estimate = Estimate(node.estimate.rows)
            result.append(PhysicalNode(len(result), MaterializeExec(), (len(result) - 1,), node.columns, estimate))
            place[node.id] = len(result) - 1
    return result, place[root]


def _is_streaming(tree: Any) -> bool:
    """Filters and projections of row-wise expressions, and what unnests, over one input: may run batch by batch."""
    leaves = 0
    for node in walk(tree):
        if isinstance(node, Input):
            leaves += 1
        elif isinstance(node, Filter):
            if not is_row_wise(node.predicate):
                return False
        elif isinstance(node, Project):
            if not all(is_row_wise(expr) for _, expr in node.exprs):
                return False
        elif not isinstance(node, Fragment) or not node.row_wise:
            return False
    return leaves == 1
