"""Tools and agents in batches: what running one by one gives, equal calls once, errors with their statement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

import halo_sql

from .batch_support import Model, batch, connected, told


@pytest.fixture
def con() -> Iterator[halo_sql.Connection]:
    with connected(Model()) as connection:
        yield connection


def one_by_one(con: halo_sql.Connection, statements: list[str]) -> list[object]:
    return [told(lambda sql=sql: con.execute(sql)) for sql in statements]  # type: ignore[misc]


def test_equal_agents_are_asked_once(con: halo_sql.Connection) -> None:
    con.execute("CREATE AGENT plain WITH (model = echo)")
    statements = [
        "SELECT AGENT(plain, c) AS x FROM t ORDER BY a",
        "SELECT b, AGENT(plain, c) AS y FROM t ORDER BY a",
        "SELECT AGENT(plain, 'Say {{ c }}') AS z FROM t ORDER BY a LIMIT 2",
    ]
    expected = one_by_one(con, statements)
    assert batch(con, statements) == expected
    asked = sum(profile.totals()["llm_calls"] for profile in con.session.profiles()[-3:])
    assert asked == 12


def test_a_failing_tool_fails_its_statements_alone(con: halo_sql.Connection) -> None:
    def picky(n: int) -> int:
        if n == 7:
            raise ValueError("not seven")
        return n + 1

    con.create_tool("picky", picky)
    con.execute(
        "CREATE TOOL strict(n INTEGER) RETURNS INTEGER "
        "AS SQL $$ SELECT CASE WHEN $n = 3 THEN error('three') ELSE $n END $$"
    )
    statements = [
        "SELECT TOOL(picky, n => a) AS x FROM t WHERE a < 7 ORDER BY a",
        "SELECT TOOL(picky, n => a) AS y FROM t ORDER BY a",
        "SELECT TOOL(strict, n => a) AS z FROM t ORDER BY a",
        "SELECT TOOL(strict, n => a) AS z FROM t WHERE a > 3 ORDER BY a",
    ]
    expected = one_by_one(con, statements)
    found = batch(con, statements)
    assert found == expected
    assert [rows[0] == "EngineError" for rows in found] == [False, True, True, False]
    assert "not seven" in str(found[1])
    assert "three" in str(found[2])


def test_acting_tools_act_for_every_statement_in_their_order(con: halo_sql.Connection) -> None:
    acted: list[int] = []

    def act(n: int) -> int:
        acted.append(n)
        return n

    con.create_tool("act", act, side_effects=True)
    statements = [f"SELECT TOOL(act, n => a) AS x FROM t WHERE a >= {low}" for low in (8, 8, 9)]
    expected = one_by_one(con, statements)
    alone, acted[:] = list(acted), []
    assert batch(con, statements) == expected
    assert Counter(acted) == Counter(alone) == Counter({8: 2, 9: 3})
    assert Counter(acted[:2]) == Counter(acted[2:4]) == Counter({8: 1, 9: 1})
