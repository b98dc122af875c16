"""A FROM clause of plain joins as Join nodes, so that rules can move calls past them.

Opened are inner, cross and left joins of relations that can be read alone, ON conditions that are expressions over the
tables' columns, and USING. Everything else stays one text that DuckDB joins (``bind_from``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from halo_sql.grammar.binding import Binding, BoundQuery, Columns, CteContext
from halo_sql.grammar.expressions import resolved
from halo_sql.grammar.guards import conjuncts
from halo_sql.grammar.join_conditions import JOIN_WORDS, is_function
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.names import Scope, Table
from halo_sql.grammar.skeleton import Range, identifier, starts_query
from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr, column_expr
from halo_sql.ir.logical import Join, LogicalPlan, Project
from halo_sql.ir.types import BOOLEAN

Leaf = Callable[[Range, tuple[Column, ...]], LogicalPlan | None]
_OPENED = frozenset({"INNER", "CROSS", "LEFT", "OUTER"})
_BEHIND = frozenset({"TABLESAMPLE", "PIVOT", "UNPIVOT", "PIVOT_WIDER", "PIVOT_LONGER", "AT", "WITH", "LATERAL"})


@dataclass(frozen=True, slots=True)
class Side:
    """A relation of the clause and how it is joined to those before it.

    item   its tokens, alias included
    kind   'first' | 'comma' | 'cross' | 'inner' | 'left'
    on     the tokens behind ON; None: there is none
    using  names in USING
    """

    item: Range
    kind: str
    on: Range | None = None
    using: tuple[str, ...] = ()


def sides_of(lexed: Lexed, clause: Range) -> list[Side] | None:
    """The relations of a FROM clause; None when it holds anything but the joins that are opened."""
    cuts: list[tuple[int, int, str]] = []  # where a separator starts, the token behind it, the kind of join
    for index in lexed.level(*clause):
        if lexed.text(index) == ",":
            cuts.append((index, index + 1, "comma"))
        elif lexed.word(index) == "JOIN" and not lexed.column_label(index):
            first = index
            while first > clause[0] and lexed.word(first - 1) in JOIN_WORDS and not lexed.column_label(first - 1):
                first -= 1
            words = {lexed.word(at) for at in range(first, index)}
            if not words <= _OPENED or lexed.word(first - 1) in ("BY", "POSITIONAL"):
                return None
            kind = "left" if "LEFT" in words else "cross" if "CROSS" in words else "inner"
            cuts.append((first, index + 1, kind))
        elif lexed.word(index) in _BEHIND and not is_function(lexed, index):
            return None
    starts = [(clause[0], "first"), *((behind, kind) for _, behind, kind in cuts)]
    ends = [*(start for start, _, _ in cuts), clause[1]]
    sides = [_side(lexed, start, end, kind) for (start, kind), end in zip(starts, ends, strict=True)]
    return [side for side in sides if side is not None] if all(sides) else None


def _side(lexed: Lexed, first: int, end: int, kind: str) -> Side | None:
    item_end, on = end, None
    using: tuple[str, ...] = ()
    for index in lexed.level(first, end):
        word = lexed.word(index)
        if word == "ON" and not lexed.column_label(index) and index > first:
            if on is not None:
                return None  # a JOIN b JOIN c ON … ON …
            item_end, on = min(item_end, index), (index + 1, end)
        elif word == "USING" and lexed.text(index + 1) == "(" and on is None:
            closing = lexed.partner[index + 1]
            if closing + 1 != end:
                return None
            item_end = index
            using = tuple(identifier(lexed.text(start)) for start, _ in lexed.split(index + 2, closing))
    if (kind in ("inner", "left")) != (on is not None or bool(using)) or item_end <= first:
        return None
    return Side((first, item_end), kind, on, using)


def known_parts(
    binding: Binding, clause: Range, names: Sequence[str], merged: Sequence[str], context: CteContext
) -> list[Columns | None] | None:
    """The columns of each relation (they have these names) and each merged column of a FROM clause, without a question:
    where all of them are CTEs that are known, and what is merged is everywhere of one type. None when it is not so."""
    sides = sides_of(binding.lexed, clause)
    if sides is None or len(sides) != len(names):
        return None
    found: list[Columns | None] = []
    for side, name in zip(sides, names, strict=True):
        words = [binding.lexed.text(index) for index in range(*side.item)]
        first = identifier(words[0]).lower()
        cte = next((known for known in reversed(context.ctes) if known.name.lower() == first), None)
        columns = None if cte is None else binding.stubs.columns.get(cte.whole[0])
        if columns is None or len(words) > 3 or identifier(words[-1]) != name or "(" in words or "." in words:
            return None
        found.append(list(columns))
    for name in merged:
        kinds = [kind for columns in found for own, kind in columns or () if own.lower() == name.lower()]
        if not kinds or any(kind != kinds[0] for kind in kinds):
            return None
        found.append([(name, kinds[0])])
    return found


def joined(
    binding: Binding,
    clause: Range,
    scope: Scope,
    relations: Sequence[tuple[Range, BoundQuery]],
    moved: Sequence[Range],
    leaf: Leaf,
) -> tuple[LogicalPlan, Scope] | None:
    """The clause as Join nodes, and its scope; None when it is not of the kind that is opened.

    scope      the clause's tables and merged columns, as DuckDB names them
    relations  those with calls in them, by their tokens (alias aside)
    moved      conjuncts of ON with calls: they are conditions of WHERE by now
    leaf       a relation's tokens and columns -> its rows; None when it cannot be read alone
    """
    sides = sides_of(binding.lexed, clause)
    if sides is None or len(sides) < 2 or len(sides) != len(scope.tables):
        return None
    merged: dict[str, Column] = {}
    inputs: list[LogicalPlan] = []
    on: list[SqlExpr] = []
    chain = 0  # where the operand of the comma begins: ON sees nothing before it
    for place, (side, table) in enumerate(zip(sides, scope.tables, strict=True)):
        chain = place if side.kind == "comma" else chain
        rows = _rows(binding, side, table, relations, leaf)
        seen = Scope(scope.tables[chain : place + 1], merged)
        conditions = _conditions(binding, side, seen, moved)
        if rows is None or conditions is None or (side.kind == "left" and chain):
            return None
        for name in side.using:
            column = _only(seen.tables[:-1], name)
            merged.setdefault(name.lower(), column)  # type: ignore[arg-type]
        if side.kind == "left":
            whole = inputs[0] if len(inputs) == 1 else Join(tuple(inputs), tuple(on))
            inputs, on = [Join((whole, rows), tuple(conditions), "left")], []
        else:
            inputs.append(rows)
            on += conditions
    if {name: column.type for name, column in merged.items()} != {
        name: column.type for name, column in scope.merged.items()
    }:
        return None
    return inputs[0] if len(inputs) == 1 else Join(tuple(inputs), tuple(on)), Scope(scope.tables, merged)


def _rows(
    binding: Binding, side: Side, table: Table, relations: Sequence[tuple[Range, BoundQuery]], leaf: Leaf
) -> LogicalPlan | None:
    first, end = side.item
    inside = [(part, query) for part, query in relations if first <= part[0] and part[1] <= end]
    if not inside:
        opening = binding.lexed.text(first) == "("
        return leaf(side.item, table.columns) if not opening or starts_query(binding.lexed, first + 1) else None
    (part, query), *others = inside
    if others or part[0] != first or len(query.columns) != len(table.columns):
        return None
    pairs = zip(table.columns, query.columns, strict=True)
    return Project(query.plan, tuple((column, column_expr(source)) for column, source in pairs))


def _conditions(binding: Binding, side: Side, seen: Scope, moved: Sequence[Range]) -> list[SqlExpr] | None:
    """What ON and USING say, over the tables seen so far; None when it is more than expressions over columns."""
    found: list[SqlExpr] = []
    for name in side.using:
        left = seen.merged.get(name.lower()) or _only(seen.tables[:-1], name)
        right = _only(seen.tables[-1:], name)
        if left is None or right is None:
            return None
        found.append(SqlExpr((ColumnRef(left.id), " = ", ColumnRef(right.id)), BOOLEAN, row_wise=True))
    for part in conjuncts(binding.lexed, side.on) if side.on is not None else ():
        if part in moved:
            continue
        expr = resolved(binding.source, *part, seen, (), lambda call: ColumnId(0), {}, binding.duck)
        if expr is None or expr.volatile or not expr.row_wise:
            return None
        found.append(replace(expr, type=BOOLEAN))
    return found


def _only(tables: Sequence[Table], name: str) -> Column | None:
    found = [column for table in tables for column in table.columns if column.name.lower() == name.lower()]
    return found[0] if len(found) == 1 else None
