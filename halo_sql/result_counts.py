"""Telling DuckDB's count rows ("Count", "Success") from result sets, as PEP 249 and the shell need it."""

from __future__ import annotations

from halo_sql.duck_tokens import tokenize
from halo_sql.result import BatchResult, Result

#: First words of statements whose result is a result set even when it looks like DuckDB's count row.
_QUERIES = frozenset(
    (
        *("SELECT", "FROM", "WITH", "VALUES", "TABLE", "(", "PIVOT", "UNPIVOT", "SUMMARIZE", "DESCRIBE", "SHOW"),
        *("EXECUTE", "CALL", "PRAGMA", "EXPLAIN"),
    )
)


def only_counts(result: Result, sql: str) -> bool:
    """Whether the rows are only DuckDB's "Count" or "Success" of a statement that has no result set."""
    description = result.description
    if description is None or len(description) != 1 or isinstance(result, BatchResult):
        return result.rowcount >= 0
    shown = (description[0][0], str(description[0][1]))
    if shown == ("Count", "BIGINT"):
        return result.rowcount >= 0 or _first_word(sql) not in _QUERIES
    return shown == ("Success", "BOOLEAN") and _first_word(sql) not in _QUERIES


def _first_word(script: str) -> str:
    """The first word of the last statement."""
    word, ended = "", True
    for token in tokenize(script):
        if token.kind == "comment":
            continue
        if token.text == ";":
            ended = True
        elif ended:
            word, ended = token.text.upper(), False
    return word
