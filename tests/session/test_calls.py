"""halo_calls(), and what the response store's keys hold."""

from __future__ import annotations

from pathlib import Path

import pytest

import halo_sql
from halo_sql import listings


def upper(messages: list[dict[str, str]]) -> str:
    """A model whose answers may be stored."""
    return messages[-1]["content"].upper()


def connect(store: Path | str, **config: object) -> halo_sql.Connection:
    con = halo_sql.connect(config={"halo_store": str(store), "halo_default_model": "upper", **config})
    con.create_model("upper", upper)
    return con


@pytest.mark.parametrize("count", [3, listings.VALUES_ROWS + 50])
def test_few_and_many_calls_are_listed_alike(count: int) -> None:
    with connect("off", halo_trace_text=True) as con:
        con.execute(f"""SELECT LLM_MAP('{{{{ i }}}} it''s "é" \\ ') FROM range({count}) r(i)""").fetchall()
        rows = con.execute("FROM halo_calls() ORDER BY row_key").fetchall()
        assert [row[2] for row in rows] == list(range(count))
        assert rows[2][14:16] == ('2 it\'s "é" \\ ', '2 IT\'S "É" \\ ')
        kinds = [row[1] for row in con.execute("DESCRIBE FROM halo_calls()").fetchall()]
        assert kinds[:7] == ["BIGINT", "INTEGER", "BIGINT", "VARCHAR", "VARCHAR", "INTEGER", "VARCHAR"]
        assert kinds[12:14] == ["TIMESTAMP", "DOUBLE"]
        assert con.execute("SELECT count(*) FROM halo_calls() WHERE started > TIMESTAMP '2020-01-01'").fetchone() == (
            count,
        )


def test_answers_of_the_store_are_calls_too(tmp_path: Path) -> None:
    for status in ("done", "store"):
        with connect(tmp_path / "store.sqlite") as con:
            assert con.execute("SELECT LLM_MAP('hello')").fetchall() == [("HELLO",)]
            assert con.execute("SELECT status, seconds > 0, prompt FROM halo_calls()").fetchall() == [
                (status, status == "done", None)
            ]


def asked(con: halo_sql.Connection, sql: str) -> int:
    con.execute(sql).fetchall()
    profile = con.last_profile()
    assert profile is not None
    calls: int = profile["totals"]["llm_calls"]
    return calls


def test_kept_answers_are_found_by_what_was_asked_not_by_version(tmp_path: Path) -> None:
    with connect(tmp_path / "store.sqlite") as con:
        con.execute("CREATE TABLE t AS SELECT 'a' AS x; CREATE PROMPT p AS 'one {{ x }}'")
        query = "SELECT LLM_MAP(p) FROM t"
        assert (asked(con, query), asked(con, query)) == (1, 0)
        con.execute("ALTER PROMPT p SET TEXT 'two {{ x }}'")
        assert (asked(con, query), asked(con, query)) == (1, 0)
        con.execute("CREATE OR REPLACE PROMPT p AS 'one {{ x }}'")
        assert asked(con, query) == 0
        con.execute("ALTER PROMPT p SET (system = 'Be brief')")
        assert asked(con, query) == 1
        con.execute("COMMENT ON PROMPT p IS 'no change'; ALTER PROMPT p RENAME TO q")
        assert asked(con, "SELECT LLM_MAP(q) FROM t") == 0


def test_queries_keep_their_numbers() -> None:
    with connect("off") as con:
        for _ in range(103):
            con.execute("SELECT LLM_MAP('x')").fetchall()
        assert con.execute("SELECT min(id), max(id), count(*) FROM halo_queries()").fetchall() == [(4, 103, 100)]
        assert con.execute(
            "SELECT count(*) FROM halo_calls() c JOIN halo_queries() q ON q.id = c.query"
        ).fetchall() == [(100,)]
