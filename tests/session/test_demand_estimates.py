"""Calls that are made by demand: how many are expected is read from DuckDB's plan of the text around them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import halo_sql


@pytest.fixture
def con() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as con:
        con.execute("CREATE TABLE t AS SELECT range AS id, 'body ' || range AS body FROM range(400)")
        con.execute("CREATE TABLE u AS SELECT range AS k, 'word ' || range AS word FROM range(30)")
        yield con


def estimated(con: halo_sql.Connection, query: str) -> tuple[float, float]:
    """(calls, rows of the result)"""
    found = json.loads(con.explain(query, format="json"))
    assert found["plan"]["operator_name"] == "Demand"
    return found["totals"]["llm_calls_estimated"], found["plan"]["rows_estimated"]


@pytest.mark.parametrize(
    ("query", "calls", "rows"),
    [
        ("SELECT * FROM t LEFT JOIN u ON t.id = u.k AND LLM_FILTER('{{ t.body }}')", 400, 400),
        ("SELECT id, (SELECT max(LLM_MAP('{{ u.word }}')) FROM u WHERE u.k = t.id) FROM t", 30, 400),
        ("SELECT list_transform([1], lambda x: LLM_MAP('{{ x }} {{ word }}')) FROM u", None, 30),
    ],
)
def test_rows_that_reach_a_call(con: halo_sql.Connection, query: str, calls: int | None, rows: int) -> None:
    found = estimated(con, query)
    assert found[1] == rows
    if calls is not None:
        assert found[0] == pytest.approx(calls, rel=0.3)
    assert estimated(con, query) == found


def test_the_joins_of_a_sub_query_count(con: halo_sql.Connection) -> None:
    calls, _ = estimated(
        con, "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k < t.id AND LLM_FILTER('{{ u.word }}'))"
    )
    assert 30 <= calls <= 400, "the text of u asks, beside the rows of t that DuckDB joins it with first"


def test_what_duckdb_cannot_say_is_assumed_and_a_transaction_goes_on(con: halo_sql.Connection) -> None:
    query = "SELECT * FROM t LEFT JOIN u ON t.id = u.k AND LLM_FILTER('{{ t.body }}')"
    con.execute("BEGIN")
    con.execute("CREATE TABLE mine AS SELECT 1 AS x")
    assert estimated(con, query) == (1000, 1000)
    assert con.execute("SELECT x FROM mine").fetchall() == [(1,)]
    con.execute("ROLLBACK")
    assert estimated(con, query) == (400, 400)
