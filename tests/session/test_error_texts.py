"""Errors of plain statements read exactly as DuckDB's, ours have the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

import halo_sql
from halo_sql import errors
from halo_sql.duck_errors import convert_error
from halo_sql.errors import Span, caret, offset_of, width

SETUP = """
    CREATE TABLE t (a INTEGER, b INTEGER, body VARCHAR); INSERT INTO t VALUES (1, 2, 'x'), (2, 3, 'y');
    CREATE TABLE u (a INTEGER, c INTEGER); CREATE TABLE k (a INTEGER PRIMARY KEY);
    CREATE TABLE c (a INTEGER CHECK (a > 0))
"""
FILED = (Path(__file__).parent / "bad_statements.sql").read_text(encoding="utf-8").rstrip("\n").split("\n")
LONG = "SELECT 1 AS " + "a" * 40 + ", 2 AS " + "b" * 40
BAD = [
    *FILED,
    "SELECT\n\t1,\n\t nosuch",
    "SELECT\n'日本',\n  '😀', nosuch\nFROM t",
    LONG + ", nosuch, 3 AS " + "c" * 80 + " FROM t",
    LONG + ", 'é😀' AS x, nosuch FROM t",
    "SELECT 1;\n\nSELECT 2;\nSELECT nosuch",
    "SELECT nosuch, " + "1, " * 100 + "2",
]


@pytest.fixture(scope="module")
def both() -> Any:
    with duckdb.connect() as plain, halo_sql.connect(":memory:") as ours:
        for connection in (plain, ours):
            connection.execute(SETUP)
        yield plain, ours


def _text(connection: Any, sql: str) -> str:
    try:
        connection.execute(sql).fetchall()
    except Exception as problem:
        return str(problem)
    return ""


@pytest.mark.parametrize("sql", BAD)
def test_a_plain_statements_error_is_duckdbs(both: Any, sql: str) -> None:
    plain, ours = both
    wanted = []
    for connection in (plain, ours):
        connection.execute("BEGIN")
        wanted.append(_text(connection, sql))
        for leave in ("ROLLBACK", "USE memory"):
            _text(connection, leave)
    assert wanted[1] == wanted[0]


def test_most_of_them_fail(both: Any) -> None:
    failing = [sql for sql in FILED if _text(both[0], f"BEGIN; {sql}") or _text(both[0], "ROLLBACK")]
    for connection in both:
        _text(connection, "ROLLBACK")
    assert len(FILED) >= 200
    assert len(failing) > len(FILED) * 0.9


def test_errors_as_json_stay_json(both: Any) -> None:
    plain, ours = both
    texts = []
    for connection in (plain, ours):
        connection.execute("SET errors_as_json = true")
        texts.append(_text(connection, "SELECT nosuch"))
        connection.execute("RESET errors_as_json")
    assert texts[0] == texts[1]
    assert texts[0].partition("{")[1] == "{"


def _subclasses(cls: type) -> list[type]:
    return [cls, *(found for child in cls.__subclasses__() for found in _subclasses(child))]


@pytest.mark.parametrize("cls", _subclasses(duckdb.Error), ids=lambda cls: cls.__name__)
def test_every_class_of_duckdb_has_one_of_ours(cls: Any) -> None:
    found = convert_error(cls("Some Error: what happened"))
    assert (found.kind, found.message) == ("Some Error", "what happened")
    for name in (
        "IntegrityError",
        "DataError",
        "OperationalError",
        "ProgrammingError",
        "NotSupportedError",
        "InternalError",
    ):
        if issubclass(cls, getattr(duckdb, name)):
            assert isinstance(found, getattr(errors, name))


@pytest.mark.parametrize(
    ("before", "bad", "behind"),
    [
        ("SELECT ", "LLM_MAPP", "(1)"),
        ("SELECT 1,\n  '日本', ", "x", " FROM t"),
        ("SELECT\t", "x", ""),
        ("SELECT '👩\u200d👩\u200d👧', 'e\u0301', ", "nosuch", ""),
        ("SELECT " + "a, " * 50, "nosuch", ", b" * 50),
        ("SELECT '" + "日" * 50 + "', ", "日本", ", " + "b" * 90),
    ],
)
def test_the_caret_stands_under_the_place(before: str, bad: str, behind: str) -> None:
    sql = before + bad + behind
    line, carets = caret(sql, Span(len(before), len(before) + len(bad))).split("\n")
    column = len(carets) - len(carets.lstrip())
    at = offset_of(line, column)
    assert line[at : at + len(bad)] == bad
    assert len(carets) - column == width(bad)
    assert line.startswith(f"LINE {sql.count(chr(10), 0, len(before)) + 1}: ")
    assert width(line) < 140


def test_an_error_of_ours_has_the_form_of_duckdbs() -> None:
    with halo_sql.connect(":memory:", config={"halo_default_model": "echo"}) as con:
        con.execute("CREATE TABLE t AS SELECT 'é😀' AS body")
        text = _text(con, "SELECT 1;\nSELECT body,\n  '日本', LLM_MAP('{{ bodi }}')\nFROM t")
    assert text == (
        'Binder Error: Referenced column "bodi" not found in FROM clause!\nCandidate bindings: "body"\n\n'
        "LINE 3:   '日本', LLM_MAP('{{ bodi }}')\n" + " " * 30 + "^^^^"
    )
