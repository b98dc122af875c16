"""EXPLAIN ANALYZE with sections, and EXPLAIN of statements that are run in stages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import halo_sql
from halo_sql.errors import Error, ProgrammingError

CALL = "LLM_MAP('{{ a }}')"
#: sources of a PIVOT that makes columns of answers, and has no others
PIVOTS = [
    f"PIVOT (SELECT {CALL} AS m, n FROM p) ON m USING sum(n)",
    f"WITH q AS (SELECT {CALL} AS m, n FROM p) PIVOT q ON m USING sum(n)",
    f"SELECT * FROM (PIVOT (SELECT {CALL} AS m, n FROM p) ON m USING sum(n)) AS z",
]


@pytest.fixture
def connection() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as opened:
        opened.execute("CREATE TABLE p AS SELECT * FROM (VALUES ('x', 1), ('y', 2), ('x', 3)) AS v(a, n)")
        opened.execute("CREATE TABLE none AS FROM p LIMIT 0")
        yield opened


def _explained(connection: halo_sql.Connection, options: str, sql: str) -> tuple[str, str]:
    [(key, text)] = connection.execute(f"EXPLAIN {options} {sql}").fetchall()
    return key, text


@pytest.mark.parametrize("sql", [f"SELECT {CALL} FROM p", PIVOTS[0]])
def test_sections_follow_what_happened(connection: halo_sql.Connection, sql: str) -> None:
    key, text = _explained(connection, "(ANALYZE, MEMO, RULES)", sql)
    physical, memo = text.split("\n\nMEMO\ngroups ")
    memo, rules = memo.split("\n\nRULES\n")
    assert key == "analyzed_plan"
    assert physical.startswith("PHYSICAL\n")
    assert "/2 calls" in physical
    assert "LlmMap" in memo
    assert "llm_map" in rules
    assert "tried" in rules


def test_the_plan_alone_has_no_heading(connection: halo_sql.Connection) -> None:
    _, alone = _explained(connection, "(ANALYZE, PHYSICAL)", f"SELECT {CALL} FROM p")
    assert "/2 calls" in alone
    assert "PHYSICAL" not in alone
    _, ordered = _explained(connection, "(COSTS, PHYSICAL, ANALYZE)", f"SELECT {CALL} FROM p")
    assert ordered.index("PHYSICAL\n") < ordered.index("COSTS\n")


def test_sections_in_another_form_are_refused_before_anything_runs(connection: halo_sql.Connection) -> None:
    with pytest.raises(ProgrammingError, match="sections are text, not json"):
        connection.execute(f"EXPLAIN (ANALYZE, MEMO, FORMAT json) SELECT {CALL} FROM p")
    assert connection.last_profile() is None


@pytest.mark.parametrize("sql", PIVOTS)
def test_columns_that_are_answers_only(connection: halo_sql.Connection, sql: str) -> None:
    """The stage's table has no rows yet when the statement is checked, so the PIVOT over it has no column."""
    assert "LlmMap" in _explained(connection, "", sql)[1]
    assert "LlmMap" in _explained(connection, "(LOGICAL, MEMO)", sql)[1]
    assert "/2 calls" in _explained(connection, "ANALYZE", sql)[1]
    assert connection.execute(sql).fetchall() == connection.execute(sql.replace(CALL, "a")).fetchall() == [(4, 2)]


def test_a_pivot_of_no_rows_fails_as_without_calls(connection: halo_sql.Connection) -> None:
    sql = PIVOTS[0].replace("FROM p", "FROM none")
    messages = []
    for text in (sql, sql.replace(CALL, "a")):
        with pytest.raises(Error) as problem:
            connection.execute(text)
        messages.append(problem.value.message)
    assert messages[0] == messages[1]
