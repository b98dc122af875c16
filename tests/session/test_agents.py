"""Agents in whole statements: types of answers, streaming, cancelling, transactions, what is counted."""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
import time
from collections import Counter
from typing import Any

import pytest

import halo_sql

from .agents_support import Messages, add_model, answer, calls, connect, data, rows, totals, turn

ANSWERS: list[tuple[str, object, object]] = [
    ("VARCHAR", "it's \"quoted\" 🦆", "it's \"quoted\" 🦆"),
    ("VARCHAR", None, None),
    ("INTEGER", 42, 42),
    ("BOOLEAN", True, True),
    ("DOUBLE", 0.5, 0.5),
    ("DATE", "2024-02-29", datetime.date(2024, 2, 29)),
    ("TIMESTAMP", "2024-02-29 10:00:00", datetime.datetime(2024, 2, 29, 10)),
    ("ENUM('low', 'it''s high')", "it's high", "it's high"),
    ("VARCHAR[]", ["a", None, "c"], ["a", None, "c"]),
    ("VARCHAR[]", [], []),
    ("STRUCT(a INTEGER, b STRUCT(c DATE, d VARCHAR[]))", {"a": 1, "b": {"c": "2024-02-29", "d": ["x"]}},
     {"a": 1, "b": {"c": datetime.date(2024, 2, 29), "d": ["x"]}}),
    ("STRUCT(a INTEGER)[]", [{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}]),
    ("INTEGER", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "said", "value"), ANSWERS, ids=lambda item: str(item)[:30])
def test_an_answer_of_every_type_as_a_value_and_as_rows(kind: str, said: object, value: object) -> None:
    with connect() as con:
        add_model(con, answer(said))
        quoted = kind
        con.execute(f"CREATE AGENT g RETURNS {quoted}")
        assert rows(con, "SELECT AGENT(g, 'x'), typeof(AGENT(g, 'x'))") == [
            (value, rows(con, f"SELECT typeof(NULL::{kind})")[0][0])
        ]
        found = rows(
            con, "SELECT t.i, a.answer, a.steps, len(a.trace) FROM range(2) t(i), LATERAL AGENT(g, 'do {{ t.i }}') a"
        )
        assert found == [(0, value, 1, 1), (1, value, 1, 1)]
        con.execute("CREATE TABLE kept AS SELECT AGENT(g, 'x') AS v")
        assert rows(con, "SELECT v FROM kept") == [(value,)]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("INTEGER", "forty"), ("DATE", "tomorrow"), ("ENUM('a', 'b')", "c"), ("VARCHAR[]", "x"),
        ("STRUCT(a INTEGER)", {"b": 1}),
        ("STRUCT(a INTEGER)", {"a": "x"}), ("INTEGER[]", [1, "x"]), ("BOOLEAN", "maybe"),
    ],
)  # fmt: skip
def test_an_answer_of_another_type_is_told_to_the_model_twice_and_then_fails_its_row(kind: str, said: object) -> None:
    with connect() as con:
        model = add_model(con, lambda messages: answer(None if data(messages)["n"] == 1 else said))
        con.execute(f"CREATE AGENT g RETURNS {kind}")
        found = rows(con, "SELECT AGENT(g, 'do {{ n }}', on_error => 'struct') FROM (VALUES (1), (2)) t(n)")
        assert found[0] == ({"value": None, "error": None},)
        assert found[1][0]["value"] is None
        assert "no valid answer" in found[1][0]["error"]
        assert len(model.prompts) == 1 + 3


def test_finished_rows_leave_while_a_later_row_is_still_at_work() -> None:
    """In order: rows behind a slow one wait for it, those before it do not."""
    gate = threading.Event()

    async def model(messages: Messages) -> dict[str, Any]:
        if turn(messages) == 0:
            return calls(("look", {"n": data(messages)["n"]}))
        return answer(str(json.loads(messages[-1]["content"])["results"][0]["result"]))

    async def look(n: int) -> int:
        if n == 60:
            await asyncio.to_thread(gate.wait, 20)
        return n

    with connect() as con:
        con.create_model("m", model, concurrency=256)
        con.create_tool("look", look, egress=False, concurrency=256)
        con.execute("CREATE TEMP AGENT g WITH (model = m, tools = [look])")
        stream = con.stream("SELECT AGENT(g, 'Take {{ n }}') AS a FROM range(64) t(n)")
        found: list[str] = []
        while len(found) < 60:
            found += next(stream).column(0).to_pylist()
        assert found == [str(number) for number in range(60)]
        gate.set()
        assert [value for batch in stream for value in batch.column(0).to_pylist()] == ["60", "61", "62", "63"]


def test_agents_work_while_other_operators_do() -> None:
    """Rows that an LLM_MAP has finished are with the agent while later rows are with the LLM_MAP."""
    gate, begun = threading.Event(), threading.Event()

    async def writer(messages: Messages) -> str:
        number = int(messages[-1]["content"])
        if number == 50:
            await asyncio.to_thread(gate.wait, 20)
        return str(number)

    async def agent(messages: Messages) -> dict[str, Any]:
        begun.set()
        return answer(data(messages)["w"])

    with connect() as con:
        con.create_model("writer", writer, concurrency=64)
        con.create_model("m", agent, concurrency=64)
        con.execute("CREATE TEMP AGENT g WITH (model = m)")
        found: list[list[tuple[Any, ...]]] = []
        statement = (
            "SELECT AGENT(g, 'Read {{ w }}') FROM (SELECT LLM_MAP('{{ n }}', model => writer) AS w FROM range(60) t(n))"
        )
        thread = threading.Thread(target=lambda: found.append(rows(con, statement)))
        thread.start()
        assert begun.wait(60), "the agent has its first rows before the last one is written"
        gate.set()
        thread.join(60)
        assert found == [[(str(number),) for number in range(60)]]


@pytest.mark.parametrize("way", ["interrupt", "close", "limit"])
@pytest.mark.parametrize("where", ["model", "tool", "inner agent"])
def test_cancelling_while_agents_are_in_flight(where: str, way: str) -> None:
    made: Counter[str] = Counter()

    async def model(messages: Messages) -> dict[str, Any]:
        made["model"] += 1
        number = data(messages).get("n", 1)
        if where == "model" and number > 0:
            await asyncio.sleep(60)
        if turn(messages) == 0 and number > 0:
            return calls(
                ("inner" if where == "inner agent" else "look", {"task": "x"} if where == "inner agent" else {"n": 1})
            )
        return answer("x")

    async def inner(messages: Messages) -> dict[str, Any]:
        made["inner"] += 1
        await asyncio.sleep(60)
        return answer("x")

    async def look(n: int) -> int:
        made["look"] += 1
        await asyncio.sleep(60)
        return n

    with connect() as con:
        con.create_model("m", model, concurrency=8)
        con.create_model("n", inner, concurrency=8)
        con.create_tool("look", look, egress=False, volatility="volatile", concurrency=8)
        con.execute("CREATE TEMP AGENT inner WITH (model = n)")
        con.execute("CREATE TEMP AGENT g WITH (model = m, tools = [look, inner])")
        first = 0 if way == "limit" else 1
        call = f"(SELECT AGENT(g, 'Do {{{{ n }}}}') AS x FROM range({first}, 3000) t(n)) WHERE x IS NOT NULL"
        began = time.monotonic()
        if way == "limit":
            assert rows(con, f"SELECT x FROM {call} LIMIT 1") == [("x",)]
        else:
            failed: list[BaseException] = []

            def run() -> None:
                try:
                    con.execute(f"SELECT x FROM {call}").fetchall()
                except BaseException as problem:
                    failed.append(problem)

            thread = threading.Thread(target=run)
            thread.start()
            sleeping = {"model": "model", "tool": "look", "inner agent": "inner"}[where]
            while not made[sleeping] and time.monotonic() - began < 60:
                time.sleep(0.01)
            began = time.monotonic()
            con.interrupt() if way == "interrupt" else con.close()
            thread.join(50)
            assert failed
        assert time.monotonic() - began < 50  # they sleep for 60; the bound leaves room for a busy machine
        seen = made.copy()
        time.sleep(0.15)
        assert made == seen


def test_insert_select_of_agents_is_all_or_nothing_and_its_tools_see_the_transaction() -> None:
    with connect() as con:
        con.execute("CREATE TABLE t AS SELECT range AS id FROM range(20)")
        con.execute("CREATE TABLE kept (id BIGINT, n BIGINT)")
        con.execute(
            "CREATE TOOL counted(least BIGINT) RETURNS BIGINT AS SQL 'SELECT count(*) FROM t WHERE id >= $least'"
        )
        bad: set[int] = {13}

        def model(messages: Messages) -> Any:
            if data(messages)["id"] in bad:
                return "no step"
            if turn(messages) == 0:
                return calls(("counted", {"least": data(messages)["id"]}))
            return answer(json.loads(messages[-1]["content"])["results"][0]["result"])

        add_model(con, model)
        con.execute("CREATE TEMP AGENT g RETURNS BIGINT WITH (tools = [counted])")
        statement = "INSERT INTO kept SELECT id, AGENT(g, 'Count from {{ id }}') FROM t"
        for wrap in (False, True):
            bad.add(13)
            if wrap:
                con.execute("BEGIN")
                con.execute("INSERT INTO t VALUES (100)")
            with pytest.raises(halo_sql.OperationalError, match="no valid answer"):
                con.execute(statement)
            if wrap:
                con.execute("ROLLBACK")
                con.execute("BEGIN")
                con.execute("INSERT INTO t VALUES (100)")
            assert rows(con, "SELECT count(*) FROM kept") == [(0,)]
            bad.clear()
            con.execute(statement)
            assert rows(con, "SELECT count(*), max(n) FROM kept") == [(20 + wrap, 20 + wrap)]
            con.execute("ROLLBACK") if wrap else con.execute("DELETE FROM kept")
            assert rows(con, "SELECT count(*) FROM kept") == [(0,)]


def test_what_halo_calls_says_of_steps_calls_and_refusals() -> None:
    with connect(trace_text=True) as con:
        add_model(
            con,
            lambda messages: calls(("look", {"n": data(messages)["n"]}), ("nothing", {}), ("look", {"n": "x"})),
            answer("ok"),
        )
        con.execute("CREATE TOOL look(n BIGINT) RETURNS BIGINT AS SQL 'SELECT $n * 2'")
        con.execute("CREATE AGENT g WITH (tools = [look])")
        rows(con, "SELECT AGENT(g, 'Do {{ n }}') FROM range(3) t(n)")
        found = rows(
            con,
            "SELECT row_key, step, kind, model, status, split_part(error, ':', 1), answer "
            "FROM halo_calls() ORDER BY ALL",
        )
        assert len(found) == 3 * (2 + 3)
        first = [row[1:] for row in found if row[0] == 2]
        assert [row[:5] for row in first] == [
            (1, "llm", "m", "done", None),
            (1, "tool", "look", "done", None),
            (1, "tool", "look", "failed", "rejected"),
            (1, "tool", "nothing", "failed", "denied"),
            (2, "llm", "m", "done", None),
        ]
        assert first[1][5] == "4"
        seen = totals(con)
        assert (seen["llm_calls"], seen["tool_calls"], seen["errors"]) == (6, 3, 0)


def test_equal_rows_share_a_conversation_unless_the_agent_may_differ() -> None:
    with connect() as con:
        model = add_model(con, answer("x"))
        con.execute("CREATE AGENT g")
        con.execute("CREATE AGENT hot WITH (temperature = 1)")
        for agent, asked in (("g", 3), ("hot", 300)):
            model.prompts.clear()
            assert rows(con, f"SELECT AGENT({agent}, 'Do {{{{ n % 3 }}}}') FROM range(300) t(n)") == [("x",)] * 300
            assert len(model.prompts) == totals(con)["llm_calls"] == asked


@pytest.mark.parametrize("setting", ["max_calls", "max_tokens", "max_seconds"])
def test_budgets_of_the_statement_hold_for_agents(setting: str) -> None:
    made: list[int] = []

    async def model(messages: Messages) -> dict[str, Any]:
        made.append(1)
        await asyncio.sleep(0.01)
        return calls(("look", {"n": turn(messages)}))

    async def look(n: int) -> int:
        return n

    with connect(**{setting: {"max_calls": 57, "max_tokens": 40_000, "max_seconds": 0.7}[setting]}) as con:
        con.create_model("m", model, concurrency=16)
        con.create_tool("look", look, egress=False)
        con.execute("CREATE TEMP AGENT g WITH (model = m, tools = [look], max_steps = 500, max_tool_calls = 500)")
        began = time.monotonic()
        with pytest.raises(halo_sql.Error, match=f"halo_{setting}"):
            con.execute("SELECT AGENT(g, 'Do {{ n }}', on_error => 'null') FROM range(40) t(n)").fetchall()
        assert time.monotonic() - began < 50
        if setting == "max_calls":
            assert len(made) == 57
        if setting == "max_tokens":
            seen = totals(con)
            assert seen["prompt_tok"] + seen["output_tok"] <= 40_000
