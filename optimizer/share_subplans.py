"""Equal sub-plans of one statement are run once, whatever their columns are called (``share_subplans``).

    Union(Map_a(X), Map_b(X))  =>  Union(M, Select[b := a](M))    where M = Materialize(Map_a(X))

They are found as those of different statements are (``intern``): by structure, up to names, the order of picked
columns, positions and labels. Operators made for a LIMIT equal those with the same read-ahead only, so no reader makes
another one call more, and a failure comes when it did.

Safe: rows of equal operators over equal inputs are equal. Of a LIMIT without ORDER BY the readers get the same rows,
which each of them may get. Not where rows may differ each time or a call acts::

    SELECT TOOL(draw_ticket, n => id) FROM t UNION ALL SELECT TOOL(draw_ticket, n => id) FROM t

nor where keeping rows for a second reader takes longer than making them again: a scan of a table is read twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.expr import ColumnId, SqlExpr
from halo_sql.ir.logical import CallText, Fragment
from halo_sql.ir.physical import (
    DemandExec,
    DuckFragmentExec,
    LimitExec,
    PhysicalNode,
    PhysicalOp,
    SelectExec,
    SinkExec,
    calls_by,
)
from halo_sql.ir.renumber import Renaming
from halo_sql.ir.static_tok import static_texts
from halo_sql.ir.walk import walk
from halo_sql.optimizer.context import OptimizerContext
from halo_sql.optimizer.cost import CHAR_S, OPERATOR_S
from halo_sql.optimizer.intern import Ids, Interner

#: Its name in ``halo_disabled_rules``.
SHARE_SUBPLANS = "share_subplans"
#: Characters assumed of a value that is kept.
VALUE_CHARS = 20
#: Seconds that sharing must save where nothing is asked: below that a query runs again.
WORTH_S = 0.01
#: Seconds of a query for each row that DuckDB touches.
TOUCHED_ROW_S = 2e-9
#: Of a shared node sources are read to their ends: none as long as this is, where a LIMIT may stop it.
SCANNED_ROWS = 1_000_000


def share_subplans(
    nodes: Sequence[PhysicalNode], root: int, options: OptimizerContext
) -> tuple[list[PhysicalNode], int]:
    """The nodes (inputs first, ids being places) with equal ones read from the first of them; the root's new id."""
    if not _may_repeat(nodes, options):
        return list(nodes), root
    interner = Interner()
    found = interner.add([node for node in nodes if not isinstance(node.op, SinkExec)])
    if len({place for place, _ in found.values()}) == len(found):
        return list(nodes), root
    worth, steady = _worth(nodes, options), _Steady(nodes, options)
    first: dict[int, int] = {}
    read_from: dict[int, int] = {}
    wanted = {root}
    for number, (place, _) in found.items():
        first.setdefault(place, number)
    for node in reversed(nodes):
        if node.id not in wanted:
            continue
        source = first[found[node.id][0]] if node.id in found else node.id
        if source != node.id and worth[node.id] and steady.holds(node.id):
            read_from[node.id] = source
            wanted.add(source)
        else:
            wanted.update(node.inputs)
    return _rebuilt(nodes, root, wanted, read_from, found) if read_from else (list(nodes), root)


def _may_repeat(nodes: Sequence[PhysicalNode], options: OptimizerContext) -> bool:
    """Whether two calls have the same words, or a query takes long: without either no node is worth sharing. Cheaper
    than comparing nodes."""
    words = [(call.kind, call.model, call.target, static_texts(call.prompt)) for n in nodes for call in calls_by(n.op)]
    if len(set(words)) < len(words):
        return True
    return any(_Below.of(node, options).again_s > WORTH_S for node in nodes if not calls_by(node.op))


def _worth(nodes: Sequence[PhysicalNode], options: OptimizerContext) -> list[bool]:
    """Per node: whether its rows are better kept for another reader than made again, where what is below it is kept
    if that is better."""
    known = [_Below.of(node, options) for node in nodes]
    for node, below in zip(nodes, known, strict=True):
        for source in set(node.inputs):
            other = known[source]
            below.again_s += other.least_s
            below.asks |= other.asks
            below.stops |= other.stops
            below.scanned = max(below.scanned, other.scanned)
        kept_s = OPERATOR_S + 2 * CHAR_S * VALUE_CHARS * max(1, len(node.columns)) * node.estimate.rows
        below.worth = (
            not isinstance(node.op, SelectExec)
            and below.again_s > kept_s + (0.0 if below.asks else WORTH_S)
            and not (below.stops and below.scanned > SCANNED_ROWS)
        )
        below.least_s = kept_s if below.worth else below.again_s
    return [below.worth for below in known]


@dataclass(slots=True)
class _Below:
    """What is known of a node and all below it.

    again_s  seconds to make its rows again
    least_s  seconds for another reader, one way or the other
    asks     calls are made
    stops    they may end before their inputs do, under a LIMIT
    scanned  rows of the longest source
    """

    again_s: float
    asks: bool
    stops: bool
    scanned: float
    least_s: float = 0.0
    worth: bool = False

    @classmethod
    def of(cls, node: PhysicalNode, options: OptimizerContext) -> _Below:
        """Of the node alone."""
        cost, touched = node.estimate.cost, _touched(node.op, options)
        seconds = cost.gpu_s + cost.cpu_s + TOUCHED_ROW_S * touched
        stops = isinstance(node.op, LimitExec) or getattr(node.op, "by_turn", False)
        return cls(seconds, bool(calls_by(node.op)), stops, max(touched, 0.0 if node.inputs else node.estimate.rows))


def _touched(op: PhysicalOp, options: OptimizerContext) -> float:
    if not isinstance(op, DuckFragmentExec) or not options.stats:
        return 0.0
    found = (options.stats.get(part) for part in walk(op.tree) if isinstance(part, Fragment) and not part.inputs)
    return sum(stats.touched for stats in found if stats is not None)


def _rebuilt(
    nodes: Sequence[PhysicalNode],
    root: int,
    wanted: Set[int],
    read_from: Mapping[int, int],
    found: Mapping[int, tuple[int, Ids]],
) -> tuple[list[PhysicalNode], int]:
    result: list[PhysicalNode] = []
    place: dict[int, int] = {}

    def add(op: PhysicalOp, inputs: tuple[int, ...], like: PhysicalNode, estimate: Estimate) -> int:
        result.append(PhysicalNode(len(result), op, inputs, like.columns, estimate))
        return len(result) - 1

    def reading(number: int) -> int:
        """Where a node's rows are under its own ids of columns."""
        if number not in place:
            node, names = nodes[number], _names(number, read_from[number], found)
            picked = SelectExec(tuple((column, names[column.id]) for column in node.columns))
            place[number] = add(picked, (place[read_from[number]],), node, Estimate(node.estimate.rows))
        return place[number]

    for node in nodes:
        if node.id not in wanted or node.id in read_from:
            continue
        op, inputs = node.op, node.inputs
        if isinstance(op, SelectExec) and inputs[0] in read_from:
            names = _names(inputs[0], read_from[inputs[0]], found)
            op = SelectExec(tuple((column, names[source]) for column, source in op.columns))
            inputs = (read_from[inputs[0]],)
        place[node.id] = add(op, tuple(map(reading, inputs)), node, node.estimate)
    return result, place[root]


def _names(number: int, source: int, found: Mapping[int, tuple[int, Ids]]) -> dict[ColumnId, ColumnId]:
    """Ids of a node's columns -> those of an equal node's."""
    there = {known: own for own, known in found[source][1].items()}
    return {own: there[known] for own, known in found[number][1].items()}


class _Steady:
    """Which nodes give the same rows whenever they run, and change nothing."""

    def __init__(self, nodes: Sequence[PhysicalNode], options: OptimizerContext) -> None:
        self._nodes = nodes
        self._options = options
        self._known: dict[int, bool] = {}

    def holds(self, number: int) -> bool:
        """Of a node and all below it."""
        seen, stack = {number}, [number]
        while stack:
            node = self._nodes[stack.pop()]
            if not self._own(node):
                return False
            stack += [source for source in node.inputs if source not in seen]
            seen.update(node.inputs)
        return True

    def _own(self, node: PhysicalNode) -> bool:
        known = self._known.get(node.id)
        if known is None:
            known = not any(call.target.lower() in self._options.acting for call in calls_by(node.op)) and all(
                self._options.steady.get(text, True) for text in sql_texts(node.op)
            )
            self._known[node.id] = known
        return known


class _Texts(Renaming):
    """Collects the SQL of an operator, with a space where a column or an input is."""

    def __init__(self) -> None:
        super().__init__(lambda column: column)
        self.found: dict[str, None] = {}

    def rewritten(self, value: Any) -> Any:
        if isinstance(value, SqlExpr | Fragment | DemandExec | CallText):
            parts = value.parts if not isinstance(value, CallText) else [p for each in value.arguments for p in each]
            self.found["".join(part if isinstance(part, str) else " " for part in parts)] = None
        return super().rewritten(value)


def sql_texts(op: PhysicalOp) -> list[str]:
    """The pieces of the user's SQL that an operator runs."""
    texts = _Texts()
    texts.rewritten(op)
    return list(texts.found)
