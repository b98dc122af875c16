"""A stack of row-wise nodes as a graph of steps: which values each call and each expression reads, and who gives them.

Values are named once (static single assignment): a column that several nodes of the stack define has a slot for each.
A filter is a step, too: what stands above it in the stack begins for rows that have passed it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from halo_sql.ir.expr import Column, ColumnId, SqlExpr, column_expr
from halo_sql.ir.logical import Filter, Project
from halo_sql.ir.physical import (
    Deferral,
    Input,
    LlmFilterExec,
    PhysicalDag,
    PhysicalNode,
    RowGraphExec,
)
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.types import BIGINT

#: ``Slot.step`` of a column of the input, and of the numbers of failures that wait.
SOURCE, MARKS = -1, -2
#: ``gate`` of a step that no filter stands before.
OPEN = -1


class Slot(NamedTuple):
    """A value of each row: the column ``name`` of what a step gives; of MARKS, ``name`` is the deferral's column."""

    step: int
    name: str
    column: Column


Reads = tuple[tuple[Column, Slot], ...]  # a column as the reader knows it, and where its value is


@dataclass(frozen=True, slots=True)
class CallStep:
    """One call.

    level  place of its node in the stack, lowest first
    gate   the step of the last filter below it, which lets rows through to it
    """

    level: int
    node: PhysicalNode
    call: LlmCall
    reads: Reads
    gate: int = OPEN

    @property
    def filters(self) -> bool:
        """Whether rows that are not answered yes go."""
        return isinstance(self.node.op, LlmFilterExec)


@dataclass(frozen=True, slots=True)
class SqlStep:
    """Expressions of one projection that wait for the same calls."""

    level: int
    node: PhysicalNode
    exprs: tuple[tuple[Column, SqlExpr], ...]
    reads: Reads
    gate: int = OPEN

    filters = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the query reads."""
        return tuple(column for column, _ in self.reads)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """What it gives."""
        return tuple(column for column, _ in self.exprs)

    @property
    def tree(self) -> Project:
        """The projection over the columns read."""
        return Project(Input(0, self.columns), self.exprs)  # type: ignore[arg-type]  # Input stands for a plan


@dataclass(frozen=True, slots=True)
class FilterStep:
    """A condition that DuckDB tests, as a WHERE: in another place it could fail where it does not there."""

    level: int
    node: PhysicalNode
    predicate: SqlExpr
    reads: Reads
    gate: int = OPEN

    filters = True

    @property
    def place(self) -> Column:
        """The column behind those read: the row's place in the batch."""
        return Column(ColumnId(1 + max(column.id for column, _ in self.reads)), "place", BIGINT)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the query reads."""
        return (*(column for column, _ in self.reads), self.place)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """What it gives: the places of the rows that pass, in any order."""
        return (self.place,)

    @property
    def tree(self) -> Project:
        """The filter over the columns read."""
        leaf: Any = Input(0, self.columns)
        return Project(Filter(leaf, self.predicate), ((self.place, column_expr(self.place)),))


Step = CallStep | SqlStep | FilterStep


@dataclass(slots=True)
class RowGraph:
    """The steps in an order in which each comes behind those it reads and its gate.

    outputs  the columns of the stack's top, and where their values are
    marks    deferral, places of the steps whose failures it numbers
    """

    steps: list[Step] = field(default_factory=list)
    outputs: Reads = ()
    marks: list[tuple[Deferral, tuple[int, ...]]] = field(default_factory=list)

    def producers(self, place: int) -> frozenset[int]:
        """The steps that a step waits for."""
        step = self.steps[place]
        return frozenset(slot.step for _, slot in step.reads if slot.step >= 0) | ({step.gate} - {OPEN})

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

    def lookaheads(self) -> dict[int, int]:
        """Gate -> rows behind it that may be worked on ahead of the first unfinished one: as many as the most careful
        of its nodes with calls says."""
        found: dict[int, int] = {}
        for step in self.steps:
            op: Any = step.node.op
            if isinstance(step, CallStep):
                found[step.gate] = min(op.lookahead, found.get(step.gate, op.lookahead))
        return found


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
