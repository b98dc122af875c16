"""Agents whose tools, models or definitions fail: the model is told, the other rows go on, nothing runs twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import halo_sql

from .agents_support import Messages, add_model, answer, calls, connect, data, results, rows, totals
from .tool_deeds import DEEDS, deed


def test_a_tool_that_fails_is_told_to_the_agent_in_one_line_and_it_goes_on() -> None:
    with connect() as con:
        con.create_tool("t", _deed_of, timeout_s=1, max_retries=0, egress=False)
        model = add_model(con, lambda messages: calls(("t", {"what": data(messages)["what"]})), answer("went on"))
        con.execute("CREATE TEMP AGENT g WITH (tools = [t])")
        con.execute("CREATE TABLE t AS SELECT unnest(?::VARCHAR[]) AS what", [[*DEEDS]])
        assert rows(con, "SELECT AGENT(g, 'Do {{ what }}') FROM t") == [("went on",)] * len(DEEDS)
        told = {data(messages)["what"]: results(messages)[0] for messages in model.prompts if len(messages) > 2}
        for what, said in DEEDS.items():
            assert ("error" in told[what]) == (said is not None)
            assert "\n" not in told[what].get("error", "")
        assert totals(con)["llm_calls"] == 2 * len(DEEDS)
        assert totals(con)["tool_calls"] == len(DEEDS)


async def _deed_of(what: str) -> int:
    if what == "hangs":
        await asyncio.sleep(30)
    found: int = deed(what)
    return found


def test_models_that_fail_leave_the_other_rows_alone() -> None:
    async def model(messages: Messages) -> Any:
        number = data(messages)["n"]
        if number % 5 == 1:
            raise ValueError("no idea")
        if number % 5 == 2:
            return 42
        if number % 5 == 3:
            return {"answer": {1, 2}}
        return answer(number) if len(messages) > 2 else calls(("t", {"n": number}))

    reached: Counter[int] = Counter()

    async def tool(n: int) -> int:
        reached[n] += 1
        return n

    with connect() as con:
        con.create_model("m", model)
        con.create_tool("t", tool, egress=False)
        con.execute("CREATE TEMP AGENT g RETURNS INTEGER WITH (model = m, tools = [t])")
        found = rows(con, "SELECT range AS n, AGENT(g, 'Take {{ range }}', on_error => 'struct') FROM range(0)")
        assert found == []
        found = rows(con, "SELECT n, AGENT(g, 'Take {{ n }}', on_error => 'struct') FROM range(25) r(n) ORDER BY n")
        for number, item in found:
            if number % 5 in (0, 4):
                assert item == {"value": number, "error": None}
            else:
                assert item["value"] is None
                assert item["error"]
        assert reached == {number: 1 for number in range(25) if number % 5 in (0, 4)}
        assert totals(con)["errors"] == 15


def test_agents_without_tools_and_agents_in_a_circle() -> None:
    with connect() as con:
        model = add_model(con, calls(("nothing", {})), answer("alone"))
        con.execute("CREATE AGENT alone")
        assert rows(con, "SELECT AGENT(alone, 'x')") == [("alone",)]
        assert len(model.prompts) == 2  # the call is refused, it may answer
        con.execute("CREATE AGENT a WITH (tools = [alone])")
        con.execute("CREATE AGENT b WITH (tools = [a])")
        for change in ("CREATE OR REPLACE AGENT alone WITH (tools = [b])", "ALTER AGENT alone SET (tools = [b])"):
            model.prompts.clear()
            with pytest.raises(halo_sql.ProgrammingError):
                con.execute(f"{change}; SELECT AGENT(b, 'x')").fetchall()
            assert model.prompts == []


def test_what_is_dropped_between_is_missed_before_anything_is_called() -> None:
    with connect() as con:
        model = add_model(con, calls(("t", {"n": 1})), answer("x"))
        con.execute("CREATE TOOL t(n INTEGER) RETURNS INTEGER AS SQL 'SELECT $n'")
        con.execute("CREATE AGENT g WITH (tools = [t])")
        con.execute("CREATE VIEW v AS SELECT TOOL(t, range::INTEGER) AS x FROM range(3)")
        con.execute("CREATE VIEW w AS SELECT AGENT(g, 'go') AS x")
        con.execute("PREPARE p AS SELECT TOOL(t, $1)")
        assert rows(con, "EXECUTE p(4)") == [(4,)]
        with pytest.raises(halo_sql.ProgrammingError, match="g"):
            con.execute("DROP TOOL t")
        con.execute("DROP AGENT g")
        con.execute("DROP TOOL t")
        for statement in ("FROM v", "FROM w", "EXECUTE p(4)", "SELECT TOOL(t, 1)", "SELECT AGENT(g, 'x')"):
            with pytest.raises(halo_sql.ProgrammingError, match="does not exist"):
                con.execute(statement).fetchall()
        con.execute("CREATE TOOL t(n INTEGER) RETURNS INTEGER AS SQL 'SELECT $n + 1'")
        assert rows(con, "FROM v") == [(1,), (2,), (3,)]
        assert model.prompts == []


def test_a_tool_dropped_while_its_statement_runs_stays_for_that_statement(tmp_path: Path) -> None:
    path = str(tmp_path / "d.duckdb")
    with connect(path) as con:
        other = con.cursor()
        con.execute("CREATE TOOL t(a INTEGER) RETURNS INTEGER AS PYTHON 'operator:neg' WITH (isolation = 'thread')")
        result = con.execute("SELECT TOOL(t, range::INTEGER) FROM range(5000)")
        assert result.fetchone() == (0,)
        other.execute("DROP TOOL t")
        assert len(result.fetchall()) == 4999


def test_a_failing_statement_writes_nothing_and_calls_nothing_more() -> None:
    reached: list[int] = []

    async def tool(n: int) -> int:
        reached.append(n)
        await asyncio.sleep(0.01)
        if n == 20:
            raise ValueError("twenty")
        return n

    with connect() as con:
        con.create_tool("t", tool, concurrency=4, egress=False)
        con.execute("CREATE TABLE kept (n INTEGER)")
        for statement in (
            "INSERT INTO kept SELECT TOOL(t, range::INTEGER) FROM range(1000)",
            "CREATE TABLE made AS SELECT TOOL(t, range::INTEGER) AS n FROM range(1000)",
        ):
            reached.clear()
            with pytest.raises(halo_sql.OperationalError, match="twenty"):
                con.execute(statement)
            seen = len(reached)
            assert seen < 100
            time.sleep(0.1)
            assert len(reached) == seen
        assert rows(con, "SELECT count(*) FROM kept") == [(0,)]
        assert rows(con, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'made'") == [(0,)]
