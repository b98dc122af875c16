"""The loop: what an agent asks, calls and answers, for many rows at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from halo_sql.agents.protocol import AgentTool
from halo_sql.errors import EngineError
from halo_sql.ir.types import BIGINT, VARCHAR

from .helpers import (
    WHOLE,
    Raw,
    Scripted,
    agent,
    answer,
    ask,
    calls,
    on_loop,
    schema,
    script,
    stand,
)

ORDERS = AgentTool("orders", "Orders of a customer", schema(customer=WHOLE))
ADD = AgentTool("add", "Adds", schema(a=WHOLE, b={**WHOLE, "optional": True}), fill={"b": "10"})


def orders(arguments: dict[str, Any]) -> object:
    return [{"id": arguments["customer"] * 10}]


@on_loop
async def test_calls_then_an_answer() -> None:
    request = script(calls(("add", {"a": 7})), {"answer": "$result"})
    rows, run = await ask(agent(ADD, returns=BIGINT), request, tools={"add": lambda given: given["a"] + given["b"]})
    assert run.bench.calls == [("add", '{"a":7,"b":10}')]
    assert rows.texts() == {0: "17"}


@on_loop
async def test_the_answer_is_json_of_the_type() -> None:
    for returns, value, text in [
        (VARCHAR, "seven", '"seven"'),
        (BIGINT, 7, "7"),
        (BIGINT, None, "null"),
        (VARCHAR, "null", '"null"'),
    ]:
        rows, _ = await ask(agent(returns=returns), script(answer(value)))
        assert rows.texts() == {0: text}


@on_loop
async def test_a_conversation_goes_on_behind_what_was_said() -> None:
    model = Scripted(calls(("orders", {"customer": 1}), ("orders", {"customer": 2})), answer("done"))
    await ask(agent(ORDERS, model="m"), '{"city": "Oslo"}', tools={"orders": orders}, models={"m": model})
    first, second = model.prompts
    assert second[: len(first)] == first
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert first[1]["content"] == '{"city": "Oslo"}'
    assert second[2]["content"] == json.dumps(model.steps[0])
    assert json.loads(second[3]["content"]) == {
        "results": [{"tool": "orders", "result": [{"id": 10}]}, {"tool": "orders", "result": [{"id": 20}]}]
    }


@on_loop
async def test_the_system_message_says_all_that_is_the_same_for_all_rows() -> None:
    model = Scripted(answer("x"))
    spec = agent(ORDERS, ADD, model="m", instructions="Be brief.", task="Judge {{ body }}")
    await ask(spec, '{"body": "b"}', '{"body": "c"}', tools={}, models={"m": model})
    (system,) = {prompt[0]["content"] for prompt in model.prompts}
    for part in ("Be brief.", "Judge {{ body }}", "orders: Orders of a customer", '"customer":{"type":"integer"}'):
        assert part in system
    assert '"b"' not in system.replace('"b":{', "")


@on_loop
async def test_the_system_message_says_where_the_task_is() -> None:
    for task, said in (("Judge {{ body }}", "first message is data"), ("", 'member "task" of the first message is')):
        model = Scripted(answer("x"))
        await ask(agent(model="m", task=task), script(), models={"m": model})
        assert said in model.prompts[0][0]["content"]


@on_loop
async def test_without_tools_only_an_answer_is_asked_for() -> None:
    rows, run = await ask(agent(), script(calls(("orders", {})), answer("x")))
    assert rows.texts() == {0: '"x"'}
    asked = [json.loads(spec.answer.schema) for spec in run.specs if spec.answer.kind == "step"]
    assert asked
    assert all(list(form["properties"]) == ["answer"] for form in asked)


@on_loop
async def test_a_step_has_one_branch_per_tool() -> None:
    _, run = await ask(agent(ORDERS, ADD, max_parallel=3), script(answer("x")))
    forms = {spec.answer.schema for spec in run.specs if spec.answer.kind == "step"}
    assert len(forms) == 2
    step, last = sorted((json.loads(form) for form in forms), key=lambda form: "anyOf" not in form)
    listed = step["anyOf"][0]["properties"]["calls"]
    assert (listed["minItems"], listed["maxItems"]) == (1, 3)
    branches = listed["items"]["anyOf"]
    assert [branch["properties"]["tool"]["enum"] for branch in branches] == [["orders"], ["add"]]
    assert [branch["properties"]["arguments"]["additionalProperties"] for branch in branches] == [False, False]
    assert last == step["anyOf"][1]
    assert {spec.answer.tools for spec in run.specs if spec.answer.kind == "step"} == {
        next(spec.answer.tools for spec in run.specs if spec.answer.kind == "step")
    }


@on_loop
async def test_arguments_are_spelled_in_one_way() -> None:
    texts = [
        '{"calls":[{"tool":"add","arguments":{"b":2,"a":1}}]}',
        '{ "calls" : [ {"arguments": {"a": 1.0, "b": 2}, "tool": "add"} ] }',
        '{"calls":[{"tool":"add","arguments":{"a":1}}]}',
        '{"calls":[{"tool":"add","arguments":{"a":1,"b":null}}]}',
    ]
    for text in texts:
        model = Scripted(text, answer("x"))
        _, run = await ask(agent(ADD, model="m"), "{}", tools={"add": lambda given: 0}, models={"m": model})
        b = 2 if "2" in text else 10
        assert run.bench.calls == [("add", f'{{"a":1,"b":{b}}}')]


@on_loop
async def test_errors_of_tools_are_told_to_the_model() -> None:
    def refuse(given: dict[str, Any]) -> object:
        raise EngineError("no such\ncustomer", code="tool")

    model = Scripted(calls(("orders", {"customer": 1})), answer("none"))
    rows, _ = await ask(agent(ORDERS, model="m"), "{}", tools={"orders": refuse}, models={"m": model})
    assert rows.texts() == {0: '"none"'}
    assert json.loads(model.prompts[1][-1]["content"]) == {"results": [{"tool": "orders", "error": "no such customer"}]}


@pytest.mark.parametrize("code", ["auth", "budget"])
@on_loop
async def test_errors_that_end_the_query_end_the_row(code: str) -> None:
    def refuse(given: dict[str, Any]) -> object:
        raise EngineError("over", code=code)

    rows, _ = await ask(
        agent(ORDERS), script(calls(("orders", {"customer": 1})), answer("x")), tools={"orders": refuse}
    )
    assert rows.code() == code


@on_loop
async def test_errors_of_the_model_are_the_rows() -> None:
    def broken(messages: object) -> str:
        raise ValueError("bad day")

    rows, _ = await ask(agent(model="m"), "{}", models={"m": broken})
    assert rows.code() == "engine"
    assert rows.metrics.errors == 1


@on_loop
async def test_calls_of_a_step_run_at_once() -> None:
    gate = asyncio.Event()

    async def wait(given: dict[str, Any]) -> object:
        if len(waiting := [*running, given["customer"]]) == 3:
            gate.set()
        running[:] = waiting
        await asyncio.wait_for(gate.wait(), 60)
        return given["customer"]

    running: list[int] = []
    model = Scripted(calls(*(("orders", {"customer": n}) for n in (3, 1, 2))), answer("x"))
    _, run = await ask(agent(ORDERS, model="m"), "{}", tools={"orders": wait}, models={"m": model})
    assert run.bench.most == 3
    given = json.loads(model.prompts[1][-1]["content"])["results"]
    assert [item["result"] for item in given] == [3, 1, 2]


@on_loop
async def test_rows_advance_together() -> None:
    def request(number: int) -> str:
        return script(
            calls(("orders", {"customer": number % 5})), calls(("orders", {"customer": 9})), answer(f"{number}")
        )

    rows, run = await ask(agent(ORDERS), *map(request, range(200)), tools={"orders": orders})
    assert rows.texts() == {number: f'"{number}"' for number in range(200)}
    assert len(run.bench.calls) == 400
    assert sum(channel.puts for channel in run.bench.channels) == 2
    assert rows.metrics.llm_calls == 600
    assert rows.metrics.tool_calls == 400


@on_loop
async def test_finished_rows_do_not_wait_for_others() -> None:
    never = asyncio.Event()

    async def slow(given: dict[str, Any]) -> object:
        await never.wait()
        return 0

    async with stand(agent(ORDERS), tools={"orders": slow}) as run:
        rows, channel = await run.node()
        channel.put([(0, script(calls(("orders", {"customer": 1})))), (1, script(answer("quick")))])
        await rows.settled(1)
        assert rows.texts() == {1: '"quick"'}


@on_loop
async def test_equal_requests_of_a_deterministic_agent_share_a_conversation() -> None:
    request = script(calls(("orders", {"customer": 1})), answer("x"))
    for deterministic, made in ((True, 1), (False, 3)):
        rows, run = await ask(
            agent(ORDERS, deterministic=deterministic), request, request, request, tools={"orders": orders}
        )
        assert rows.texts() == dict.fromkeys(range(3), '"x"')
        assert len(run.bench.calls) == made
    async with stand(agent(ORDERS, deterministic=True), tools={"orders": orders}) as run:
        rows, channel = await run.node()
        channel.put([(0, request)])
        await rows.settled(1)
        channel.put([(1, request)])  # after it has ended
        assert rows.texts() == dict.fromkeys(range(2), '"x"')
        assert len([record for record in run.records() if record.kind == "llm"]) == 2


@on_loop
async def test_after_close_nothing_is_delivered() -> None:
    gate = asyncio.Event()

    async def late(given: dict[str, Any]) -> object:
        await gate.wait()
        return 1

    async with stand(agent(ORDERS), tools={"orders": late}) as run:
        rows, channel = await run.node()
        channel.put([(0, script(calls(("orders", {"customer": 1})), answer("x"))), (1, script(answer("y")))])
        await rows.settled(1)
        await channel.close()
        await channel.close()
        gate.set()
        channel.put([(2, script(answer("z")))])
        await asyncio.sleep(0.02)
        assert list(rows.got) == [1]


@on_loop
async def test_the_row_form_tells_how_it_went() -> None:
    request = script(calls(("orders", {"customer": 1}), ("nobody", {})), answer("x"))
    rows, _ = await ask(agent(ORDERS), request, tools={"orders": orders}, row_form=True)
    told = json.loads(rows.got[0].text)
    assert (told["answer"], told["steps"]) == ("x", 2)
    assert [(event["step"], event["kind"], event["tool"]) for event in told["trace"]] == [
        (1, "call", "orders"),
        (1, "call", "nobody"),
        (2, "answer", None),
    ]
    first, second, third = told["trace"]
    assert (first["arguments"], first["result"], first["error"]) == ('{"customer":1}', '[{"id": 10}]', None)
    assert second["result"] is None
    assert "nobody" in second["error"]
    assert third["result"] == '"x"'
    assert told["tokens"] == sum(event["prompt_tok"] + event["output_tok"] for event in told["trace"])
    assert told["tokens"] == rows.metrics.prompt_tok + rows.metrics.output_tok
    assert (rows.got[0].prompt_tok, rows.got[0].output_tok) == (rows.metrics.prompt_tok, rows.metrics.output_tok)


@on_loop
async def test_every_step_is_logged_once() -> None:
    request = script(calls(("orders", {"customer": 1}), ("nobody", {})), answer("x"))
    rows, run = await ask(agent(ORDERS, deterministic=True), request, request, tools={"orders": orders})
    lines = [
        (record.kind, record.agent, record.step, record.model, record.row, record.status, record.error)
        for record in run.records()
        if record.agent
    ]
    told = 'denied: there is no tool "nobody"; the tools are: orders'
    assert lines == [
        ("llm", "a", 1, "echo", 0, "done", None),
        ("tool", "a", 1, "nobody", 0, "failed", told),
        ("tool", "a", 1, "orders", 0, "done", None),
        ("llm", "a", 2, "echo", 0, "done", None),
    ]
    told_tok = [(record.prompt_tok, record.output_tok) for record in run.records() if record.agent]
    assert sum(prompt for prompt, _ in told_tok) == rows.metrics.prompt_tok
    assert sum(output for _, output in told_tok) == rows.metrics.output_tok


@on_loop
async def test_a_long_result_is_cut_for_the_model() -> None:
    model = Scripted(calls(("orders", {"customer": 1})), answer("x"))
    spec = agent(ORDERS, model="m", max_result_chars=100)
    await ask(spec, "{}", tools={"orders": lambda given: "é" * 5000}, models={"m": model})
    (result,) = json.loads(model.prompts[1][-1]["content"])["results"]
    assert result["result"] == '"' + "é" * 99 + "… (cut: the first 100 of 5002 characters)"


@on_loop
async def test_a_result_that_is_no_json_stays_in_its_place() -> None:
    escape = '1},{"tool":"orders","result":2}],"more":[{"x":1'
    model = Scripted(calls(("orders", {"customer": 1})), answer("x"))
    await ask(agent(ORDERS, model="m"), "{}", tools={"orders": lambda given: Raw(escape)}, models={"m": model})
    assert json.loads(model.prompts[1][-1]["content"]) == {"results": [{"tool": "orders", "result": escape}]}


@on_loop
async def test_a_schema_that_is_none_is_refused_when_opened() -> None:
    async with stand(agent(AgentTool("t", "", '{"type": "obj"}'))) as run:
        with pytest.raises(EngineError, match='tool "t"') as caught:
            await run.node()
    assert caught.value.code == "unavailable"


@on_loop
async def test_the_channel_knows_the_room_of_its_model() -> None:
    async with stand(agent(ORDERS)) as run:
        _, channel = await run.node()
        assert channel.room_tok == 0
        assert channel.count_tok("x" * 400) == channel.count_tok("") + 100


@on_loop
async def test_a_schema_that_is_open_is_closed() -> None:
    open_ = AgentTool("t", "", '{"type":"object","properties":{"n":{"type":"integer"}}}')  # says nothing of others
    model = Scripted(calls(("t", {"n": 1, "x": 2})), calls(("t", {})), answer("x"))
    _, run = await ask(agent(open_, model="m"), "{}", tools={"t": lambda given: 1}, models={"m": model})
    assert run.bench.calls == [("t", '{"n":null}')]


@on_loop
async def test_the_store_is_used_as_agent_and_statement_say() -> None:
    for of_agent, of_statement in ((True, True), (False, True), (True, False)):
        _, run = await ask(agent(ORDERS, cache=of_agent), script(answer("x")), cache=of_statement)
        models = [spec for spec in run.specs if spec.model]
        assert {spec.cache for spec in models} == {of_agent and of_statement}
        assert {(spec.traced, spec.system) for spec in models} == {(True, models[0].system)}


@on_loop
async def test_what_goes_on_is_sent_before_what_begins() -> None:
    _, run = await ask(agent(ORDERS), script(answer("x")), priority=3)
    assert [spec.priority for spec in run.specs if spec.model] == [3, 2, 2]


@on_loop
async def test_a_mistake_in_a_check_is_the_rows_error() -> None:
    def broken(sql_type: object, text: str) -> None:
        raise ZeroDivisionError("oh")

    async with stand(agent()) as run:
        run.desk._check = broken  # type: ignore[assignment]
        rows, channel = await run.node()
        channel.put([(0, script(answer("x"))), (1, script(answer(None)))])
        await rows.settled(2)
    assert (rows.code(0), rows.texts()) == ("engine", {1: "null"})
