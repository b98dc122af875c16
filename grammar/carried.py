"""Output columns of a block's text that are columns of its rows, untouched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from halo_sql.grammar.block import Block, row_calls
from halo_sql.grammar.grouped import is_grouped
from halo_sql.grammar.skeleton import Range, identifier
from halo_sql.ir.expr import ColumnId

#: what makes more rows, and what reads columns that are not named
_UNNAMED = frozenset({"UNNEST", "UNLIST", "GENERATE_SUBSCRIPTS", "COLUMNS", "ALL"})
_BEHIND_STAR = frozenset({"EXCLUDE", "REPLACE", "RENAME", "LIKE", "ILIKE", "NOT", "SIMILAR", "GLOB"})


def carried_columns(block: Block, width: int) -> tuple[tuple[int, ColumnId], ...]:
    """(position of an output column, column of the block's rows) for each output column that is the value of one of the
    rows it is made of, where the block reads the column nowhere else; of ``width`` output columns.

    None where a row may come out more than once (UNNEST) or rows are compared whole (DISTINCT), nor where the text may
    read columns that it does not name. In a grouped block only answers of calls on the group's keys are carried.
    """
    select = block.select
    plain_distinct = select.distinct and select.distinct_on is None
    if plain_distinct or block.subqueries:
        return ()
    written = [part for clause, part in select.clauses.items() if clause not in ("FROM", "WHERE")]
    written += [] if select.distinct_on is None else [select.distinct_on]
    if any(_unnamed(block, index) for part in written for index in range(*part)):
        return ()
    bare = list(_bare(block))
    used = _used(block, written, bare)
    if used is None or len(bare) != width:
        return ()
    taken = used | {bare[position][0] for position in _positions(block) if 0 <= position < width}
    return tuple(
        (position, column) for position, (column, _) in enumerate(bare) if column is not None and column not in taken
    )


def _unnamed(block: Block, index: int) -> bool:
    """Whether a token makes more rows, or reads columns that are not named."""
    lexed = block.binding.lexed
    if lexed.text(index) == "*":
        return lexed.word(index + 1) in _BEHIND_STAR
    return lexed.word(index) in _UNNAMED or lexed.text(index) == "#"


def _bare(block: Block) -> Iterator[tuple[ColumnId | None, Range]]:
    """Per output column, the column it is (None: it is computed) and the item's tokens."""
    grouped = block.grouped is None and is_grouped(block)
    computed = {(one.first, one.end): one.column for one in block.stand_ins}
    for item in block.items:
        if item.star is not None:
            for column in block.hoister.scope.star(item.star or None) or ():
                yield None if grouped else column.id, item.range
            continue
        if item.range in computed:
            yield computed[item.range], item.range
            continue
        calls = [call for call in row_calls(block, item.range) if (call.first, call.end) == item.range]
        if calls and id(calls[0]) in block.hoister.outputs:
            yield block.hoister.output_of(calls[0]), item.range
            continue
        yield None if grouped else _column(block, item.range), item.range


def _column(block: Block, part: Range) -> ColumnId | None:
    """The column that a range names, when it is nothing but its name."""
    span = block.binding.lexed.span(*part)
    names = block.binding.source.syntax.columns_in(span.start, span.end)
    if not names or len(names) != 1 or (names[0][0].start, names[0][-1].end) != (span.start, span.end):
        return None
    found = block.hoister.scope.resolve(names[0])
    return found[0].id if found is not None and found[1] == len(names[0]) else None


def _used(block: Block, written: list[Range], bare: list[tuple[ColumnId | None, Range]]) -> set[ColumnId | None] | None:
    """Columns that the text reads besides; None when it cannot be told."""
    lexed, scope = block.binding.lexed, block.hoister.scope
    aliases: dict[str, set[ColumnId | None]] = {}
    names = Counter(item.alias.lower() for item in block.items)
    for item in block.items:
        if item.alias:
            own = {column for column, part in bare if part == item.range}
            aliases.setdefault(item.alias.lower(), set()).update(own)
    whole = {part for column, part in bare if column is not None}
    calls = row_calls(block, block.select.range)
    used: set[ColumnId | None] = {
        block.hoister.output_of(call)
        for call in calls
        if id(call) in block.hoister.outputs and (call.first, call.end) not in whole
    }
    used |= {one.column for one in block.stand_ins if (one.first, one.end) not in whole}
    inside = [*(call.span for call in calls), *(one.span for one in block.stand_ins)]
    inside += [lexed.span(*part) for part in whole if part[0] < part[1]]
    for part in written:
        span = lexed.span(*part)
        found = block.binding.source.syntax.columns_in(span.start, span.end)
        if found is None:
            return None
        for name in found:
            if any(hole.start <= name[0].start < hole.end for hole in inside):
                continue
            column = scope.resolve(name)
            alias = aliases.get(name[0].name.lower()) if len(name) == 1 else None
            if column is None and alias is None:
                return None
            used |= {column[0].id} if column is not None else set()
            used |= alias or set()
    return None if any(count > 1 and name for name, count in names.items()) else used


def _positions(block: Block) -> Iterator[int]:
    """Output columns, from 0, that ORDER BY, GROUP BY or DISTINCT ON name by their number."""
    lexed, clauses = block.binding.lexed, block.select.clauses
    parts = [clauses[clause] for clause in ("ORDER", "GROUP") if clause in clauses]
    parts += [] if block.select.distinct_on is None else [block.select.distinct_on]
    for part in parts:
        for first, end in lexed.items(*part):
            if lexed.text(first).isdigit() and (end == first + 1 or identifier(lexed.text(first + 1)).isalpha()):
                yield int(lexed.text(first)) - 1
