"""From a stack of row-wise nodes to its graph of steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, SqlExpr
from halo_sql.ir.logical import Filter, Project
from halo_sql.ir.physical import (
    AgentApplyExec,
    DuckFragmentExec,
    Input,
    LlmFilterExec,
    LlmMapExec,
    PhysicalNode,
    SelectExec,
    ToolApplyExec,
    batch_name,
)
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.row_graph import MARKS, OPEN, SOURCE, CallStep, FilterStep, Reads, RowGraph, Slot, SqlStep, Step


def can_join(node: PhysicalNode) -> bool:
    """Whether a node may be part of a graph: calls of each row, columns that DuckDB computes from one row, or a filter
    by one of these, unless failures wait for it.

    Calls of volatile tools and agents may change something: they come after all that stands before them.
    """
    op = node.op
    if isinstance(op, ToolApplyExec | AgentApplyExec):
        return not any(call.volatile for call in op.calls)
    if isinstance(op, LlmFilterExec):
        return op.failed is None and not op.passing
    if isinstance(op, LlmMapExec | SelectExec):
        return True
    return isinstance(op, DuckFragmentExec) and op.streaming and _row_wise(op) is not None


def _row_wise(op: DuckFragmentExec) -> list[Project | Filter] | None:
    """The projections and filters of a fragment, lowest first; None: it is more than these."""
    found: list[Project | Filter] = []
    tree: Any = op.tree
    while isinstance(tree, Project | Filter):
        exprs = [tree.predicate] if isinstance(tree, Filter) else [expr for _, expr in tree.exprs]
        if any(expr.volatile for expr in exprs):
            return None
        found.append(tree)
        tree = tree.input
    return found[::-1] if isinstance(tree, Input) and found else None


def tested(node: PhysicalNode) -> frozenset[ColumnId]:
    """The columns that the conditions of a fragment read."""
    steps = (_row_wise(node.op) or ()) if isinstance(node.op, DuckFragmentExec) else ()
    return frozenset[ColumnId]().union(*(step.predicate.columns() for step in steps if isinstance(step, Filter)))


def graph_of(nodes: Sequence[PhysicalNode], source: Sequence[Column]) -> RowGraph:
    """The graph of a stack, lowest node first, over rows with the columns ``source`` (at least one)."""
    stacked = _Stacked(source)
    for level, node in enumerate(nodes):
        stacked.put(level, node)
    graph = stacked.graph
    graph.outputs = tuple((column, stacked.slot(column.id)) for column in nodes[-1].columns)
    return graph


@dataclass(slots=True)
class _Pending:
    """An expression of a fragment that nothing has read yet: a filter above it takes rows out before it is computed.

    known  the columns below it; ``beside``: what its projection computes; ``slot``: its value, once there is a step
    """

    column: Column
    expr: SqlExpr
    known: dict[ColumnId, Slot | _Pending]
    beside: list[_Pending]
    slot: Slot | None = None


def _slot(value: Slot | _Pending) -> Slot:
    """Where a value is that there is a step for."""
    slot = value.slot if isinstance(value, _Pending) else value
    assert slot is not None
    return slot


class _Stacked:
    """A stack in the making. ``known``: where the value of each column of the top is."""

    def __init__(self, source: Sequence[Column]) -> None:
        self.graph = RowGraph()
        self._known: dict[ColumnId, Slot | _Pending] = {
            column.id: Slot(SOURCE, batch_name(column.id), column) for column in source
        }
        first = source[0]
        self._any: Reads = ((first, Slot(SOURCE, batch_name(first.id), first)),)  # counts rows
        self._waits: list[frozenset[int]] = []  # per step: the calls that it comes behind, itself included
        self._gate = OPEN

    def slot(self, column: ColumnId) -> Slot:
        """Where a column's value is."""
        return _slot(self._known[column])

    def put(self, level: int, node: PhysicalNode) -> None:
        """Another node on top."""
        op = node.op
        if isinstance(op, LlmMapExec):
            self._map(level, node, op)
        elif isinstance(op, LlmFilterExec):
            self._gate = self._call(level, node, op.call)
        elif isinstance(op, SelectExec):
            self._known = {column.id: self.slot(picked)._replace(column=column) for column, picked in op.columns}
        else:
            assert isinstance(op, DuckFragmentExec)
            self._fragment(level, node, op)

    def _map(self, level: int, node: PhysicalNode, op: LlmMapExec) -> None:
        types = {column.id: column for column in node.columns}
        added: dict[ColumnId, Slot | _Pending] = {}
        places = tuple(self._call(level, node, call) for call in op.calls)
        for call, place in zip(op.calls, places, strict=True):
            added[call.output] = Slot(place, batch_name(call.output), types[call.output])
        if op.failed is not None:
            failed = op.failed.column
            self.graph.marks.append((op.failed, places))
            added[failed.id] = Slot(MARKS, batch_name(failed.id), failed)
        self._known |= added

    def _call(self, level: int, node: PhysicalNode, call: LlmCall) -> int:
        return self._step(CallStep(level, node, call, self._reads(call.columns()), self._gate))

    def _fragment(self, level: int, node: PhysicalNode, op: DuckFragmentExec) -> None:
        for part in _row_wise(op) or ():
            if isinstance(part, Filter):
                self._compute(level, node, part.predicate.columns(), self._known)
                reads = self._reads(part.predicate.columns()) or self._any
                self._gate = self._step(FilterStep(level, node, part.predicate, reads, self._gate))
                continue
            below, beside = self._known, list[_Pending]()
            self._known = {}
            for column, expr in part.exprs:
                picked = expr.as_column()
                if picked is None:
                    beside.append(_Pending(column, expr, below, beside))
                    self._known[column.id] = beside[-1]
                else:
                    value = below[picked]
                    self._known[column.id] = value._replace(column=column) if isinstance(value, Slot) else value
        self._compute(level, node, self._known, self._known)
        self._known = {column: _slot(value) for column, value in self._known.items()}

    def _compute(
        self, level: int, node: PhysicalNode, columns: Iterable[ColumnId], known: dict[ColumnId, Slot | _Pending]
    ) -> None:
        """Make the steps of these columns, and of what they read, where there are none yet."""
        wanted = {id(value) for column in columns if isinstance(value := known[column], _Pending) and not value.slot}
        every = [value for value in known.values() if isinstance(value, _Pending) and id(value) in wanted]
        for beside in {id(value.beside): value.beside for value in every}.values():
            group = [value for value in beside if id(value) in wanted]
            below = group[0].known
            read = frozenset[ColumnId]().union(*(value.expr.columns() for value in group))
            self._compute(level, node, read, below)
            waiting: dict[frozenset[int], list[_Pending]] = {}
            for value in group:
                calls = self._waiting(self._reads(value.expr.columns(), below)) | self._before()
                waiting.setdefault(calls, []).append(value)
            for values in waiting.values():
                read = frozenset[ColumnId]().union(*(value.expr.columns() for value in values))
                exprs = tuple((value.column, value.expr) for value in values)
                place = self._step(SqlStep(level, node, exprs, self._reads(read, below) or self._any, self._gate))
                for value in values:
                    value.slot = Slot(place, batch_name(value.column.id), value.column)

    def _step(self, step: Step) -> int:
        place = len(self.graph.steps)
        own = frozenset({place}) if isinstance(step, CallStep) else frozenset[int]()
        self.graph.steps.append(step)
        self._waits.append(self._waiting(step.reads) | self._before() | own)
        return place

    def _before(self) -> frozenset[int]:
        """The calls that the filter below waits for, its own included."""
        return frozenset() if self._gate == OPEN else self._waits[self._gate]

    def _reads(self, columns: Iterable[ColumnId], known: dict[ColumnId, Slot | _Pending] | None = None) -> Reads:
        values = self._known if known is None else known
        slots = ((column, _slot(values[column])) for column in sorted(columns))
        return tuple((replace(slot.column, id=column), slot) for column, slot in slots)

    def _waiting(self, reads: Reads) -> frozenset[int]:
        return frozenset[int]().union(*(self._waits[slot.step] for _, slot in reads if slot.step >= 0))
