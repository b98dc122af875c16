"""Parameters (``?``, ``$1``, ``$name``) as literals, so that every part of a taken-apart statement can be bound."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from halo_sql.duck import tokenize
from halo_sql.errors import ProgrammingError, Span
from halo_sql.grammar.splice import Piece, Spliced, assemble, pieces_of
from halo_sql.ir.expr import literal


def splice_parameters(sql: str, params: Any) -> Spliced:
    """The statement with each parameter replaced by a literal; errors name the parameter that has no value."""
    tokens = [token for token in tokenize(sql) if token.kind != "comment"] if "?" in sql or "$" in sql else []
    cuts: list[tuple[Span, list[Piece]]] = []
    used: set[object] = set()
    position = 0
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        if token.text == "?" and token.kind == "operator":
            position += 1
            end, name = token.end, position
        elif token.text == "$" and following is not None and following.start == token.end:
            end, name = following.end, int(following.text) if following.text.isdigit() else following.text  # type: ignore[assignment]
        else:
            continue
        span = Span(token.start, end)
        used.add(name)
        value = _value(params, name, sql, span)
        try:
            cuts.append((span, [Piece(sql_literal(value), span)]))
        except ProgrammingError as problem:
            raise problem.locate(sql, span) from None
    given = len(params) if params is not None else 0
    if given > len(used):
        raise ProgrammingError(
            f"{given} parameter value{'s were' if given > 1 else ' was'} given, the statement has {len(used)}",
            kind="Invalid Input Error",
            remedy="Pass one value for each parameter.",
        )
    return assemble(pieces_of(sql, 0, len(sql), cuts))


def _value(params: Any, name: object, sql: str, span: Span) -> Any:
    if isinstance(params, Mapping) and str(name) in params:
        return params[str(name)]
    if isinstance(params, Sequence) and not isinstance(params, str) and isinstance(name, int) and name <= len(params):
        return params[name - 1]
    raise ProgrammingError(
        f"no value was given for parameter {name}",
        kind="Invalid Input Error",
        sql=sql,
        span=span,
        remedy="Pass the values as the second argument of execute().",
    )


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
        return "{" + ", ".join(f"{literal(str(key))}: {sql_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(sql_literal(item) for item in value) + "]"
    raise ProgrammingError(
        f"a parameter cannot be of the Python type {type(value).__name__}",
        kind="Invalid Input Error",
        remedy="Convert it to a number, text, date or list first.",
    )
