"""Failures that wait: a call that the plan makes before a condition which the statement has before the call.

Explore rules change the order of conditions. As written, a call is not made for a row that a condition before it has
taken out; made earlier it may fail for such a row, and that must not end the statement. So the operator of the call
marks failing rows in a column of its own and passes them on. The conditions that the call should have waited for are
tested on them; all others let them pass, for the failure may be why they do not hold. Behind the last of these
conditions a ``SettleExec`` raises the failure of the first row that is still there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr
from halo_sql.ir.logical import Filter, Join, Project, Sort
from halo_sql.ir.physical import (
    Deferral,
    DuckFragmentExec,
    Input,
    LlmFilterCascadeExec,
    LlmFilterExec,
    LlmMapExec,
    LlmReduceExec,
    PhysicalNode,
    PhysicalOp,
    PrefixClusterExec,
    RestoreOrderExec,
    SelectExec,
    SettleExec,
    calls_by,
)
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.types import BIGINT, BOOLEAN
from halo_sql.ir.walk import children, output_columns, walk, with_children
from halo_sql.optimizer.nodes import pick, sees_one_row
from halo_sql.optimizer.written import Bits, Conditions, Written, as_written, predicates

#: Operators that hand a column on which they do not know.
_CARRY = (
    *(LlmMapExec, LlmReduceExec, LlmFilterExec),
    *(SelectExec, PrefixClusterExec, RestoreOrderExec, DuckFragmentExec),
)


class CannotWaitError(Exception):
    """The plan makes a call too early, and its failures cannot wait."""


@dataclass(slots=True)
class _Wait:
    """Failures of one operator that wait.

    late  the conditions they wait for
    way   the nodes from above the operator up to the one that tests the last of these
    """

    node: int
    calls: tuple[LlmCall, ...]
    late: Bits
    way: list[int]
    deferral: Deferral


@dataclass(slots=True)
class _Edits:
    """What changes in the DAG: node -> the wait that begins there, those that pass through, those settled behind it."""

    begins: dict[int, _Wait] = field(default_factory=dict)
    through: dict[int, list[_Wait]] = field(default_factory=dict)
    settled: dict[int, list[_Wait]] = field(default_factory=dict)


def defer_failures(
    plan: Any, nodes: list[PhysicalNode], root: int, first_free: ColumnId
) -> tuple[list[PhysicalNode], int]:
    """The nodes (inputs first, ids being places) with waiting failures where calls are made early; the root's new id.

    The same list when no call is. ``plan`` is the logical plan before the search, ``first_free`` a column id above
    those in use. Raises CannotWaitError when a call is made for rows that a LIMIT of the plan never reaches, or when
    something on the way counts rows or cannot carry the column.
    """
    conditions = Conditions()
    written = as_written(plan, conditions)
    met = _met(nodes, conditions)
    edits = _Edits()
    for node in nodes:
        if isinstance(node.op, LlmFilterCascadeExec):
            _check_cascade(node, node.op.call, written, met)
        if not isinstance(node.op, LlmMapExec | LlmReduceExec | LlmFilterExec):
            continue
        calls = tuple(call for call in calls_by(node.op) if call.on_error == "fail")
        answers = [answer for call in calls for answer in _answers(call)]
        if not node.op.by_turn and any(answer not in written.whole for answer in answers):
            raise CannotWaitError
        late = 0
        for answer in answers:
            late |= written.after[answer] & ~_below(node, met)
        if late:
            column = Column(ColumnId(first_free + len(edits.begins)), "failed", BIGINT)
            way = _way(node, nodes, late, met)
            deferral = _deferral(column, way, nodes, late, conditions)
            wait = _Wait(node.id, calls, late, way, deferral)
            edits.begins[node.id] = wait
            for place in way:
                edits.through.setdefault(place, []).append(wait)
            edits.settled.setdefault(way[-1], []).append(wait)
    return _rebuilt(nodes, root, edits, conditions) if edits.begins else (nodes, root)


def _answers(call: LlmCall) -> list[ColumnId]:
    """The columns that the plan before the search has for a call; several when it is fused of others."""
    return [one.output for one in call.fused] or [call.output]


def _check_cascade(node: PhysicalNode, call: LlmCall, written: Written, met: Sequence[Bits]) -> None:
    """A cascade reads its rows whole and holds no failure back."""
    early = call.output not in written.whole or written.after[call.output] & ~_below(node, met)
    if call.on_error == "fail" and early:
        raise CannotWaitError


# --- where conditions are tested


def _met(nodes: Sequence[PhysicalNode], conditions: Conditions) -> list[Bits]:
    """Per node: the conditions that its rows have met."""
    met: list[Bits] = []
    for node in nodes:
        own = 0
        if isinstance(node.op, LlmFilterExec | LlmFilterCascadeExec):
            own = conditions.of((node.op.call.output,))
        elif isinstance(node.op, DuckFragmentExec):
            for part in walk(node.op.tree):
                own |= conditions.own(part)
        met.append(own | _below(node, met))
    return met


def _below(node: PhysicalNode, met: Sequence[Bits]) -> Bits:
    found = 0
    for source in node.inputs:
        found |= met[source]
    return found


def _way(node: PhysicalNode, nodes: Sequence[PhysicalNode], late: Bits, met: Sequence[Bits]) -> list[int]:
    """The nodes above ``node``, each the only reader of the one before, up to the last that tests one of ``late``."""
    way: list[int] = []
    current = node.id
    while late & ~met[current]:
        readers = [above for above in nodes[current + 1 :] if current in above.inputs]
        if len(readers) != 1 or readers[0].inputs.count(current) > 1 or not isinstance(readers[0].op, _CARRY):
            raise CannotWaitError
        current = readers[0].id
        way.append(current)
    return way


def _deferral(
    column: Column, way: Sequence[int], nodes: Sequence[PhysicalNode], late: Bits, conditions: Conditions
) -> Deferral:
    """The deferral of failures that wait for ``late``, tested by nodes of ``way``."""
    filters: list[LlmCall] = []
    found: dict[SqlExpr, None] = {}
    for op in (nodes[place].op for place in way):
        if isinstance(op, LlmFilterExec) and late & conditions.of((op.call.output,)):
            filters.append(op.call)
        elif isinstance(op, DuckFragmentExec):
            tested = (each for part in walk(op.tree) for each in predicates(part))
            found.update((each, None) for each in tested if late & conditions.of((each,)))
    return Deferral(column, tuple(filters), tuple(found))


# --- the DAG with the columns in it


def _rebuilt(
    nodes: Sequence[PhysicalNode], root: int, edits: _Edits, conditions: Conditions
) -> tuple[list[PhysicalNode], int]:
    result: list[PhysicalNode] = []
    place: dict[int, int] = {}
    for node in nodes:
        inputs = tuple(place[source] for source in node.inputs)
        begins, through = edits.begins.get(node.id), edits.through.get(node.id, [])
        op, columns = _carrying(node, through, conditions)
        if begins is not None:
            assert isinstance(op, LlmMapExec | LlmReduceExec | LlmFilterExec)
            op, columns = replace(op, failed=begins.deferral), (*columns, begins.deferral.column)
        result.append(replace(node, id=len(result), op=op, inputs=inputs, columns=columns))
        settled = edits.settled.get(node.id)
        if settled:
            gone = {wait.deferral.column.id for wait in settled}
            rest = tuple(column for column in columns if column.id not in gone)
            settle = SettleExec(
                tuple(wait.deferral for wait in settled), tuple(call for wait in settled for call in wait.calls)
            )
            below = (len(result) - 1,)
            result.append(PhysicalNode(len(result), settle, below, rest, Estimate(node.estimate.rows)))
        place[node.id] = len(result) - 1
    return result, place[root]


def _carrying(
    node: PhysicalNode, waits: Sequence[_Wait], conditions: Conditions
) -> tuple[PhysicalOp, tuple[Column, ...]]:
    """The node's operator and columns, carrying the columns of failures that wait."""
    op = node.op
    if not waits:
        return op, node.columns
    added = tuple(wait.deferral.column for wait in waits)
    if isinstance(op, DuckFragmentExec):
        tree, carried = _Carrier(node, waits, conditions).tree(op.tree)
        assert len(carried) == len(waits)
        return replace(op, tree=tree), output_columns(tree)
    if isinstance(op, SelectExec):
        op = replace(op, columns=(*op.columns, *((column, column.id) for column in added)))
    elif isinstance(op, LlmFilterExec):
        own = conditions.of((op.call.output,))
        op = replace(op, passing=tuple(wait.deferral.column.id for wait in waits if not wait.late & own))
    return op, (*node.columns, *added)


class _Carrier:
    """Rewrites a fragment's tree so that marked rows pass it."""

    def __init__(self, node: PhysicalNode, waits: Sequence[_Wait], conditions: Conditions) -> None:
        self._conditions = conditions
        self._by_slot: dict[int, list[_Wait]] = {}
        for wait in waits:
            before = wait.way.index(node.id)
            source = wait.node if before == 0 else wait.way[before - 1]
            self._by_slot.setdefault(node.inputs.index(source), []).append(wait)
        self._leaves: Mapping[int, int] = _leaves(node.op)

    def tree(self, node: Any) -> tuple[Any, list[_Wait]]:
        """The tree with the columns, and the waits whose columns it hands on."""
        if isinstance(node, Input):
            found = self._by_slot.get(node.index, [])
            if found and self._leaves[node.index] > 1:
                raise CannotWaitError
            added = tuple(wait.deferral.column for wait in found)
            return replace(node, columns=(*node.columns, *added)) if found else node, found
        pairs = [self.tree(child) for child in children(node)]
        waits = [wait for _, carried in pairs for wait in carried]
        changed = with_children(node, tuple(child for child, _ in pairs))
        if not waits:
            return changed, waits
        if isinstance(node, Filter):
            return replace(changed, predicate=self._passing(node.predicate, waits)), waits
        if isinstance(node, Project):
            return replace(changed, exprs=(*changed.exprs, *pick(wait.deferral.column for wait in waits))), waits
        if isinstance(node, Join):
            self._check_join(node, waits, pairs[0][1])
            return changed, waits
        if isinstance(node, Sort):
            return changed, waits
        raise CannotWaitError

    def _passing(self, predicate: SqlExpr, waits: Sequence[_Wait]) -> SqlExpr:
        """The predicate, or that a failure marks the row which need not wait for it."""
        if predicate.scope or not sees_one_row(predicate):
            raise CannotWaitError
        own = self._conditions.of((predicate,))
        parts: list[str | ColumnRef] = ["(", *predicate.parts, ")"]
        for wait in waits:
            if not wait.late & own:
                parts += [" OR ", ColumnRef(wait.deferral.column.id), " IS NOT NULL"]
        if len(parts) == len(predicate.parts) + 2:
            return predicate
        return SqlExpr(tuple(parts), BOOLEAN, (), predicate.volatile, predicate.row_wise)

    def _check_join(self, join: Join, waits: Sequence[_Wait], first: Sequence[_Wait]) -> None:
        """A join hands all columns of its sides on, but not what comes from the second side of a left or semi-join;
        and it must not test an answer that is missing."""
        answers = {call.output for wait in waits for call in wait.calls}
        if (join.kind != "inner" and len(first) < len(waits)) or any(each.columns() & answers for each in join.on):
            raise CannotWaitError


def _leaves(op: Any) -> dict[int, int]:
    found: dict[int, int] = {}
    for part in walk(op.tree):
        if isinstance(part, Input):
            found[part.index] = found.get(part.index, 0) + 1
    return found
