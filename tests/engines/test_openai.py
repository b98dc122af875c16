"""The openai engine: what it sends, what it makes of the answers, which model it finds, and cancelling."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from halo_sql.engines.openai import OpenAIEngine
from halo_sql.engines.protocol import YES_NO, Answer, GenRequest, GenResult
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling

from .helpers import RunEngine, engine, error, prompts

# --- what is sent, what comes back


def test_texts_are_matched_by_id(fault_server: Any, run_engine: RunEngine) -> None:
    slow = fault_server.Fault("slow", contains="0", delay_s=0.05)
    with fault_server.FaultServer([slow], cached_tok=2) as server:
        results = run_engine(engine(server), prompts(100))
    assert [result.text for result in results] == [f"prompt {n}" for n in range(100)]
    assert {(r.prompt_tok, r.prompt_tok_cached, r.output_tok, r.retries) for r in results} == {(2, 2, 2, 0)}
    assert set(server.counts().values()) == {1}
    assert 2 <= server.most_in_flight <= 64


def test_the_body_of_a_request(fault_server: Any, run_engine: RunEngine) -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=7, seed=3, stop=("x",))
    with fault_server.FaultServer() as server:
        run_engine(engine(server), [GenRequest(0, "u")])
        extra = {"max_tokens": None, "max_completion_tokens": 5}
        run_engine(
            engine(server, extra_body=extra, headers={"X-Team": "blue"}), [GenRequest(0, "u", "s", sampling=sampling)]
        )
    plain, full = server.calls
    assert plain.body == {
        "model": "test-model",
        "messages": [{"role": "user", "content": "u"}],
        "temperature": 0.0,
        "max_tokens": 256,
    }
    assert full.body["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    options = {name: full.body[name] for name in ("temperature", "top_p", "seed", "stop", "max_completion_tokens")}
    assert options == {"temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"], "max_completion_tokens": 5}
    assert "max_tokens" not in full.body
    assert full.headers["x-team"] == "blue"
    assert "authorization" not in full.headers


@pytest.mark.parametrize("structured", ["json_schema", "vllm"])
def test_constrained_answers(fault_server: Any, run_engine: RunEngine, structured: str) -> None:
    number = Answer("json", schema='{"type":"number"}')
    closed = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}'
    requests = [
        GenRequest(0, "is it no?", answer=YES_NO),
        GenRequest(1, "0.10000000000000000001", answer=number),
        GenRequest(2, '{"a": 1}', answer=Answer("json", schema=closed)),
        GenRequest(3, "[1]", answer=Answer("json", schema='{"type":"array","items":{}}')),
    ]
    with fault_server.FaultServer() as server:
        results = run_engine(engine(server, structured=structured), requests)
        bodies = {call.prompt: call.body for call in server.calls}
    assert [result.text for result in results] == ["no", "0.10000000000000000001", '{"a": 1}', "[1]"]
    if structured == "vllm":
        assert bodies["is it no?"]["structured_outputs"] == {"choice": ["yes", "no"]}
        assert bodies['{"a": 1}']["structured_outputs"] == {"json": json.loads(closed)}
    else:
        formats = {prompt: body["response_format"]["json_schema"] for prompt, body in bodies.items()}
        assert formats['{"a": 1}'] == {"name": "answer", "schema": json.loads(closed), "strict": True}
        assert formats["is it no?"]["schema"]["properties"]["answer"] == {"type": "string", "enum": ["yes", "no"]}
        assert formats["is it no?"]["strict"] is True
        assert formats["[1]"]["strict"] is False  # nothing says what the items are


def test_unconstrained_when_asked(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer() as server:
        [result] = run_engine(engine(server, structured="none"), [GenRequest(0, "yes", answer=YES_NO)])
    assert result.text == "yes"
    assert server.calls[0].body.keys() == {"model", "messages", "temperature", "max_tokens"}


def test_a_cut_answer_says_so(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer([fault_server.Fault("length")]) as server:
        [result] = run_engine(engine(server), [GenRequest(0, "q")])
    assert (result.text, result.finish, result.error) == ("q", "length", None)


def test_lower_priorities_go_first(fault_server: Any, run_engine: RunEngine) -> None:
    requests = [GenRequest(n, f"prompt {n}", priority=n % 2) for n in range(6)]
    with fault_server.FaultServer() as server:
        run_engine(engine(server, concurrency=1), requests)
    assert [call.prompt[-1] for call in server.calls] == list("024135")


# --- the model


def test_the_only_model_of_a_server(fault_server: Any) -> None:
    async def start(chosen: OpenAIEngine) -> Any:
        try:
            first, second = await asyncio.gather(chosen.start(), chosen.start())
            assert first is second
            return first
        finally:
            await chosen.close()

    with fault_server.FaultServer() as server:
        info = asyncio.run(start(engine(server)))
        assert info.context_tok == 4096
        assert server.url in info.identity
        assert "test-model" in info.identity
        assert info.storable
        other = asyncio.run(start(engine(server, extra_body={"top_k": 1})))
        assert other.identity != info.identity
    with fault_server.FaultServer(models=("a", "b")) as server:
        with pytest.raises(EngineError, match="several models: a, b") as caught:
            asyncio.run(start(engine(server)))
        assert "WITH (model" in caught.value.remedy
        assert asyncio.run(start(engine(server, model="b"))).context_tok == 4096
    without = fault_server.Fault("status", path="/models", status=404)
    with fault_server.FaultServer([without]) as server:
        assert asyncio.run(start(engine(server, model="m"))).context_tok == 0
        with pytest.raises(EngineError, match="does not tell which models"):
            asyncio.run(start(engine(server)))


def test_a_changed_model_stops_the_engine(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer([fault_server.Fault("model", after=3, times=1)]) as server:
        results = run_engine(engine(server, concurrency=1), prompts(10))
    assert [result.error is None for result in results] == [True] * 3 + [False] * 7
    assert "'another-model'" in error(results[3]).message
    assert all(result.error is results[3].error for result in results[3:])
    assert len(server.calls) == 4


# --- cancellation


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within a minute")


def test_abort_and_close_leave_nothing_behind(fault_server: Any) -> None:
    async def main(server: Any) -> None:
        chosen = engine(server, concurrency=8)
        await chosen.start()
        delivered: list[GenResult] = []
        chosen.submit(prompts(30), delivered.extend)
        await until(lambda: len(server.calls) >= 8)
        chosen.abort([0, 1, 20])
        await until(lambda: len(delivered) >= 3)
        assert sorted(result.id for result in delivered) == [0, 1, 20]
        start_s = time.monotonic()
        await chosen.close()
        await chosen.close()
        assert time.monotonic() - start_s < 15
        assert sorted(result.id for result in delivered) == list(range(30))
        assert {error(result).code for result in delivered} == {"cancelled"}

    with fault_server.FaultServer([fault_server.Fault("slow", delay_s=20)]) as server:
        asyncio.run(main(server))
        assert len(server.calls) <= 10
