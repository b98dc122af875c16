"""Parameters of statements with LLM calls: wherever DuckDB takes one, and in the holes of prompts."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

import halo_sql

CONFIG = {"halo_store": "off", "halo_default_model": "echo"}


@pytest.fixture
def con() -> Iterator[Any]:
    with halo_sql.connect(":memory:", config=CONFIG) as connection:
        connection.execute("CREATE TABLE t AS SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (3, NULL)) v(id, body)")
        yield connection


CASES: list[tuple[str, Any, list[tuple[Any, ...]]]] = [
    ("SELECT LLM_MAP('{{ ? }}-{{ ? }}')", ["it's", 2], [("it's-2",)]),
    ("SELECT LLM_MAP('{{ body || $p }}') FROM t WHERE id = $id", {"p": "}} '", "id": 1}, [("a}} '",)]),
    ("SELECT LLM_MAP('{{ $1 }}/{{ $1 }}'), $1, $1 + 1", [5], [("5/5", 5, 6)]),
    ("SELECT ?, LLM_MAP('{{ ? }}'), ?", ["x", "y", "z"], [("x", "y", "z")]),
    ("SELECT LLM_MAP($p) FROM t WHERE id = 1", {"p": "{{ body }}"}, [("a",)]),
    ("SELECT LLM_MAP($p || body) FROM t WHERE id = 1", {"p": "{{ x }}"}, [("{{ x }}a",)]),
    ("SELECT LLM_MAP('{{ id }}', returns => $r) + 1 FROM t LIMIT $n", {"r": "INTEGER", "n": 1}, [(2,)]),
    ("SELECT LLM_MAP('x', model => $m)", {"m": "echo"}, [("x",)]),
    ("SELECT LLM_MAP('{{ body }}') FROM t ORDER BY id LIMIT ? OFFSET ?", [1, 1], [("b",)]),
    ("SELECT LLM_MAP('{{ $l[2] }} {{ $s.k }}')", {"l": ["2", "z"], "s": {"k": [True]}}, [("z [true]",)]),
    ("SELECT LLM_MAP('{{ id }}') FROM t WHERE id IN (SELECT unnest(?)) ORDER BY 1", [[1, 3]], [("1",), ("3",)]),
    ("SELECT LLM_MAP('{{ ? }} {{ ? }}')", [datetime.date(2020, 1, 2), decimal.Decimal("1.50")], [("2020-01-02 1.50",)]),
    ("SELECT LLM_MAP('{{ $x }}')", {"x": None}, [(None,)]),
    ("SELECT LLM_MAP('{{ typeof($1) }}')", [duckdb.BitValue("101")], [("BIT",)]),
    ("SELECT CASE WHEN LLM_FILTER('{{ $1 }}') THEN $2 ELSE 'no' END", [True, "yes"], [("yes",)]),
    ("INSERT INTO t SELECT id + $1, LLM_MAP('{{ $2 }}') FROM t WHERE id = 1", [10, "new"], [(1,)]),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "parameters", "rows"), CASES)
def test_values_go_where_the_parameter_stands(con: Any, sql: str, parameters: Any, rows: list[Any]) -> None:
    assert con.execute(sql, parameters).fetchall() == rows


def test_unnamed_columns_are_called_as_duckdb_calls_them(con: Any) -> None:
    con.execute("SELECT ?, $1 + 1, LLM_MAP('{{ $1 }}'), upper(LLM_MAP('x')) FROM t", [1])
    assert [item[0] for item in con.description] == ["$1", "($1 + 1)", "llm_map('{{ $1 }}')", "upper(llm_map('x'))"]


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("SELECT ?, @", []),
        ("SELECT ?, @", [1, 2]),
        ("SELECT $a, @", {"b": 1}),
        ("SELECT $a, @", {"a": 1, "b": 1}),
        ("SELECT $2, @", [1]),
        ("SELECT @", 5),
        ("SELECT $a, ?, @", [1]),
    ],
)
def test_wrong_parameters_raise_duckdbs_error(con: Any, query: str, parameters: Any) -> None:
    with duckdb.connect() as plain, pytest.raises(duckdb.Error) as theirs:
        plain.execute(query.replace("@", "'x'"), parameters)
    with pytest.raises(halo_sql.Error) as ours:
        con.execute(query.replace("@", "LLM_MAP('x')"), parameters)
    assert str(ours.value).split("\n")[0] == str(theirs.value).split("\n")[0]


def test_a_missing_value_is_shown_in_the_hole(con: Any) -> None:
    with pytest.raises(halo_sql.Error) as caught:
        con.execute("SELECT LLM_MAP('{{ body || $p }}') FROM t", {})
    assert str(caught.value).endswith("LINE 1: SELECT LLM_MAP('{{ body || $p }}') FROM t\n" + " " * 35 + "^^")


def test_executemany_binds_each_set(con: Any) -> None:
    con.executemany("INSERT INTO t SELECT $1, LLM_MAP('{{ $2 }}!')", [[11, "x"], [12, "y"]])
    assert con.execute("SELECT id, body FROM t WHERE id > 10 ORDER BY id").fetchall() == [(11, "x!"), (12, "y!")]
    con.execute("CREATE MACRO m(a) AS LLM_MAP('<{{ a }}>')")
    con.executemany("INSERT INTO t SELECT $1, m($2)", [[13, "x"], [14, "y"]])
    assert con.execute("SELECT body FROM t WHERE id > 12 ORDER BY id").fetchall() == [("<x>",), ("<y>",)]


def test_a_view_takes_parameters_around_it(con: Any) -> None:
    con.execute("CREATE VIEW v AS SELECT id, LLM_MAP('{{ body }}') AS s FROM t")
    con.execute("CREATE MACRO tm(n, w) AS TABLE SELECT LLM_MAP('{{ w }}{{ body }}') AS s FROM t WHERE id = n")
    assert con.execute("SELECT s || ? FROM v WHERE id = ?", ["!", 2]).fetchall() == [("b!",)]
    assert con.execute("FROM tm($n, $w)", {"n": 1, "w": "'"}).fetchall() == [("'a",)]


def test_prepared_statements_take_the_parameters_of_their_execute(con: Any) -> None:
    con.execute("PREPARE p AS SELECT LLM_MAP('{{ $a }}{{ $b }}')")
    assert con.execute("EXECUTE p(a := ?, b := ? + 1)", ["x", 1]).fetchall() == [("x2",)]


def test_variables_are_read_wherever_an_expression_is_computed(con: Any) -> None:
    con.execute("SET VARIABLE v = {'a': DATE '2020-01-02'}")
    for optimizer in ("on", "off"):
        con.execute(f"SET halo_optimizer = '{optimizer}'")
        rows = con.execute(
            "SELECT LLM_MAP('{{ getvariable(''v'').a }} {{ body }}'), getvariable('v').a, getvariable('no') "
            "FROM t WHERE id = 1"
        ).fetchall()
        assert rows == [("2020-01-02 a", datetime.date(2020, 1, 2), None)]
    assert [item[0] for item in con.description][2] == "getvariable('no')"
