"""Agents as tools of agents: two levels, inside the limits of who calls."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from halo_sql.agents.protocol import AgentSpec, AgentTool, nesting
from halo_sql.errors import EngineError

from .helpers import SAMPLING, TEXT, Messages, Scripted, answer, calls, on_loop, schema, stand

TASK = schema(task=TEXT)
SEND = AgentTool("send", "", schema(text=TEXT), egress=True)


def calling(name: str, *inner: str, **options: Any) -> AgentSpec:
    """An agent whose tools are agents."""
    tools = tuple(AgentTool(other, "", TASK, kind="agent") for other in inner)
    return AgentSpec(name, name, sampling=SAMPLING, tools=tools, **options)


def ask_inner(name: str) -> Scripted:
    def reply(messages: Messages) -> dict[str, Any]:
        return answer("heard " + json.loads(messages[-1]["content"])["results"][0]["result"])

    return Scripted(lambda messages: calls((name, {"task": "from " + messages[1]["content"]})), reply)


@on_loop
async def test_an_agent_asks_an_agent_that_asks_an_agent() -> None:
    inmost = Scripted(lambda messages: answer(json.loads(messages[1]["content"])["task"]))
    models = {"outer": ask_inner("middle"), "middle": ask_inner("inner"), "inner": inmost}
    async with stand(calling("outer", "middle"), calling("middle", "inner"), calling("inner"), models=models) as run:
        rows, channel = await run.node("outer")
        channel.put([(4, "four"), (5, "five")])
        await rows.settled(2)
    heard = {number: json.loads(text) for number, text in rows.texts().items()}
    assert heard[4] == 'heard heard from {"task":"from four"}'
    assert heard[5] == 'heard heard from {"task":"from five"}'
    assert rows.metrics.llm_calls == 10
    lines = {(record.agent, record.row) for record in run.records() if record.agent}
    assert lines == {(name, row) for name in ("outer", "middle", "inner") for row in (4, 5)}


@pytest.mark.parametrize(
    "agents",
    [
        [calling("outer", "a"), calling("a", "b"), calling("b", "c"), calling("c")],
        [calling("outer", "outer")],
        [calling("outer", "a"), calling("a", "outer")],
        [calling("outer", depth=3)],
    ],
)
@on_loop
async def test_more_levels_and_circles_are_refused(agents: list[AgentSpec]) -> None:
    async with stand(*agents, models={spec.name: Scripted(answer("x")) for spec in agents}) as run:
        with pytest.raises(EngineError, match="more than 2 levels deep") as caught:
            await run.node("outer")
    assert caught.value.code == "limit"
    assert nesting({spec.name: spec for spec in agents}, "outer") == 3


@on_loop
async def test_the_time_of_an_inner_agent_counts() -> None:
    async def never(messages: Messages) -> object:
        await asyncio.sleep(60)
        return answer("x")

    models = {"outer": ask_inner("inner"), "inner": Scripted(never)}
    async with stand(calling("outer", "inner", max_seconds=0.3), calling("inner"), models=models) as run:
        rows, channel = await run.node("outer")
        channel.put([(0, "x")])
        await rows.settled(1, within_s=10)
    assert rows.code() == "limit"


@on_loop
async def test_an_inner_agents_error_is_told_to_the_outer_one() -> None:
    def reply(messages: Messages) -> dict[str, Any]:
        return answer(json.loads(messages[-1]["content"])["results"][0]["error"])

    outer = Scripted(calls(("inner", {"task": "t"})), reply)
    async with stand(
        calling("outer", "inner"), calling("inner"), models={"outer": outer, "inner": Scripted("no step")}
    ) as run:
        rows, channel = await run.node("outer")
        channel.put([(0, "x")])
        await rows.settled(1)
    assert 'agent "inner" gave no valid answer in step 3' in json.loads(rows.texts()[0])


@pytest.mark.parametrize("tainted", [False, True])
@on_loop
async def test_a_tainted_caller_hands_its_taint_on(tainted: bool) -> None:
    inner = AgentTool("inner", "", TASK, "agent", egress=True, allowed=True, key="in/clean", tainted_key="in/rows")
    outer = AgentSpec("outer", "outer", sampling=SAMPLING, tools=(inner,), untrusted_rows=tainted)
    clean = AgentSpec("in/clean", "inner", sampling=SAMPLING, tools=(SEND,))
    rows_too = AgentSpec("in/rows", "inner", sampling=SAMPLING, tools=(SEND,), untrusted_rows=True)
    models = {
        "outer": Scripted(calls(("inner", {"task": "t"})), answer("x")),
        "inner": Scripted(calls(("send", {"text": "t"})), answer("y")),
    }
    async with stand(outer, clean, rows_too, tools={"send": lambda given: 1}, models=models) as run:
        rows, channel = await run.node("outer")
        channel.put([(0, "x")])
        await rows.settled(1)
    assert rows.texts() == {0: '"x"'}
    assert len(run.bench.calls) == (0 if tainted else 1)


@on_loop
async def test_an_inner_agent_that_sends_is_not_called_with_private_data() -> None:
    inner = AgentTool("inner", "", TASK, "agent", egress=True)
    secret = AgentTool("secret", "", schema(), private=True)
    outer = AgentSpec("outer", "outer", sampling=SAMPLING, tools=(inner, secret))
    models = {
        "outer": Scripted(calls(("secret", {})), calls(("inner", {"task": "t"})), answer("x")),
        "inner": Scripted(calls(("send", {"text": "t"})), answer("y")),
    }
    spec = AgentSpec("inner", "inner", sampling=SAMPLING, tools=(SEND,))
    tools = {"send": lambda given: 1, "secret": lambda given: "canary"}
    async with stand(outer, spec, tools=tools, models=models) as run:
        rows, channel = await run.node("outer")
        channel.put([(0, "x")])
        await rows.settled(1)
    assert [name for name, _ in run.bench.calls] == ["secret"]
    assert models["inner"].prompts == []


@on_loop
async def test_close_reaches_inner_agents() -> None:
    gate = asyncio.Event()

    async def wait(messages: Messages) -> object:
        gate.set()
        await asyncio.sleep(60)
        return answer("x")

    models = {"outer": ask_inner("inner"), "inner": Scripted(wait)}
    async with stand(calling("outer", "inner"), calling("inner"), models=models) as run:
        rows, channel = await run.node("outer")
        channel.put([(0, "x")])
        await asyncio.wait_for(gate.wait(), 60)
        await channel.close()
        assert rows.got == {}
        assert rows.metrics.in_flight == 0


@on_loop
async def test_an_inner_agent_ends_with_the_conversation_that_called_it() -> None:
    asked = 0

    async def slowly(messages: Messages) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.1)
        return calls(("look", {"n": len(messages)}))

    look = AgentTool("look", "", schema(n={"type": "integer"}))
    inner = AgentSpec("inner", "inner", sampling=SAMPLING, tools=(look,), max_steps=100, max_tool_calls=100)
    models = {"outer": ask_inner("inner"), "inner": Scripted(slowly)}
    outer = calling("outer", "inner", max_seconds=0.35)
    async with stand(outer, inner, tools={"look": lambda given: 1}, models=models) as run:
        rows, channel = await run.node("outer")
        channel.put([(0, "x")])
        await rows.settled(1)
        asked_then = asked
        await asyncio.sleep(0.35)
        assert (rows.code(), asked - asked_then) == ("limit", 0)
    assert asked >= 2
