"""The defining equation: with the echo model a call is ``CAST(e AS VARCHAR)``, wherever it stands.

Every query of ``equation.sql`` is bound, and run, and compared with what DuckDB makes of it with the casts in place:
the same names, types and rows.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import halo_sql
from halo_sql.duck import Duck
from halo_sql.grammar.split import split

CALL = re.compile(r"LLM_(MAP|FILTER)\('\{\{((?:[^']|'')*?)\}\}'\)")
ROWS = (
    "INSERT INTO t VALUES (1, 'one', 10, {'x': 1, 'y': 'p'}, [1, 2], '2020-01-01'), "
    "(2, 'two', 20, {'x': 2, 'y': 'q'}, [3], '2020-01-02'), (3, NULL, 30, NULL, [], NULL), "
    "(4, 'two', NULL, {'x': 4, 'y': NULL}, NULL, '2020-01-02')",
    "INSERT INTO u VALUES (1, 'ux'), (2, 'uy'), (2, 'uz'), (5, 'u5')",
    "INSERT INTO \"Q t\" VALUES (1, 's1', 'v1', 7), (2, 's2', 'v2', 8)",
)
FILES = ("equation.sql", "equation_demand.sql")
QUERIES = [piece.text for file in FILES for piece in split(Path(__file__).with_name(file).read_text(encoding="utf-8"))]
FAILS = "1 // (id - 1)"  # DuckDB itself computes this branch for every row


def cast(query: str) -> str:
    """The query with each call replaced by what it is with the echo model, outermost first."""
    while found := CALL.search(query):
        hole = found[2].replace("''", "'").strip()
        text = f"CAST(({hole}) AS VARCHAR)"
        text = text if found[1] == "MAP" else f"CAST({text} AS BOOLEAN)"
        query = query[: found.start()] + text + query[found.end() :]
    return query


@pytest.mark.parametrize("query", QUERIES)
def test_names_and_types_are_those_of_the_cast(duck: Duck, bound: Any, query: str) -> None:
    expected = duck.describe(cast(query))
    found = bound(query, answer=lambda call, _: cast(call)).columns
    assert [column.type for column in found] == [kind for _, kind in expected]
    for column, (name, _) in zip(found, expected, strict=True):
        assert column.name == name or "llm_" in column.name.lower()


@pytest.fixture(scope="module")
def plain(tables: tuple[str, ...]) -> Iterator[Any]:
    connection = duckdb.connect(":memory:")
    for sql in (*tables, *ROWS):
        connection.execute(sql)
    yield connection
    connection.close()


@pytest.fixture(scope="module", params=["on", "off"])
def halo(request: pytest.FixtureRequest, tables: tuple[str, ...]) -> Iterator[Any]:
    config = {"halo_default_model": "echo", "halo_store": "off", "halo_optimizer": request.param}
    connection = halo_sql.connect(":memory:", config=config)
    for sql in (*tables, *ROWS):
        connection.execute(sql)
    yield connection
    connection.close()


@pytest.mark.parametrize("query", [query for query in QUERIES if FAILS not in query])
def test_rows_are_those_of_the_cast(plain: Any, halo: Any, query: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = plain.execute(cast(query)).fetchall(), halo.execute(query).fetchall()
    if "ORDER BY" not in query:
        expected, found = sorted(expected, key=repr), sorted(found, key=repr)
    assert found == expected


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("SELECT LLM_MAP('a {{ id }}') FROM t", "llm_map('a {{ id }}')"),
        ("SELECT LLM_MAP('{{ id }}') || 'x' FROM t", "(llm_map('{{ id }}') || 'x')"),
        ("SELECT (SELECT LLM_MAP('x'))", "(SELECT llm_map('x'))"),
    ],
)
def test_an_unnamed_item_is_called_as_duckdb_calls_a_function(bound: Any, query: str, name: str) -> None:
    assert [column.name for column in bound(query).columns] == [name]


def test_binding_leaves_the_database_alone(duck: Duck, bound: Any) -> None:
    before = duck.rows("SELECT table_name FROM duckdb_tables() ORDER BY 1")
    bound("CREATE TABLE fresh AS SELECT LLM_MAP('{{ id }}') AS m FROM t")
    bound("INSERT INTO u SELECT id, LLM_MAP('{{ body }}') FROM t")
    assert duck.rows("SELECT table_name FROM duckdb_tables() ORDER BY 1") == before
    assert duck.rows("SELECT count(*) FROM u") == [(0,)]


def test_equal_statements_give_equal_plans(bound: Any) -> None:
    for query in QUERIES[::7]:
        assert bound(query) == bound(query)
