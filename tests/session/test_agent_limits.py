"""Limits of agents, counted at the model and at the tool; limits of queries that a model writes."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql
from halo_sql.agents.assemble import DEFAULTS

from .agents_support import Messages, add_model, answer, calls, children, connect, data, rows, totals, turn

ROWS = 20


class Noted:
    """A volatile tool that counts what reaches it, by row."""

    def __init__(self, con: halo_sql.Connection) -> None:
        self.made: Counter[int] = Counter()

        async def note(row: int, n: int) -> int:
            self.made[row] += 1
            await asyncio.sleep(0)
            return n

        con.create_tool("note", note, egress=False, volatility="volatile", concurrency=256)


@pytest.fixture
def con() -> Iterator[halo_sql.Connection]:
    with connect() as connection:
        connection.execute(f"CREATE TABLE t AS SELECT range AS id FROM range({ROWS})")
        yield connection


def note_calls(messages: Messages, many: int, same: bool = False) -> dict[str, Any]:
    """Calls that have not been asked for before, or always the same."""
    row, first = data(messages)["id"], 0 if same else 1000 * turn(messages)
    return calls(*(("note", {"row": row, "n": first if same else first + number}) for number in range(many)))


def ended(con: halo_sql.Connection, agent: str) -> tuple[set[object], set[str]]:
    """The values and error messages of all rows."""
    found = rows(con, f"SELECT AGENT({agent}, 'Do it for {{{{ id }}}}', on_error => 'struct') FROM t")
    assert len(found) == ROWS
    return {item["value"] for (item,) in found}, {item["error"] or "" for (item,) in found}


@pytest.mark.parametrize("most", [1, 2, 17])
def test_max_steps(con: halo_sql.Connection, most: int) -> None:
    noted = Noted(con)
    model = add_model(con, lambda messages: note_calls(messages, 1))
    con.execute(f"CREATE TEMP AGENT g WITH (tools = [note], max_steps = {most}, max_tool_calls = 10000)")
    _, errors = ended(con, "g")
    # with a single step no call is ever allowed; else the last one may only answer
    assert len(model.prompts) == ROWS * most
    assert noted.made == ({} if most == 1 else dict.fromkeys(range(ROWS), most - 1))
    assert len(errors) == 1
    assert "reached" in errors.pop()
    assert totals(con)["llm_calls"] == ROWS * most
    assert totals(con)["tool_calls"] == ROWS * (most - 1)
    assert totals(con)["errors"] == ROWS


@pytest.mark.parametrize(("most", "parallel"), [(0, 8), (1, 8), (5, 2), (20, 8), (21, 8)])
def test_max_tool_calls(con: halo_sql.Connection, most: int, parallel: int) -> None:
    noted = Noted(con)
    add_model(con, lambda messages: note_calls(messages, parallel) if _may_call(messages) else answer("enough"))
    con.execute(
        f"CREATE TEMP AGENT g "
        f"WITH (tools = [note], max_tool_calls = {most}, max_parallel = {parallel}, max_steps = 100)"
    )
    values, errors = ended(con, "g")
    assert (values, errors) == ({"enough"}, {""})
    assert noted.made == (dict.fromkeys(range(ROWS), most) if most else {})
    assert totals(con)["tool_calls"] == ROWS * most


def _may_call(messages: Messages) -> bool:
    """What a fair model sees: that calls are used up."""
    return (
        "calls are used up" not in messages[-1]["content"]
        and '"calls"' in messages[0]["content"]
        and ("only an answer" not in messages[-1]["content"])
    )


@pytest.mark.parametrize("most", [1, 8, 100])
def test_max_parallel(con: halo_sql.Connection, most: int) -> None:
    noted = Noted(con)
    model = add_model(con, lambda messages: note_calls(messages, 100), answer("ok"))
    con.execute(f"CREATE TEMP AGENT g WITH (tools = [note], max_parallel = {most}, max_tool_calls = 1000)")
    values, errors = ended(con, "g")
    assert (values, errors) == ({"ok"}, {""})
    assert noted.made == dict.fromkeys(range(ROWS), most)
    shown = [json.loads(messages[-1]["content"])["results"] for messages in model.prompts if turn(messages) == 1]
    assert [sum("result" in item for item in step) for step in shown] == [most] * ROWS
    assert [len(step) for step in shown] == [100] * ROWS


@pytest.mark.parametrize("most", [2, 3, 7])
def test_max_repeats(con: halo_sql.Connection, most: int) -> None:
    noted = Noted(con)
    model = add_model(con, lambda messages: note_calls(messages, 1, same=True))
    con.execute(f"CREATE TEMP AGENT g WITH (tools = [note], max_repeats = {most}, max_steps = 30)")
    _, errors = ended(con, "g")
    assert noted.made == dict.fromkeys(range(ROWS), most - 1)
    assert len(errors) == 1
    # the call that is not made, then steps that may only answer: two that are told so, one that ends it
    assert len(model.prompts) == ROWS * (most + 3)


@pytest.mark.parametrize("most", [2_000, 5_000, 50_000])
def test_max_tokens(con: halo_sql.Connection, most: int) -> None:
    con.create_tool("big", _big, egress=False)
    model = add_model(
        con,
        lambda messages: (
            calls(("big", {"n": turn(messages)})) if '"calls"' in messages[0]["content"] else answer("done")
        ),
    )
    con.execute(
        f"CREATE TEMP AGENT g WITH (tools = [big], max_tokens = {most}, max_steps = 1000, max_tool_calls = 1000, "
        "max_step_tokens = 50)"
    )
    found = rows(con, "SELECT id, a.tokens FROM t, LATERAL AGENT(g, 'Do it for {{ id }}', on_error => 'null') a")
    assert len(found) == ROWS
    spent: Counter[int] = Counter()
    for messages in model.prompts:
        spent[data(messages)["id"]] += sum(len(message["content"]) for message in messages) // 4
    assert max(spent.values()) <= most * 1.02
    assert min(spent.values()) >= most // 4  # it was used, too


def _big(n: int) -> str:
    return f"{n} " * 1000


def test_58_the_defaults_of_an_agent(con: halo_sql.Connection) -> None:
    """10 steps, 20 calls of tools, 3 times the same call, 8 at once; 120 s and 50,000 tokens; two levels of agents."""
    noted = Noted(con)
    con.execute("CREATE TEMP AGENT g WITH (tools = [note])")
    for many, same, steps, made in ((1, False, 10, 9), (8, False, None, 20), (1, True, None, 2), (50, False, None, 20)):
        model = add_model(con, lambda messages, many=many, same=same: note_calls(messages, many, same))
        noted.made.clear()
        ended(con, "g")
        assert noted.made == dict.fromkeys(range(ROWS), made)
        assert steps is None or len(model.prompts) == ROWS * steps
    assert (DEFAULTS["max_seconds"], DEFAULTS["max_tokens"]) == (120.0, 50_000)
    con.execute("CREATE TEMP AGENT g1 WITH (tools = [g])")
    con.execute("CREATE TEMP AGENT g2 WITH (tools = [g1])")
    con.execute("CREATE TEMP AGENT g3 WITH (tools = [g2])")
    with pytest.raises(halo_sql.ProgrammingError, match="Agents may call agents 2 deep"):
        con.execute("SELECT AGENT(g3, 'x')")


def test_max_seconds_ends_a_row_whose_tool_or_model_hangs_and_no_other(con: halo_sql.Connection) -> None:
    async def sometimes_stuck(row: int) -> int:
        if row % 10 == 3:
            await asyncio.sleep(60)
        return row

    async def model(messages: Messages) -> dict[str, Any]:
        row = data(messages)["id"]
        if row % 10 == 7:
            await asyncio.sleep(60)
        return calls(("look", {"row": row})) if turn(messages) == 0 else answer(row)

    con.create_tool("look", sometimes_stuck, egress=False, concurrency=256)
    con.create_model("m", model, concurrency=256)
    con.execute("CREATE TEMP AGENT g RETURNS INTEGER WITH (model = m, tools = [look], max_seconds = 0.5)")
    began = time.monotonic()
    found = rows(con, "SELECT id, AGENT(g, 'For {{ id }}', on_error => 'struct') FROM t ORDER BY id")
    assert time.monotonic() - began < 25
    for number, item in found:
        if number % 10 in (3, 7):
            assert "reached max_seconds = 0.5" in item["error"]
        else:
            assert item == {"value": number, "error": None}


def test_max_seconds_ends_a_conversation_that_goes_on_and_on(con: halo_sql.Connection) -> None:
    steps: Counter[int] = Counter()

    async def model(messages: Messages) -> dict[str, Any]:
        steps[data(messages)["id"]] += 1
        await asyncio.sleep(0.02)
        return note_calls(messages, 1)

    Noted(con)
    con.create_model("m", model, concurrency=256)
    con.execute(
        "CREATE TEMP AGENT g "
        "WITH (model = m, tools = [note], max_seconds = 0.4, max_steps = 1000, max_tool_calls = 10000, "
        "max_tokens = 100000000)"
    )
    began = time.monotonic()
    _, errors = ended(con, "g")
    assert time.monotonic() - began < 25
    assert errors == {'agent "g" reached max_seconds = 0.4 without an answer'}
    seen = sum(steps.values())
    time.sleep(0.1)
    assert sum(steps.values()) == seen  # nobody goes on behind the end
    assert max(steps.values()) <= 21


# --- queries that a model writes

ASK = "CREATE OR REPLACE TOOL ask(query VARCHAR) RETURNS JSON VOLATILE AS SQL '$query' WITH (tables = [t]{})"


def asked(con: halo_sql.Connection, *queries: str) -> list[dict[str, Any]]:
    found = rows(con, "SELECT TOOL(ask, q, on_error => 'struct') FROM (SELECT unnest(?::VARCHAR[]) q)", [list(queries)])
    return [item for (item,) in found]


def test_54_rows_and_bytes_are_exact(con: halo_sql.Connection) -> None:
    con.execute(ASK.format(""))
    most = 64 * 1024 - len('[{"x":""}]')
    found = asked(
        con,
        "SELECT range AS i FROM range(1000)",
        "SELECT range AS i FROM range(1001)",
        f"SELECT repeat('x', {most}) AS x",
        f"SELECT repeat('x', {most + 1}) AS x",
    )
    assert [item["error"] is None for item in found] == [True, False, True, False]
    assert len(json.loads(found[0]["value"])) == 1000
    assert "more than 1000 rows" in found[1]["error"]
    assert "larger than 65536 bytes" in found[3]["error"]


def test_54_time_processor_and_memory(con: halo_sql.Connection) -> None:
    """A query that takes too much ends by itself; those beside it are answered."""
    endless = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"
    before = children()
    con.execute(ASK.format(", timeout_s = 2"))
    began = time.monotonic()
    found = asked(con, endless, "SELECT count(*) AS n FROM t", "SELECT length(repeat('x', 4000000000)) AS n")
    assert time.monotonic() - began < 25
    assert "took longer than timeout_s = 2" in found[0]["error"]
    assert found[1]["value"] == f'[{{"n":{ROWS}}}]'
    assert found[2]["value"] is None
    con.execute(ASK.format(", timeout_s = 60"))
    began = time.monotonic()
    (found_late,) = asked(con, endless)
    assert "5 s of processor time" in found_late["error"]
    assert time.monotonic() - began < 60
    assert children() <= before


def test_54_a_query_costs_less_than_a_quarter_of_a_second(con: halo_sql.Connection) -> None:
    con.execute(ASK.format(""))
    asked(con, "SELECT 1 AS n")
    began = time.monotonic()
    asked(con, "SELECT count(*) AS n FROM t")
    one = time.monotonic()
    asked(con, *(f"SELECT count(*) + {number} AS n FROM t" for number in range(21)))
    many = time.monotonic() - one
    assert (many - (one - began)) / 20 < 0.25
