"""Exceptions: the PEP 249 hierarchy, each error with kind, position in the SQL and remedy.

Rendered in one format, the one DuckDB uses::

    Binder Error: Model "smoll" does not exist
    Did you mean "smol"?

    LINE 1: SELECT LLM_MAP('x', model => 'smoll')
                                         ^^^^^^^
"""

from __future__ import annotations

from dataclasses import dataclass

from halo_sql.quick import quick_init


@quick_init
@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a SQL text: character offsets, end exclusive."""

    start: int
    end: int


class Warning(Exception):  # noqa: N818 - the name is fixed by PEP 249
    """Important warnings (PEP 249)."""


class Error(Exception):
    """Base of all errors (PEP 249).

    kind     what part refused, as shown before the message ("Binder Error")
    message  what is wrong, names the object
    sql      the statement, when a position is known
    span     where in ``sql`` (character offsets)
    remedy   what to do about it, a sentence; may be empty
    """

    default_kind = "Error"

    def __init__(
        self,
        message: str = "",
        *,
        kind: str | None = None,
        sql: str | None = None,
        span: Span | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind or self.default_kind
        self.message = message
        self.sql = sql
        self.span = span
        self.remedy = remedy
        self._drawn = ""
        self._drawn_for: tuple[str | None, Span | None] = (None, None)

    def locate(self, sql: str, span: Span | None = None) -> Error:
        """Attach the statement (and the span if none is set yet); returns self."""
        if self.sql is None:
            self.sql = sql
        if self.span is None:
            self.span = span
        return self

    def drawn(self, text: str) -> Error:
        """Use DuckDB's own lines for the position, as long as it is the one DuckDB meant; returns self."""
        self._drawn, self._drawn_for = text, (self.sql, self.span)
        return self

    def moved(self, part: str, start: int, sql: str) -> Error:
        """Make a position in ``part``, which begins at ``start`` of ``sql``, one in ``sql``; returns self."""
        if self.span is not None and self.sql == part:
            self.span = Span(self.span.start + start, self.span.end + start)
            self.sql = sql
        return self

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.message}"]
        if self.remedy:
            lines.append(self.remedy)
        if self.sql is not None and self.span is not None:
            same = self._drawn and self._drawn_for == (self.sql, self.span)
            lines += ["", self._drawn if same else caret(self.sql, self.span)]
        return "\n".join(lines)


class InterfaceError(Error):
    """Misuse of the API itself: a closed connection, a wrong argument (PEP 249)."""

    default_kind = "Interface Error"


class DatabaseError(Error):
    """Errors of the database (PEP 249)."""

    default_kind = "Database Error"


class DataError(DatabaseError):
    """A value that does not fit: conversion, range (PEP 249)."""

    default_kind = "Conversion Error"


class OperationalError(DatabaseError):
    """Something outside the programmer's control: I/O, an engine, a limit (PEP 249)."""

    default_kind = "Operational Error"


class IntegrityError(DatabaseError):
    """A constraint was violated (PEP 249)."""

    default_kind = "Constraint Error"


class InternalError(DatabaseError):
    """A bug of ours or of DuckDB (PEP 249)."""

    default_kind = "Internal Error"


class ProgrammingError(DatabaseError):
    """Wrong SQL: syntax, names, options, types (PEP 249)."""

    default_kind = "Binder Error"


class NotSupportedError(DatabaseError):
    """Valid in principle, not possible here (PEP 249)."""

    default_kind = "Not implemented Error"


class ParserError(ProgrammingError):
    """The text is not a statement."""

    default_kind = "Parser Error"


class BinderError(ProgrammingError):
    """A name, option or type in the statement does not resolve."""

    default_kind = "Binder Error"


class CatalogError(ProgrammingError):
    """A catalog object is missing, exists already or is malformed."""

    default_kind = "Catalog Error"


class SettingError(ProgrammingError):
    """A setting is unknown or its value is out of range."""

    default_kind = "Setting Error"


class EngineError(OperationalError):
    """A request to an engine failed.

    code       one of ENGINE_ERROR_CODES
    retryable  whether the same request may succeed later; engines retry by themselves first
    fatal      ends the query whatever on_error says: every other request would meet the same
    """

    default_kind = "Engine Error"

    def __init__(
        self,
        message: str = "",
        *,
        code: str = "engine",
        retryable: bool = False,
        fatal: bool = False,
        kind: str | None = None,
        sql: str | None = None,
        span: Span | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(message, kind=kind, sql=sql, span=span, remedy=remedy)
        assert code in ENGINE_ERROR_CODES, code
        self.code = code
        self.retryable = retryable
        self.fatal = fatal


#: code -> what happened
ENGINE_ERROR_CODES = {
    "engine": "the engine reported an error",
    "unavailable": "engine not installed, not reachable or dead",
    "auth": "credentials refused (401, 403); ends the query",
    "rejected": "the engine refused the request (400, 404, 422)",
    "rate_limit": "quota exceeded after all retries (429)",
    "timeout": "deadline exceeded",
    "context": "prompt and output do not fit the model's context",
    "truncated": "the answer was cut by max_tokens before it was complete",
    "invalid_output": "the answer does not fit the declared type",
    "cancelled": "the query was cancelled",
    "budget": "a limit set by the user (calls, tokens, seconds) is exhausted",
    "tool": "a tool reported an error",
    "too_large": "a tool's result is larger than it may be",
    "denied": "a policy refuses the call (allow-list, schema, taint, address)",
    "in_doubt": "a call with side effects was begun before and may have happened; it is not repeated",
    "limit": "an agent reached one of its limits without an answer",
}


class InterruptedQueryError(OperationalError):
    """The query was cancelled by the user."""

    default_kind = "INTERRUPT Error"


WINDOW = 59  # columns of a line that are shown on either side of where an error begins, as DuckDB does


def caret(sql: str, span: Span) -> str:
    """The line of ``sql`` that holds ``span`` with carets under it; of a long line the part around it."""
    start = max(0, min(span.start, len(sql)))
    line_start = sql.rfind("\n", 0, start) + 1
    line_end = sql.find("\n", start)
    line_end = len(sql) if line_end < 0 else line_end
    number = sql.count("\n", 0, line_start) + 1
    before = sql[line_start:start].replace("\t", " ")
    behind = sql[start:line_end].replace("\t", " ").rstrip("\r")
    marked = behind[: max(1, min(span.end, line_end) - start)]
    left = _cut(before[::-1], WINDOW)[::-1]
    right = _cut(behind, WINDOW)
    head = f"LINE {number}: " + ("..." if len(left) < len(before) else "")
    carets = max(1, width(marked[: len(right)]))
    shown = f"{head}{left}{right}" + ("..." if len(right) < len(behind) else "")
    return f"{shown}\n{' ' * (len(head) + width(left))}{'^' * carets}"


def _cut(text: str, columns: int) -> str:
    """The beginning of a text that fits into so many columns."""
    if len(text) * 2 <= columns:
        return text
    used = 0
    for index, character in enumerate(text):
        used += _columns(character)
        if used > columns:
            return text[:index]
    return text


def width(text: str) -> int:
    """How many columns of a terminal a text takes: wide characters take two, combining ones and joined emoji none."""
    if text.isascii():
        return len(text)
    joined = False
    used = 0
    for character in text:
        used += 0 if joined else _columns(character)
        joined = character == "\u200d"
    return used


def offset_of(text: str, column: int) -> int:
    """The index of the character that stands at a column of a terminal."""
    if text.isascii():
        return min(column, len(text))
    for index in range(len(text) + 1):
        if width(text[:index]) >= column:
            while index < len(text) and not _columns(text[index]):
                index += 1
            return index
    return len(text)


def _columns(character: str) -> int:
    if character < "\u0300":
        return 1
    from unicodedata import category, east_asian_width

    if category(character) in ("Mn", "Me", "Cf") or "\U0001f3fb" <= character <= "\U0001f3ff":
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def did_you_mean(name: str, known: list[str]) -> str:
    """``Did you mean "x"?`` for the nearest known name, else the list of known names, else nothing."""
    from difflib import get_close_matches

    lowered = {candidate.lower(): candidate for candidate in known}
    near = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    if near:
        return f'Did you mean "{lowered[near[0]]}"?'
    if known:
        return "Known: " + ", ".join(sorted(known)[:20])
    return ""
