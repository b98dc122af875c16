"""Deep and long statements: 300 levels run, more than 900 are refused before anything recurses, chains may be long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import halo_sql
from halo_sql.errors import ParserError

CALL = "LLM_MAP('{{ a }}')"


def _wrapped(before: str, after: str, levels: int, middle: str = CALL) -> str:
    return before * levels + middle + after * levels


#: levels -> a query whose first column is the call's answer, wrapped so many times
NESTED = {
    "parentheses": lambda n: f"SELECT {_wrapped('(', ')', n)} FROM t",
    "functions": lambda n: f"SELECT {_wrapped('lower(', ')', n)} FROM t",
    "CASE": lambda n: f"SELECT {_wrapped('CASE WHEN id > 0 THEN ', ' ELSE a END', n)} FROM t",
    "COALESCE": lambda n: f"SELECT {_wrapped('coalesce(NULL, ', ')', n)} FROM t",
    "lists": lambda n: f"SELECT {_wrapped('[', '][1]', n)} FROM t",
    "a hole": lambda n: "SELECT LLM_MAP('{{ " + _wrapped("lower(", ")", n, "a") + " }}') FROM t",
    "NOT": lambda n: "SELECT a FROM t WHERE " + "NOT " * (n - n % 2) + "LLM_FILTER('{{ id > 0 }}')",
}

CHAINS = {
    "1,000 ORs": f"SELECT {CALL} FROM t WHERE " + " OR ".join(f"id = {n}" for n in range(1000)),
    "1,000 ORs and a call": "SELECT a FROM t WHERE "
    + " OR ".join(f"id = -{n}" for n in range(1, 1000))
    + " OR LLM_FILTER('{{ id > 0 }}')",
    "300 ANDs": f"SELECT {CALL} FROM t WHERE " + " AND ".join(f"id <> -{n}" for n in range(1, 300)),
    "IN of 10,000": f"SELECT {CALL} FROM t WHERE id IN ({', '.join(map(str, range(10_000)))})",
    "1,000 arms": " UNION ALL ".join(["SELECT a FROM t WHERE false"] * 1000) + f" UNION ALL SELECT {CALL} FROM t",
    "500 CTEs": "WITH c0 AS (FROM t), "
    + ", ".join(f"c{n} AS (SELECT * FROM c{n - 1})" for n in range(1, 500))
    + f" SELECT {CALL} FROM c499",
    "500 additions": f"SELECT {CALL} || repeat('x', 0{' + 0' * 500}) FROM t",
}


@pytest.fixture(scope="module")
def connection() -> Iterator[halo_sql.Connection]:
    found = halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"})
    found.execute("CREATE TABLE t AS SELECT 1 AS id, 'x' AS a")
    yield found
    found.close()


@pytest.mark.parametrize("levels", [50, 300])
@pytest.mark.parametrize("shape", NESTED)
def test_300_levels_run(connection: halo_sql.Connection, shape: str, levels: int) -> None:
    assert connection.execute(NESTED[shape](levels)).fetchall() == [("x",)]


def test_sub_queries_in_from_run_too(connection: halo_sql.Connection) -> None:
    query = "SELECT * FROM " + _wrapped("(SELECT * FROM ", ")", 80, f"(SELECT {CALL} FROM t)")
    assert connection.execute(query).fetchall() == [("x",)]


@pytest.mark.parametrize("shape", [shape for shape in NESTED if shape not in ("NOT", "a hole")])
def test_more_than_900_levels_are_refused(connection: halo_sql.Connection, shape: str) -> None:
    query = NESTED[shape](901)
    with pytest.raises(ParserError, match="nested deeper than 900 levels") as caught:
        connection.execute(query)
    span = caught.value.span
    assert span is not None
    assert query[span.start : span.end] in ("(", "[", "CASE")


@pytest.mark.parametrize("levels", [2_000, 20_000])
def test_any_depth_is_refused_with_an_error_of_ours(connection: halo_sql.Connection, levels: int) -> None:
    for before, after in [("(", ")"), ("[", "]"), ("{'a': ", "}"), ("CASE WHEN true THEN ", " END"), ("(", "")]:
        with pytest.raises(halo_sql.Error):
            connection.execute(f"SELECT {_wrapped(before, after, levels)} FROM t")


@pytest.mark.parametrize("shape", CHAINS)
def test_chains_are_no_nesting(connection: halo_sql.Connection, shape: str) -> None:
    assert connection.execute(CHAINS[shape]).fetchall() == [("x",)]
