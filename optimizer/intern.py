"""Equal sub-plans found by structure: nodes of one or several DAGs become nodes of one, each distinct one once.

Column ids of different statements (or of two readings of one table) mean nothing to each other, so an operator is
compared with its columns numbered by where they come from: those of its inputs by the nodes found so far, new ones in
the order in which the operator names them. Two operators of equal form over the same inputs are one node. Names,
labels, the order of picked columns and positions in the text make no difference; volatile operators equal none.

A numbering never gives two columns one number: where a node would read columns of one common node through two of its
inputs (a table joined with itself), one of the readings gets columns of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from halo_sql.errors import Span
from halo_sql.ir.estimate import Estimate
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.logical import Project
from halo_sql.ir.physical import DemandExec, Input, MaterializeExec, PhysicalNode, PhysicalOp, SelectExec
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.renumber import Renaming

Ids = Mapping[ColumnId, ColumnId]


@dataclass(frozen=True, slots=True)
class Written:
    """A call as a statement has it: where it stands, and how errors name it."""

    span: Span
    label: str


@dataclass(frozen=True, slots=True)
class _Known:
    """A node that there is: its place, the ids of the columns it made and its calls, as met."""

    place: int
    made: tuple[ColumnId, ...]
    calls: tuple[Written, ...]


@dataclass(slots=True)
class Interner:
    """Collects nodes, inputs first; ids are places.

    owns     number of a DAG -> ids of columns -> its own ids of them
    aliases  (position of a call of a shared node, number of a DAG) -> that call, and the DAG's own equal one
    """

    nodes: list[PhysicalNode] = field(default_factory=list)
    owns: dict[int, dict[ColumnId, ColumnId]] = field(default_factory=dict)
    aliases: dict[tuple[Span, int], tuple[Written, Written]] = field(default_factory=dict)
    _known: dict[object, _Known] = field(default_factory=dict)
    _copies: dict[tuple[int, int], int] = field(default_factory=dict)
    _free: int = 0

    def add(self, nodes: Sequence[PhysicalNode], number: int = 0, offset: int = 0) -> dict[int, tuple[int, Ids]]:
        """Adds the nodes of a DAG; tells of each where it is now and which columns its columns are.

        offset  is added to positions, so that those of different statements differ
        """
        found: dict[int, tuple[int, Ids]] = {}
        for node in nodes:
            sources = [found[source] for source in node.inputs]
            if isinstance(node.op, MaterializeExec):
                found[node.id] = sources[0]  # put in again where it is needed
            else:
                found[node.id] = self._add(node, self._apart(sources), number, offset)
        return found

    def pick(self, place: int, columns: Sequence[tuple[Column, ColumnId]]) -> int:
        """The node's columns in this order, under these names; the node itself when it gives them so."""
        node = self.nodes[place]
        if [source for _, source in columns] == [column.id for column in node.columns]:
            return place
        sources = [source for _, source in columns]
        twice = len(set(sources)) < len(sources)
        ids = [self.fresh() if twice else source for source in sources]
        picked = tuple((replace(column, id=new), source) for new, (column, source) in zip(ids, columns, strict=True))
        return self._append(SelectExec(picked), (place,), tuple(column for column, _ in picked), node.estimate.rows)

    def _add(self, node: PhysicalNode, sources: Sequence[tuple[int, Ids]], number: int, offset: int) -> tuple[int, Ids]:
        inputs = tuple(place for place, _ in sources)
        ids: dict[ColumnId, ColumnId] = {}
        for _, columns in sources:
            assert all(ids.get(own, known) == known for own, known in columns.items()), "one id, two columns"
            ids |= columns
        form = _Form(ids, offset)
        key = (form.rewritten(node.op), inputs)
        known = self._known.get(key) if form.steady else None
        if known is not None:
            ids |= zip(form.made, known.made, strict=True)
            self._note_own(number, ids)
            pairs = zip(known.calls, form.calls, strict=True)
            self.aliases |= {(there.span, number): (there, here) for there, here in pairs}
            return known.place, {column.id: ids[column.id] for column in node.columns}
        made = tuple(self.fresh() for _ in form.made)
        ids |= zip(form.made, made, strict=True)
        self._note_own(number, ids)
        actual = _Actual(ids, offset, [self.nodes[place].columns for place in inputs])
        place = self._append(
            actual.rewritten(node.op), inputs, tuple(map(actual.output, node.columns)), node.estimate.rows
        )
        self.nodes[place] = replace(self.nodes[place], estimate=node.estimate)
        if form.steady:
            self._known[key] = _Known(place, made, tuple(form.calls))
        return place, {column.id: ids[column.id] for column in node.columns}

    def _note_own(self, number: int, ids: Ids) -> None:
        self.owns.setdefault(number, {}).update((there, own) for own, there in ids.items())

    def _apart(self, sources: Sequence[tuple[int, Ids]]) -> list[tuple[int, Ids]]:
        """Inputs that hand the same columns on as different ones, all but the first as nodes with columns of their
        own."""
        found: list[tuple[int, Ids]] = []
        owners: dict[ColumnId, ColumnId] = {}
        copies: dict[int, list[Ids]] = {}  # by place
        for place, ids in sources:
            if all(owners.get(known, own) == own for own, known in ids.items()):
                owners.update((known, own) for own, known in ids.items())
                found.append((place, ids))
                continue
            made = copies.setdefault(place, [])
            if ids not in made:
                made.append(ids)
            there = self._copy(place, made.index(ids))
            op = self.nodes[there].op
            assert isinstance(op, SelectExec)
            renamed = {source: column.id for column, source in op.columns}
            found.append((there, {own: renamed[known] for own, known in ids.items()}))
        return found

    def _copy(self, place: int, number: int) -> int:
        """The node's columns under ids of their own, the same for the same number."""
        there = self._copies.get((place, number))
        if there is None:
            node = self.nodes[place]
            picked = tuple((replace(column, id=self.fresh()), column.id) for column in node.columns)
            columns = tuple(column for column, _ in picked)
            there = self._append(SelectExec(picked), (place,), columns, node.estimate.rows)
            self._copies[place, number] = there
        return there

    def _append(self, op: PhysicalOp, inputs: tuple[int, ...], columns: tuple[Column, ...], rows: float) -> int:
        self.nodes.append(PhysicalNode(len(self.nodes), op, inputs, columns, Estimate(rows)))
        return len(self.nodes) - 1

    def fresh(self) -> ColumnId:
        """An id that no column has."""
        self._free += 1
        return ColumnId(self._free)


def form_of(tree: Any) -> tuple[object, tuple[ColumnId, ...]] | None:
    """A tree without inputs in a form that equal trees share, and its columns in the order of the form; None when
    equal trees may give different rows."""
    form = _Form({}, 0)
    key = form.rewritten(tree)
    return (key, tuple(form.made)) if form.steady else None


class _Form(Renaming):
    """An operator's form: columns of inputs by their ids in the common DAG, others numbered -1, -2, … as met.

    made    own ids of the latter, in that order
    calls   calls met that have a position, in order
    steady  equal forms give equal rows
    """

    def __init__(self, ids: Ids, offset: int) -> None:
        super().__init__(self._number, lambda span: Span(0, 0))
        self.made: list[ColumnId] = []
        self.calls: list[Written] = []
        self.steady = True
        self._ids = dict(ids)
        self._offset = offset

    def _number(self, column: ColumnId) -> ColumnId:
        known = self._ids.get(column)
        if known is None:
            self.made.append(column)
            known = self._ids[column] = ColumnId(-len(self.made))
        return known

    def output(self, column: Column) -> Column:
        return Column(self._number(column.id), "", column.type)

    def rewritten(self, value: Any) -> Any:
        if isinstance(value, Input):
            return Input(value.index, tuple(sorted(map(self.output, value.columns), key=lambda column: column.id)))
        if isinstance(value, Project):
            below = self.rewritten(value.input)
            exprs = _sorted((self.rewritten(expr), column) for column, expr in value.exprs)
            return Project(below, tuple((self.output(column), expr) for expr, column in exprs))
        if isinstance(value, SelectExec):
            picked = _sorted((self._number(source), column) for column, source in value.columns)
            return SelectExec(tuple((self.output(column), source) for source, column in picked))
        if isinstance(value, DemandExec):
            self.steady = self.steady and not (value.unsteady or value.write)
        if isinstance(value, LlmCall):
            self.steady = self.steady and value.deterministic
            if value.span is not None:
                self.calls.append(Written(_moved(value.span, self._offset), value.label or value.operator))
        elif getattr(value, "volatile", False):
            self.steady = False
        return super().rewritten(value)

    def object(self, value: Any, changed: dict[str, Any]) -> Any:
        if isinstance(value, LlmCall):
            changed["label"] = ""
        elif hasattr(value, "worker"):
            changed["worker"] = ""
        return super().object(value, changed)


def _sorted(pairs: Any) -> list[tuple[Any, Column]]:
    return sorted(pairs, key=lambda pair: repr(pair[0]))


class _Actual(Renaming):
    """An operator with its columns' ids in the common DAG."""

    def __init__(self, ids: Ids, offset: int, inputs: Sequence[tuple[Column, ...]]) -> None:
        number: Callable[[ColumnId], ColumnId] = ids.__getitem__
        super().__init__(number, lambda span: _moved(span, offset))
        self._inputs = inputs

    def rewritten(self, value: Any) -> Any:
        if isinstance(value, Input):
            return Input(value.index, self._inputs[value.index])
        return super().rewritten(value)


def _moved(span: Span, offset: int) -> Span:
    return Span(span.start + offset, span.end + offset)
