"""Conversations and an agent's steps on the engines that need no model: keys, echo, python, replay, refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.engines.echo import EchoEngine
from halo_sql.engines.keys import RequestKeys
from halo_sql.engines.kinds import EMBEDDING, GENERATE, refusal
from halo_sql.engines.protocol import (
    SCORE,
    TEXT,
    YES_NO,
    Answer,
    Dialogue,
    GenRequest,
    GenResult,
    ToolSchema,
    estimate_tok,
)
from halo_sql.engines.python import PythonEngine
from halo_sql.engines.replay import ReplayEngine, write_recording
from halo_sql.ir.prompt import Sampling

from .helpers import RunEngine, error

TOOLS = (ToolSchema("orders", "Orders.", '{"type":"object"}'),)
CALLED = '{"calls": [{"tool": "orders", "arguments": {"n": 1.10}}]}'
GIVEN = '{"results": [{"tool": "orders", "result": 5}, {"tool": "orders", "result": [{"price": 1.10}]}]}'


def step(kind: Any = "string", calls: bool = True) -> Answer:
    final = {"type": "object", "properties": {"answer": {"type": kind} if kind else {}}, "required": ["answer"]}
    called = {"type": "object", "properties": {"calls": {"type": "array"}}, "required": ["calls"]}
    return Answer("step", json.dumps({"anyOf": [called, final]} if calls else final), tools=TOOLS)


# --- keys


def test_keys_of_stored_answers_stay() -> None:
    cases = [
        ("vllm|m@1", None, Sampling(), TEXT, "hello"),
        (
            "vllm|m@1",
            "Be short.",
            Sampling(0.5, 0.9, 64, 7, ("\n", "END")),
            Answer("json", '{"type":"string"}', ("yes", "no")),
            "é 漢字",
        ),
        ("openai|u", "", Sampling(max_tokens=3), YES_NO, ""),
        ("e", None, Sampling(), SCORE, "hello"),
    ]
    assert [RequestKeys(*head).key(user).hex() for *head, user in cases] == [
        "fd9f47ea2081846f14c8699d25e66ed91f1b8f006378c4684309f68e21a60671",
        "5b74281d357cb5b6797a79d3f0d0e32161a989575040c5d1a41c76f06daeef1a",
        "4e22fa55fc7fd56b1423807984441721df377832d1691c20baa36074ab985e1b",
        "c017c2ac964083bfb0c26ef299bf5d9c5b6886e5cc96464c6d34de7ee3792083",
    ]


def test_tools_and_turns_enter_the_key() -> None:
    def key(user: str, answer: Answer) -> bytes:
        return RequestKeys("e", None, Sampling(), answer).key(user)

    talk = Dialogue(["a", "b", "c"])
    other = (TOOLS[0]._replace(description="All orders."),)
    found = [
        key(talk, step()),
        key(talk, step(calls=False)),
        key(talk, Answer("step", step().schema)),
        key(talk, Answer("step", step().schema, tools=other)),
        key(talk, Answer("step", step().schema, tools=TOOLS * 2)),
        key(talk, TEXT),
        key(str(talk), step()),
        key(talk.then("d", "e"), step()),
        key(Dialogue(["a", 'b", "c']), step()),
        key(Dialogue(["a"]), step()),
    ]
    assert len(set(found)) == len(found)
    assert key(Dialogue(["a"]).then("b", "c"), step()) == found[0]


# --- echo


def echo(turns: Sequence[str], answer: Answer, **options: object) -> GenResult:
    delivered: list[GenResult] = []
    user = turns[0] if len(turns) == 1 else Dialogue(turns)
    EchoEngine(options).submit([GenRequest(3, user, "system!", answer=answer)], delivered.extend)
    (result,) = delivered
    assert result.id == 3
    return result


def task(script: object) -> str:
    return json.dumps({"task": script if isinstance(script, str) else json.dumps(script)})


def test_echo_follows_a_script() -> None:
    script = [{"tool": "orders", "arguments": {"n": 1}}, {"calls": [{"tool": "x"}, 5]}, {"answer": "$result"}]
    turns = [task(script)]
    one = '{"calls": [{"tool": "orders", "arguments": {"n": 1}}]}'
    assert echo(turns, step()).text == one
    assert echo([*turns, one, GIVEN], step()).text == '{"calls": [{"tool": "x"}, 5]}'
    assert echo([*turns, one, GIVEN, CALLED, GIVEN], step()).text == '{"answer": [{"price": 1.10}]}'
    assert echo([*turns, *[one, GIVEN] * 7], step()).text == '{"answer": [{"price": 1.10}]}'  # the last one again
    failed = '{"results": [{"tool": "orders", "error": "no"}]}'
    assert echo([*turns, one, failed, one, failed], step()).text == '{"answer": "no"}'
    assert echo([*turns, one, "x", one, "x"], step()).text == '{"answer": "$result"}'


def test_echo_gives_an_answer_where_no_call_is_allowed() -> None:
    script: list[Any] = [{"answer": 1}, {"answer": 2.50}, {"tool": "orders"}]
    turns = [task(script), "{}", "x", "{}", "x"]
    assert echo(turns, step()).text == '{"calls": [{"tool": "orders", "arguments": {}}]}'
    assert echo(turns, step(calls=False)).text == '{"answer": 2.5}'
    assert echo([task(script)], step(calls=False)).text == '{"answer": 1}'
    assert echo([task(script[2:])], step(calls=False)).text == '{"answer": null}'


@pytest.mark.parametrize(
    ("first", "kind", "text"),
    [
        ('{"task": "Sum it up."}', "string", '{"answer": "Sum it up."}'),
        ('{"task": "7.10"}', "string", '{"answer": "7.10"}'),
        ('{"task": "7.10"}', "number", '{"answer": 7.10}'),
        ('{"task": "NaN"}', "number", '{"answer": "NaN"}'),
        ('{"task": "seven"}', "number", '{"answer": "seven"}'),
        ('{"task": "[{\\"a\\": 1}]"}', None, '{"answer": [{"a": 1}]}'),
        ('{"task": "[]"}', "string", '{"answer": "[]"}'),
        ('{"task": "[{\\"tool\\": \\"t\\"}, 5]"}', "string", '{"answer": "[{\\"tool\\": \\"t\\"}, 5]"}'),
        ('{"task": 7.10}', "number", '{"answer": 7.10}'),
        (
            '{"task": "a", "customer": 3}',
            "string",
            '{"answer": "{\\"task\\": \\"a\\", \\"customer\\": 3}"}',
        ),
        ('{"task": "a", "customer": 3}', "object", '{"answer": {"task": "a", "customer": 3}}'),
        ("no object", "string", '{"answer": "no object"}'),
    ],
)
def test_echo_answers_with_the_task(first: str, kind: str | None, text: str) -> None:
    assert echo([first], step(kind)).text == text
    assert echo([first, CALLED, GIVEN], step(kind, calls=False)).text == text


@given(st.text(), st.lists(st.text(), max_size=2))
def test_echo_always_gives_one_step(value: str, more: list[str]) -> None:
    turns = [task(value), *more, *more]
    found = json.loads(echo(turns, step(), kind="generate").text)
    assert found.keys() <= {"answer", "calls"}
    if not value.lstrip().startswith("["):
        assert found == {"answer": value}


def test_echo_counts_all_turns() -> None:
    turns = [task("a" * 100), CALLED, GIVEN]
    result = echo(turns, step())
    request = GenRequest(0, Dialogue(turns), "system!", answer=step())
    assert result.prompt_tok == sum(map(estimate_tok, [*turns, "system!"])) == EchoEngine().count_tok(request)
    assert result.output_tok == estimate_tok(result.text)
    assert error(echo(turns, step(), max_model_len=300)).code == "context"
    plain = echo(["a", "b", "last one"], TEXT)
    assert (plain.text, plain.prompt_tok) == ("last one", 7)
    assert echo(["maybe", "b", "no"], YES_NO).text == "no"


# --- python


def test_a_function_gets_all_turns_and_may_return_a_dict(run_engine: RunEngine) -> None:
    seen: list[list[dict[str, str]]] = []

    def agent(messages: list[dict[str, str]]) -> Any:
        seen.append(messages)
        if messages[-1]["content"] == "odd":
            return {"answer": {1, 2}}
        return {"answer": "é"} if len(messages) > 2 else CALLED

    talk = Dialogue(["t", CALLED, GIVEN])
    requests = [
        GenRequest(0, "t", "s", answer=step()),
        GenRequest(1, talk, "s", answer=step()),
        GenRequest(2, "odd", answer=step()),
        GenRequest(3, talk, "s"),
    ]
    called, answered, odd, text = run_engine(PythonEngine(agent, {"concurrency": 1}), requests)
    assert (called.text, answered.text) == (CALLED, '{"answer": "é"}')
    assert "a dict that is no JSON" in error(odd).message
    assert "returned dict, not str" in error(text).message
    assert [(message["role"], message["content"]) for message in seen[1]] == [
        ("system", "s"),
        ("user", "t"),
        ("assistant", CALLED),
        ("user", GIVEN),
    ]
    assert answered.prompt_tok == sum(map(estimate_tok, ["s", *talk.turns]))


# --- replay


def test_steps_are_recorded_and_replayed(tmp_path: Path, run_engine: RunEngine) -> None:
    path = tmp_path / "steps.jsonl"
    talk = Dialogue(['{"task": "é\ud800"}', CALLED, GIVEN])
    requests = [
        GenRequest(0, Dialogue(talk.turns[:1]), "s", answer=step()),
        GenRequest(1, talk, "s", answer=step()),
        GenRequest(2, talk, "s", answer=step(calls=False)),
        GenRequest(3, talk, "s", answer=Answer("step", step().schema)),
        GenRequest(4, "plain", "s"),
    ]
    pairs = [(request, GenResult(request.id, f"answer {request.id}", prompt_tok=request.id)) for request in requests]
    assert write_recording(path, pairs) == 5
    assert run_engine(ReplayEngine(str(path)), requests) == [result for _, result in pairs]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1]["user"] == str(talk)
    assert lines[1]["answer"]["tools"] == [list(TOOLS[0])]
    assert "tools" not in lines[4]["answer"]
    [unknown] = run_engine(ReplayEngine(str(path)), [GenRequest(9, talk.then("{}", "x"), "s", answer=step())])
    assert error(unknown).code == "rejected"


# --- kinds


def test_embedding_models_take_no_steps(run_engine: RunEngine) -> None:
    assert refusal(GENERATE, "m", step()) is None
    problem = refusal(EMBEDDING, "m", step())
    assert problem is not None
    assert "embedding model" in problem.message
    assert error(echo(["t"], step(), kind="embedding")).code == "rejected"
    [result] = run_engine(
        PythonEngine(lambda texts: [[1.0]], {"kind": "embedding"}), [GenRequest(0, "t", answer=step())]
    )
    assert error(result).code == "rejected"
