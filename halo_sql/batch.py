"""BEGIN BATCH … END BATCH: which statements of a script belong together, and what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from halo_sql.errors import Error, ParserError, ProgrammingError, Span
from halo_sql.grammar.classify import Kind, classify, code_tokens
from halo_sql.grammar.split import StatementText, split
from halo_sql.grammar.statements.redact import redact
from halo_sql.result import Result

_TRANSACTION = frozenset({"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"})


@dataclass(frozen=True, slots=True)
class Unit:
    """Statements ``first`` to ``end`` (exclusive) of a script: a batch's inner ones, or one alone."""

    first: int
    end: int
    is_batch: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of a statement of a batch: a result (in memory), or an error that points into its text."""

    sql: str
    result: Result | None = None
    error: Error | None = None


def units(pieces: Sequence[StatementText], kinds: Sequence[Kind], sql: str, params: object = None) -> list[Unit]:
    """A script's statements and batches in order.

    ParserError (a position in ``sql``) for batches in batches, BEGIN without END, END without BEGIN, and statements
    that control transactions inside, ProgrammingError for parameters of a batch: nothing of the script has run then.
    """
    found: list[Unit] = []
    begun: int | None = None
    for index, (piece, kind) in enumerate(zip(pieces, kinds, strict=True)):
        begins = kind is Kind.BATCH and code_tokens(piece.text)[0].text.upper() == "BEGIN"
        if begun is None and kind is Kind.BATCH:
            if not begins:
                raise _refused("END BATCH without BEGIN BATCH", piece, sql, "Begin it with BEGIN BATCH;")
            begun = index
        elif kind is Kind.BATCH and not begins:
            assert begun is not None
            if begun + 1 == index:
                raise _refused("the batch is empty", piece, sql, "Put statements before it.")
            found.append(Unit(begun + 1, index, is_batch=True))
            begun = None
        elif begun is None:
            found.append(Unit(index, index + 1))
        else:
            _check_member(piece, kind, sql)
    if begun is not None:
        raise _refused("BEGIN BATCH without END BATCH", pieces[begun], sql, "End it with END BATCH; in the same text.")
    if params and found and found[-1].is_batch:
        raise ProgrammingError(
            "a batch takes no parameters",
            kind="Invalid Input Error",
            remedy="execute_batch([(sql, parameters), …]) gives each statement its own.",
        )
    return found


def is_batch(sql: str) -> bool:
    """Whether a text begins with BEGIN BATCH."""
    return "batch" in sql.lower() and any(classify(piece.text) is Kind.BATCH for piece in split(sql)[:1])


def statements(sql: str) -> list[StatementText]:
    """The statements of a text that is one batch, with BEGIN and END BATCH or without. Errors as of ``units``."""
    pieces = split(sql)
    if not is_batch(sql):
        check_member(sql)
        return pieces
    found = units(pieces, [classify(piece.text) for piece in pieces], sql)
    if len(found) > 1:
        raise _refused("more stands behind the batch", pieces[found[0].end + 1], sql, "One batch at a time.")
    return pieces[found[0].first : found[0].end]


def check_member(sql: str) -> None:
    """ParserError when a text holds what cannot stand in a batch."""
    for piece in split(sql):
        _check_member(piece, classify(piece.text), sql)


def _check_member(piece: StatementText, kind: Kind, sql: str) -> None:
    if kind is Kind.BATCH:
        raise _refused("a batch cannot stand in a batch", piece, sql, "End the first one before the next begins.")
    first = code_tokens(piece.text)[0].text.upper() if kind is Kind.PLAIN else ""
    if first in _TRANSACTION:
        remedy = "Put the batch into the transaction: BEGIN; BEGIN BATCH; …; END BATCH; COMMIT;"
        raise _refused(f"{first} cannot stand in a batch", piece, sql, remedy)


def last(outcomes: Sequence[Outcome]) -> Result:
    """The last result; raises the first error there is."""
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    result = outcomes[-1].result
    assert result is not None
    return result


def relocate(problem: Error, piece: StatementText, sql: str) -> Error:
    """Make a position in a statement one in its script, whose secrets stay hidden; returns the error."""
    if piece.text == sql:
        return problem
    hidden = redact(piece.text)
    if problem.sql in (piece.text, hidden):
        problem.moved(problem.sql, piece.start, redact(sql))
    return problem


def _refused(message: str, piece: StatementText, sql: str, remedy: str) -> ParserError:
    code = code_tokens(piece.text)
    span = Span(piece.start + code[0].start, piece.start + code[min(1, len(code) - 1)].end)
    return ParserError(message, sql=sql, span=span, remedy=remedy)
