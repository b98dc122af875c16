"""Views and macros with LLM calls beyond one connection: files, cursors, exports, plain DuckDB, transactions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import halo_sql

CONFIG = {"halo_store": "off", "halo_default_model": "echo"}
DEFINITIONS = """
    CREATE TABLE t AS SELECT 1 AS id, 'a' AS body;
    CREATE VIEW v AS SELECT id, LLM_MAP('it''s {{ body }}') AS s FROM t;
    CREATE MACRO m(a, b := 'x') AS LLM_MAP('{{ a }}-{{ b }}');
    CREATE MACRO tm(n) AS TABLE SELECT LLM_MAP('{{ n }}') AS x
"""
READ = "SELECT s, m(id), (SELECT x FROM tm(7)) FROM v"
ROWS = [("it's a", "1-x", "7")]


@pytest.fixture
def con() -> Iterator[Any]:
    with halo_sql.connect(":memory:", config=CONFIG) as connection:
        connection.execute(DEFINITIONS)
        yield connection


def test_they_live_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with halo_sql.connect(path, config=CONFIG) as first:
        first.execute(DEFINITIONS)
    for read_only in (False, True):
        with halo_sql.connect(path, read_only=read_only, config=CONFIG) as again:
            assert again.execute(READ).fetchall() == ROWS
            assert again.execute("SELECT m(2)").fetchall() == [("2-x",)]


@pytest.mark.parametrize(
    "sql", ["SELECT m(2)", "SELECT s FROM v", "SELECT 1; SELECT s FROM v", "BEGIN; SELECT s FROM v"]
)
def test_the_first_statement_of_a_file_may_name_one(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "x.duckdb"
    with halo_sql.connect(path, config=CONFIG) as first:
        first.execute(DEFINITIONS)
    with halo_sql.connect(path, config=CONFIG) as again:
        assert again.execute(sql).fetchall() in ([("2-x",)], [("it's a",)])


def test_duckdb_alone_says_what_they_are_and_gives_their_text_back(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    query = "SELECT LLM_MAP($$ \"q\" '{{ body }}' \\ é😀 $$), 'it''s' -- why\n FROM t"
    with halo_sql.connect(path, config=CONFIG) as first:
        first.execute(DEFINITIONS + f"; CREATE VIEW exact(a, b) AS {query}")
    with duckdb.connect(str(path)) as plain:
        for sql in (
            "SELECT * FROM v",
            "SELECT count(*) FROM v",
            "SELECT id FROM v WHERE id > 1",
            "SELECT m(1)",
            "FROM tm(1)",
        ):
            with pytest.raises(duckdb.Error, match="holds LLM calls: read it with HaloSQL"):
                plain.execute(sql).fetchall()
        described = plain.execute("DESCRIBE v").fetchall()
        assert [row[:2] for row in described] == [("id", "INTEGER"), ("s", "VARCHAR")]
        [(text,)] = plain.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'exact'").fetchall()
        assert ("(a, b) AS " + query).replace("'", "''") in text


def test_cursors_see_what_others_create_and_drop(con: Any) -> None:
    cursor = con.cursor()
    assert cursor.execute(READ).fetchall() == ROWS
    cursor.execute("CREATE VIEW made AS SELECT LLM_MAP('by the cursor') AS x")
    assert con.execute("FROM made").fetchall() == [("by the cursor",)]
    con.execute("CREATE OR REPLACE VIEW made AS SELECT LLM_MAP('by the connection') AS x")
    assert cursor.execute("FROM made").fetchall() == [("by the connection",)]
    con.execute("DROP VIEW made; CREATE TABLE made AS SELECT 1 AS x")
    assert cursor.execute("FROM made").fetchall() == [(1,)]


def test_an_export_can_be_imported(con: Any, tmp_path: Path) -> None:
    con.execute(f"EXPORT DATABASE '{tmp_path}/e'")
    with halo_sql.connect(":memory:", config=CONFIG) as other:
        other.execute(f"IMPORT DATABASE '{tmp_path}/e'")
        assert other.execute(READ).fetchall() == ROWS


def test_an_attached_database_brings_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with halo_sql.connect(path, config=CONFIG) as first:
        first.execute(DEFINITIONS)
    with halo_sql.connect(":memory:", config=CONFIG) as con:
        con.execute(f"CREATE TABLE t AS SELECT 9 AS id, 'mine' AS body; ATTACH '{path}' AS other")
        # a view reads the tables of its own database
        assert con.execute("SELECT s FROM other.v").fetchall() == [("it's a",)]
        assert con.execute("SELECT other.m(3), (SELECT x FROM other.tm(4))").fetchall() == [("3-x", "4")]
        con.execute("USE other")
        assert con.execute(READ).fetchall() == ROWS
        con.execute("USE memory; DETACH other")
        with pytest.raises(halo_sql.Error, match="does not exist"):
            con.execute("SELECT s FROM v")


def test_a_view_whose_name_a_table_of_the_search_path_has_is_not_read(con: Any) -> None:
    con.execute("CREATE SCHEMA s; CREATE TABLE s.v AS SELECT 5 AS five; USE s")
    assert con.execute("FROM v").fetchall() == [(5,)]
    assert con.execute("SELECT s FROM memory.main.v").fetchall() == [("it's a",)]
    con.execute("USE memory; CREATE TEMP TABLE v AS SELECT 6 AS six")
    assert con.execute("FROM v").fetchall() == [(6,)]


def test_definitions_are_transactional(con: Any) -> None:
    con.execute("BEGIN")
    con.execute("CREATE OR REPLACE MACRO m(a) AS LLM_MAP('new {{ a }}')")
    assert con.execute("SELECT m(1)").fetchall() == [("new 1",)]
    con.execute("ROLLBACK")
    assert con.execute("SELECT m(1)").fetchall() == [("1-x",)]


def test_creating_makes_no_call(con: Any) -> None:
    con.execute("CREATE VIEW w AS SELECT LLM_MAP('{{ body }}') AS s, m(id) AS n FROM t")
    con.execute("PREPARE p AS SELECT LLM_MAP('{{ $1 }}')")
    assert con.last_profile() is None
    assert con.execute("DESCRIBE SELECT LLM_MAP('{{ body }}') FROM t").fetchall()[0][1] == "VARCHAR"
    assert con.last_profile() is None


def test_a_failing_row_points_to_the_views_name(con: Any) -> None:
    con.execute("CREATE VIEW f AS SELECT LLM_MAP('{{ body }}', returns => 'INTEGER') AS n FROM t")
    sql = "SELECT 1,\n       n\nFROM f"
    with pytest.raises(halo_sql.Error) as caught:
        con.execute(sql).fetchall()
    assert "LINE 3: FROM f\n             ^" in str(caught.value)


def test_parameters_do_not_go_into_definitions(con: Any) -> None:
    with pytest.raises(halo_sql.Error, match="Unexpected prepared parameter"):
        con.execute("CREATE VIEW w AS SELECT LLM_MAP('{{ ? }}')", [1])
    with pytest.raises(halo_sql.Error, match="Values were not provided for the following parameters: 1"):
        con.execute("CREATE VIEW w AS SELECT LLM_MAP('{{ ? }}')")


def test_plain_statements_cost_nothing_more(con: Any) -> None:
    # not a clock test: what a plain statement asks of DuckDB's catalog is counted
    asked: list[str] = []
    duck = con.session.duck
    rows = duck.rows

    def counted(sql: str, params: Any = None) -> Any:
        asked.append(sql)
        return rows(sql, params)

    duck.rows = counted
    con.execute("SELECT m(1)").fetchall()  # the definitions are read
    asked.clear()
    for number in range(5):
        con.execute(f"SELECT {number} FROM t WHERE body <> 'x'").fetchall()
        con.execute("INSERT INTO t VALUES (2, 'b')")
    assert asked == []
