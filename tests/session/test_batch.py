"""Batches through Python: results in order, errors with their statement."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import halo_sql


@pytest.fixture
def con() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as connection:
        yield connection


def test_results_in_order_and_errors_with_their_statement(con: halo_sql.Connection) -> None:
    cursors = con.execute_batch(
        [
            "CREATE TABLE t AS SELECT 1 AS i",
            "SELECT LLM_MAP('{{ i }}') FROM t",
            "SELECT nope FROM t",
            "CREATE PROMPT p AS 'x'; SELECT 3",
            ("SELECT ? + $2 AS x", [1, 2]),
            "SELECT LLM_MAP('{{ i }}', returns => 'DATE') FROM t",
            "SELECT LLM_MAP(p)",
        ]
    )
    assert [cursors[place].fetchall() for place in (1, 3, 4, 6)] == [[("1",)], [(3,)], [(3,)], [("x",)]]
    for _ in range(2):
        with pytest.raises(halo_sql.ProgrammingError, match='"nope" not found'):
            cursors[2].fetchall()
    with pytest.raises(halo_sql.ProgrammingError, match="nope"):
        _ = cursors[2].description
    with pytest.raises(halo_sql.ProgrammingError, match="nope"):
        _ = cursors[2].rowcount
    with pytest.raises(halo_sql.OperationalError, match="DATE"):
        cursors[5].fetchone()
    assert con.execute("SELECT 1").fetchall() == [(1,)]
    cursors[2].execute("SELECT 2")
    assert cursors[2].fetchall() == [(2,)]


@pytest.mark.parametrize("bad", ["BEGIN BATCH; SELECT 1; END BATCH", "COMMIT", "SELECT 1; ROLLBACK", "END BATCH"])
def test_what_a_batch_cannot_hold_is_said_before_anything_runs(con: halo_sql.Connection, bad: str) -> None:
    with pytest.raises(halo_sql.ProgrammingError, match="cannot stand in a batch"):
        con.execute_batch(["CREATE TABLE t (i INTEGER)", bad])
    assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]


def test_an_error_in_a_script_points_into_the_script(con: halo_sql.Connection) -> None:
    sql = "SELECT 1;\nBEGIN BATCH;\n  SELECT 2;\n  SELECT LLM_MAP('{{ nope }}');\nEND BATCH;"
    with pytest.raises(halo_sql.ProgrammingError) as caught:
        con.execute(sql)
    span = caught.value.span
    assert span is not None
    assert sql[span.start : span.end] == "nope"


def test_a_batch_in_a_transaction_is_undone_with_it(con: halo_sql.Connection) -> None:
    con.begin()
    con.execute_batch(["CREATE TABLE t (i INTEGER)", "CREATE PROMPT p AS 'x'", "INSERT INTO t VALUES (1)"])
    con.rollback()
    assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    assert con.execute("FROM halo_prompts()").fetchall() == []


def test_an_empty_batch_and_an_empty_statement(con: halo_sql.Connection) -> None:
    assert con.execute_batch([]) == []
    [cursor] = con.execute_batch(["-- nothing"])
    assert cursor.description is None


def test_a_mixed_script_is_split_by_duckdbs_tokenizer(con: halo_sql.Connection) -> None:
    sql = """
        CREATE TABLE t AS SELECT 'a;b' AS x; -- one; two
        CREATE PROMPT p AS $$ {{ x }}; END BATCH; $$;
        /* BEGIN BATCH; */ INSERT INTO t SELECT 'BEGIN BATCH;';
        SELECT x, LLM_MAP(p) FROM t WHERE x = $x;
    """
    assert con.execute(sql, {"x": "a;b"}).fetchall() == [("a;b", " a;b; END BATCH; ")]


def test_listings_see_what_the_statement_before_them_did(con: halo_sql.Connection) -> None:
    assert con.execute("CREATE PROMPT p AS 'x'; SELECT name FROM halo_prompts()").fetchall() == [("p",)]
    assert con.execute("DROP PROMPT p; SELECT count(*) FROM halo_prompts()").fetchall() == [(0,)]


def test_parameters_belong_to_a_statement(con: halo_sql.Connection) -> None:
    for sql in ("SELECT 1; BEGIN BATCH; SELECT ?; END BATCH", "SHOW MODELS", "CREATE PROMPT p AS 'x'"):
        with pytest.raises(halo_sql.ProgrammingError, match="takes no parameters") as caught:
            con.execute(sql, [1])
        assert caught.value.remedy
    assert con.execute("BEGIN BATCH; SELECT 1; END BATCH; SELECT ?", [2]).fetchall() == [(2,)]
    assert con.execute("FROM halo_prompts()").fetchall() == []
