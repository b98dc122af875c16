"""Parameters (``?``, ``$1``, ``$name``) as literals, so that every part of a taken-apart statement can be bound."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from halo_sql.errors import NotSupportedError, ProgrammingError, Span
from halo_sql.grammar.classify import operator_calls
from halo_sql.grammar.expand_tokens import is_named
from halo_sql.grammar.holes import Edit, Place, literal_edit, prompt_literals
from halo_sql.grammar.lex import Lexed, lex
from halo_sql.grammar.relations import layout
from halo_sql.grammar.skeleton import starts_query
from halo_sql.grammar.source import read_literal
from halo_sql.grammar.splice import Piece, Spliced, assemble, pieces_of
from halo_sql.ir.expr import literal, quote


@dataclass(frozen=True, slots=True)
class _Place:
    """A parameter as written: its number or name, and where it stands in its text and in the statement."""

    name: int | str
    span: Span
    origin: Span


def splice_parameters(
    sql: str,
    params: Any,
    other: Callable[[Any], str] | None = None,
    name_of: Callable[[str], str] | None = None,
    variable: Callable[[str], str] | None = None,
) -> Spliced:
    """The statement with each parameter replaced by a literal, also in the holes of prompts.

    Raises DuckDB's errors for values that are missing or too many; a missing one's position is told.

    other     the literal of a value that is none of Python's own types; None: such a value is an error
    name_of   the column name of an expression: unnamed SELECT items with parameters keep the one DuckDB gives them
    variable  the value of a session variable: other connections, where some expressions are computed, do not have it
    """
    places: list[_Place] = []
    values: dict[str, str] = {}
    if "?" in sql or "$" in sql:
        _edits(sql, places)
    _check_names(sql, places)
    _check_counts(sql, params, places)
    for found in places:
        key = _key(found)
        if key not in values:
            try:
                values[key] = _text(_value(params, found.name), other)
            except ProgrammingError as problem:
                raise problem.locate(sql, found.origin) from None
    variable = variable if "getvariable" in sql.lower() else None
    edits = _edits(sql, [], values, variable) if places or variable else []
    if name_of is not None and (edits or sql.upper().count("SELECT") > 1):
        numbered = _edits(sql, [], {_key(found): f"${found.name}" for found in places}) if places else []
        edits += _item_names(sql, edits, numbered, name_of)
    return assemble(pieces_of(sql, 0, len(sql), edits))


def _key(found: _Place) -> str:
    return str(found.name).lower()


def _item_names(sql: str, made: Sequence[Edit], numbered: Sequence[Edit], name_of: Callable[[str], str]) -> list[Edit]:
    """Names for unnamed items with parameters, and with calls in derived tables: what stands for them has others."""
    lexed = lex(sql)
    calls = [token.start for token in operator_calls(lexed.tokens)]
    if not made and all(_is_named_item(lexed, lexed.at(call)) for call in calls):
        return []
    edits: list[Edit] = []
    for part in reversed(layout(lexed).select_lists):  # the inner ones first
        opening = lexed.parent[part[0] - 1]
        derived = opening >= 0 and (
            lexed.word(opening - 1) in ("FROM", "JOIN", "LATERAL", "AS", "MATERIALIZED")
            or lexed.text(opening - 1) in (",", "(")
        )
        for item in lexed.items(*part):
            span = lexed.span(*item)
            changed = any(span.start <= edit.start < span.end for edit, _ in (*made, *edits))
            calling = derived and bisect_left(calls, span.start) < bisect_left(calls, span.end)
            if (changed or calling) and not is_named(lexed, *item):
                inside = [edit for edit in numbered if span.start <= edit[0].start and edit[0].end <= span.end]
                text = assemble(pieces_of(sql, span.start, span.end, inside)).text
                edits.append((Span(span.end, span.end), [Piece(f" AS {quote(name_of(text))}", span)]))
    return edits


def _is_named_item(lexed: Lexed, call: int) -> bool:
    """Whether the call at a token ends an item of a query that AS gives a name."""
    opening, closing = lexed.parent[call], lexed.partner[call + 1]
    return lexed.word(closing + 1) == "AS" and (opening < 0 or starts_query(lexed, opening + 1))


def parameter_names(sql: str) -> list[str]:
    """The names or numbers of a statement's parameters, each once, in order."""
    places: list[_Place] = []
    _edits(sql, places)
    return list(dict.fromkeys(str(found.name) for found in places))


def _edits(
    sql: str,
    places: list[_Place],
    values: Mapping[str, str] = MappingProxyType({}),
    variable: Callable[[str], str] | None = None,
) -> list[Edit]:
    """An edit per parameter, variable, and prompt that holds one, in order; ``places`` gets the parameters."""
    count = 0

    def find(lexed: Lexed, place: Place) -> list[Edit]:
        nonlocal count
        edits: list[Edit] = []
        prompts = set(prompt_literals(lexed))
        tokens = lexed.tokens
        for index, token in enumerate(tokens):
            if index in prompts:
                edits += literal_edit(lexed, index, place, find)
                continue
            if variable is not None and _is_variable(lexed, index):
                span = lexed.span(index, index + 4)
                value = variable(read_literal(lexed.text(index + 2)).value)
                edits.append((span, [Piece(value, place(span))]))
                continue
            behind = tokens[index + 1] if index + 1 < len(tokens) and tokens[index + 1].start == token.end else None
            name: int | str
            if token.text == "?" and token.kind == "operator":
                given = behind is not None and behind.text.isdigit()
                count += not given
                name = int(behind.text) if behind is not None and given else count
                end = behind.end if behind is not None and given else token.end
            elif token.text == "$" and behind is not None:
                name = int(behind.text) if behind.text.isdigit() else behind.text
                end = behind.end
            else:
                continue
            span = Span(token.start, end)
            found = _Place(name, span, place(span))
            places.append(found)
            edits.append((span, [Piece(values.get(str(name).lower(), "NULL"), found.origin)]))
        return edits

    return find(lex(sql), lambda span: span)


def _is_variable(lexed: Lexed, index: int) -> bool:
    """Whether ``getvariable('name')`` stands here."""
    if lexed.word(index) != "GETVARIABLE" or lexed.text(index + 1) != "(" or lexed.text(index + 3) != ")":
        return False
    return lexed.tokens[index + 2].kind == "string_const" and lexed.text(index + 2)[0] in "'$eE"


def _check_names(sql: str, places: Sequence[_Place]) -> None:
    kinds = {isinstance(found.name, int) for found in places}
    if len(kinds) > 1:
        raise NotSupportedError(
            "Mixing named and positional parameters is not supported yet", sql=sql, span=places[-1].origin
        )


def _check_counts(sql: str, params: Any, places: Sequence[_Place]) -> None:
    wanted = {str(found.name).lower(): found for found in reversed(places)}
    given = _names(params)
    if given and not wanted:
        raise ProgrammingError(
            f"Parameter/argument count mismatch for prepared statement. Expected 0, got {len(given)}",
            kind="Invalid Input Error",
        )
    excess = [name for name in given if name.lower() not in wanted]
    if excess:
        raise ProgrammingError(
            f"Parameter argument/count mismatch, identifiers of the excess parameters: {', '.join(excess)}",
            kind="Invalid Input Error",
            remedy="Pass one value for each parameter.",
        )
    known = {name.lower() for name in given}
    missing = [found for name, found in wanted.items() if name not in known]
    if missing:
        missing.sort(key=lambda found: found.origin.start)
        raise ProgrammingError(
            "Values were not provided for the following parameters: " + ", ".join(str(found.name) for found in missing),
            kind="Invalid Input Error",
            sql=sql,
            span=missing[0].origin,
            remedy="Pass the values as the second argument of execute().",
        )


def _names(params: Any) -> list[str]:
    if params is None:
        return []
    if isinstance(params, Mapping):
        return [str(name) for name in params]
    if isinstance(params, str | bytes) or not isinstance(params, Sized):
        raise ProgrammingError(
            "Prepared parameters can only be passed as a list or a dictionary", kind="Invalid Input Error"
        )
    return [str(number) for number in range(1, len(params) + 1)]


def _value(params: Any, name: int | str) -> Any:
    if isinstance(params, Mapping):
        return next(value for key, value in params.items() if str(key).lower() == str(name).lower())
    return list(params)[int(name) - 1]


class SqlText(str):
    """A parameter's value that is SQL already: an argument of EXECUTE."""


def _text(value: Any, other: Callable[[Any], str] | None) -> str:
    if isinstance(value, SqlText):
        return str(value)
    try:
        return sql_literal(value)
    except ProgrammingError:
        if other is None:
            raise
        return other(value)


def sql_literal(value: Any) -> str:
    """A Python value as SQL text of the same type DuckDB gives the parameter."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value) if value >= 0 else f"({value})"
    if isinstance(value, float):
        return f"CAST({literal(repr(value))} AS DOUBLE)" if math.isfinite(value) else f"CAST('{value}' AS DOUBLE)"
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return literal("".join(f"\\x{byte:02X}" for byte in bytes(value))) + "::BLOB"
    if isinstance(value, decimal.Decimal):
        digits = max(len(value.as_tuple().digits), -int(value.as_tuple().exponent))
        return f"CAST('{value}' AS DECIMAL({min(38, digits)},{max(0, -int(value.as_tuple().exponent))}))"
    if isinstance(value, datetime.datetime):
        return f"CAST('{value.isoformat(' ')}' AS {'TIMESTAMP' if value.tzinfo is None else 'TIMESTAMPTZ'})"
    if isinstance(value, datetime.date):
        return f"CAST('{value.isoformat()}' AS DATE)"
    if isinstance(value, datetime.time):
        return f"CAST('{value.isoformat()}' AS TIME)"
    if isinstance(value, datetime.timedelta):
        return f"to_microseconds({value // datetime.timedelta(microseconds=1)})"
    if isinstance(value, uuid.UUID):
        return f"CAST('{value}' AS UUID)"
    if isinstance(value, Mapping):
        if not value:
            return "MAP {}"
        if value.keys() == {"key", "value"} and all(isinstance(part, list) for part in value.values()):
            return f"MAP({sql_literal(value['key'])}, {sql_literal(value['value'])})"
        return "{" + ", ".join(f"{literal(str(key))}: {sql_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(sql_literal(item) for item in value) + "]"
    raise ProgrammingError(
        f"a parameter cannot be of the Python type {type(value).__name__}",
        kind="Invalid Input Error",
        remedy="Convert it to a number, text, date or list first.",
    )
