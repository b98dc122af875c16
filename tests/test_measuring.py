"""What is counted of the rows that calls read: the same together as one by one."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from halo_sql.duck import Duck
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.types import VARCHAR
from halo_sql.measuring import is_alone, measure, measure_alone
from halo_sql.optimizer.context import InputKey
from halo_sql.session import Session

TEXT, OTHER = Column(ColumnId(1), "a", VARCHAR), Column(ColumnId(2), "b", VARCHAR)
KEY = InputKey(frozenset([ColumnId(1)]), frozenset([ColumnId(1)]), None)
QUERIES = [
    "SELECT * FROM (VALUES ('one'), ('two'), ('two'), (NULL), (NULL)) AS v(c1)",
    "SELECT 'x' AS c1 WHERE false",
    "SELECT CAST(NULL AS VARCHAR) AS c1 FROM range(3)",
    "SELECT 'text ' || range % 7 AS c1 FROM range(100)",
    "SELECT '' AS c1 -- a comment at the end",
]


@pytest.fixture
def duck() -> Iterator[Duck]:
    opened = Duck(duckdb.connect(":memory:"))
    yield opened
    opened.close()


def test_several_queries_are_counted_as_each_of_them_would_be(duck: Duck) -> None:
    assert is_alone([TEXT], [KEY])
    together = measure_alone(duck, [(sql, TEXT) for sql in QUERIES])
    for sql, counted in zip(QUERIES, together, strict=True):
        both = measure(duck, f"SELECT c1, 'y' AS c2 FROM ({sql}\n)", [TEXT, OTHER], [KEY], 5.0, 5.0)
        alone, beside = counted.columns[ColumnId(1)], both.columns[ColumnId(1)]
        assert counted.rows == both.rows
        assert (alone.distinct, alone.chars) == (beside.distinct, beside.chars)
        assert counted.inputs == both.inputs
        assert measure(duck, sql, [TEXT], [KEY], 5.0, 5.0) == counted


def test_lists_guards_and_further_columns_are_not_alone() -> None:
    guarded = InputKey(KEY.columns, KEY.needed, ColumnId(3))
    assert not is_alone([TEXT, OTHER], [KEY])
    assert not is_alone([TEXT], [guarded])
    assert not is_alone([TEXT], [KEY, guarded])


def _statement(trees: int, broken: bool = False) -> str:
    """Each CTE asks for rows of its own; ``broken``: counting the first fails."""
    first = "CAST(a AS INTEGER) > 0 AND " if broken else ""
    parts = [
        f"q{n} AS (SELECT id, LLM_MAP('{n}: {{{{ a }}}}') AS x{n} FROM t WHERE {'' if n else first}id > {n})"
        for n in range(trees)
    ]
    return f"WITH {', '.join(parts)} SELECT * FROM q0 " + " ".join(f"JOIN q{n} USING (id)" for n in range(1, trees))


@pytest.mark.parametrize("broken", [False, True])
def test_trees_are_counted_by_one_query_and_one_that_fails_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    session = Session.open(":memory:", False, {"halo_store": "off", "halo_default_model": "echo"})
    counts: list[str] = []
    plain = Duck.rows

    def rows(self: Duck, sql: str, params: object = None) -> list[tuple[object, ...]]:
        counts.extend([sql] if "count(v)" in sql else [])
        return plain(self, sql, params)

    monkeypatch.setattr(Duck, "rows", rows)
    try:
        session.execute("CREATE TABLE t AS SELECT range AS id, 'row ' || range % 10 AS a FROM range(100)").close()
        planned = session.compile(_statement(5, broken))
    finally:
        session.close()
    assert len(counts) == (6 if broken else 1)
    found = [asked for stats in planned.problem.surveyed.stats.values() for asked in stats.inputs.values()]
    assert [asked.distinct for asked in found] == [10.0] * (4 if broken else 5)
