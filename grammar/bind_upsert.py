"""INSERT … ON CONFLICT DO UPDATE with calls in the update: a query over the rows that are there and those that come.

What ``bind_write`` does for UPDATE, here for the rows of the target that new rows conflict with. In the probe
``excluded`` is one struct column, so that unqualified names stay the target's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from halo_sql.errors import NotSupportedError
from halo_sql.grammar.bind_write import check_by_duckdb, set_values, word_at
from halo_sql.grammar.binding import Binding, CteContext
from halo_sql.grammar.demand import DemandText
from halo_sql.grammar.demand_order import Places
from halo_sql.grammar.demand_places import PlaceWalk
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.operators_table import OPERATORS
from halo_sql.grammar.skeleton import QUERY_STARTS, Range, identifier, starts_query
from halo_sql.grammar.texts import merged
from halo_sql.ir.expr import literal, quote
from halo_sql.ir.logical import BoundStatement, Demand, DemandPart
from halo_sql.ir.types import BIGINT

_PATH = 0


@dataclass(slots=True)
class _Parts:
    """The ranges of the statement; ``keys`` are the conflict's columns as written (none: those of the constraint)."""

    target: Range
    alias: str
    listed: list[str]
    by_name: bool
    query: Range
    keys: list[str]
    values: list[Range]
    condition: Range | None


def upserts(lexed: Lexed) -> bool:
    """Whether the statement is INSERT … ON CONFLICT DO UPDATE with a call in the update, without RETURNING."""
    end = len(lexed.tokens)
    conflict = _conflict(lexed) if lexed.word(0) == "INSERT" else None
    if conflict is None or word_at(lexed, conflict, end, "RETURNING") is not None:
        return False
    return any(lexed.word(at) in OPERATORS and lexed.text(at + 1) == "(" for at in range(conflict, end))


def _conflict(lexed: Lexed) -> int | None:
    end = len(lexed.tokens)
    return next((at for at in lexed.level(0, end) if lexed.word(at) == "ON" and lexed.word(at + 1) == "CONFLICT"), None)


def bind_upsert(binding: Binding) -> BoundStatement:
    """The statement as a Demand that writes and counts."""
    parts = _parse(binding)
    check_by_duckdb(binding)
    columns = _new_columns(binding, parts)
    keys = parts.keys or _constraint(binding, parts)
    for guarded in (True, False):
        text = DemandText(binding, (0, len(binding.lexed.tokens)), CteContext(), guarded, _places(binding, parts))
        text.cut()
        probe = merged(list(_probe(text, parts, columns, keys)))
        if text.columns(probe) is not None:
            count = (binding.new_column("Count", BIGINT),)
            demand = Demand(
                probe,
                count,
                tuple(text.text.inputs),
                tuple(text.asks),
                "Insert",
                text.pieces(*text.part),
                text.is_pinned(),
                True,
                text.is_unsteady(),
            )
            return BoundStatement(demand, count, False, tuple(binding.warnings))
    raise NotSupportedError(
        "the calls behind ON CONFLICT cannot be told before it runs",
        span=binding.calls[0].origin(),
        remedy="Compute the rows in a table first, and use MERGE.",
    )


def _parse(binding: Binding) -> _Parts:
    lexed, end = binding.lexed, len(binding.lexed.tokens)
    conflict, into = _conflict(lexed), word_at(lexed, 0, end, "INTO")
    assert conflict is not None, "DuckDB has parsed it"
    assert into is not None, "DuckDB has parsed it"
    start = next(
        index
        for index in lexed.level(into, conflict)
        if lexed.word(index) in QUERY_STARTS or (lexed.text(index) == "(" and starts_query(lexed, index + 1))
    )
    head = list(lexed.level(into + 1, start))
    by = next((index for index in head if lexed.word(index) == "BY"), start)
    opening = next((index for index in head if lexed.text(index) == "("), by)
    as_ = next((index for index in head if lexed.word(index) == "AS" and index < opening), opening)
    listed = (
        [identifier(lexed.text(first)) for first, _ in lexed.items(opening + 1, lexed.partner[opening])]
        if (opening < by)
        else []
    )
    keys: list[str] = []
    if lexed.text(conflict + 2) == "(":
        keys = [identifier(lexed.text(first)) for first, _ in lexed.items(conflict + 3, lexed.partner[conflict + 2])]
    sets = word_at(lexed, conflict, end, "SET")
    assert sets is not None, "DuckDB has parsed it"
    where = word_at(lexed, sets, end, "WHERE")
    alias = identifier(lexed.text((as_ + 1) if as_ < opening else opening - 1))
    values = set_values(lexed, sets + 1, where or end)
    condition = None if where is None else (where + 1, end)
    by_name = lexed.word(by + 1) == "NAME"
    return _Parts((into + 1, as_), alias, listed, by_name, (start, conflict), keys, values, condition)


def _new_columns(binding: Binding, parts: _Parts) -> list[str]:
    """The target's columns that the query fills, in the query's order."""
    incoming = [name for name, _ in binding.describe(binding.shadow(*parts.query))]
    if parts.by_name:
        return incoming
    if parts.listed:
        return parts.listed
    target = binding.probe(f"SELECT * FROM {binding.lexed.slice(*parts.target)}")
    return [name for name, _ in target][: len(incoming)]


def _constraint(binding: Binding, parts: _Parts) -> list[str]:
    """The columns of the only key of the target."""
    name = identifier(binding.lexed.text(parts.target[1] - 1))
    rows = binding.duck.rows(
        "SELECT constraint_column_names FROM duckdb_constraints() WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE') "
        f"AND lower(table_name) = lower({literal(name)}) AND database_name = current_database()"
    )
    if len(rows) != 1:
        raise NotSupportedError(
            f'which key of "{name}" conflicts cannot be told',
            span=binding.lexed.span(*parts.target),
            remedy="Name its columns: ON CONFLICT (a, b) DO UPDATE ….",
        )
    return list(rows[0][0])


def _places(binding: Binding, parts: _Parts) -> Places:
    walk = PlaceWalk(binding)
    walk.query(parts.query, ((_PATH, 0),))
    if parts.condition is not None:
        walk.condition(parts.condition, ((_PATH, 1),))
    for value in parts.values:
        walk.expression(value, ((_PATH, 2),))
    return Places(binding, (0, len(binding.lexed.tokens)), CteContext(), walk)


def _probe(text: DemandText, parts: _Parts, columns: Sequence[str], keys: Sequence[str]) -> Iterator[DemandPart]:
    """Every value of the new rows, and every value of the update for the rows they conflict with."""
    names = ", ".join(quote(name) for name in columns)
    yield f"SELECT [{', '.join(f'({quote(name)}) IS NULL' for name in columns)}] FROM ("
    yield from text.pieces(*parts.query)
    yield f"\n) AS __halo_rows({names}) UNION ALL SELECT ["
    for position, value in enumerate(parts.values):
        yield ", (" if position else "("
        yield from text.pieces(*value)
        yield "\n) IS NULL"
    yield "] FROM "
    yield from text.pieces(*parts.target)
    fields = ", ".join(f"{quote(name)} := {quote(name)}" for name in columns)
    yield f" AS {quote(parts.alias)} JOIN (SELECT struct_pack({fields}) AS excluded FROM ("
    yield from text.pieces(*parts.query)
    yield f"\n) AS __halo_rows({names})) AS __halo_new ON "
    pairs = (f"{quote(parts.alias)}.{quote(key)} = __halo_new.excluded.{quote(key)}" for key in keys)
    yield " AND ".join(pairs)
    if parts.condition is not None:
        yield " WHERE "
        yield from text.pieces(*parts.condition)
