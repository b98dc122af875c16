"""Which statements only read, and give the same rows whenever they run: their order among others means nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from itertools import pairwise

from halo_sql.duck import Duck
from halo_sql.duck_tokens import Token, tokenize
from halo_sql.errors import Error

#: Words that begin a query.
QUERY_WORDS = frozenset({"SELECT", "FROM", "WITH", "VALUES", "TABLE", "("})
#: Words that begin a statement which makes, drops or renames nothing.
HARMLESS_WORDS = QUERY_WORDS | {
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "EXPLAIN",
    "COPY",
    "PIVOT",
    "UNPIVOT",
    "SUMMARIZE",
}
_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
_SAMPLES = frozenset({"SAMPLE", "TABLESAMPLE"})
#: Words before a bracket that are no functions.
_SYNTAX = frozenset(
    {"SELECT", "FROM", "WHERE", "AND", "OR", "NOT", "IN", "AS", "ON", "BY", "JOIN", "HAVING", "QUALIFY", "WHEN", "THEN"}
    | {
        "ELSE",
        "CASE",
        "VALUES",
        "USING",
        "OVER",
        "FILTER",
        "EXISTS",
        "UNION",
        "ALL",
        "ANY",
        "EXCEPT",
        "INTERSECT",
        "SOME",
    }
    | {"LIMIT", "OFFSET", "BETWEEN", "LIKE", "DISTINCT", "EXCLUDE", "REPLACE", "MATERIALIZED", "LATERAL", "WITH", "IS"}
    | {"CAST", "TRY_CAST", "DECIMAL", "NUMERIC", "VARCHAR", "CHAR", "STRUCT", "MAP", "ROLLUP", "CUBE", "SETS", "ROW"}
    | {"INTERVAL", "EXTRACT", "COLUMNS", "COALESCE", "IF", "NULLIF"}
)


def first_word(sql: str) -> str:
    """The first word (or bracket) of a statement in capitals; '' when it is empty."""
    return next((token.text.upper() for token in _code(sql)), "")


class Reads:
    """What can be said of statements while the catalog is as it is now.

    written_out  lower-case names of views and macros whose definitions stand in the texts that are asked about
    """

    def __init__(self, duck: Duck, written_out: Set[str] = frozenset()) -> None:
        self._duck = duck
        self._written_out = written_out
        self._unsteady: frozenset[str] | None = None
        self._viewed: frozenset[str] | None = None

    def is_steady(self, sql: str) -> bool:
        """Whether a query names nothing whose value is another one each time, and draws no sample."""
        tokens = list(_code(sql))
        words = {token.text.strip('"').lower() for token in tokens if token.kind in ("identifier", "keyword")}
        if self._unsteady is None and not _called(tokens) and words.isdisjoint(self._views()):
            return not _samples(tokens)  # DuckDB takes its time to list functions
        return not words & self._names() and not _samples(tokens)

    def is_plain_read(self, sql: str) -> bool:
        """Whether a statement for DuckDB alone is a steady query that is sure to change nothing: it calls DuckDB's
        scalar and aggregate functions only."""
        tokens = list(_code(sql))
        words = [token.text.upper() for token in tokens]
        if not words or words[0] not in QUERY_WORDS or _WRITES.intersection(words):
            return False
        known = self._duck.built_in_functions() | self._duck.aggregate_functions()
        return _called(tokens) <= known and self.is_steady(sql)

    def plain_tables(self) -> frozenset[str]:
        """Lower-case names that can only be of tables of DuckDB's own, without generated columns."""
        query = (
            "SELECT system.main.lower(name) FROM (SELECT table_name AS name, "
            "type = 'duckdb' AND NOT t.sql ILIKE '%GENERATED%' AS good FROM duckdb_tables() t "
            "JOIN duckdb_databases() USING (database_name) "
            "UNION ALL SELECT view_name, false FROM duckdb_views()) GROUP BY 1 HAVING bool_and(good)"
        )
        try:
            return frozenset(name for (name,) in self._duck.rows(query))
        except Error:
            return frozenset()

    def _views(self) -> frozenset[str]:
        """Names of views in lower case."""
        if self._viewed is None:
            try:
                found = self._duck.rows("SELECT view_name FROM duckdb_views() WHERE NOT internal")
            except Error:
                found = []
            self._viewed = frozenset(name.lower() for (name,) in found)
        return self._viewed

    def _names(self) -> frozenset[str]:
        """Volatile functions, and views and macros that are made of them, in lower case."""
        if self._unsteady is None:
            found = set(self._duck.volatile_functions())
            try:
                made = self._duck.rows(
                    "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal UNION ALL SELECT function_name, "
                    "CASE WHEN stability = 'VOLATILE' THEN 'random()' ELSE coalesce(macro_definition, '') END "
                    "FROM duckdb_functions() WHERE NOT internal"
                )
            except Error:  # a transaction that an error has ended: its statements say so themselves
                made = []
            held = {name.lower(): list(_code(text)) for name, text in made}
            for name in self._written_out:
                held.pop(name, None)
            grown = True
            while grown:
                grown = False
                for name, tokens in held.items():
                    words = {token.text.strip('"').lower() for token in tokens}
                    if name not in found and ((words - {name}) & found or _samples(tokens)):
                        found.add(name)
                        grown = True
            self._unsteady = frozenset(found)
        return self._unsteady


class SteadyTexts(Mapping[str, bool]):
    """Pieces of a statement's SQL -> whether they are steady (``Reads.is_steady``), found when first asked for.

    As a mapping it holds what has been asked for, so that a written context gives the same plan."""

    def __init__(self, duck: Duck) -> None:
        self._reads = Reads(duck)
        self._asked: dict[str, bool] = {}

    def __getitem__(self, text: str) -> bool:
        if text not in self._asked:
            self._asked[text] = self._reads.is_steady(text)
        return self._asked[text]

    def __iter__(self) -> Iterator[str]:
        return iter(self._asked)

    def __len__(self) -> int:
        return len(self._asked)


def _called(tokens: list[Token]) -> set[str]:
    """Lower-case names before a bracket that are not syntax."""
    return {
        token.text.strip('"').lower()
        for token, following in pairwise(tokens)
        if following.text == "(" and token.kind in ("identifier", "keyword") and token.text.upper() not in _SYNTAX
    }


def _code(sql: str) -> Iterator[Token]:
    return (token for token in tokenize(sql) if token.kind != "comment")


def _samples(tokens: list[Token]) -> bool:
    return any(token.text.upper() in _SAMPLES for token in tokens)
