"""A FROM clause of plain joins as Join nodes, so that rules can move calls past them.

Opened are inner, cross, left, right, semi and anti joins of relations that can be read alone, ON conditions that are
expressions over the tables' columns, USING and NATURAL. Everything else stays one text that DuckDB joins
(``bind_from``): of a full join all rows of both sides are in the result, so that no rule could save anything.
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
Concealed = Callable[[Range, int], Table | None]
_OPENED = frozenset({"INNER", "CROSS", "LEFT", "RIGHT", "OUTER", "SEMI", "ANTI", "NATURAL"})
#: Joins whose second side is seen by their ON only.
_HIDING = ("semi", "anti")
_BEHIND = frozenset({"TABLESAMPLE", "PIVOT", "UNPIVOT", "PIVOT_WIDER", "PIVOT_LONGER", "AT", "WITH", "LATERAL"})


@dataclass(frozen=True, slots=True)
class Side:
    """A relation of the clause and how it is joined to those before it.

    item   its tokens, alias included
    kind   'first' | 'comma' | 'cross' | 'inner' | 'left' | 'right' | 'semi' | 'anti'
    on     the tokens behind ON; None: there is none
    using  names in USING
    natural  joined by the columns of equal names
    """

    item: Range
    kind: str
    on: Range | None = None
    using: tuple[str, ...] = ()
    natural: bool = False


def sides_of(lexed: Lexed, clause: Range) -> list[Side] | None:
    """The relations of a FROM clause; None when it holds anything but the joins that are opened."""
    cuts: list[tuple[int, int, str, bool]] = []  # where a separator starts, the token behind it, kind, whether natural
    for index in lexed.level(*clause):
        if lexed.text(index) == ",":
            cuts.append((index, index + 1, "comma", False))
        elif lexed.word(index) == "JOIN" and not lexed.column_label(index):
            first = index
            while first > clause[0] and lexed.word(first - 1) in JOIN_WORDS and not lexed.column_label(first - 1):
                first -= 1
            words = {lexed.word(at) for at in range(first, index)}
            if not words <= _OPENED or lexed.word(first - 1) in ("BY", "POSITIONAL"):
                return None
            kinds = [kind for kind in ("left", "right", "semi", "anti", "cross") if kind.upper() in words]
            cuts.append((first, index + 1, kinds[0] if kinds else "inner", "NATURAL" in words))
        elif lexed.word(index) in _BEHIND and not is_function(lexed, index):
            return None
    starts = [(clause[0], "first", False), *(cut[1:] for cut in cuts)]
    ends = [*(cut[0] for cut in cuts), clause[1]]
    sides = [_side(lexed, start, end, kind, natural) for (start, kind, natural), end in zip(starts, ends, strict=True)]
    return [side for side in sides if side is not None] if all(sides) else None


def _side(lexed: Lexed, first: int, end: int, kind: str, natural: bool) -> Side | None:
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
    asks = kind not in ("first", "comma", "cross") and not natural
    if asks != (on is not None or bool(using)) or item_end <= first:
        return None
    return Side((first, item_end), kind, on, using, natural)


def known_parts(
    binding: Binding, clause: Range, names: Sequence[str], merged: Sequence[str], context: CteContext
) -> list[Columns | None] | None:
    """The columns of each relation (they have these names) and each merged column of a FROM clause, without a question:
    where all of them are CTEs that are known, and what is merged is everywhere of one type; of a hidden relation None.
    None when it is not so."""
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
        found.append(None if side.kind in _HIDING else list(columns))
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
    concealed: Concealed,
) -> tuple[LogicalPlan, Scope] | None:
    """The clause as Join nodes, and its scope; None when it is not of the kind that is opened.

    scope      the clause's tables and merged columns, as DuckDB names them
    relations  those with calls in them, by their tokens (alias aside)
    moved      conjuncts of ON with calls: they are conditions of WHERE by now
    leaf       a relation's tokens and columns -> its rows; None when it cannot be read alone
    concealed  the tokens and place of a relation that is not in the scope -> it as a table; None when that is not known
    """
    sides = sides_of(binding.lexed, clause)
    if sides is None or len(sides) < 2:
        return None
    tables = iter(scope.tables)
    merged: dict[str, Column] = {}
    inputs: list[LogicalPlan] = []
    on: list[SqlExpr] = []
    chain: list[Table] = []  # what ON sees: nothing before the last comma
    commas = 0
    for place, side in enumerate(sides):
        table = concealed(side.item, place) if side.kind in _HIDING else next(tables, None)
        if side.kind == "comma":
            chain, commas = [], commas + 1
        if table is None or (commas and side.kind in ("left", "right", *_HIDING)):
            return None
        seen = Scope((*chain, table), merged)
        using = _shared(seen) if side.natural else side.using
        rows = _rows(binding, side, table, relations, leaf)
        conditions = None if using is None else _conditions(binding, side, using, seen, moved)
        if rows is None or using is None or conditions is None:
            return None
        for name in using:
            column = _only(seen.tables[-1:] if side.kind == "right" else seen.tables[:-1], name)
            if side.kind == "right" or name.lower() not in merged:
                merged[name.lower()] = column  # type: ignore[assignment]
        if side.kind not in _HIDING:
            chain.append(table)
        if side.kind in ("left", "right", *_HIDING):
            whole = inputs[0] if len(inputs) == 1 else Join(tuple(inputs), tuple(on))
            both = (rows, whole) if side.kind == "right" else (whole, rows)
            inputs, on = [Join(both, tuple(conditions), "left" if side.kind == "right" else side.kind)], []
        else:
            inputs.append(rows)
            on += conditions
    unread = next(tables, None)
    if unread is not None or {name: column.type for name, column in merged.items()} != {
        name: column.type for name, column in scope.merged.items()
    }:
        return None
    return inputs[0] if len(inputs) == 1 else Join(tuple(inputs), tuple(on)), Scope(scope.tables, merged)


def _shared(seen: Scope) -> tuple[str, ...] | None:
    """The names by which the last table joins those before it naturally; None when one means several columns."""
    *before, last = seen.tables
    names = tuple(column.name for column in last.columns)
    shared = [
        name for name in names if any(name.lower() == own.name.lower() for table in before for own in table.columns)
    ]
    known = all(name.lower() in seen.merged or _only(before, name) for name in shared)
    return tuple(shared) if known and shared else None


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


def _conditions(
    binding: Binding, side: Side, using: Sequence[str], seen: Scope, moved: Sequence[Range]
) -> list[SqlExpr] | None:
    """What ON and USING say, over the tables seen so far; None when it is more than expressions over columns."""
    found: list[SqlExpr] = []
    for name in using:
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
