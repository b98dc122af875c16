"""Bad input: ``bind_errors.txt`` holds statements and the whole text of the error each gives.

Blocks are separated by ``====``; statement and error by ``----``. ``HALO_REWRITE=1`` writes the errors anew: read them
in review. Each names the object, shows the place, and says what to do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from halo_sql.errors import BinderError, CatalogError, Error, NotSupportedError, ParserError, ProgrammingError

GOLDEN = Path(__file__).with_name("bind_errors.txt")
BLOCKS = [block.split("\n----\n") for block in GOLDEN.read_text(encoding="utf-8").strip("\n").split("\n====\n")]


def refused(bound: Any, sql: str, params: Any = None) -> Error:
    with pytest.raises(Error) as caught:
        bound(sql, params)
    return caught.value


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[0][:60])
def test_error_text(bound: Any, block: list[str]) -> None:
    problem = refused(bound, block[0])
    if os.environ.get("HALO_REWRITE"):
        block[1:] = [str(problem)]
        GOLDEN.write_text("\n====\n".join("\n----\n".join(item) for item in BLOCKS) + "\n", encoding="utf-8")
    assert str(problem) == block[1]
    assert problem.span is not None
    assert problem.sql == block[0]
    assert isinstance(problem, ParserError | BinderError | CatalogError | NotSupportedError)


CARETS = [
    ("SELECT LLM_MAP('x {{ bodi }}') FROM t", "bodi"),
    ("SELECT LLM_MAP('it''s {{ bodi }}, isn''t it') FROM t", "bodi"),
    ("SELECT LLM_MAP($$it's {{ bodi }}$$) FROM t", "bodi"),
    ("SELECT LLM_MAP($q$$$ {{ bodi }}$q$) FROM t", "bodi"),
    ("SELECT LLM_MAP(E'it\\'s\\n\\t {{ bodi }}') FROM t", "bodi"),
    ("SELECT id,\n  LLM_MAP('one\n\n two {{ bodi }}')\nFROM t", "bodi"),
    ("SELECT LLM_MAP('{{ id, a, bodi }}') FROM t", "bodi"),
    ("SELECT LLM_MAP('{{ ''y'' || upper(bodi) || ''y'' }}') FROM t", "bodi"),
    ("SELECT LLM_MAP('{{ LLM_MAP(''{{ bodi }}'') }}') FROM t", "bodi"),
    ("SELECT LLM_MAP('é {{ bodi }}') FROM t", "bodi"),
    ("SELECT LLM_MAP('a {{ id }} b {{ bodi }}') FROM t", "bodi"),
    ("SELECT LLM_MAP(bodi) FROM t", "bodi"),
    ("SELECT LLM_MAP(prompt => bodi) FROM t", "bodi"),
    ("SELECT LLM_MAP('x'), bodi FROM t", "bodi"),
    ("SELECT LLM_MAP('{{ id }}') FROM t WHERE bodi", "bodi"),
    ("SELECT LLM_MAP('{{ id }}') FROM t ORDER BY bodi", "bodi"),
    ("WITH c AS (SELECT LLM_MAP('{{ bodi }}') FROM t) FROM c", "bodi"),
    ("SELECT * FROM (SELECT LLM_MAP('{{ bodi }}') FROM t)", "bodi"),
    ("SELECT (SELECT LLM_MAP('{{ bodi }}') FROM t)", "bodi"),
    ("SELECT 1 UNION SELECT LLM_MAP('{{ bodi }}') FROM t", "bodi"),
    ("CREATE TABLE n AS SELECT LLM_MAP('{{ bodi }}') m FROM t", "bodi"),
    ("INSERT INTO u SELECT id, LLM_MAP('{{ bodi }}') FROM t", "bodi"),
    ("COPY (SELECT LLM_MAP('{{ bodi }}') FROM t) TO 'x.csv'", "bodi"),
    ("SELECT LLM_MAP(bad) FROM t", "bad"),
    ("SELECT LLM_MAP('x', model => 'ecko') FROM t", "'ecko'"),
    ("SELECT LLM_MAP('x', tempreture => 1) FROM t", "tempreture"),
]


@pytest.mark.parametrize(("sql", "under"), CARETS)
def test_the_caret_is_under_the_word(bound: Any, sql: str, under: str) -> None:
    problem = refused(bound, sql)
    assert problem.span is not None
    assert sql[problem.span.start : problem.span.end] == under
    nearest = {"bodi": "body", "bad": "body", "'ecko'": "echo", "tempreture": "temperature"}[under]
    assert f'"{nearest}"' in problem.message + problem.remedy


def test_the_caret_survives_parameters(bound: Any) -> None:
    sql = "SELECT ? || LLM_MAP('x {{ bodi }}') FROM t WHERE id > $lim"
    problem = refused(bound, "SELECT ? || LLM_MAP('x {{ bodi }}') FROM t", ["a long value, longer than the sign"])
    assert problem.span is not None
    assert sql[problem.span.start : problem.span.end] == "bodi"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], "Values were not provided for the following parameters: 1"),
        (None, "Values were not provided for the following parameters: 1"),
        ([1, 2], "Parameter argument/count mismatch, identifiers of the excess parameters: 2"),
        ([object()], "Unable to transform python value of type '<class 'object'>' to DuckDB LogicalType"),
    ],
)
def test_parameters_must_fit(bound: Any, params: Any, message: str) -> None:
    problem = refused(bound, "SELECT LLM_MAP('x {{ body }}') FROM t WHERE a > ?", params)
    assert isinstance(problem, ProgrammingError | NotSupportedError)
    assert problem.message == message


@pytest.mark.parametrize("count", [40, 300, 800])
@pytest.mark.parametrize(
    ("before", "inside", "behind"),
    [
        ("(", "LLM_MAP('{{ body }}')", ")"),
        ("upper(", "LLM_MAP('{{ body }}')", ")"),
        ("CASE WHEN id > 1 THEN ", "LLM_MAP('{{ body }}')", " END"),
    ],
)
def test_deep_nesting_is_accepted(bound: Any, before: str, inside: str, behind: str, count: int) -> None:
    found = bound(f"SELECT {before * count}{inside}{behind * count} AS m FROM t")
    assert [column.name for column in found.columns] == ["m"]
    assert bound(f"SELECT LLM_MAP('{{{{ {'(' * count}body{')' * count} }}}}') FROM t").columns


@pytest.mark.parametrize("before", ["(", "upper(", "LLM_MAP('{{ ("])
def test_deeper_nesting_is_refused(bound: Any, before: str) -> None:
    hole = before.startswith("LLM")
    text = f"{before}{'(' * 1000}body{')' * 1001} }}}}')" if hole else f"{before * 1000}LLM_MAP('x'){')' * 1000}"
    problem = refused(bound, f"SELECT {text} FROM t")
    assert problem.message == "nested deeper than 900 levels"
    assert problem.remedy


def test_nested_subqueries_end_in_a_typed_error(bound: Any) -> None:
    assert bound("FROM " + "(FROM " * 30 + "(SELECT LLM_MAP('{{ body }}') AS m FROM t)" + ")" * 30).columns
    sql = "FROM " + "(FROM " * 950 + "(SELECT LLM_MAP('{{ body }}') AS m FROM t)" + ")" * 950
    assert isinstance(refused(bound, sql), NotSupportedError | ParserError)


LONG = [
    "SELECT LLM_MAP('" + "x" * 1_000_000 + " {{ body }}') FROM t",
    "SELECT LLM_MAP('" + "''" * 500_000 + " {{ body }}') FROM t",
    "SELECT LLM_MAP('" + "{{{{" * 250_000 + " {{ body }}') FROM t",
    "SELECT LLM_MAP('{{ body }}') FROM t /*" + "x" * 1_000_000 + "*/",
    "SELECT LLM_MAP('{{ body }}') FROM t WHERE id IN (" + ",".join(map(str, range(10_000))) + ")",
    "SELECT LLM_MAP('{{ body }}') FROM t WHERE " + " OR ".join(f"id = {i}" for i in range(1000)),
    "SELECT LLM_MAP('{{ body }}') FROM t WHERE id IN (" + ",".join(map(str, range(50_000))) + ")",
    "INSERT INTO t(body) VALUES (LLM_MAP('x')), " + ",".join("('abcdefgh')" for _ in range(20_000)),
    "SELECT " + ",".join(f"LLM_MAP('{i} {{{{ body }}}}')" for i in range(200)) + " FROM t",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sql", LONG, ids=lambda sql: f"{len(sql)} {sql[:24]}")
def test_long_statements_are_bound(bound: Any, sql: str) -> None:
    assert bound(sql).columns
