"""A stack of row-wise nodes as a graph of steps: which values each call and each expression reads, and who gives them.

Values are named once (static single assignment): a column that several nodes of the stack define has a slot for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from halo_sql.ir.expr import Column, ColumnId, SqlExpr
from halo_sql.ir.logical import Project
from halo_sql.ir.physical import (
    AgentApplyExec,
    Deferral,
    DuckFragmentExec,
    Input,
    LlmMapExec,
    PhysicalDag,
    PhysicalNode,
    RowGraphExec,
    SelectExec,
    ToolApplyExec,
    batch_name,
)
from halo_sql.ir.prompt import LlmCall

#: ``Slot.step`` of a column of the input, and of the numbers of failures that wait.
SOURCE, MARKS = -1, -2


class Slot(NamedTuple):
    """A value of each row: the column ``name`` of what a step gives; of MARKS, ``name`` is the deferral's column."""

    step: int
    name: str
    column: Column


Reads = tuple[tuple[Column, Slot], ...]  # a column as the reader knows it, and where its value is


@dataclass(frozen=True, slots=True)
class CallStep:
    """One call. ``level``: place of its node in the stack, lowest first."""

    level: int
    node: PhysicalNode
    call: LlmCall
    reads: Reads


@dataclass(frozen=True, slots=True)
class SqlStep:
    """Expressions of one projection that wait for the same calls."""

    level: int
    node: PhysicalNode
    exprs: tuple[tuple[Column, SqlExpr], ...]
    reads: Reads

    @property
    def tree(self) -> Project:
        """The projection over the columns read."""
        leaf = Input(0, tuple(column for column, _ in self.reads))
        return Project(leaf, self.exprs)  # type: ignore[arg-type]  # Input stands for a plan


Step = CallStep | SqlStep


@dataclass(slots=True)
class RowGraph:
    """The steps in an order in which each comes behind those it reads.

    outputs  the columns of the stack's top, and where their values are
    marks    deferral, places of the steps whose failures it numbers
    """

    steps: list[Step] = field(default_factory=list)
    outputs: Reads = ()
    marks: list[tuple[Deferral, tuple[int, ...]]] = field(default_factory=list)

    def producers(self, place: int) -> frozenset[int]:
        """The steps that a step reads."""
        return frozenset(slot.step for _, slot in self.steps[place].reads if slot.step >= 0)

    def remaining(self) -> list[int]:
        """Per step: calls on the longest path from it to the end, its own included."""
        found = [0] * len(self.steps)
        for place in reversed(range(len(self.steps))):
            found[place] += isinstance(self.steps[place], CallStep)
            for source in self.producers(place):
                found[source] = max(found[source], found[place])
        return found

    def seconds(self) -> float:
        """The sum of the nodes' expected seconds on the slowest path through them."""
        until: list[float] = []
        for place, step in enumerate(self.steps):
            before = max(
                ((until[source], self.steps[source].level) for source in self.producers(place)), default=(0.0, -1)
            )
            cost = step.node.estimate.cost
            until.append(before[0] + (cost.gpu_s + cost.cpu_s if before[1] != step.level else 0.0))
        return max(until, default=0.0)


def can_join(node: PhysicalNode) -> bool:
    """Whether a node may be part of a graph: calls of each row, or columns that DuckDB computes from one row.

    Calls of volatile tools and agents may change something: they come after all that stands before them.
    """
    op = node.op
    if isinstance(op, ToolApplyExec | AgentApplyExec):
        return not any(call.volatile for call in op.calls)
    if isinstance(op, LlmMapExec | SelectExec):
        return True
    return isinstance(op, DuckFragmentExec) and op.streaming and _projections(op) is not None


def _projections(op: DuckFragmentExec) -> list[Project] | None:
    """The projections of a fragment, lowest first; None: it is more than these."""
    found: list[Project] = []
    tree = op.tree
    while isinstance(tree, Project):
        if any(expr.volatile for _, expr in tree.exprs):
            return None
        found.append(tree)
        tree = tree.input
    return found[::-1] if isinstance(tree, Input) and found else None


def members(dag: PhysicalDag, node: PhysicalNode) -> list[PhysicalNode]:
    """The nodes that a RowGraphExec runs, lowest first."""
    assert isinstance(node.op, RowGraphExec)
    known = {each.id: each for each in dag.nodes}
    found: list[PhysicalNode] = []
    below = node
    for _ in range(node.op.depth):
        below = known[below.inputs[0]]
        found.append(below)
    return found[::-1]


def graph_of(nodes: Sequence[PhysicalNode], source: Sequence[Column]) -> RowGraph:
    """The graph of a stack, lowest node first, over rows with the columns ``source`` (at least one)."""
    graph = RowGraph()
    known = {column.id: Slot(SOURCE, batch_name(column.id), column) for column in source}
    first = source[0]
    waits: list[frozenset[int]] = []  # per step: the calls that it comes behind, itself included

    def reads(columns: Sequence[ColumnId]) -> Reads:
        return tuple((replace(known[column].column, id=column), known[column]) for column in columns)

    def waiting(found: Reads) -> frozenset[int]:
        return frozenset[int]().union(*(waits[slot.step] for _, slot in found if slot.step >= 0))

    for level, node in enumerate(nodes):
        op = node.op
        if isinstance(op, LlmMapExec):
            types = {column.id: column for column in node.columns}
            added = {}
            for call in op.calls:
                place, found = len(graph.steps), reads(sorted(call.columns()))
                graph.steps.append(CallStep(level, node, call, found))
                waits.append(waiting(found) | {place})
                added[call.output] = Slot(place, batch_name(call.output), types[call.output])
            if op.failed is not None:
                failed = op.failed.column
                graph.marks.append((op.failed, tuple(slot.step for slot in added.values())))
                added[failed.id] = Slot(MARKS, batch_name(failed.id), failed)
            known |= added
        elif isinstance(op, SelectExec):
            known = {column.id: known[picked]._replace(column=column) for column, picked in op.columns}
        else:
            assert isinstance(op, DuckFragmentExec)
            for project in _projections(op) or ():
                groups: dict[frozenset[int], list[tuple[Column, SqlExpr]]] = {}
                after: dict[ColumnId, Slot] = {}
                for column, expr in project.exprs:
                    picked = expr.as_column()
                    if picked is not None:
                        after[column.id] = known[picked]._replace(column=column)
                    else:
                        groups.setdefault(waiting(reads(sorted(expr.columns()))), []).append((column, expr))
                for calls, exprs in groups.items():
                    read = sorted(frozenset[ColumnId]().union(*(expr.columns() for _, expr in exprs)))
                    found = reads(read) or ((first, Slot(SOURCE, batch_name(first.id), first)),)
                    place = len(graph.steps)
                    graph.steps.append(SqlStep(level, node, tuple(exprs), found))
                    waits.append(calls)
                    after |= {column.id: Slot(place, batch_name(column.id), column) for column, _ in exprs}
                known = after
    graph.outputs = tuple((column, known[column.id]) for column in nodes[-1].columns)
    return graph
