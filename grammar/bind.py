"""The entry of the binder: one statement with LLM calls as a logical plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from halo_sql.catalog.objects import Snapshot
from halo_sql.collector import collector_waits
from halo_sql.config import Settings
from halo_sql.deep import deep
from halo_sql.duck import Duck
from halo_sql.errors import CatalogError, Error, InterruptedQueryError, NotSupportedError, ParserError, Span
from halo_sql.grammar.bind_query import QueryBinder
from halo_sql.grammar.bind_upsert import bind_upsert, upserts
from halo_sql.grammar.bind_write import bind_write, writes
from halo_sql.grammar.binding import Binding, BoundQuery, CteContext, plain
from halo_sql.grammar.blanking import for_sqlglot
from halo_sql.grammar.calls import CallReader
from halo_sql.grammar.collations import reads_collations
from halo_sql.grammar.constants import ConstantNeededError, needed_constant
from halo_sql.grammar.expanded import Expanded
from halo_sql.grammar.learn import learn_ctes, learn_subqueries, union_of_picks
from halo_sql.grammar.lex import Lexed, lex
from halo_sql.grammar.parameters import splice_parameters
from halo_sql.grammar.row_calls import with_row_calls
from halo_sql.grammar.skeleton import QUERY_STARTS, Range, identifier, parse_query, starts_query
from halo_sql.grammar.source import Source
from halo_sql.grammar.splice import Piece, Spliced, assemble
from halo_sql.grammar.syntax import analyse
from halo_sql.grammar.texts import visible
from halo_sql.grammar.values import parameter, variable
from halo_sql.ir.expr import Column, literal
from halo_sql.ir.logical import BoundStatement, Fragment, Sink
from halo_sql.ir.types import BIGINT

SHALLOW = 40  # brackets in each other that an ordinary stack is sure to take; sqlglot needs up to twenty frames for one
Answer = Callable[[str, Any], str]  # (a constant call's text, parameters) -> its answer as a SQL expression


def bind(
    sql: str,
    duck: Duck,
    snapshot: Snapshot,
    settings: Settings,
    params: Any = None,
    expanded: Expanded | None = None,
    answer: Answer | None = None,
) -> BoundStatement:
    """Bind a statement that holds LLM calls. Every error points into ``sql``.

    Nothing is executed but what ``answer`` does: it is asked for the calls without which DuckDB cannot bind the
    statement (those that stand for a constant). Without it they count as NULL.

    expanded  the statement with its views and macros written out, when it names any
    """
    text, names = sql if expanded is None else expanded.text, list[tuple[str, str]]()
    try:
        spliced = splice_parameters(
            text, params, partial(parameter, duck), duck.expression_name, partial(variable, duck)
        )
    except Error as problem:
        if expanded is not None:
            expanded.explain(problem, sql)
        raise
    rows = with_row_calls(spliced.text, duck, snapshot)
    text = rows.text
    origin: Callable[[Span], Span] = _chain(rows.origin, spliced.origin)
    outer = _same if expanded is None else expanded.origin
    while True:
        try:
            with collector_waits():
                bound = _bind(text, _chain(origin, outer), duck, snapshot, settings, answer is not None)
            return replace(bound, columns=tuple(_named(column, names) for column in bound.columns))
        except ConstantNeededError as need:
            assert answer is not None
            site = need.site
            value = answer(site.text, None)
            names.append((duck.expression_name(value), duck.expression_name(site.text)))
            span = site.span
            pieces = [
                Piece(text[: span.start], Span(0, span.start)),
                Piece(value, span),
                Piece(text[span.end :], Span(span.end, len(text))),
            ]
            replaced = assemble(pieces)
            text, origin = replaced.text, _chain(replaced.origin, origin)
        except Error as problem:
            if problem.span is not None:
                problem.span, problem.sql = origin(problem.span), sql
                if expanded is not None:
                    expanded.explain(problem, sql)
            raise


def _same(span: Span) -> Span:
    return span


def _chain(inner: Callable[[Span], Span], outer: Callable[[Span], Span]) -> Callable[[Span], Span]:
    return lambda span: outer(inner(span))


def _named(column: Column, names: Sequence[tuple[str, str]]) -> Column:
    """A column named by an answer is named by the call."""
    for value, call in names:
        if value in column.name:
            column = replace(column, name=column.name.replace(value, call))
    return column


def _bind(
    sql: str, place: Callable[[Span], Span], duck: Duck, snapshot: Snapshot, settings: Settings, answers: bool
) -> BoundStatement:
    lexed = lex(sql)
    return deep(lambda: _bind_text(lexed, place, duck, snapshot, settings, answers), lexed.depth > SHALLOW)


def _bind_text(
    lexed: Lexed, place: Callable[[Span], Span], duck: Duck, snapshot: Snapshot, settings: Settings, answers: bool
) -> BoundStatement:
    if not lexed.tokens:
        raise ParserError("the statement is empty", remedy="Write a query.")
    for index, token in enumerate(lexed.tokens):
        if token.text == ";":
            raise ParserError("one statement at a time", span=lexed.span(index, index + 1), remedy="Remove the rest.")
    write = bind_write if writes(lexed) else bind_upsert if upserts(lexed) else None
    kind, query = ("write", (0, len(lexed.tokens))) if write is not None else statement_query(lexed)
    span = lexed.span(*query)
    syntax = analyse(for_sqlglot(lexed, span.start, span.end), span.start, within_deep=True)
    source = Source(lexed, syntax, lambda part: part)
    reader = CallReader(duck, snapshot, settings)

    try:
        if write is not None:
            return write(Binding(duck, source, reader.find(source), place))
        return _bind_calls(Binding(duck, source, reader.find(source), place), kind, query, answers)
    except Error as problem:
        reader.explain(problem)
        raise


def _bind_calls(binding: Binding, kind: str, query: Range, answers: bool) -> BoundStatement:
    sql, span = binding.lexed.sql, binding.lexed.span(*query)
    for call in binding.calls:
        if not (query[0] <= call.first and call.end <= query[1]):
            raise NotSupportedError(
                "an LLM call cannot stand here in this version",
                span=call.origin(),
                remedy="Put it into the query of the statement.",
            )
    _bind_shadow(binding, query, answers)
    binding.whole = reads_collations(binding)
    if kind != "query" and _check_target(binding, kind, query):
        nothing = Fragment(
            ("SELECT NULL WHERE false",), (binding.new_column("nothing", BIGINT),), label="Nothing to do"
        )
        bound = BoundQuery(nothing, nothing.columns)
    else:
        bound = QueryBinder(binding).bind(*query, CteContext())
    if kind == "query":
        return BoundStatement(bound.plan, bound.columns, bound.ordered, tuple(binding.warnings))
    sink = Sink(bound.plan, sql[: span.start], sql[span.end :], visible(bound.columns), kind)
    count = Column(binding.new_id(), "Count", BIGINT)
    return BoundStatement(sink, (count,), False, tuple(binding.warnings))


def _bind_shadow(binding: Binding, query: Range, answers: bool) -> None:
    """DuckDB binds the whole query with typed NULLs in the calls' places: every error of the user's own shows here."""
    problem: Error | None = None
    parsed = parse_query(binding.lexed, *query)
    context, first = CteContext(), query[0]
    if parsed.ctes and not parsed.recursive:  # the CTEs by few questions, the rest over what they look like
        for place in range(len(parsed.ctes)):
            learn_ctes(binding, parsed.ctes[place:], CteContext(parsed.ctes[:place]))
        context, first = CteContext(parsed.ctes), parsed.arms[0].range[0]
    learn_subqueries(binding, (first, query[1]), context)
    try:
        if union_of_picks(binding, parse_query(binding.lexed, first, query[1]), context) is None:
            _describe_whole(binding, (first, query[1]), context)
    except Error as refused:
        problem = refused
    site = needed_constant(binding, query, problem) if answers else None
    if site is not None:
        raise ConstantNeededError(site)
    if problem is not None:
        raise problem
    binding.bound = True


def _describe_whole(binding: Binding, part: Range, context: CteContext) -> None:
    """DuckDB's opinion of a query over stubs of its sub-queries; when it refuses, of the whole text."""
    over_stubs = bool(binding.blocks.within(*part))
    try:
        binding.describe(binding.shadow(*part), context)
    except InterruptedQueryError:
        raise
    except Error:
        if not over_stubs:
            raise
        binding.blocks.clear()
        binding.describe(binding.shadow(*part), context)


def statement_query(lexed: Lexed) -> tuple[str, Range]:
    """What kind of statement holds the query, and the query's token range."""
    end = len(lexed.tokens)
    first = lexed.word(0)
    if first in QUERY_STARTS or lexed.text(0) == "(":
        if first == "WITH" and (inner := _find(lexed, {"INSERT", "UPDATE", "DELETE", "MERGE"})) is not None:
            return _refuse(lexed, inner)
        return "query", (0, end)
    if first == "CREATE" and (position := _find(lexed, {"AS"})) is not None and "TABLE" in _words(lexed, position):
        return "ctas", (position + 1, _ctas_end(lexed, position + 1))
    if first == "INSERT":
        # whichever comes first: INSERT INTO t (SELECT …) UNION ALL SELECT … ORDER BY … begins with the bracket
        start = next(
            (at for at in lexed.level(3, end) if lexed.word(at) in QUERY_STARTS or _is_query_bracket(lexed, at)), None
        )
        if start is not None:
            returning = _find(lexed, {"RETURNING"}, begin=start)
            if returning is not None:
                raise NotSupportedError(
                    "RETURNING of an INSERT with LLM calls is not available in this version",
                    span=lexed.span(returning, returning + 1),
                    remedy="Create a table from the query first, and insert from that.",
                )
            stop = end
            conflict = next(
                (i for i in lexed.level(start, stop) if lexed.word(i) == "ON" and lexed.word(i + 1) == "CONFLICT"), stop
            )
            return "insert", (start, conflict)
    if first == "COPY" and lexed.text(1) == "(":
        return "copy", (2, lexed.partner[1])
    return _refuse(lexed, 0)


_CREATED = frozenset({"VIEW", "MACRO", "FUNCTION", "INDEX", "TABLE"})


def _refuse(lexed: Lexed, index: int) -> tuple[str, Range]:
    kinds = [word for word in (lexed.word(at) for at in range(index + 1, index + 4)) if word in _CREATED]
    what = " ".join([lexed.word(index) or lexed.text(index), *kinds[: lexed.word(index) == "CREATE"]])
    raise NotSupportedError(
        f"LLM calls in {what} statements are not available in this version",
        span=lexed.span(index, index + 1),
        remedy="SELECT, CREATE TABLE … AS, INSERT … SELECT and COPY (…) TO take them.",
    )


def _find(lexed: Lexed, words: set[str] | frozenset[str], begin: int = 0) -> int | None:
    return next((index for index in lexed.level(begin, len(lexed.tokens)) if lexed.word(index) in words), None)


def _words(lexed: Lexed, end: int) -> set[str]:
    return {lexed.word(index) for index in range(end)}


def _is_query_bracket(lexed: Lexed, index: int) -> bool:
    return lexed.text(index) == "(" and starts_query(lexed, index + 1)


def _ctas_end(lexed: Lexed, start: int) -> int:
    """The end of a CTAS query, WITH [NO] DATA left out."""
    end = len(lexed.tokens)
    if lexed.word(end - 1) == "DATA" and lexed.word(end - 2) in ("WITH", "NO"):
        return end - 2 if lexed.word(end - 2) == "WITH" else end - 3
    return end


def _check_target(binding: Binding, kind: str, query: Range) -> bool:
    """DuckDB binds the whole statement over the shadow query, so that a wrong target costs nothing.

    True when there is nothing to do: CREATE TABLE IF NOT EXISTS of a table that does.
    """
    lexed = binding.lexed
    span = lexed.span(*query)
    pieces = [plain(lexed.sql[: span.start]), *binding.shadow(*query), plain(lexed.sql[span.end :])]
    spliced = assemble(pieces)
    prefix = "EXPLAIN "
    try:
        binding.duck.rows(prefix + spliced.text)
    except Error as problem:
        if problem.span is None:
            problem.span = _named_span(lexed, query[0], problem.message)
        else:
            moved = Span(problem.span.start - len(prefix), problem.span.end - len(prefix))
            problem.span = _target_span(spliced, moved, span)
        problem.sql = None
        raise
    return kind == "ctas" and _check_new_table(binding, query)


def _target_span(spliced: Spliced, moved: Span, query: Span) -> Span:
    """Positions in front of the query are the statement's own; those in it are mapped."""
    if moved.end <= query.start:
        return moved
    return spliced.origin(moved)


def _named_span(lexed: Lexed, end: int, message: str) -> Span | None:
    """The name in front of the query that a message without position speaks of."""
    words = {word.strip("\"'!?,.").lower() for word in message.split()}
    for index in range(1, end):
        if lexed.tokens[index].kind == "identifier" and identifier(lexed.text(index)).lower() in words:
            return lexed.span(index, index + 1)
    return None


def _check_new_table(binding: Binding, query: Range) -> bool:
    """Whether the table of CREATE TABLE IF NOT EXISTS is there already; CatalogError when it must not be."""
    lexed = binding.lexed
    words = [lexed.word(index) for index in range(query[0])]
    if "REPLACE" in words:
        return False
    table = words.index("EXISTS" if "EXISTS" in words else "TABLE") + 1
    parts = [identifier(lexed.text(index)) for index in range(table, query[0]) if lexed.text(index) != "."]
    end = next(
        index for index in range(table + 1, query[0]) if lexed.text(index) != "." and lexed.text(index - 1) != "."
    )
    qualifiers, name = parts[: (end - table) // 2], identifier(lexed.text(end - 1))
    place = "(database_name = current_database() AND schema_name = current_schema())"
    if "TEMP" in words or "TEMPORARY" in words:
        place = "database_name = 'temp'"
    elif len(qualifiers) == 1:  # a schema, or a database
        given = f"lower({literal(qualifiers[0])})"
        place = (
            f"((database_name = current_database() AND lower(schema_name) = {given}) "
            f"OR (lower(database_name) = {given} AND schema_name = 'main'))"
        )
    elif qualifiers:
        database, schema = (f"lower({literal(qualifier)})" for qualifier in qualifiers[:2])
        place = f"(lower(database_name) = {database} AND lower(schema_name) = {schema})"
    for kind in ("table", "view"):
        query_text = f"SELECT 1 FROM duckdb_{kind}s() WHERE lower({kind}_name) = lower({literal(name)}) AND {place}"
        if binding.duck.rows(query_text):
            if "EXISTS" in words:
                return True
            raise CatalogError(
                f'{kind.capitalize()} with name "{name}" already exists!',
                span=lexed.span(end - 1, end),
                remedy="Use CREATE OR REPLACE TABLE, or INSERT INTO it." if kind == "table" else "Use another name.",
            )
    return False
