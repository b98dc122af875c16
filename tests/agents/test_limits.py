"""The limits of a conversation: none is exceeded, not by one, and each says what it was."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from halo_sql.agents.protocol import AgentTool
from halo_sql.clock import clock_s
from halo_sql.engines.protocol import estimate_tok
from halo_sql.ir.prompt import Sampling
from halo_sql.ir.types import BIGINT

from .helpers import WHOLE, Messages, Rows, Scripted, Stand, agent, answer, ask, calls, on_loop, schema, script, stand

LOOK = AgentTool("look", "", schema(n=WHOLE))
TOOLS = {"look": lambda given: given["n"]}


def counting(messages: Messages) -> dict[str, Any]:
    """A call that was never made before."""
    return calls(("look", {"n": len(messages)}))


def told(model: Scripted, turn: int) -> Any:
    """What the model was told before its step number ``turn`` (from 0)."""
    return json.loads(model.prompts[turn][-1]["content"])


async def run_model(model: Scripted, **options: Any) -> tuple[Rows, Stand]:
    return await ask(agent(LOOK, model="m", **options), "{}", tools=TOOLS, models={"m": model})


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7])
@on_loop
async def test_max_steps(steps: int) -> None:
    model = Scripted(counting)
    rows, run = await run_model(model, max_steps=steps)
    assert len(model.prompts) == steps
    assert len(run.bench.calls) == max(0, steps - 1)  # the last step may only answer
    assert rows.code() == "limit"


@on_loop
async def test_the_last_step_may_only_answer() -> None:
    request = script(*(calls(("look", {"n": n})) for n in range(9)), answer("x"))  # echo keeps to the schema
    rows, run = await ask(agent(LOOK, max_steps=4), request, tools=TOOLS)
    assert rows.texts() == {0: '"x"'}
    assert rows.metrics.llm_calls == 4
    assert len(run.bench.calls) == 3


@pytest.mark.parametrize(("most", "per_step"), [(0, 1), (1, 1), (3, 1), (5, 2), (4, 4), (2, 8)])
@on_loop
async def test_max_tool_calls(most: int, per_step: int) -> None:
    def flood(messages: Messages) -> dict[str, Any]:
        return calls(*(("look", {"n": 100 * len(messages) + n}) for n in range(per_step)))

    model = Scripted(flood)
    rows, run = await run_model(model, max_tool_calls=most)
    assert len(run.bench.calls) == most
    assert rows.code() == "limit"
    # two more chances to answer, then it is over
    assert len(model.prompts) == -(-most // per_step) + 3


@on_loop
async def test_after_the_last_tool_call_only_an_answer_is_asked_for() -> None:
    request = script(*(calls(("look", {"n": n})) for n in range(9)), answer("x"))
    rows, run = await ask(agent(LOOK, max_tool_calls=2), request, tools=TOOLS)
    assert rows.texts() == {0: '"x"'}
    assert (len(run.bench.calls), rows.metrics.llm_calls) == (2, 3)


@on_loop
async def test_calls_beyond_the_limit_are_told() -> None:
    model = Scripted(calls(*(("look", {"n": n}) for n in range(4))), answer("x"))
    rows, run = await run_model(model, max_tool_calls=3)
    assert [json.loads(text)["n"] for _, text in run.bench.calls] == [0, 1, 2]
    assert told(model, 1)["results"][3] == {"tool": "look", "error": "not called: all 3 calls are used up"}
    assert rows.texts() == {0: '"x"'}


@on_loop
async def test_max_parallel() -> None:
    model = Scripted(calls(*(("look", {"n": n}) for n in range(5))), answer("x"))
    _, run = await run_model(model, max_parallel=2)
    assert len(run.bench.calls) == 2
    results = told(model, 1)["results"]
    assert [sorted(item) for item in results] == [["result", "tool"]] * 2 + [["error", "tool"]] * 3


@on_loop
async def test_a_flood_of_calls_is_no_step() -> None:
    model = Scripted(calls(*(("look", {"n": n}) for n in range(1000))), answer("x"))
    rows, run = await run_model(model)
    assert run.bench.calls == []
    assert told(model, 1) == {"error": "1000 calls in one message are too many; 8 are allowed."}
    assert rows.texts() == {0: '"x"'}


@pytest.mark.parametrize("repeats", [2, 3, 4])
@on_loop
async def test_max_repeats(repeats: int) -> None:
    model = Scripted(calls(("look", {"n": 1})))
    rows, run = await run_model(model, max_repeats=repeats)
    assert len(run.bench.calls) == repeats - 1
    error = f"not called: asked for {repeats} times with the same arguments"
    assert told(model, repeats)["results"] == [{"tool": "look", "error": error}]
    assert rows.code() == "limit"


@on_loop
async def test_repeats_are_counted_however_they_are_spelled_and_spread() -> None:
    spelled = ['{"n":5}', '{ "n" : 5.0 }', '{"\\u006e": 5}', '{"n":5e0}']
    listed = ",".join(f'{{"tool":"look","arguments":{text}}}' for text in spelled)
    _, run = await run_model(Scripted(f'{{"calls":[{listed}]}}', answer("x")))
    assert run.bench.calls == [("look", '{"n":5}')] * 2
    request = script(calls(("look", {"n": 1})), calls(("look", {"n": 2})), calls(("look", {"n": 1})), answer("x"))
    rows, run = await ask(agent(LOOK, max_repeats=2), request, tools=TOOLS)
    assert len(run.bench.calls) == 2
    assert rows.texts() == {0: '"x"'}


@on_loop
async def test_the_same_call_in_another_conversation_is_no_repeat() -> None:
    request = script(calls(("look", {"n": 1})), answer("x"))
    rows, run = await ask(agent(LOOK), *[request] * 9, tools=TOOLS)
    assert (len(run.bench.calls), len(rows.texts())) == (9, 9)


# --- tokens


def prompt_tok(messages: Messages) -> int:
    return sum(estimate_tok(message["content"]) for message in messages)


@on_loop
async def test_max_tokens() -> None:
    options = {"max_steps": 1000, "max_tool_calls": 1000, "sampling": Sampling(max_tokens=50)}
    asked = set()
    for most in [60, *range(300, 2500, 17), 5000]:
        model = Scripted(counting)
        rows, _ = await run_model(model, max_tokens=most, **options)
        assert rows.code() == "limit"
        used = 0
        for messages in model.prompts:
            assert used + prompt_tok(messages) + 50 <= most  # what it may take was there when it was sent
            used += prompt_tok(messages) + estimate_tok(json.dumps(counting(messages)))
        assert rows.metrics.prompt_tok + rows.metrics.output_tok == used <= most
        asked.add(len(model.prompts))
    assert {0, 1, 2, 3} < asked


@on_loop
async def test_the_last_step_that_fits_may_only_answer() -> None:
    request = script(*(calls(("look", {"n": n})) for n in range(50)), answer("x"))
    steps = set()
    for most in range(1_100, 24_000, 457):
        rows, _ = await ask(agent(LOOK, max_tokens=most, max_steps=1000, max_tool_calls=1000), request, tools=TOOLS)
        assert rows.texts() == {0: '"x"'}
        assert rows.metrics.prompt_tok + rows.metrics.output_tok <= most
        steps.add(rows.metrics.llm_calls)
    assert {1, 2, 3, 19} <= steps


# --- time


@on_loop
async def test_max_seconds_while_the_model_thinks() -> None:
    async def never(messages: Messages) -> str:
        await asyncio.sleep(60)
        return "{}"

    rows, run = await ask(agent(model="m", max_seconds=0.2), "{}", "[]", models={"m": never})
    assert 0.199 <= clock_s() < 0.21  # virtual time
    assert (rows.code(0), rows.code(1)) == ("limit", "limit")
    assert {record.error for record in run.records() if record.agent} == {
        'limit: agent "a" reached max_seconds = 0.2 without an answer'
    }


@on_loop
async def test_an_answer_that_comes_too_late_is_nobodys() -> None:
    answered = asyncio.Event()

    async def late(messages: Messages) -> dict[str, Any]:
        await asyncio.sleep(0.2)
        answered.set()
        return answer("x")

    async with stand(agent(model="m", max_seconds=0.1), models={"m": Scripted(late)}) as run:
        rows, channel = await run.node()
        channel.put([(0, "{}")])
        await asyncio.wait_for(answered.wait(), 60)
        await asyncio.sleep(0.02)
    assert (rows.code(), rows.twice, rows.metrics.in_flight) == ("limit", [], 0)


@on_loop
async def test_max_seconds_while_a_tool_works() -> None:
    gate = asyncio.Event()

    async def never(given: dict[str, Any]) -> object:
        await gate.wait()
        return 1

    async with stand(agent(LOOK, max_seconds=0.2), tools={"look": never}) as run:
        rows, channel = await run.node()
        channel.put([(0, script(calls(("look", {"n": 1})), answer("x"))), (1, script(answer("y")))])
        await rows.settled(2)
        gate.set()  # what comes later is nobody's
        await asyncio.sleep(0.02)
    assert (rows.code(0), rows.texts(), rows.twice) == ("limit", {1: '"y"'}, [])
    assert rows.metrics.llm_calls == 2


@on_loop
async def test_max_seconds_over_many_quick_steps() -> None:
    async def slowly(messages: Messages) -> str:
        await asyncio.sleep(0.02)
        return json.dumps(counting(messages))

    spec = agent(LOOK, model="m", max_seconds=0.3, max_steps=1000, max_tool_calls=1000)
    rows, _ = await ask(spec, "{}", tools=TOOLS, models={"m": slowly})
    assert rows.code() == "limit"
    assert 0.299 <= clock_s() < 0.31
    assert 14 <= rows.metrics.llm_calls <= 16


@on_loop
async def test_waiting_for_the_model_behind_other_rows_does_not_count() -> None:
    async def slowly(messages: Messages) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return answer("x")

    async with stand(agent(model="m", max_seconds=0.5), models={"m": slowly}) as run:
        rows, channel = await run.node()
        channel.put([(number, f'{{"n": {number}}}') for number in range(64 * 12)])  # 64 at once: 0.6 s in all
        await rows.settled(64 * 12)
    assert len(rows.texts()) == 64 * 12


@on_loop
async def test_answers_to_others_do_not_hold_the_clock_of_a_call_that_was_sent() -> None:
    async def some_hang(messages: Messages) -> dict[str, Any]:
        await asyncio.sleep(60 if "hang" in messages[1]["content"] else 0)
        return answer("x")

    async with stand(agent(model="m", max_seconds=0.3), models={"m": some_hang}) as run:
        rows, channel = await run.node()
        channel.put([(0, "hang")])
        for number in range(1, 40):
            channel.put([(number, f"{number}")])
            await asyncio.sleep(0.03)
            if 0 in rows.got:
                break
        assert rows.code(0) == "limit"


# --- repairs


@pytest.mark.parametrize(
    "bad",
    [
        "no JSON",
        "",
        "[]",
        "{}",
        '{"answer": 1, "calls": []}',
        '{"calls": []}',
        '{"calls": {}}',
        '{"calls": [{"tool": "look"}]}',
        '{"calls": [1]}',
        '{"answer": "text"}',
        '{"answer": 1.5}',
        '{"answer": 1} {"answer": 2}',
    ],
)
@on_loop
async def test_two_repairs_and_no_third(bad: str) -> None:
    model = Scripted(bad, bad, answer(5))
    rows, run = await run_model(model, returns=BIGINT)
    assert rows.texts() == {0: "5"}
    assert [list(told(model, turn)) for turn in (1, 2)] == [["error"], ["error"]]
    model = Scripted(bad, bad, bad, answer(5))
    rows, run = await run_model(model, returns=BIGINT)
    assert (rows.code(), len(model.prompts)) == ("invalid_output", 3)
    assert run.bench.calls == []


@on_loop
async def test_repairs_are_steps() -> None:
    model = Scripted("x")
    rows, _ = await run_model(model, max_steps=2)
    assert (rows.code(), len(model.prompts)) == ("invalid_output", 2)


@on_loop
async def test_a_message_that_cannot_be_used_is_kept_short() -> None:
    model = Scripted("y" * 100_000, answer("x"))
    rows, _ = await run_model(model, max_tokens=100_000)
    assert rows.texts() == {0: '"x"'}
    assert len(model.prompts[1][2]["content"]) == 2_001
