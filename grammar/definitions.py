"""Views and macros that hold LLM calls, as DuckDB's catalog keeps them.

A *stub* stands in DuckDB's catalog: a view or macro of the same name that raises an error when DuckDB reads it,
and that carries the definition's text in a literal. DROP, RENAME, transactions, EXPORT and ATTACH work on it as on
any other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from halo_sql.duck_tokens import tokenize
from halo_sql.grammar.lex import Lexed, lex
from halo_sql.grammar.skeleton import Range, identifier
from halo_sql.grammar.source import read_literal
from halo_sql.ir.expr import literal, quote
from halo_sql.ir.types import SqlType

Columns = Sequence[tuple[str, SqlType]]
MARK = "/* halo_sql */ "  # in front of a definition's text in its stub


@dataclass(frozen=True, slots=True)
class Parameter:
    """A macro's parameter; type and default as SQL, '' when there is none."""

    name: str
    type: str = ""
    default: str = ""

    def __str__(self) -> str:
        kind = f" {self.type}" if self.type else ""
        return f"{self.name}{kind}" + (f" := {self.default}" if self.default else "")

    @property
    def sql(self) -> str:
        """As a statement defines it."""
        return quote(self.name) + str(self)[len(self.name) :]


@dataclass(frozen=True, slots=True)
class Overload:
    """One definition of a macro, or a view (without parameters).

    body  the expression or query
    text  as written behind the object's name: ``[(…)] AS [TABLE] body``
    """

    parameters: tuple[Parameter, ...]
    body: str
    text: str

    def takes(self, positional: int, named: Collection[str]) -> bool:
        """Whether so many positional and these named (lower-case) arguments fit."""
        names = [parameter.name.lower() for parameter in self.parameters]
        return (
            positional <= len(names)
            and all(name in names[positional:] for name in named)
            and all(
                position < positional or names[position] in named or parameter.default
                for position, parameter in enumerate(self.parameters)
            )
        )


@dataclass(frozen=True, slots=True)
class Definition:
    """A view or macro with LLM calls.

    kind     'view' | 'macro' | 'table macro'
    names    a view's column names, as far as its statement gives them
    schema   where it lives
    """

    kind: str
    name: str
    overloads: tuple[Overload, ...]
    names: tuple[str, ...] = ()
    database: str = ""
    schema: str = ""

    @property
    def label(self) -> str:
        """How messages call it."""
        return f'{self.kind} "{self.name}"'

    def same(self, other: Definition) -> bool:
        """Whether both are the same object."""
        mine = (self.kind, self.database, self.schema, self.name.lower())
        return mine == (other.kind, other.database, other.schema, other.name.lower())


class Definitions(Protocol):
    """What the session knows of views and macros with LLM calls."""

    def view(self, parts: Sequence[str], home: Definition | None) -> Definition | None:
        """The view a (qualified) name stands for, seen from inside ``home`` or from the statement."""
        ...

    def macro(self, parts: Sequence[str], home: Definition | None, table: bool) -> Definition | None:
        """The macro a (qualified) name stands for."""
        ...

    def qualified(self, name: str, home: Definition) -> str:
        """A table's name as it must be written where ``home`` is not the current schema; '' when as it is."""
        ...

    def expression_name(self, text: str) -> str:
        """The column name DuckDB gives an expression."""
        ...

    @property
    def functions(self) -> frozenset[str]:
        """Upper-case names of the macros."""
        ...


@dataclass(frozen=True, slots=True)
class Creation:
    """A CREATE VIEW or CREATE MACRO statement.

    head     token range from CREATE to the name, which is included
    name     token range of the (qualified) name
    bodies   token range of each body: the query or expression
    """

    definition: Definition
    head: Range
    name: Range
    bodies: tuple[Range, ...]
    or_replace: bool
    if_not_exists: bool
    temp: bool


def parse_creation(lexed: Lexed) -> Creation | None:
    """The parts of a CREATE VIEW / MACRO / FUNCTION; None for any other statement."""
    if lexed.word(0) != "CREATE":
        return None
    at, or_replace, temp = 1, False, False
    if lexed.word(at) == "OR" and lexed.word(at + 1) == "REPLACE":
        at, or_replace = at + 2, True
    while lexed.word(at) in ("TEMP", "TEMPORARY", "LOCAL"):
        at, temp = at + 1, True
    what = lexed.word(at)
    if what not in ("VIEW", "MACRO", "FUNCTION"):
        return None
    at += 1
    if_not_exists = lexed.word(at) == "IF"
    at += 3 if if_not_exists else 0
    first = at
    at += 1
    while lexed.text(at) == "." and at + 1 < len(lexed.tokens):
        at += 2
    if at >= len(lexed.tokens):
        return None
    name = identifier(lexed.text(at - 1))
    found = _view(lexed, at, name) if what == "VIEW" else _macro(lexed, at, name)
    if found is None:
        return None
    definition, bodies = found
    return Creation(definition, (0, at), (first, at), bodies, or_replace, if_not_exists, temp)


def _view(lexed: Lexed, at: int, name: str) -> tuple[Definition, tuple[Range, ...]] | None:
    start, names = at, tuple[str, ...]()
    if lexed.text(at) == "(":
        names = tuple(identifier(lexed.text(first)) for first, _ in lexed.items(at + 1, lexed.partner[at]))
        at = lexed.partner[at] + 1
    end = len(lexed.tokens)
    if lexed.word(at) != "AS" or at + 1 >= end:
        return None
    body = Overload((), lexed.slice(at + 1, end), lexed.slice(start, end))
    return Definition("view", name, (body,), names), ((at + 1, end),)


def _macro(lexed: Lexed, at: int, name: str) -> tuple[Definition, tuple[Range, ...]] | None:
    overloads: list[Overload] = []
    bodies: list[Range] = []
    kind, end = "macro", len(lexed.tokens)
    while lexed.text(at) == "(" and lexed.word(lexed.partner[at] + 1) == "AS":
        start, first = at, lexed.partner[at] + 2
        if lexed.word(first) == "TABLE":
            kind, first = "table macro", first + 1
        stop = next(
            (
                index
                for index in lexed.level(first, end)
                if lexed.text(index) == "," and lexed.text(index + 1) == "(" and _is_overload(lexed, index + 1)
            ),
            end,
        )
        if first >= stop:
            return None
        parameters = tuple(
            _parameter(lexed, *part) for part in lexed.items(start + 1, lexed.partner[start]) if part[0] < part[1]
        )
        overloads.append(Overload(parameters, lexed.slice(first, stop), lexed.slice(start, stop)))
        bodies.append((first, stop))
        at = stop + 1
    return (Definition(kind, name, tuple(overloads)), tuple(bodies)) if overloads else None


def _is_overload(lexed: Lexed, opening: int) -> bool:
    return lexed.word(lexed.partner[opening] + 1) == "AS" and lexed.text(lexed.partner[opening] + 2) != ""


def _parameter(lexed: Lexed, first: int, end: int) -> Parameter:
    given = next((index for index in lexed.level(first, end) if lexed.text(index) in (":=", "=>")), end)
    kind = lexed.slice(first + 1, given) if given > first + 1 else ""
    default = lexed.slice(given + 1, end) if given + 1 < end else ""
    return Parameter(identifier(lexed.text(first)), kind, default)


def view_stub(head: str, definition: Definition, columns: Columns) -> str:
    """The CREATE VIEW statement of a stub with these columns; ``head`` is the user's text up to the name."""
    return f"{head} AS SELECT {_items(columns)} FROM {_source(definition, definition.overloads[0])}"


def macro_stub(head: str, definition: Definition, columns: Sequence[Columns]) -> str:
    """The CREATE MACRO statement of a stub; ``columns`` are those of each overload of a table macro, if known."""
    bodies = []
    for overload, known in zip(definition.overloads, columns, strict=True):
        listed = ", ".join(parameter.sql for parameter in overload.parameters)
        if definition.kind == "table macro":
            bodies.append(f"({listed}) AS TABLE SELECT {_items(known)} FROM {_source(definition, overload)}")
        else:
            text = literal(MARK + overload.text)
            bodies.append(
                f"({listed}) AS error(CASE WHEN {text} IS NULL THEN '' ELSE {literal(_message(definition))} END)"
            )
    return f"{head} {', '.join(bodies)}"


def _items(columns: Columns) -> str:
    return ", ".join(f"CAST(e AS {kind.text}) AS {quote(name)}" for name, kind in columns) or "e AS halo_sql"


def _source(definition: Definition, overload: Overload) -> str:
    message, text = literal(_message(definition)), literal(MARK + overload.text)
    return f"(SELECT error({message})::VARCHAR AS e, {text} AS halo_sql) WHERE e IS NULL"


def _message(definition: Definition) -> str:
    return f"the {definition.label} holds LLM calls: read it with HaloSQL"


STUB_ERROR = "holds LLM calls: read it with HaloSQL"


def read_stub(kind: str, name: str, sqls: Sequence[str], database: str, schema: str) -> Definition | None:
    """The definition in the SQL that DuckDB's catalog gives for a stub; None when it is no stub."""
    overloads: list[Overload] = []
    names: tuple[str, ...] = ()
    for sql in sqls:
        text = carried_text(sql)
        if text is None:
            return None
        what = "VIEW" if kind == "view" else "MACRO"
        found = parse_creation(lex(f"CREATE {what} x{'' if text.startswith('(') else ' '}{text}"))
        if found is None:
            return None
        overloads += found.definition.overloads
        names, kind = found.definition.names, found.definition.kind
    return Definition(kind, name, tuple(overloads), names, database, schema)


def carried_text(sql: str) -> str | None:
    """The text a stub carries."""
    for token in tokenize(sql):
        if token.kind == "string_const" and token.text.startswith("'" + MARK):
            return read_literal(token.text).value.removeprefix(MARK)
    return None
