"""UPDATE, DELETE and MERGE with calls: a query finds what the statement will ask, then the statement runs whole.

The query (the *probe*) reads the rows the statement would change and evaluates the same expressions; rounds of it
collect the answers (``ir.logical.Demand``). The statement itself runs once, with every answer at hand, in one
transaction with the last round: it changes everything or nothing, and no transaction waits for a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from halo_sql.errors import Error, NotSupportedError, Span
from halo_sql.grammar.binding import Binding, CteContext, shadow_of
from halo_sql.grammar.demand import DemandText
from halo_sql.grammar.demand_order import Places
from halo_sql.grammar.demand_places import PlaceWalk
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import Range, identifier, parse_query
from halo_sql.grammar.splice import assemble, pieces_of
from halo_sql.grammar.texts import merged
from halo_sql.ir.expr import Column, quote
from halo_sql.ir.logical import BoundStatement, Demand, DemandPart
from halo_sql.ir.types import BIGINT

WRITES = frozenset({"UPDATE", "DELETE", "MERGE"})
_PATH = 0  # the first part of every place's path: one statement is one block
_TARGET, _SOURCE = "__halo_target", "__halo_source"  # marks of MERGE's sides in the probe


@dataclass(slots=True)
class _Clause:
    """``WHEN [NOT] MATCHED [BY …] [AND condition] THEN action`` of MERGE; ``test`` says which rows it is about."""

    test: str
    condition: Range | None
    values: list[Range]


@dataclass(slots=True)
class _Parts:
    """The ranges of a statement.

    ctes       behind WITH, the word included; empty when there is none
    target     ``t [AS a]``
    source     UPDATE's FROM, DELETE's and MERGE's USING; empty when there is none
    condition  WHERE, or MERGE's ON; ``using``: columns of MERGE's USING (…)
    values     expressions of SET
    returning  the list behind RETURNING; empty when there is none
    """

    kind: str
    ctes: Range
    target: Range
    source: Range = (0, 0)
    condition: Range = (0, 0)
    using: Range = (0, 0)
    values: list[Range] = field(default_factory=list)
    clauses: list[_Clause] = field(default_factory=list)
    returning: Range = (0, 0)


def writes(lexed: Lexed) -> bool:
    """Whether the statement is one of these, with or without CTEs in front."""
    return _verb(lexed) is not None


def _verb(lexed: Lexed) -> int | None:
    if lexed.word(0) in WRITES:
        return 0
    if lexed.word(0) != "WITH":
        return None
    return next((index for index in lexed.level(0, len(lexed.tokens)) if lexed.word(index) in WRITES), None)


def bind_write(binding: Binding) -> BoundStatement:
    """The statement as a Demand that writes; its columns are those of RETURNING, or one count."""
    parts = _parse(binding)
    check_by_duckdb(binding)
    text = DemandText(binding, (0, len(binding.lexed.tokens)), CteContext(), True, _places(binding, parts))
    text.cut()
    probe = merged([*_with(text, parts), *_probe(text, parts)])
    if text.columns(probe) is None:
        text = DemandText(binding, text.part, CteContext(), False, _places(binding, parts))
        text.cut()
        probe = merged([*_with(text, parts), *_probe(text, parts)])
        if text.columns(probe) is None:
            raise NotSupportedError(
                f"the calls of this {parts.kind} cannot be told before it runs",
                span=binding.calls[0].origin(),
                remedy="Compute them in a table first, and use that.",
            )
    columns = _columns(binding, text, parts)
    demand = Demand(
        probe,
        columns,
        tuple(text.text.inputs),
        tuple(text.asks),
        parts.kind.capitalize(),
        text.pieces(*text.part),
        text.is_pinned(),
        parts.returning[0] == parts.returning[1],
        text.is_unsteady(),
    )
    return BoundStatement(demand, columns, False, tuple(binding.warnings))


# --- taking the statement apart


def _parse(binding: Binding) -> _Parts:
    lexed = binding.lexed
    verb, end = _verb(lexed), len(lexed.tokens)
    assert verb is not None
    kind = lexed.word(verb)
    returning = word_at(lexed, verb, end, "RETURNING")
    parts = _Parts(kind, (0, verb), (0, 0))
    if returning is not None:
        parts.returning, end = (returning + 1, end), returning
        if binding.calls_in(*parts.returning) and kind != "DELETE":
            raise NotSupportedError(
                f"an LLM call in RETURNING of {kind} is not available",
                span=binding.calls_in(*parts.returning)[0].origin(),
                remedy=f"Call it in a query after the {kind}.",
            )
    if kind == "MERGE":
        _parse_merge(binding, parts, verb, end)
        return parts
    where = word_at(lexed, verb, end, "WHERE")
    if where is not None:
        parts.condition, end = (where + 1, end), where
    if kind == "DELETE":
        using = word_at(lexed, verb, end, "USING")
        if using is not None:
            parts.source, end = (using + 1, end), using
        parts.target = (verb + 2, end)  # DELETE FROM
        return parts
    sets = word_at(lexed, verb, end, "SET")
    assert sets is not None, "DuckDB has parsed it"
    source = word_at(lexed, sets, end, "FROM")
    if source is not None:
        parts.source, end = (source + 1, end), source
    first = verb + 1
    if lexed.word(first) == "OR":  # UPDATE OR REPLACE, OR IGNORE
        first += 2
    parts.target = (first, sets)
    parts.values = set_values(lexed, sets + 1, end)
    return parts


def set_values(lexed: Lexed, first: int, end: int) -> list[Range]:
    """The right sides of ``a = e, (b, c) = (f, g)``."""
    found = []
    for start, stop in lexed.items(first, end):
        equals = next((index for index in lexed.level(start, stop) if lexed.text(index) == "="), None)
        if equals is None or (lexed.word(equals + 1) == "DEFAULT" and equals + 2 == stop):
            continue
        found.append((equals + 1, stop))
    return found


def _parse_merge(binding: Binding, parts: _Parts, verb: int, end: int) -> None:
    lexed = binding.lexed
    using = word_at(lexed, verb, end, "USING")
    assert using is not None, "DuckDB has parsed it"
    parts.target = (verb + 2, using)  # MERGE INTO
    whens = [index for index in lexed.level(using, end) if lexed.word(index) == "WHEN"]
    first_when = whens[0] if whens else end
    on = word_at(lexed, using + 1, first_when, "ON")
    named = next(
        (
            index
            for index in lexed.level(using + 1, first_when)
            if lexed.word(index) == "USING" and lexed.text(index + 1) == "("
        ),
        None,
    )
    if on is not None:
        parts.source, parts.condition = (using + 1, on), (on + 1, first_when)
    elif named is not None:
        parts.source, parts.using = (using + 1, named), (named + 1, first_when)
    for start, stop in zip(whens, [*whens[1:], end], strict=True):
        parts.clauses.append(_merge_clause(lexed, start, stop))


def _merge_clause(lexed: Lexed, when: int, end: int) -> _Clause:
    then = word_at(lexed, when, end, "THEN")
    assert then is not None, "DuckDB has parsed it"
    head = [lexed.word(index) for index in range(when + 1, then)]
    if head[0] == "MATCHED":
        test = f"{_TARGET} AND {_SOURCE}"
    elif head[1:4] == ["MATCHED", "BY", "SOURCE"]:
        test = f"{_TARGET} AND {_SOURCE} IS NULL"
    else:
        test = f"{_SOURCE} AND {_TARGET} IS NULL"
    both = next((index for index in lexed.level(when, then) if lexed.word(index) == "AND"), None)
    condition = None if both is None else (both + 1, then)
    action, values = lexed.word(then + 1), []
    if action == "UPDATE" and lexed.word(then + 2) == "SET" and lexed.text(then + 3) != "*":
        values = set_values(lexed, then + 3, end)
    elif action == "INSERT":
        opening = word_at(lexed, then, end, "VALUES")
        if opening is not None:
            listed = lexed.items(opening + 2, lexed.partner[opening + 1])
            values = [piece for piece in listed if lexed.word(piece[0]) != "DEFAULT"]
    elif action == "ERROR":
        values = [(then + 2, end)] if then + 2 < end else []
    return _Clause(test, condition, values)


def word_at(lexed: Lexed, first: int, end: int, word: str) -> int | None:
    """The first token of a range, outside brackets, that is this keyword."""
    return next(
        (index for index in lexed.level(first, end) if lexed.word(index) == word and not lexed.column_label(index)),
        None,
    )


# --- where its calls stand


def _places(binding: Binding, parts: _Parts) -> Places:
    places = PlaceWalk(binding)
    if parts.ctes[0] < parts.ctes[1]:
        for position, cte in enumerate(parse_query(binding.lexed, *_cte_query(binding, parts)).ctes):
            places.query(cte.body, ((_PATH, 0), (_PATH, position)))
    places.relations(parts.source, ((_PATH, 1),))
    places.condition(parts.condition, ((_PATH, 2),))
    for value in parts.values:
        places.expression(value, ((_PATH, 3),))
    for position, clause in enumerate(parts.clauses):
        if clause.condition is not None:
            places.condition(clause.condition, ((_PATH, 4 + 2 * position),))
        for value in clause.values:
            places.expression(value, ((_PATH, 5 + 2 * position),))
    if parts.returning[0] < parts.returning[1]:
        for item in binding.lexed.items(*parts.returning):
            places.expression(item, ((_PATH, 3),))
    return Places(binding, (0, len(binding.lexed.tokens)), CteContext(), places)


def _cte_query(binding: Binding, parts: _Parts) -> Range:
    """WITH and what follows, as far as ``parse_query`` reads it."""
    return (parts.ctes[0], len(binding.lexed.tokens))


# --- the probe


def _with(text: DemandText, parts: _Parts) -> tuple[DemandPart, ...]:
    if parts.ctes[0] == parts.ctes[1]:
        return ()
    return (*text.pieces(*parts.ctes), " ")


def _probe(text: DemandText, parts: _Parts) -> Iterator[DemandPart]:
    """The query that evaluates what the statement will evaluate, for the rows it will be about."""
    if parts.kind == "MERGE":
        yield from _merge_probe(text, parts)
        return
    returned = [parts.returning] if text.binding.calls_in(*parts.returning) else []
    values = [*parts.values, *returned]
    yield "SELECT "
    for position, value in enumerate(values):
        yield ", " if position else ""
        yield from text.pieces(*value)
    yield "1 FROM " if not values else " FROM "
    yield from text.pieces(*parts.target)
    if parts.source[0] < parts.source[1]:
        yield ", "
        yield from text.pieces(*parts.source)
    if parts.condition[0] < parts.condition[1]:
        yield " WHERE "
        yield from text.pieces(*parts.condition)


def _merge_probe(text: DemandText, parts: _Parts) -> Iterator[DemandPart]:
    lexed = text.binding.lexed
    yield "SELECT CASE"
    for clause in parts.clauses:
        yield f" WHEN CASE WHEN {clause.test} THEN "
        if clause.condition is None:
            yield "TRUE"
        else:
            yield "("
            yield from text.pieces(*clause.condition)
            yield "\n)"
        yield " ELSE FALSE END THEN ["
        for position, value in enumerate(clause.values):
            yield ", (" if position else "("
            yield from text.pieces(*value)
            yield "\n) IS NULL"
        yield "]"
    yield " END FROM " if parts.clauses else " WHEN TRUE THEN 1 END FROM "
    yield from _side(text, lexed, parts.target, _TARGET)
    yield " FULL JOIN "
    yield from _side(text, lexed, parts.source, _SOURCE)
    if parts.using[0] < parts.using[1]:
        yield " USING "
        yield from text.pieces(*parts.using)
    else:
        yield " ON "
        yield from text.pieces(*parts.condition)


def _side(text: DemandText, lexed: Lexed, part: Range, mark: str) -> Iterator[DemandPart]:
    """A side of MERGE under its own name, with a mark that says that a row has it."""
    first, end = part
    columns: Range | None = None
    if lexed.text(end - 1) == ")" and lexed.partner[end - 1] > first:  # a column list behind the alias
        columns = (lexed.partner[end - 1], end)
        end = columns[0]
    name = identifier(lexed.text(end - 1))
    yield f"(SELECT *, TRUE AS {mark} FROM "
    yield from text.pieces(first, end if columns is None else columns[1])
    yield f") AS {quote(name)}"


# --- what comes out, and what DuckDB says of it


def _columns(binding: Binding, text: DemandText, parts: _Parts) -> tuple[Column, ...]:
    if parts.returning[0] == parts.returning[1]:
        return (binding.new_column("Count", BIGINT),)
    lexed, returning = binding.lexed, [*_with(text, parts), "SELECT "]
    for position, item in enumerate(lexed.items(*parts.returning)):
        returning.append(", " if position else "")
        if item[1] - item[0] == 1 and lexed.word(item[0]) == "MERGE_ACTION":
            returning.append("CAST(NULL AS VARCHAR) AS merge_action")
        else:
            returning += text.pieces(*item)
    returning.append(" FROM ")
    target = text.pieces(*parts.target)
    name = quote(identifier(lexed.text(parts.target[1] - 1)))
    attempts: Sequence[Sequence[DemandPart]] = (
        [*returning, *target],
        [*returning, *target, ", ", *text.pieces(*parts.source)],
        [*returning, "(SELECT *, CAST(NULL AS VARCHAR) AS merge_action FROM ", *target, f") AS {name}"],
    )
    for attempt in attempts:
        found = text.columns(merged(list(attempt)))
        if found is not None:
            return tuple(binding.new_column(column, kind) for column, kind in found)
    raise NotSupportedError(
        f"RETURNING of this {parts.kind} is not available beside LLM calls",
        span=binding.lexed.span(*parts.returning),
        remedy="Leave it out, and query the table afterwards.",
    )


def check_by_duckdb(binding: Binding) -> None:
    """DuckDB binds the statement with typed NULLs in the calls' places; its errors point into the statement."""
    lexed, prefix = binding.lexed, "EXPLAIN "
    span = lexed.span(0, len(lexed.tokens))
    calls = [(call.span, shadow_of(call)) for call in binding.calls]
    spliced = assemble(pieces_of(lexed.sql, span.start, span.end, calls))
    try:
        binding.duck.rows(prefix + spliced.text)
    except Error as problem:
        if problem.span is not None:
            start = max(0, problem.span.start - len(prefix))
            problem.span = spliced.origin(Span(start, max(start + 1, problem.span.end - len(prefix))))
        problem.sql = None
        raise
    binding.bound = True
