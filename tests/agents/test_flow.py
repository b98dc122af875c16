"""Where values may go: tools that send data out or act are not called by who holds private or untrusted data."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from halo_sql.agents.protocol import AgentTool
from halo_sql.errors import EngineError

from .helpers import TEXT, Scripted, agent, answer, ask, calls, on_loop, schema

SECRET = AgentTool("secret", "", schema(), private=True)
WEB = AgentTool("web", "", schema(), untrusted=True)
PLAIN = AgentTool("plain", "", schema())
SEND = AgentTool("send", "", schema(text=TEXT), egress=True)
WRITE = AgentTool("write", "", schema(text=TEXT), writes=True)
TOOLS = {name: (lambda given: "ok") for name in ("secret", "web", "plain", "send", "write")}
OUT = {"text": "x"}


async def made(tools: tuple[AgentTool, ...], *steps: Any, functions: Any = TOOLS, **options: Any) -> list[str]:
    """The names of the tools that were called."""
    model = Scripted(*steps, answer("x"))
    rows, run = await ask(agent(*tools, model="m", **options), "{}", tools=functions, models={"m": model})
    assert rows.texts() == {0: '"x"'}
    for turn, step in enumerate(steps):
        asked = [call["tool"] for call in step["calls"]]
        told = json.loads(model.prompts[turn + 1][-1]["content"])["results"]
        assert [item["tool"] for item in told] == asked
    return [name for name, _ in run.bench.calls]


@pytest.mark.parametrize("out", [SEND, WRITE])
@on_loop
async def test_clean_conversations_may_act(out: AgentTool) -> None:
    assert await made((PLAIN, out), calls(("plain", {})), calls((out.name, OUT))) == ["plain", out.name]


@pytest.mark.parametrize("out", [SEND, WRITE])
@pytest.mark.parametrize("source", [SECRET, WEB])
@on_loop
async def test_after_private_or_untrusted_results_they_may_not(source: AgentTool, out: AgentTool) -> None:
    steps = (calls((source.name, {})), calls((out.name, OUT)), calls(("plain", {})), calls((out.name, {"text": "y"})))
    assert await made((source, out, PLAIN), *steps) == [source.name, "plain"]
    allowed = replace(out, allowed=True)
    assert await made((source, allowed), *steps[:2]) == [source.name, out.name]


@pytest.mark.parametrize("out", [SEND, WRITE])
@on_loop
async def test_untrusted_rows_taint_from_the_start(out: AgentTool) -> None:
    assert await made((out, PLAIN), calls((out.name, OUT), ("plain", {})), untrusted_rows=True) == ["plain"]
    allowed = replace(out, allowed=True)
    assert await made((allowed,), calls((out.name, OUT)), untrusted_rows=True) == [out.name]


@on_loop
async def test_what_a_step_asks_for_is_not_influenced_by_what_it_brings() -> None:
    assert await made((SECRET, SEND), calls(("secret", {}), ("send", OUT))) == ["secret", "send"]
    assert await made((SECRET, SEND), calls(("secret", {})), calls(("secret", {}), ("send", OUT))) == ["secret"] * 2


@on_loop
async def test_errors_taint_as_results_do() -> None:
    def fail(given: dict[str, Any]) -> object:
        raise EngineError("the private value is 5", code="tool")

    functions = {**TOOLS, "secret": fail}
    assert await made((SECRET, SEND), calls(("secret", {})), calls(("send", OUT)), functions=functions) == ["secret"]


@on_loop
async def test_a_call_that_is_not_made_does_not_taint() -> None:
    steps = (calls(("secret", {"no": 1})), calls(("send", OUT)))
    assert await made((SECRET, SEND), *steps) == ["send"]


@on_loop
async def test_one_row_does_not_taint_another() -> None:
    def first_row_reads(messages: list[dict[str, str]]) -> dict[str, Any]:
        return calls(("secret", {})) if "first" in messages[1]["content"] else calls(("plain", {}))

    model = Scripted(first_row_reads, calls(("send", OUT)), answer("x"))
    spec = agent(SECRET, PLAIN, SEND, model="m")
    _, run = await ask(spec, '{"row": "first"}', '{"row": "second"}', tools=TOOLS, models={"m": model})
    assert sorted(name for name, _ in run.bench.calls) == ["plain", "secret", "send"]


@on_loop
async def test_a_refusal_is_logged_as_denied() -> None:
    model = Scripted(calls(("send", OUT)), answer("x"))
    _, run = await ask(agent(SEND, model="m", untrusted_rows=True), "{}", tools=TOOLS, models={"m": model})
    (refused,) = (record for record in run.records() if record.kind == "tool")
    assert (refused.model, refused.status) == ("send", "failed")
    assert refused.error is not None
    assert refused.error.startswith("denied: not called: it sends data out")
