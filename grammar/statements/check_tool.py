"""CREATE TOOL, checked when it is made: arguments, types, the query, the URL, the function. Nothing is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from halo_sql.duck import Duck
from halo_sql.duck_tokens import tokenize
from halo_sql.errors import BinderError, CatalogError, Error, NotSupportedError, ParserError, Span, did_you_mean
from halo_sql.grammar.classify import operator_calls
from halo_sql.grammar.skeleton import QUERY_STARTS, identifier
from halo_sql.grammar.source import read_literal
from halo_sql.grammar.splice import Piece, Spliced, assemble, pieces_of
from halo_sql.grammar.split import split
from halo_sql.grammar.statements.check_arguments import castable, check_arguments, check_names, check_type
from halo_sql.grammar.statements.check_options import TOOL_OPTIONS, check_options, check_template
from halo_sql.grammar.statements.nodes import CreateTool, Option
from halo_sql.ir.types import SqlType


def check_tool(node: CreateTool, duck: Duck) -> None:
    """Raises BinderError or CatalogError with a position in the statement and the remedy."""
    check_arguments(duck, node.parameters)
    check_names(node.columns, "column")
    if node.returns:
        returned = [("", node.returns, check_type(duck, node.returns, node.returns_span), node.returns_span)]
    else:
        returned = [
            (item.name, item.type, check_type(duck, item.type, item.type_span), item.type_span) for item in node.columns
        ]
    check_tool_options(node.options, node.kind, node.method, [item.name for item in node.parameters])
    body = _Body(node)
    options = {option.key: option.value for option in node.options}
    if node.kind == "sql" and (written := model_query(node.body)) is not None:
        _check_sandbox(node, duck, written, options)
    elif node.kind == "sql":
        if "tables" in options:
            place = next(option.span for option in node.options if option.key == "tables")
            raise CatalogError(
                "only a tool whose query a model writes takes tables",
                span=place,
                remedy="AS SQL '$argument' makes such a tool; any other query reads what it names.",
            )
        _check_query(node, duck, body, returned)
    elif node.kind == "http":
        _check_url(node, body)
    elif node.kind == "python":
        _check_function(node)


def check_tool_options(options: Sequence[Option], kind: str, method: str, arguments: Sequence[str]) -> None:
    """The options of a kind of tool, and the holes of those that are templates."""
    check_options(f"{'an' if kind in ('http', 'mcp') else 'a'} {kind} tool", options, TOOL_OPTIONS[kind])
    for option in options:
        if option.key == "body":
            if method != "POST":
                raise CatalogError("a GET has no body", span=option.span, remedy="Use AS HTTP POST.")
            check_template(str(option.value), arguments, option.value_span)


def model_query(body: str) -> str | None:
    """The argument that holds the query, of a tool whose query a model writes: its body is ``$argument`` alone."""
    tokens = [token for token in tokenize(body) if token.kind != "comment"]
    alone = len(tokens) == 2 and tokens[0].text == "$" and tokens[1].start == tokens[0].end
    return identifier(tokens[1].text) if alone else None


def _check_sandbox(node: CreateTool, duck: Duck, written: str, options: Mapping[str, object]) -> None:
    names = [item.name for item in node.parameters]
    if [name.lower() for name in names] != [written.lower()] or duck.sql_type(
        node.parameters[0].type
    ).kind != "varchar":
        raise BinderError(
            f'a tool whose body is "${written}" runs the query in its one argument "{written}", a VARCHAR',
            span=node.body_span,
            remedy=f"CREATE TOOL {node.name}({written} VARCHAR) RETURNS JSON AS SQL '${written}' WITH (tables = [t]).",
        )
    given = options.get("tables")
    if not isinstance(given, list) or not given:
        raise CatalogError(
            "a tool whose query a model writes needs the tables that it may read",
            span=node.body_span,
            remedy="WITH (tables = [orders, customers]).",
        )
    seen: set[str] = set()
    for name in map(str, given):
        try:
            duck.describe(f"FROM {name}")
        except Error as problem:
            place = next(option.value_span for option in node.options if option.key == "tables")
            raise CatalogError(f'table "{name}": {problem.message.splitlines()[0]}', span=place) from None
        last = name.split(".")[-1].strip('"').lower()
        if last in seen:
            raise CatalogError(f'two of the tables are called "{last}"', span=node.body_span, remedy="Rename one.")
        seen.add(last)


@dataclass(frozen=True, slots=True)
class _Body:
    """A tool's body: its text and the way back to the statement."""

    node: CreateTool

    @property
    def text(self) -> str:
        return self.node.body

    def origin(self, span: Span) -> Span:
        """A span of the text in the statement."""
        offsets, start = read_literal(self.node.body_literal).offsets, self.node.body_span.start
        top = len(offsets) - 1
        left = offsets[min(span.start, top)]
        return Span(start + left, start + max(left + 1, offsets[min(span.end, top)]))


def _check_query(node: CreateTool, duck: Duck, body: _Body, returned: Sequence[tuple[str, str, SqlType, Span]]) -> None:
    pieces = split(body.text)
    if len(pieces) != 1:
        at = Span(pieces[1].start, pieces[1].start + 1) if len(pieces) > 1 else Span(0, 0)
        raise ParserError(
            "the query of a tool is one SELECT",
            span=body.origin(at),
            remedy="Remove the rest." if pieces else "Write SELECT ….",
        )
    calls = operator_calls(tokenize(body.text))
    if calls:
        raise NotSupportedError(
            f"{calls[0].text.upper()} cannot stand in the query of a tool in this version",
            span=body.origin(Span(calls[0].start, calls[0].end)),
            remedy="Call it outside, on the tool's result.",
        )
    query = pieces[0].text
    first = next(token for token in tokenize(query) if token.kind != "comment")
    if first.text.upper() not in QUERY_STARTS and first.text != "(":
        at = Span(first.start + pieces[0].start, first.end + pieces[0].start)
        raise ParserError("the query of a tool is one SELECT", span=body.origin(at), remedy="Write SELECT ….")
    bound = _with_nulls(node, body, query, pieces[0].start)
    try:
        columns = duck.describe(bound.text)
    except Error as problem:
        where = None if problem.span is None else body.origin(bound.origin(problem.span))
        problem.span, problem.sql = where or node.body_span, None
        raise
    if not duck.is_select(bound.text):
        raise ParserError("the query of a tool is one SELECT", span=node.body_span, remedy="Write SELECT ….")
    given = ", ".join(name for name, _ in columns)
    if len(columns) != len(returned):
        raise BinderError(
            f"the query gives {len(columns)} columns ({given}), RETURNS names {len(returned)}",
            span=node.returns_span,
            remedy="Name as many as it gives: RETURNS TABLE (…)." if len(columns) > 1 else "Name the one it gives.",
        )
    for (column, found), (_, written, wanted, span) in zip(columns, returned, strict=True):
        if not castable(duck, found, wanted):
            raise BinderError(
                f'column "{column}" of the query is {found.text}, which cannot be cast to {written}',
                span=span,
                remedy=f"Write {found.text}, or cast in the query.",
            )


def _with_nulls(node: CreateTool, body: _Body, query: str, start: int) -> Spliced:
    """The query with NULLs of the arguments' types for ``$argument``; its origins are positions in the body."""
    types = {item.name.lower(): item.type for item in node.parameters}
    tokens = [token for token in tokenize(query) if token.kind != "comment"]
    cuts: list[tuple[Span, list[Piece]]] = []
    for index, token in enumerate(tokens):
        span = Span(token.start, token.end)
        if token.text == "?" and token.kind == "operator":
            raise _no_argument("?", node, body.origin(Span(span.start + start, span.end + start)))
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        if token.text != "$" or following is None or following.start != token.end:
            continue
        span = Span(token.start, following.end)
        found = types.get(identifier(following.text).lower())
        if found is None:
            place = body.origin(Span(span.start + start, span.end + start))
            raise _no_argument("$" + following.text, node, place)
        cuts.append((span, [Piece(f"CAST(NULL AS {found})", span)]))
    spliced = assemble(pieces_of(query, 0, len(query), cuts))
    moved = tuple(Span(origin.start + start, origin.end + start) for origin in spliced.origins)
    return Spliced(spliced.text, spliced.starts, spliced.lengths, moved)


def _no_argument(written: str, node: CreateTool, span: Span) -> BinderError:
    names = [item.name for item in node.parameters]
    near = did_you_mean(written[1:], names) if written != "?" else ""
    remedy = near.replace('mean "', 'mean "$') or ("Arguments are written $name." if names else "There are none.")
    return BinderError(f'"{written}" names no argument of tool "{node.name}"', span=span, remedy=remedy)


def _check_url(node: CreateTool, body: _Body) -> None:
    check_template(body.text, [item.name for item in node.parameters], node.body_span)
    fixed = body.text.split("{{", 1)[0]
    try:
        parts = urlsplit(fixed)
        port, host = parts.port, parts.hostname
    except ValueError:
        parts, port, host = urlsplit(""), None, None
    if parts.scheme.lower() not in ("http", "https") or not host or any(character.isspace() for character in fixed):
        raise CatalogError(
            f'the URL of tool "{node.name}" does not begin with http:// or https:// and a host',
            span=node.body_span,
            remedy="For example AS HTTP GET 'https://example.org/orders/{{ id }}'.",
        )
    open_host = len(fixed) < len(body.text) and not (parts.path or parts.query or parts.fragment)
    if open_host or port == 0:
        raise CatalogError(
            f'the URL of tool "{node.name}" has a hole in its host',
            span=node.body_span,
            remedy="Row data must not choose the server: holes stand behind the first / or ? of the URL.",
        )
    if parts.username or parts.password:
        raise CatalogError(
            f'the URL of tool "{node.name}" holds credentials', span=node.body_span, remedy="Use WITH (secret = s)."
        )


def _check_function(node: CreateTool) -> None:
    module, colon, path = node.body.partition(":")
    words = [*module.split("."), *path.split(".")]
    if not colon or not all(word.isidentifier() for word in words):
        raise CatalogError(
            f"{node.body!r} does not name a Python function",
            span=node.body_span,
            remedy="Write 'module:function', for example 'mypackage.orders:lookup'.",
        )
