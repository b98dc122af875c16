"""DuckDB's errors as ours: same kind, same message, and the position when DuckDB tells one."""

from __future__ import annotations

import re

import duckdb

from halo_sql import errors
from halo_sql.errors import Error, Span, offset_of

_CLASSES: tuple[tuple[type[Exception], type[Error]], ...] = (
    (duckdb.InterruptException, errors.InterruptedQueryError),
    (duckdb.ParserException, errors.ParserError),
    (duckdb.BinderException, errors.BinderError),
    (duckdb.CatalogException, errors.CatalogError),
    (duckdb.IntegrityError, errors.IntegrityError),
    (duckdb.NotSupportedError, errors.NotSupportedError),
    (duckdb.InternalError, errors.InternalError),
    (duckdb.DataError, errors.DataError),
    (duckdb.OperationalError, errors.OperationalError),
    (duckdb.ProgrammingError, errors.ProgrammingError),
)
_LINE = re.compile(r"\n\nLINE (\d+): (.*)\n( *)(\^+)", re.DOTALL)


def convert_error(problem: Exception, sql: str | None = None) -> Error:
    """DuckDB's exception as one of ours: same kind, same message, and the position when DuckDB tells one."""
    text = str(problem)
    kind, _, message = text.partition(": ")
    if not message:
        kind, message = "", text
    cls = next((ours for theirs, ours in _CLASSES if isinstance(problem, theirs)), errors.DatabaseError)
    if message.startswith("{"):  # SET errors_as_json: the user wants the JSON
        return cls(message, kind=kind or None)
    rest, span = _position(message, sql)
    if span is None:
        return cls(rest, kind=kind or None)
    return cls(rest, kind=kind or None, sql=sql, span=span).drawn(message[len(rest) :].lstrip("\n"))


def stream_error(text: str, sql: str | None = None) -> Error:
    """The error of a text such as ``Conversion Error: …``: DuckDB's errors inside a stream lose their class."""
    kind, _, message = text.partition(": ")
    message, span = _position(message, sql)
    for _, cls in _CLASSES:
        if cls.default_kind == kind:
            return cls(message, sql=sql if span else None, span=span)
    return errors.OperationalError(message or text, kind=kind if message else None)


def _position(message: str, sql: str | None) -> tuple[str, Span | None]:
    """Split DuckDB's caret lines off the message and find the place in the whole statement."""
    found = _LINE.search(message)
    if found is None or sql is None:
        return message, None
    number, shown, carets = int(found[1]), found[2], found[4]
    column = len(found[3]) - len(f"LINE {number}: ")
    lines = sql.split("\n")
    if number > len(lines) or column < 0:
        return message, None
    line_start = sum(len(line) + 1 for line in lines[: number - 1])
    left_cut = shown.startswith("...")
    if left_cut:  # DuckDB shows a window of a long line
        window = shown[3:].removesuffix("...")
        offset = lines[number - 1].find(window)
        if offset < 0:
            return message, None
        column = offset_of(window, column - 3) + offset
    else:
        column = offset_of(shown, column)
    start = line_start + column
    length = max(1, offset_of(lines[number - 1][column:], len(carets)))
    return message[: found.start()], Span(start, start + length)
