"""What calls of tools took is learnt, shown, forgotten, and decides plans."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

import halo_sql

TABLE = "CREATE TABLE t AS SELECT range AS i, 'row ' || range AS body FROM range(20)"
KNOWN = (
    "SELECT requests, seconds, seconds_p50, seconds_p90, answer_chars, result_rows FROM halo_statistics() WHERE call = "
)


@pytest.fixture
def con() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as con:
        con.execute(TABLE)
        yield con


def costs(con: halo_sql.Connection, query: str) -> str:
    return str(con.execute(f"EXPLAIN (PHYSICAL, COSTS) {query}").fetchall()[0][1])


@pytest.fixture
def virtual() -> Iterator[halo_sql.Connection]:
    """The same on a virtual clock: a nap takes exactly its time."""
    config = {"halo_store": "off", "halo_default_model": "echo", "halo_virtual_time": True}
    with halo_sql.connect(config=config) as con:
        con.execute(TABLE)
        yield con


def test_seconds_quantiles_and_sizes_of_calls_are_learnt(virtual: halo_sql.Connection) -> None:
    con = virtual

    async def nap(x: int) -> str:
        await asyncio.sleep(0.2 if x == 7 else 0.01)
        return "abc"

    con.create_tool("nap", nap, egress=False)
    query = "SELECT nap(i) FROM t"
    assert "tool nap: call 0.05 s (p90 0.05 s), 16 at once; assumed" in costs(con, query)
    con.execute(query).fetchall()
    ((requests, mean_s, p50_s, p90_s, chars, rows),) = con.execute(KNOWN + "'TOOL(nap)'").fetchall()
    assert (requests, chars, rows) == (20, 5.0, None)
    assert p50_s == pytest.approx(0.01, rel=0.1)  # of a histogram
    assert p90_s == pytest.approx(0.01, rel=0.1)
    assert mean_s == pytest.approx((19 * 0.01 + 0.2) / 20, rel=0.01)
    assert re.search(r"tool nap: call 0\.0\d+ s .*; learnt of 20 calls", costs(con, query))
    con.execute("DROP STATISTICS")
    assert con.execute(KNOWN + "'TOOL(nap)'").fetchall() == []
    assert "assumed" in costs(con, query)


def test_learning_can_be_off_and_failed_statements_teach_nothing(con: halo_sql.Connection) -> None:
    def odd(x: int) -> int:
        if x == 9:
            raise ValueError("no")
        return x

    con.create_tool("odd", odd, egress=False)
    with pytest.raises(halo_sql.Error, match="no"):
        con.execute("SELECT odd(i) FROM t").fetchall()
    assert con.execute(KNOWN + "'TOOL(odd)'").fetchall() == []
    con.execute("SET halo_learn = false")
    con.execute("SELECT odd(i) FROM t WHERE i < 5").fetchall()
    con.execute("RESET halo_learn")
    assert con.execute(KNOWN + "'TOOL(odd)'").fetchall() == []


def test_another_definition_is_another_tool_and_another_limit_is_not(con: halo_sql.Connection) -> None:
    con.execute("CREATE TOOL f(x BIGINT) RETURNS DOUBLE AS PYTHON 'math:sqrt' WITH (isolation = 'thread')")
    con.execute("SELECT f(i) FROM t").fetchall()
    con.execute("ALTER TOOL f SET (concurrency = 3)")
    con.execute("ALTER TOOL f SET (rate_per_s = 50)")
    assert re.search(r"tool f: call .* 3 at once, 50 per second; learnt of 20 calls", costs(con, "SELECT f(i) FROM t"))
    con.execute("CREATE OR REPLACE TOOL f(x BIGINT) RETURNS DOUBLE AS PYTHON 'math:exp'")
    assert "tool f: call 0.05 s (p90 0.05 s), 4 at once; assumed" in costs(con, "SELECT f(i) FROM t")


def test_rows_of_tables_are_learnt(con: halo_sql.Connection) -> None:
    con.execute(
        "CREATE TOOL some(n BIGINT) RETURNS TABLE (v BIGINT) AS SQL 'SELECT range FROM range(30) WHERE $n >= 0'"
    )
    query = "SELECT LLM_MAP('{{ s.v }} {{ t.i }}') FROM t, LATERAL TOOL(some, n => t.i) s"
    assert re.search(r"LlmMap .*~20 rows", con.explain(query))
    con.execute("SELECT count(*) FROM t, LATERAL TOOL(some, n => t.i) s").fetchall()
    assert con.execute(KNOWN + "'TOOL(some)'").fetchall()[0][-1] == 30
    assert re.search(r"LlmMap .*~600 rows", con.explain(query))


def test_agents_calls_teach_the_same(con: halo_sql.Connection) -> None:
    con.execute("CREATE TOOL twice(x VARCHAR) RETURNS VARCHAR AS SQL $$ SELECT $x || $x $$")
    con.execute("CREATE AGENT helper RETURNS VARCHAR WITH (model = echo, tools = [twice])")
    script = """'[{"tool": "twice", "arguments": {"x": "' || i || '"}}, {"answer": "$result"}]'"""
    con.execute(f"SELECT AGENT(helper, task => {script}) FROM t").fetchall()
    did = con.last_profile()["totals"]
    assert con.execute(KNOWN + "'TOOL(twice)'").fetchall()[0][0] == did["tool_calls"] > 0
    assert "tool twice: " in costs(con, "SELECT AGENT(helper, 'Answer {{ i }}') FROM t")


LOOK_UP = "CREATE TOOL name_of(x BIGINT) RETURNS VARCHAR AS SQL 'SELECT body FROM t WHERE i = $x'"


def queries_of(con: halo_sql.Connection, query: str) -> tuple[list[object], int]:
    """The rows, and how many of the calls were made by themselves."""
    con.execute("DROP STATISTICS")
    rows = con.execute(query).fetchall()
    seconds = con.session.knowledge.everything()
    return sorted(map(repr, rows)), round(sum(lesson[2].timed for lesson in seconds))


def test_few_calls_of_a_query_run_one_by_one_and_many_as_a_join(con: halo_sql.Connection) -> None:
    con.execute(LOOK_UP)
    few, many = "SELECT name_of(i) FROM t WHERE i < 3", "SELECT name_of(i) FROM t"
    assert "· per call (set-oriented from 5) ·" in con.explain(few)
    assert "· set-oriented (from 5) ·" in con.explain(many)
    assert queries_of(con, few) == (["('row 0',)", "('row 1',)", "('row 2',)"], 3)
    rows, alone = queries_of(con, many)
    assert (len(rows), alone) == (20, 0)
    con.execute("BEGIN")
    assert "· per call ·" in con.explain(many)
    assert queries_of(con, many) == (rows, 20)
    con.execute("ROLLBACK")
    con.execute("SET halo_optimizer = 'off'")
    assert queries_of(con, many)[0] == rows


def test_how_many_come_together_decides_and_not_how_many_were_expected(con: halo_sql.Connection) -> None:
    con.execute(LOOK_UP)
    query = "SELECT name_of(i) FROM (SELECT * FROM t WHERE LLM_FILTER('{{ i >= 0 }}', max_tokens => 8)) LIMIT 2"
    assert "per call" in con.explain(query)
    hidden = "SELECT name_of(i) FROM (SELECT DISTINCT i // 1 AS i FROM t WHERE body LIKE 'r%' AND length(body) > 0)"
    rows, alone = queries_of(con, hidden)
    assert (len(rows), alone) == (20, 0)


def test_what_cannot_be_joined_is_said_to_run_per_call(con: halo_sql.Connection) -> None:
    con.execute(
        "CREATE TOOL top(x BIGINT) RETURNS VARCHAR AS SQL 'SELECT body FROM t WHERE i <= $x ORDER BY i DESC LIMIT 1'"
    )
    query = "SELECT top(i) FROM t"
    assert "· per call ·" in con.explain(query)
    assert queries_of(con, query)[1] == 20


def test_what_was_learnt_of_both_ways_moves_the_number(con: halo_sql.Connection) -> None:
    from halo_sql.engines.experience import CallKind, Experience
    from halo_sql.learning import tool_identity

    con.execute(LOOK_UP)
    tool = con.session.catalog.snapshot().tools["name_of"]
    seen = Experience(requests=500, timed=100, seconds=10.0, latencies={})
    for calls in (100, 300):
        seen.took(calls, 1.0 + calls * 0.001)
    con.session.knowledge.learn([(CallKind(tool_identity(tool), tool.name), "TOOL(name_of)", seen)])
    text = costs(con, "SELECT name_of(i) FROM t")
    assert "join 1 s + 0.001 s per call; learnt of 500 calls" in text
    assert "set-oriented (from 11)" in text, "1 s / (0.1 s - 0.001 s)"


def test_a_tool_learnt_to_be_slow_is_asked_after_the_other(virtual: halo_sql.Connection) -> None:
    con = virtual

    async def one(x: int) -> int:
        await asyncio.sleep(0.02)
        return x

    con.create_tool("one", one, egress=False)
    con.execute("CREATE TOOL two(x BIGINT) RETURNS DOUBLE AS PYTHON 'math:sqrt' WITH (isolation = 'thread')")
    query = "SELECT i FROM t WHERE one(i) >= 0 AND two(i) >= 0"
    for name in ("one", "two"):
        con.execute(f"SELECT {name}(i) FROM t").fetchall()
    plan = con.explain(query)
    assert plan.index(" = TOOL(one") < plan.index(" = TOOL(two"), "the one that runs first stands below"
    turned = con.explain("SELECT i FROM t WHERE two(i) >= 0 AND one(i) >= 0")
    assert turned.index("TOOL(one") < turned.index("TOOL(two")
    assert len(con.execute(query).fetchall()) == 20


def test_an_llm_filter_comes_before_an_expensive_tool(con: halo_sql.Connection) -> None:
    con.execute("CREATE TOOL far(x VARCHAR) RETURNS DOUBLE AS PYTHON 'math:sqrt' WITH (rate_per_s = 2)")
    plan = con.explain("SELECT i FROM t WHERE far(body) > 1 AND LLM_FILTER('{{ body }}')")
    assert plan.index("ToolApply") < plan.index("LlmFilter")
