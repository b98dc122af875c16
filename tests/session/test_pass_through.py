"""What is DuckDB's reaches DuckDB verbatim: rows, names, types, row counts and fetching are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

import halo_sql

SETUP = """
    CREATE TABLE t (id INTEGER, body VARCHAR, g VARCHAR);
    INSERT INTO t VALUES (1, 'a', 'x'), (2, 'b', 'x'), (3, NULL, 'y');
    CREATE TABLE k (id INTEGER PRIMARY KEY, s VARCHAR DEFAULT 'd');
    INSERT INTO k VALUES (1, 'one');
    CREATE VIEW v AS SELECT id, body FROM t;
    CREATE MACRO m(a, b := 2) AS a + b;
    CREATE MACRO tm(n) AS TABLE SELECT * FROM t WHERE id <= n;
    CREATE SCHEMA s;
    CREATE SEQUENCE seq;
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    SET VARIABLE x = 5
"""
FILED = (Path(__file__).parent / "plain_statements.sql").read_text(encoding="utf-8").rstrip("\n").split("\n")
WITH_PARAMETERS: list[tuple[str, Any]] = [
    ("SELECT ?, ?", [1, "x"]),
    ("SELECT $1 + $1", [2]),
    ("SELECT $a || $b", {"a": "x", "b": "y"}),
    ("SELECT * FROM t WHERE id = ?", (2,)),
    ("SELECT * FROM t ORDER BY id LIMIT ?", [1]),
    ("INSERT INTO t VALUES (?, ?, ?)", [7, "p", None]),
    ("UPDATE t SET body = ? WHERE id = ?", ["z", 1]),
    ("SELECT 1; SELECT ?", [4]),
    ("SELECT ?", [[1, 2, {"a": None}]]),
    ("SELECT ?", [1, 2]),
    ("SELECT ?", None),
    ("SELECT $a", {"b": 1}),
]


def _connections() -> tuple[Any, Any]:
    made = duckdb.connect(), halo_sql.connect(":memory:")
    for connection in made:
        connection.execute(SETUP)
    return made


def _told(connection: Any, sql: str, parameters: Any = None) -> Any:
    """Everything a statement tells: description, row count, rows one by one, in parts and whole, or the error."""
    try:
        connection.execute(sql) if parameters is None else connection.execute(sql, parameters)
        described = connection.description and [(item[0], str(item[1])) for item in connection.description]
        told = [described, connection.rowcount]
        if connection.description:
            told += [connection.fetchone(), connection.fetchmany(2), connection.fetchall(), connection.fetchone()]
    except (duckdb.Error, halo_sql.Error) as problem:
        return type(problem).__mro__[-4].__name__, str(problem)
    return told


@pytest.mark.parametrize("sql", FILED)
def test_a_plain_statement_tells_what_duckdb_tells(sql: str, tmp_path: Path) -> None:
    plain, ours = _connections()
    with plain, ours:
        told = [
            _told(connection, sql.replace("$DIR", str(folder)))
            for connection, folder in ((plain, tmp_path), (ours, tmp_path))
        ]
        assert told[1] == told[0]
        for table in ("t", "k"):
            state = f"FROM {table} ORDER BY ALL"
            assert _told(ours, state) == _told(plain, state)


@pytest.mark.parametrize(("sql", "parameters"), WITH_PARAMETERS, ids=lambda value: str(value)[:40])
def test_parameters_are_duckdbs(sql: str, parameters: Any) -> None:
    plain, ours = _connections()
    with plain, ours:
        wanted, told = _told(plain, sql, parameters), _told(ours, sql, parameters)
        assert told == wanted


def test_there_are_many() -> None:
    assert len(FILED) >= 140


@pytest.mark.parametrize("prepared", ["SELECT 1", "CREATE TOOL f(x INTEGER) RETURNS INTEGER AS SQL 'SELECT 2 * $x'"])
def test_a_profile_is_of_the_users_statement(tmp_path: Path, prepared: str) -> None:
    connection = halo_sql.connect()
    connection.execute(prepared)
    connection.execute(f"ATTACH '{tmp_path}/a.db'; CREATE TABLE a.t (x INTEGER)")
    connection.execute("PRAGMA enable_profiling = 'json'; SET profiling_coverage = 'ALL'")
    connection.execute(f"PRAGMA profiling_output = '{tmp_path}/profile.json'")
    for statement in ("DETACH a", f"ATTACH '{tmp_path}/a.db'", "CREATE INDEX i ON a.t(x)", "SELECT count(*) FROM a.t"):
        connection.execute(statement)
        connection.execute("PRAGMA disable_profiling")
        found = json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))
        assert statement in found["query"]["sql"]
        connection.execute("PRAGMA enable_profiling = 'json'")
