"""Scores of the openai engine: which log-probabilities are read, what is asked when they say nothing, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest

from halo_sql.engines.protocol import SCORE, GenRequest, GenResult
from halo_sql.ir.prompt import Sampling

from .helpers import RunEngine, engine, error

Logs = dict[str, float]


def logs(**shares: float) -> Logs:
    """Log-probabilities of tokens; ``_`` in a name is a space before it."""
    return {name.replace("_", " "): math.log(share) for name, share in shares.items()}


def ask(prompts: list[str]) -> list[GenRequest]:
    return [GenRequest(number, prompt, answer=SCORE) for number, prompt in enumerate(prompts)]


def scores(fault_server: Any, run_engine: RunEngine, given: dict[str, Any], **options: Any) -> tuple[Any, Any]:
    with fault_server.FaultServer(alternatives=given) as server:
        results = run_engine(engine(server, **options), ask(list(given)))
        return results, server.calls


def test_every_spelling_counts(fault_server: Any, run_engine: RunEngine) -> None:
    given = {
        "plain": logs(yes=0.6, no=0.2, maybe=0.1),
        "spelled": logs(Yes=0.3, _yes=0.2, YES=0.1, No=0.1, _no=0.05, NO=0.05, Yesterday=0.1),
        "none at all": logs(Sure=0.9, no=0.003, Yes=0.001),
    }
    results, calls = scores(fault_server, run_engine, given)
    assert [result.error for result in results] == [None] * 3
    assert [float(result.text) for result in results] == pytest.approx([0.75, 0.75, 0.25])
    assert {(result.finish, result.output_tok, result.retries) for result in results} <= {
        ("stop", 1, 0),
        ("stop", 3, 0),
    }
    assert len(calls) == 3


def test_the_body_of_a_score(fault_server: Any, run_engine: RunEngine) -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=99, stop=("x",))
    with fault_server.FaultServer(alternatives={"q": logs(yes=0.5, no=0.5)}) as server:
        run_engine(engine(server), [GenRequest(0, "q", "be fair", sampling=sampling, answer=SCORE)])
        [call] = server.calls
    assert call.body == {
        "model": "test-model",
        "messages": [{"role": "system", "content": "be fair"}, {"role": "user", "content": "q"}],
        "temperature": 0.0,
        "max_tokens": 1,
        "logprobs": True,
        "top_logprobs": 20,
    }


def test_a_side_that_is_not_listed_counts_when_it_is_negligible(fault_server: Any, run_engine: RunEngine) -> None:
    results, calls = scores(
        fault_server, run_engine, {"sure": {"No": -0.01, "x": -9.0}, "surely": {"x": -9.0, "YES": -0.1}}
    )
    assert [float(result.text) for result in results] == [0.0, 1.0]
    assert len(calls) == 2


@pytest.mark.parametrize("structured", ["json_schema", "vllm"])
@pytest.mark.parametrize("first", [{"<think>": -0.1, "\n": -3.0}, {"Yes": -5.0, "<think>": -0.1, "x": -6.0}])
def test_else_the_answer_is_constrained(fault_server: Any, run_engine: RunEngine, structured: str, first: Logs) -> None:
    with fault_server.FaultServer(alternatives={"q": first}, constrained={"q": logs(yes=0.1, no=0.3, n=0.1)}) as server:
        [result] = run_engine(engine(server, structured=structured), ask(["q"]))
        free, constrained = server.calls
    assert float(result.text) == pytest.approx(0.2)
    assert (result.retries, result.prompt_tok) == (1, 2)  # asked twice, paid twice
    assert "response_format" not in free.body
    if structured == "vllm":
        assert constrained.body["structured_outputs"] == {"choice": ["yes", "no"]}
    else:
        schema = constrained.body["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["answer"] == {"type": "string", "enum": ["yes", "no"]}
    assert constrained.body["max_tokens"] >= 16


def test_a_model_that_tells_neither_is_an_error(fault_server: Any, run_engine: RunEngine) -> None:
    first, second = {"<think>": -0.1, "x": -3.0}, {"x": -1.0, "z": -2.0}
    with fault_server.FaultServer(alternatives={"q": first}, constrained={"q": second}) as server:
        for structured, calls in (("json_schema", 2), ("none", 3)):
            [result] = run_engine(engine(server, structured=structured), ask(["q"]))
            assert (error(result).code, result.finish) == ("invalid_output", "error")
            assert "yes" in error(result).message
            assert error(result).remedy
            assert len(server.calls) == calls


@pytest.mark.parametrize("given", [{}, {"q": {"yes": -0.1}}])
def test_a_server_without_log_probabilities(fault_server: Any, run_engine: RunEngine, given: Any) -> None:
    with fault_server.FaultServer(alternatives=given) as server:
        [result] = run_engine(engine(server), ask(["q"]))
        assert len(server.calls) == 1  # it is not asked again
    assert error(result).code == "rejected"
    assert "log-probabilities" in error(result).message
    assert "LLM_MAP" in error(result).remedy


def test_a_server_that_refuses_to_give_them(fault_server: Any, run_engine: RunEngine) -> None:
    refusal = fault_server.Fault("status", status=400, message="unknown field logprobs")
    with fault_server.FaultServer([refusal]) as server:
        [result] = run_engine(engine(server), ask(["q"]))
    assert error(result).code == "rejected"
    assert "top_logprobs" in error(result).remedy


def test_scores_are_tried_again_like_any_other_request(fault_server: Any, run_engine: RunEngine) -> None:
    faults = [fault_server.Fault("status", status=503, times=2, per_prompt=True)]
    given = {f"q {n}": logs(yes=0.5, no=0.5) for n in range(5)}
    with fault_server.FaultServer(faults, alternatives=given) as server:
        results: list[GenResult] = run_engine(engine(server), ask(list(given)))
    assert {(result.text, result.retries) for result in results} == {("0.5", 2)}


@pytest.mark.parametrize("broken", [{"token": 5}, "no", {"token": "yes", "logprob": None}])
def test_unreadable_log_probabilities_are_a_broken_answer(broken: Any) -> None:
    import json

    from halo_sql.engines.openai_score import decode_free
    from halo_sql.engines.openai_wire import Broken

    choice = {"message": {"content": "yes"}, "finish_reason": "stop", "logprobs": {"content": [broken]}}
    with pytest.raises(Broken, match="not readable"):
        decode_free(json.dumps({"choices": [choice]}).encode())
