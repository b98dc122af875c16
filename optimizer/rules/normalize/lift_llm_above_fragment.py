"""Calls whose answers a block of SQL only passes on are made for the rows that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr, column_expr, quote
from halo_sql.ir.logical import Fragment, InputRef, LlmMap, LogicalPlan, Project
from halo_sql.ir.types import SqlType
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.nodes import (
    calls_columns,
    column_ids,
    columns_of,
    is_row_wise,
    is_volatile,
    outputs,
    pick,
    reads,
    remap_call,
)
from halo_sql.optimizer.plan_context import PlanContext

Chain = list[Any]  # maps and projections, top first
Ids = frozenset[ColumnId]


def lift_llm_above_fragment(node: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``Fragment[carries a](LlmMap[a := f(x)](X)) => LlmMap[a := f(x)](Fragment[carries x](X))``; several columns are
    carried as one STRUCT.

    Safe: such a fragment gives rows of its input, each at most once, chosen without a look at a (QUALIFY, HAVING,
    DISTINCT ON, LIMIT, a window to filter by); so at most the same calls are made. Projections on the way go along.
    Not for volatile calls, and not for answers that the text reads::

        SELECT LLM_MAP('a {{ x }}') AS a FROM t QUALIFY row_number() OVER (PARTITION BY a) = 1
    """
    carried = frozenset(column for _, column in node.carried)
    for index, child in enumerate(node.inputs if carried else ()):
        chain = _chain(child)
        answers: Ids = frozenset().union(*(outputs(link) for link in chain if isinstance(link, LlmMap)))
        above = _derived(chain, answers - _sources(chain, reads(node, index) - carried))
        if above & carried:
            return _lifted(node, index, chain, above, ctx)
    return None


def _chain(node: Any) -> Chain:
    """Maps and row-wise projections from a fragment's input down, as far as the lowest map."""
    found: Chain = []
    length = 0
    while True:
        if isinstance(node, LlmMap) and not is_volatile(node):
            length = len(found) + 1
        elif not (isinstance(node, Project) and all(_moves(expr) for _, expr in node.exprs)):
            return found[:length]
        found.append(node)
        node = node.input


def _moves(expr: SqlExpr) -> bool:
    return expr.as_column() is not None or (is_row_wise(expr) and not expr.volatile)


def _sources(chain: Chain, wanted: Ids) -> Ids:
    """The columns that some of the chain's output is made of, themselves included."""
    for link in chain:
        if isinstance(link, LlmMap):
            wanted |= calls_columns(call for call in link.calls if call.output in wanted)
        else:
            wanted |= columns_of(expr for column, expr in link.exprs if column.id in wanted)
    return wanted


def _derived(chain: Chain, answers: Ids) -> Ids:
    """These answers and all that the chain makes of them."""
    for link in reversed(chain):
        if isinstance(link, LlmMap):
            answers |= {call.output for call in link.calls if call.columns() & answers}
        else:
            answers |= {column.id for column, expr in link.exprs if expr.columns() & answers}
    return answers


def _lifted(node: Fragment, index: int, chain: Chain, above: Ids, ctx: PlanContext) -> LogicalPlan:
    lower = _lower(chain, above)
    read = _read_above(chain, above)
    packed = [column for column in output_columns(lower) if column.id in read] or [*output_columns(lower)[:1]]
    places = {place: column for place, column in node.carried if column in above}
    fresh = ctx.take(1 + len(places) + len(packed))
    package = packed[0]
    if len(packed) > 1:
        package = Column(fresh[0], "carried", _struct(packed))
        lower = Project(lower, (*pick(output_columns(lower)), (package, _pack(packed))))
    handed = {place: replace(package, id=column) for place, column in zip(places, fresh[1:], strict=False)}
    first = next(iter(handed.values()))
    unpacked = [replace(column, id=new) for column, new in zip(packed, fresh[1 + len(places) :], strict=True)]
    values = [column_expr(first) if len(packed) == 1 else _member(first, at) for at in range(len(packed))]
    fragment = _handing_on(node, index, lower, package.id, handed, above)
    kept = [column for place, column in enumerate(node.columns) if place not in places]
    plan: LogicalPlan = Project(fragment, (*pick(kept), *zip(unpacked, values, strict=True)))
    plan = _upper(chain, above, plan, {old.id: new.id for old, new in zip(packed, unpacked, strict=True)})
    made = {column.id: column for column in output_columns(plan)}
    return Project(
        plan,
        tuple(
            (column, column_expr(made[places[place]] if place in places else column))
            for place, column in enumerate(node.columns)
        ),
    )


def _read_above(chain: Chain, above: Ids) -> Ids:
    """What the part of a chain that is lifted reads of the rest."""
    read: Ids = frozenset()
    for link in chain:
        if isinstance(link, LlmMap):
            read |= calls_columns(call for call in link.calls if call.output in above)
        else:
            read |= columns_of(expr for column, expr in link.exprs if column.id in above)
    return read - above


def _lower(chain: Chain, above: Ids) -> Any:
    """The rest of the chain, with all that the lifted part reads in its output."""
    read = _read_above(chain, above)
    plan = chain[-1].input
    for link in reversed(chain):
        if isinstance(link, LlmMap):
            calls = tuple(call for call in link.calls if call.output not in above)
            plan = replace(link, input=plan, calls=calls) if calls else plan
        else:
            own = tuple(item for item in link.exprs if item[0].id not in above)
            ids = {column.id for column, _ in own}
            passed = (column for column in output_columns(plan) if column.id in read - ids)
            plan = Project(plan, (*own, *pick(passed)))
    return plan


def _upper(chain: Chain, above: Ids, plan: LogicalPlan, names: Mapping[ColumnId, ColumnId]) -> LogicalPlan:
    """The lifted part of the chain over other rows, where what it reads of the rest has new ids."""
    for link in reversed(chain):
        if isinstance(link, LlmMap):
            calls = tuple(remap_call(call, names) for call in link.calls if call.output in above)
            plan = replace(link, input=plan, calls=calls) if calls else plan
        else:
            known = column_ids(plan)
            own = tuple(
                (column, expr.remap(names))
                for column, expr in link.exprs
                if column.id in above and column.id not in known
            )
            plan = Project(plan, (*pick(output_columns(plan)), *own)) if own else plan
    return plan


def _handing_on(
    node: Fragment, index: int, source: LogicalPlan, package: ColumnId, handed: Mapping[int, Column], above: Ids
) -> Fragment:
    """The fragment over other rows, with the package in the places of what is made above."""

    def part_of(part: str | InputRef) -> str | InputRef:
        if isinstance(part, str) or part.index != index:
            return part
        return replace(part, names=tuple((name, package if id_ in above else id_) for name, id_ in part.names))

    return replace(
        node,
        parts=tuple(part_of(part) for part in node.parts),
        columns=tuple(handed.get(place, column) for place, column in enumerate(node.columns)),
        inputs=(*node.inputs[:index], source, *node.inputs[index + 1 :]),
        carried=tuple((place, package if column in above else column) for place, column in node.carried),
    )


def _struct(columns: list[Column]) -> SqlType:
    fields = tuple((f"f{place}", column.type) for place, column in enumerate(columns))
    return SqlType(f"STRUCT({', '.join(f'{quote(name)} {kind.text}' for name, kind in fields)})", "struct", fields)


def _pack(columns: list[Column]) -> SqlExpr:
    parts: list[str | ColumnRef] = ["struct_pack("]
    for place, column in enumerate(columns):
        parts += [f"{', ' if place else ''}f{place} := ", ColumnRef(column.id)]
    return SqlExpr((*parts, ")"), _struct(columns), row_wise=True)


def _member(package: Column, place: int) -> SqlExpr:
    name, kind = package.type.fields[place]
    return SqlExpr(("struct_extract(", ColumnRef(package.id), f", '{name}')"), kind, row_wise=True)
