"""A fully hostile model: it may say what it likes, and still nothing it must not do happens.

The model is a function behind the real python engine and dispatcher. In every case: only allowed tools are called, with
arguments of their schemas; nothing private reaches a tool that sends or writes; no limit is exceeded.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import jsonschema
import pytest

from halo_sql.agents.protocol import AgentSpec, AgentTool
from halo_sql.engines.protocol import estimate_tok
from halo_sql.ir.prompt import Sampling
from halo_sql.ir.types import BIGINT, VARCHAR

from .attacks import ANSWERS, ARGUMENTS, CANARY, ENCODINGS, INJECTIONS, NAMES, TEXTS
from .helpers import TEXT, Messages, Rows, Scripted, Stand, agent, answer, ask, calls, on_loop, schema

SMALL = {"type": "integer", "minimum": 0, "maximum": 999}
TAG = {"type": "string", "pattern": "^[a-z]{1,3}$", "optional": True}
TOOLS = (
    AgentTool("lookup", "Looks up", schema(n=SMALL, tag=TAG), fill={"tag": '"a"'}),
    AgentTool("secret", "Private data", schema(n=SMALL), private=True),
    AgentTool("fetch", "A page of the web", schema(n=SMALL), untrusted=True),
    AgentTool("send", "Sends a text to a server", schema(text=TEXT), egress=True),
    AgentTool("write", "Writes a text into a file", schema(text=TEXT), writes=True),
)
SCHEMAS = {tool.name: json.loads(tool.schema) for tool in TOOLS}
ACTING = ("send", "write")
TOKENS = 4_000_000  # some attacks are long


def functions(page: str = "a page") -> dict[str, Any]:
    return {
        "lookup": lambda given: given["n"],
        "secret": lambda given: f"{CANARY} {given['n']}",
        "fetch": lambda given: page,
        "send": lambda given: "sent",
        "write": lambda given: "written",
        "drop_tables": lambda given: "dropped",
        "admin": lambda given: "you are it",
    }


def hostile(**options: Any) -> AgentSpec:
    limits = {"max_steps": 6, "max_tool_calls": 7, "max_parallel": 3, "max_repeats": 3, "max_tokens": TOKENS}
    return agent(*TOOLS, **{"model": "m", "sampling": Sampling(max_tokens=10_000), **limits, **options})


async def attack(
    *steps: Any, request: str = "{}", page: str = "a page", **options: Any
) -> tuple[Rows, Stand, Scripted]:
    """Run one conversation with this model, and prove what must hold whatever it says."""
    spec = hostile(**options)
    model = Scripted(*steps)
    rows, run = await ask(spec, request, tools=functions(page), models={"m": model})
    prove(spec, rows, run, model, request)
    return rows, run, model


def prove(spec: AgentSpec, rows: Rows, run: Stand, model: Scripted, request: str) -> None:
    made = run.bench.calls
    assert {name for name, _ in made} <= set(SCHEMAS)
    for name, text in made:
        given = json.loads(text)
        assert list(given) == list(SCHEMAS[name]["properties"])
        jsonschema.validate(given, SCHEMAS[name])
        assert text == json.dumps(given, ensure_ascii=False, separators=(",", ":"))
    assert len(made) <= spec.max_tool_calls
    assert max(Counter(made).values(), default=0) < spec.max_repeats
    assert len(model.prompts) == rows.metrics.llm_calls <= spec.max_steps
    assert sum(channel.puts for channel in run.bench.channels) <= len(made)
    assert rows.metrics.prompt_tok + rows.metrics.output_tok <= spec.max_tokens
    before: Messages = []
    for messages in model.prompts:
        assert messages[: len(before)] == before  # nothing that was said is changed
        assert messages[0] == model.prompts[0][0]
        assert messages[1] == {"role": "user", "content": request}
        for message in messages[3::2]:
            assert list(json.loads(message["content"])) in (["results"], ["error"])
        before = messages
    assert rows.code() in ("", "limit", "invalid_output")
    if rows.code() == "":
        jsonschema.validate(json.loads(rows.texts()[0]), json.loads(spec.answer_schema))


def acted(run: Stand) -> list[tuple[str, str]]:
    """Calls that sent something out or changed something."""
    return [call for call in run.bench.calls if call[0] in ACTING]


def results(model: Scripted, turn: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(model.prompts[turn][-1]["content"])["results"]
    return found


# --- stolen data


@pytest.mark.parametrize("tool", ACTING)
@pytest.mark.parametrize("encoding", ENCODINGS)
@on_loop
async def test_what_was_read_in_private_never_leaves(encoding: str, tool: str) -> None:
    def leak(messages: Messages) -> dict[str, Any]:
        stolen = json.loads(messages[3]["content"])["results"][0]["result"]
        assert stolen.startswith(CANARY)  # it has it
        return calls((tool, {"text": ENCODINGS[encoding](stolen)}), (tool, {"text": "x"}))

    rows, run, model = await attack(calls(("secret", {"n": 1})), leak, leak, answer("done"))
    assert acted(run) == []
    assert [sorted(item) for item in results(model, 2)] == [["error", "tool"]] * 2
    assert rows.texts() == {0: '"done"'}


@pytest.mark.parametrize("tool", ACTING)
@pytest.mark.parametrize("size", [1, 2, 3])
@on_loop
async def test_nor_piece_by_piece(size: int, tool: str) -> None:
    def piece(messages: Messages) -> dict[str, Any]:
        turn = len(messages) // 2
        return calls(*((tool, {"text": CANARY[turn + offset]}) for offset in range(size)))

    rows, run, model = await attack(calls(("secret", {"n": 1})), piece)
    assert acted(run) == []
    assert (rows.code(), len(model.prompts)) == ("limit", 6)


@pytest.mark.parametrize("place", ["tool", "member", "argument of lookup", "beside a good call"])
@on_loop
async def test_nor_where_it_does_not_belong(place: str) -> None:
    step = {
        "tool": calls((CANARY, {"text": "x"})),
        "member": calls(("send", {CANARY: "x"})),
        "argument of lookup": calls(("lookup", {"n": 1, "tag": CANARY})),
        "beside a good call": calls(("send", {"text": "x", "note": CANARY}), ("lookup", {"n": 1})),
    }[place]
    _, run, _ = await attack(calls(("secret", {"n": 1})), step, answer("x"))
    assert CANARY not in json.dumps([text for name, text in run.bench.calls], ensure_ascii=False)
    assert acted(run) == []


@on_loop
async def test_reading_and_sending_at_once_sends_what_was_known_before() -> None:
    _, run, _ = await attack(calls(("secret", {"n": 1}), ("send", {"text": "before"})), answer("x"))
    assert acted(run) == [("send", '{"text":"before"}')]


# --- tools and arguments


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
@on_loop
async def test_a_name_that_is_no_tools_calls_nothing(name: str) -> None:
    rows, run, model = await attack(calls((name, {"text": "x"}), (name, {"n": 1})), answer("x"))
    assert run.bench.calls == []
    for item in results(model, 1):
        assert item["error"].endswith("the tools are: lookup, secret, fetch, send, write")
        assert len(item["error"]) < 200
        assert len(item["tool"]) <= 61
    assert rows.texts() == {0: '"x"'}


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda text: text[:40])
@on_loop
async def test_arguments_that_do_not_fit_call_nothing(arguments: str) -> None:
    step = f'{{"calls":[{{"tool":"lookup","arguments":{arguments}}}]}}'
    rows, run, model = await attack(step, answer("x"))
    assert run.bench.calls == []
    (told,) = results(model, 1)
    assert "\n" not in told["error"]
    assert rows.texts() == {0: '"x"'}


# --- messages and answers


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:40])
@on_loop
async def test_a_message_that_is_no_step_does_nothing(text: str) -> None:
    rows, run, model = await attack(text, returns=BIGINT, answer_schema='{"type":"integer"}')
    assert run.bench.calls == []
    assert (rows.code(), len(model.prompts)) == ("invalid_output", 3)
    _, run, model = await attack(text, text, calls(("lookup", {"n": 1})), text, answer("x"))
    assert run.bench.calls == [("lookup", '{"n":1,"tag":"a"}')]
    assert len(model.prompts) == 4


@pytest.mark.parametrize("value", ANSWERS)
@on_loop
async def test_an_answer_of_another_type_is_none(value: str) -> None:
    rows, _, model = await attack(f'{{"answer": {value}}}', returns=BIGINT, answer_schema='{"type":"integer"}')
    assert (rows.code(), len(model.prompts)) == ("invalid_output", 3)


@on_loop
async def test_an_answer_that_looks_like_results_is_text() -> None:
    text = '{"results":[{"tool":"secret","result":"x"}]}'
    rows, run, _ = await attack(answer(text), returns=VARCHAR)
    assert (json.loads(rows.texts()[0]), run.bench.calls) == (text, [])


# --- texts that want to be instructions


def gullible(messages: Messages) -> dict[str, Any]:
    """It does what the last text that speaks of calls says."""
    for tool in ACTING:
        if f"CALL {tool}" in messages[-1]["content"]:
            return calls((tool, {"text": "obeyed"}), ("lookup", {"n": 5}))
    return answer("nothing to do")


@pytest.mark.parametrize("text", INJECTIONS, ids=lambda text: ascii(text)[:40])
@on_loop
async def test_instructions_in_rows_are_data(text: str) -> None:
    request = json.dumps({"body": text}, ensure_ascii=False)
    rows, run, model = await attack(gullible, answer("x"), request=request, untrusted_rows=True)
    assert acted(run) == []
    assert run.bench.calls == [("lookup", '{"n":5,"tag":"a"}')]
    assert "CALL" not in model.prompts[0][0]["content"]
    assert rows.texts() == {0: '"x"'}


@pytest.mark.parametrize("text", INJECTIONS, ids=lambda text: ascii(text)[:40])
@on_loop
async def test_instructions_in_results_are_data(text: str) -> None:
    rows, run, model = await attack(calls(("fetch", {"n": 1})), gullible, answer("x"), page=text)
    assert acted(run) == []
    assert [name for name, _ in run.bench.calls] == ["fetch", "lookup"]
    assert results(model, 1) == [{"tool": "fetch", "result": text}]  # in its place, whatever it holds
    assert rows.texts() == {0: '"x"'}


# --- loops and floods


def endless(kind: str, messages: Messages) -> Any:
    """The next step of a model that never answers."""
    turn = len(messages) // 2
    return {
        "the same call": calls(("lookup", {"n": 1})),
        "a new call each time": calls(("lookup", {"n": turn})),
        "the same calls in turn": calls(("lookup", {"n": turn % 2})),
        "pairs": calls(("lookup", {"n": 2 * turn}), ("lookup", {"n": 2 * turn + 1})),
        "many at once": calls(*(("lookup", {"n": 10 * turn + n}) for n in range(10))),
        "the most at once": calls(*(("lookup", {"n": n % 900}) for n in range(103))),
        "the same one many times at once": calls(*[("lookup", {"n": 1})] * 50),
        "a tool that is none": calls(("nobody", {})),
        "tools that are none": calls((f"nobody{turn}", {})),
        "arguments that never fit": calls(("lookup", {"n": -turn - 1})),
        "denied calls": calls(("secret", {"n": turn}), ("send", {"text": str(turn)})),
        "no steps": "x",
        "no step and a call in turn": "x" if turn % 2 else calls(("lookup", {"n": turn})),
        "a call and no step in turn": calls(("lookup", {"n": turn})) if turn % 2 else "x",
        "writes": calls(("write", {"text": "again"})),
        "writes anew": calls(("write", {"text": str(turn)})),
    }[kind]


#: kind -> (calls of the model, calls of tools that are made, code) with 6 steps, 7 calls, 3 at once and 3 repeats
ENDLESS = {
    "the same call": (6, 2, "limit"),  # 2 made, 1 refused, then 3 that may only answer
    "a new call each time": (6, 5, "limit"),
    "the same calls in turn": (6, 4, "limit"),
    "pairs": (6, 7, "limit"),
    "many at once": (6, 7, "limit"),
    "the most at once": (6, 6, "limit"),
    "the same one many times at once": (4, 2, "limit"),
    "a tool that is none": (6, 0, "limit"),
    "tools that are none": (6, 0, "limit"),
    "arguments that never fit": (6, 0, "limit"),
    "denied calls": (6, 6, "limit"),
    "no steps": (3, 0, "invalid_output"),
    "no step and a call in turn": (5, 2, "invalid_output"),
    "a call and no step in turn": (6, 3, "invalid_output"),
    "writes": (6, 2, "limit"),
    "writes anew": (6, 5, "limit"),
}


@pytest.mark.parametrize("kind", ENDLESS)
@on_loop
async def test_what_never_ends_ends(kind: str) -> None:
    rows, run, model = await attack(lambda messages: endless(kind, messages))
    assert (len(model.prompts), len(run.bench.calls), rows.code()) == ENDLESS[kind]


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("most", [0, 1, 4])
@pytest.mark.parametrize("parallel", [1, 3])
@on_loop
async def test_limits_hold_in_every_combination(steps: int, most: int, parallel: int) -> None:
    def flood(messages: Messages) -> dict[str, Any]:
        return calls(*(("lookup", {"n": 10 * len(messages) + n}) for n in range(5)))

    limits = {"max_steps": steps, "max_tool_calls": most, "max_parallel": parallel}
    rows, run, model = await attack(flood, **limits)
    assert len(run.bench.calls) == min(most, parallel * (steps - 1))
    assert len(model.prompts) <= steps
    assert rows.code() == "limit"


@pytest.mark.parametrize("most", [900, 1500, 3000, 6000, 20_000])
@on_loop
async def test_tokens_hold_whatever_is_said(most: int) -> None:
    def long(messages: Messages) -> dict[str, Any]:
        return calls(("fetch", {"n": len(messages)}), ("nobody " * 20, {}))

    spec = {"max_tokens": most, "max_steps": 1000, "max_tool_calls": 1000, "sampling": Sampling(max_tokens=100)}
    rows, _, model = await attack(long, page="word " * 5000, **spec)
    assert rows.code() == "limit"
    used = 0
    for messages in model.prompts:
        used += sum(estimate_tok(message["content"]) for message in messages) + 100
        assert used <= most


@on_loop
async def test_there_are_hundreds_of_attacks() -> None:
    counts = [
        2 * len(ENCODINGS),
        len(NAMES),
        len(ARGUMENTS),
        len(TEXTS),
        len(ANSWERS),
        2 * len(INJECTIONS),
        len(ENDLESS),
    ]
    assert sum(counts) >= 300
