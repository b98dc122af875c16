"""Conversations and an agent's steps on the wire of an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from halo_sql.engines import openai_wire as wire
from halo_sql.engines.openai_steps import is_about_tools, is_strict
from halo_sql.engines.protocol import Answer, Dialogue, GenRequest, ToolSchema

from .helpers import RunEngine, engine, error

ARGUMENTS = {
    "type": "object",
    "properties": {"customer": {"type": "integer"}},
    "required": ["customer"],
    "additionalProperties": False,
}
OPTIONAL = {**ARGUMENTS, "required": []}
TOOLS = (
    ToolSchema("orders", "Orders of a customer.", json.dumps(ARGUMENTS)),
    ToolSchema("my tool.é", "Another.", json.dumps(OPTIONAL)),
)
TEXT_TYPE: dict[str, Any] = {"type": "string"}


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def step(answer: dict[str, Any] | None = None, calls: bool = True, tools: tuple[ToolSchema, ...] = TOOLS) -> Answer:
    final = closed(answer=TEXT_TYPE if answer is None else answer)
    entries = [closed(tool={"const": tool.name}, arguments=json.loads(tool.parameters)) for tool in tools]
    called = closed(calls={"type": "array", "items": {"anyOf": entries}, "minItems": 1, "maxItems": 4})
    return Answer("step", json.dumps({"anyOf": [called, final]} if calls else final), tools=tools)


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "x1", "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"content": None, "tool_calls": list(entries), **more}


# --- what is sent


def test_tools_are_offered_and_a_free_text_is_not_constrained(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer() as server:
        [result] = run_engine(engine(server), [GenRequest(0, Dialogue(["Hi."]), "s", answer=step())])
    body = server.calls[0].body
    assert result.text == '{"answer": "Hi."}'
    assert body["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi."}]
    assert body["tool_choice"] == "auto"
    assert body["parallel_tool_calls"] is True
    assert "response_format" not in body
    first, second = (tool["function"] for tool in body["tools"])
    assert first == {
        "name": "orders",
        "description": "Orders of a customer.",
        "parameters": ARGUMENTS,
        "strict": True,
    }
    assert second == {"name": "my_tool__", "description": "Another.", "parameters": OPTIONAL}


@pytest.mark.parametrize(
    ("structured", "owned_by", "free", "last"),
    [
        ("json_schema", "tests", "response_format", "response_format"),
        ("json_schema", "vllm", None, "response_format"),  # it would never call a tool
        ("vllm", "vllm", None, "structured_outputs"),
        ("none", "tests", None, None),
    ],
)
def test_an_answer_is_constrained_where_that_leaves_room_for_calls(
    fault_server: Any, run_engine: RunEngine, structured: str, owned_by: str, free: str | None, last: str | None
) -> None:
    number = {"type": "number"}
    requests = [GenRequest(0, "7", answer=step(number)), GenRequest(1, "8.10", answer=step(number, calls=False))]
    with fault_server.FaultServer(owned_by=owned_by) as server:
        results = run_engine(engine(server, structured=structured, concurrency=1), requests)
    assert [result.text for result in results] == ['{"answer": 7}', '{"answer": 8.10}']
    for sent, constraint in zip(server.calls, (free, last), strict=True):
        assert {"response_format", "structured_outputs"} & sent.body.keys() == ({constraint} if constraint else set())
    one, other = server.calls[0].body, server.calls[1].body
    assert one["tools"] == other["tools"]
    assert (one["tool_choice"], other["tool_choice"]) == ("auto", "none")
    assert "parallel_tool_calls" not in other
    if structured == "json_schema":
        spec = other["response_format"]["json_schema"]
        assert (spec["schema"], spec["strict"]) == (closed(answer=number), True)
    elif structured == "vllm":
        assert other["structured_outputs"] == {"json": closed(answer=number)}


def test_a_step_without_tools_offers_none(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer() as server:
        [result] = run_engine(engine(server), [GenRequest(0, "q", answer=step(calls=False, tools=()))])
    assert result.text == '{"answer": "q"}'
    assert not server.calls[0].body.keys() & {"tools", "tool_choice", "parallel_tool_calls"}


# --- what comes back


def test_a_conversation_with_calls(fault_server: Any, run_engine: RunEngine) -> None:
    two = calls(call("orders", '{"customer": 12345678901234567890.10}'), call("my_tool__", ""))
    with fault_server.FaultServer(steps=[two, {"content": "42 in all"}], cached_tok=3) as server:
        chosen = engine(server)
        first = GenRequest(0, Dialogue(['{"task": "Count."}']), answer=step())
        canonical = (
            '{"calls": [{"tool": "orders", "arguments": {"customer": 12345678901234567890.10}}, '
            '{"tool": "my tool.é", "arguments": {}}]}'
        )
        given = (
            '{"results": [{"tool": "orders", "result": [{"n": 1.100, "s": "]}"}]}, '
            '{"tool": "my tool.é", "error": "no"}]}'
        )
        second = GenRequest(1, Dialogue([first.user, canonical, given]), answer=step())
        called, answered = run_engine(chosen, [first, second])
    assert (called.text, called.finish, called.error) == (canonical, "stop", None)
    assert answered.text == '{"answer": "42 in all"}'
    assert answered.prompt_tok_cached == 3
    sent = max((found.body for found in server.calls), key=lambda body: len(body["messages"]))
    task, asked, *results = sent["messages"]
    assert task == {"role": "user", "content": str(first.user)}
    assert asked["content"] is None
    assert [(entry["id"], entry["function"]) for entry in asked["tool_calls"]] == [
        ("call_1_0", {"name": "orders", "arguments": '{"customer": 12345678901234567890.10}'}),
        ("call_1_1", {"name": "my_tool__", "arguments": "{}"}),
    ]
    assert results == [
        {
            "role": "tool",
            "tool_call_id": "call_1_0",
            "content": '{"tool": "orders", "result": [{"n": 1.100, "s": "]}"}]}',
        },
        {"role": "tool", "tool_call_id": "call_1_1", "content": '{"tool": "my tool.é", "error": "no"}'},
    ]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (calls(call("orders", '{"customer": 1')), '{"calls": [{"tool": "orders", "arguments": "{\\"customer\\": 1"}]}'),
        (calls(call("orders", "[1]")), '{"calls": [{"tool": "orders", "arguments": "[1]"}]}'),
        (calls(call("orders", '{"customer": NaN}')), None),
        (calls(call("orders", {"customer": 1})), '{"calls": [{"tool": "orders", "arguments": {"customer": 1}}]}'),
        (calls(call("orders", None)), '{"calls": [{"tool": "orders", "arguments": {}}]}'),
        (calls(call("unknown", "{}")), '{"calls": [{"tool": "unknown", "arguments": {}}]}'),
        (calls(call("orders", "{}"), content="Let me see."), '{"calls": [{"tool": "orders", "arguments": {}}]}'),
        ({"content": '{"answer": "as it is"}'}, '{"answer": "as it is"}'),
        ({"content": '{"answer": "a", "b": 1}'}, '{"answer": "{\\"answer\\": \\"a\\", \\"b\\": 1}"}'),
        ({"content": '{"calls": []}'}, '{"calls": []}'),
        ({"content": 'say "é"\n', "tool_calls": []}, '{"answer": "say \\"é\\"\\n"}'),
    ],
)
def test_replies_become_steps(message: dict[str, Any], text: str | None) -> None:
    body = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode()
    found = wire.decode(body, step()).text
    json.loads(found, parse_constant=pytest.fail)
    if text is not None:
        assert found == text


@pytest.mark.parametrize(
    ("schema", "content", "text"),
    [
        ({"type": "integer"}, " 7\n", '{"answer": 7}'),
        ({"type": "integer"}, "seven", '{"answer": "seven"}'),
        ({"type": "integer"}, "```json\n7\n```", '{"answer": 7}'),
        ({"type": "integer"}, '```\n{"answer": 7}\n```', '{"answer": 7}'),
        (closed(a={"type": "number"}), '{"a": 1.10}', '{"answer": {"a": 1.10}}'),
        ({"type": "string"}, "7", '{"answer": "7"}'),
        ({"type": "string"}, '```json\n{"answer": "7"}\n```\n', '{"answer": "7"}'),
        ({"type": "string"}, "```\n7\n```", '{"answer": "```\\n7\\n```"}'),
        ({"type": "string", "enum": ["a"]}, '"a"', '{"answer": "a"}'),
        ({"type": "string", "pattern": "^[0-9]+$"}, "7", '{"answer": "7"}'),
        ({}, "null", '{"answer": null}'),
    ],
)
def test_contents_become_answers_of_the_type(schema: dict[str, Any], content: str, text: str) -> None:
    body = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()
    assert wire.decode(body, step(schema)).text == text


def test_incomplete_replies_are_said_so() -> None:
    def decode(message: dict[str, Any], finish: str = "stop") -> wire.Reply:
        return wire.decode(json.dumps({"choices": [{"message": message, "finish_reason": finish}]}).encode(), step())

    for broken in (calls({"id": "x"}), calls(call(None, "{}")), {"content": None}):  # type: ignore[arg-type]
        with pytest.raises(wire.Broken):
            decode(broken)
    with pytest.raises(wire.Refused, match="not that"):
        decode({"content": None, "refusal": "not that"})
    assert decode({"content": None}, "length").finish == "length"


# --- histories that are no calls with results


@pytest.mark.parametrize(
    ("called", "given"),
    [
        ('{"calls": [{"tool": "orders", "arguments": "{cut"}]}', '{"results": [{"tool": "orders", "error": "e"}]}'),
        ('{"calls": [{"tool": "orders", "arguments": {}}]}', '{"results": []}'),
        ('{"calls": [{"tool": "orders", "arguments": {}}]}', "Answer now."),
        ('{"answer": 5}', "That is no text: try again."),
        ("no step at all", '{"results": [{"tool": "orders", "result": 1}]}'),
    ],
)
def test_other_turns_are_plain_messages(fault_server: Any, run_engine: RunEngine, called: str, given: str) -> None:
    with fault_server.FaultServer() as server:
        [result] = run_engine(engine(server), [GenRequest(0, Dialogue(["t", called, given]), answer=step())])
    assert result.error is None
    assert server.calls[0].body["messages"] == [
        {"role": "user", "content": "t"},
        {"role": "assistant", "content": called},
        {"role": "user", "content": given},
    ]


def test_a_plain_conversation(fault_server: Any, run_engine: RunEngine) -> None:
    request = GenRequest(0, Dialogue(["a", "b", "c"]), "s")
    with fault_server.FaultServer() as server:
        chosen = engine(server)
        [result] = run_engine(chosen, [request])
    assert result.text == "c"
    assert [(m["role"], m["content"]) for m in server.calls[0].body["messages"]] == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]
    assert chosen.count_tok(request) == 4


# --- without native tool calling


@pytest.mark.parametrize("structured", ["json_schema", "vllm", "none"])
def test_steps_as_plain_json(fault_server: Any, run_engine: RunEngine, structured: str) -> None:
    called = '{"calls": [{"tool": "orders", "arguments": {"customer": 1}}]}'
    turns = ["t", called, '{"results": [{"tool": "orders", "result": 1}]}']
    wrapped = structured == "json_schema"
    replies = [{"content": f'{{"answer": {called}}}' if wrapped else called}, {"content": '{"answer": "done"}'}]
    with fault_server.FaultServer(steps=replies) as server:
        chosen = engine(server, structured=structured, tool_calling="json", concurrency=1)
        requests = [GenRequest(0, Dialogue(turns[:1]), answer=step()), GenRequest(1, Dialogue(turns), answer=step())]
        results = run_engine(chosen, requests)
    assert [result.text for result in results] == [called, '{"answer": "done"}']
    first, second = (found.body for found in server.calls)
    assert not first.keys() & {"tools", "tool_choice", "parallel_tool_calls"}
    assert [item["content"] for item in second["messages"]] == turns
    schema = json.loads(step().schema)
    if wrapped:
        assert first["response_format"]["json_schema"]["schema"] == closed(answer=schema)
    elif structured == "vllm":
        assert first["structured_outputs"] == {"json": schema}
    else:
        assert "response_format" not in first


def test_a_server_without_tools_is_told_of_the_option(fault_server: Any, run_engine: RunEngine) -> None:
    message = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    with fault_server.FaultServer([fault_server.Fault("status", status=400, message=message)]) as server:
        [result] = run_engine(engine(server), [GenRequest(0, "q", answer=step())])
    assert error(result).code == "rejected"
    assert "tool_calling = 'json'" in error(result).remedy
    assert is_about_tools("llama3 does not support tools")
    assert is_about_tools("tools param requires --jinja flag")
    assert not is_about_tools("temperature is out of range")


def test_the_option_counts_for_stored_answers(fault_server: Any) -> None:
    async def identity(**options: object) -> str:
        chosen = engine(server, **options)
        try:
            return (await chosen.start()).identity
        finally:
            await chosen.close()

    with fault_server.FaultServer() as server:
        assert asyncio.run(identity(tool_calling="native")) == asyncio.run(identity())
        assert asyncio.run(identity(tool_calling="json")) != asyncio.run(identity())


def test_names_that_meet_on_the_wire_stay_apart() -> None:
    tools = tuple(ToolSchema(name, "", json.dumps(ARGUMENTS)) for name in ("a b", "a_b", "a.b", "x" * 70))
    body = json.loads(wire.encode(GenRequest(0, "q", answer=step(tools=tools)), "m", "none", {}))
    names = [tool["function"]["name"] for tool in body["tools"]]
    assert len(set(names)) == 4
    assert names[1] == "a_b"
    assert all(len(name) <= 64 and name.replace("_", "").isalnum() for name in names)
    for tool, name in zip(tools, names, strict=True):
        message = calls(call(name, "{}"))
        reply = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode()
        assert json.loads(wire.decode(reply, step(tools=tools)).text)["calls"][0]["tool"] == tool.name


def test_what_strict_mode_takes() -> None:
    assert is_strict(ARGUMENTS)
    assert not is_strict(OPTIONAL)
    assert is_strict(json.loads(step(tools=TOOLS[:1]).schema))
    assert not is_strict(closed(answer={}))
    assert not is_strict({**ARGUMENTS, "additionalProperties": True})
