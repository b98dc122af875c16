"""Embeddings of the openai engine: batches, counts, faults of one text and of all, and what a server must not do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from halo_sql.engines.openai_embed import shares
from halo_sql.engines.protocol import EMBEDDING, SCORE, TEXT, GenRequest, GenResult
from halo_sql.engines.vectors import decode_vector
from halo_sql.errors import EngineError
from halo_sql.metrics import NodeMetrics

from .helpers import RunEngine, engine, error, run

KIND = {"kind": "embedding"}


def ask(texts: list[str]) -> list[GenRequest]:
    return [GenRequest(number, text, answer=EMBEDDING) for number, text in enumerate(texts)]


def vector(result: GenResult) -> list[float]:
    assert result.error is None
    return list(decode_vector(result.text))


def test_texts_travel_in_batches_and_come_back_in_order(fault_server: Any, run_engine: RunEngine) -> None:
    texts = ["a" * (n % 7) + " b" * (n % 3) for n in range(100)]
    with fault_server.FaultServer() as server:
        results = run_engine(engine(server, batch_size=40, **KIND), ask(texts))
        sizes = [len(call.body["input"]) for call in server.calls]
        assert [text for call in server.calls for text in call.body["input"]] == texts
        assert {tuple(call.body) for call in server.calls} == {("model", "input")}
    assert sizes == [40, 40, 20]
    assert [vector(result) for result in results] == [[len(text), text.count(" "), 1] for text in texts]
    assert sum(result.prompt_tok for result in results) == sum(len(text.split()) for text in texts)
    assert {(result.output_tok, result.finish, result.retries) for result in results} == {(0, "stop", 0)}


def test_options_of_the_body(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer() as server:
        extra = {"encoding_format": "base64", "user": "me"}
        [result] = run_engine(engine(server, dimensions=5, extra_body=extra, **KIND), ask(["hello"]))
        [call] = server.calls
    assert call.body == {"model": "test-model", "input": ["hello"], "dimensions": 5, **extra}
    assert vector(result) == [5, 0, 1, 1, 1]


def test_vectors_of_another_length_than_declared_are_refused(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer() as server:
        silent = {"dimensions": None}  # a server that cannot shorten them
        [result] = run_engine(engine(server, dimensions=5, extra_body=silent, **KIND), ask(["hello"]))
        [good] = run_engine(engine(server, dimensions=3, extra_body=silent, **KIND), ask(["hello"]))
        assert "dimensions" not in server.calls[0].body
    assert (error(result).code, error(result).fatal) == ("invalid_output", True)
    assert "3 numbers" in error(result).message
    assert "dimensions = 3" in error(result).remedy
    assert vector(good) == [5, 0, 1]


def test_one_text_at_fault_does_not_take_the_others_with_it(fault_server: Any, run_engine: RunEngine) -> None:
    message = "This model's maximum context length is 8 tokens, however you requested 9"
    faults = [
        fault_server.Fault("status", path="/embeddings", contains="long", status=400, message=message),
        fault_server.Fault("status", path="/embeddings", contains="bad", status=422, message="no such thing"),
    ]
    texts = [f"text {n}" for n in range(16)]
    texts[3], texts[12] = "too long", "bad text"
    with fault_server.FaultServer(faults) as server:
        results = run_engine(engine(server, **KIND), ask(texts))
    assert [number for number, result in enumerate(results) if result.error is not None] == [3, 12]
    assert (error(results[3]).code, error(results[12]).code) == ("context", "rejected")
    assert error(results[3]).remedy.startswith("Shorten the text")
    assert vector(results[4]) == [6, 1, 1]


def test_what_is_wrong_with_the_server_is_asked_once(fault_server: Any, run_engine: RunEngine) -> None:
    faults = [fault_server.Fault("status", path="/embeddings", status=404, message="no such model")]
    with fault_server.FaultServer(faults) as server:
        results = run_engine(engine(server, **KIND), ask(["a", "b", "c"]))
        assert len(server.calls) == 1
    assert {error(result).code for result in results} == {"rejected"}


@pytest.mark.parametrize("action", ["status", "fewer", "infinite", "ragged", "bad_json", "close", "truncate"])
def test_passing_faults_are_tried_again(fault_server: Any, run_engine: RunEngine, action: str) -> None:
    fault = fault_server.Fault(action, path="/embeddings", times=2)
    with fault_server.FaultServer([fault]) as server:
        results = run_engine(engine(server, **KIND), ask(["one", "two words"]))
    assert [vector(result) for result in results] == [[3, 0, 1], [9, 1, 1]]
    assert {result.retries for result in results} == {2}


@pytest.mark.parametrize(
    ("action", "message"),
    [("fewer", "1 vectors for 2 texts"), ("infinite", "finite"), ("ragged", "different lengths")],
)
def test_lasting_faults_are_said(fault_server: Any, run_engine: RunEngine, action: str, message: str) -> None:
    with fault_server.FaultServer([fault_server.Fault(action, path="/embeddings")]) as server:
        results = run_engine(engine(server, max_retries=1, **KIND), ask(["one", "two words"]))
    for result in results:
        assert error(result).code == "engine"
        assert message in error(result).message


def test_another_model_ends_the_engine(fault_server: Any, run_engine: RunEngine) -> None:
    fault = fault_server.Fault("model", path="/embeddings", after=1)
    with fault_server.FaultServer([fault]) as server:
        results = run_engine(engine(server, batch_size=1, concurrency=1, **KIND), ask(["a", "b", "c"]))
        assert len(server.calls) == 2
    assert results[0].error is None
    assert {error(result).message.count("another-model") for result in results[1:]} == {1}


def test_the_key_is_sent_and_a_refused_one_ends_the_engine(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer(key="s3cret") as server:
        [result] = run_engine(engine(server, api_key="s3cret", **KIND), ask(["a"]))
        assert result.error is None
    faults = [fault_server.Fault("status", path="/embeddings", status=401, message="bad key s3cret")]
    with fault_server.FaultServer(faults) as server:
        chosen = engine(server, api_key="s3cret", batch_size=1, concurrency=1, **KIND)
        results = run_engine(chosen, ask(["a", "b"]))
        assert len(server.calls) == 1
    assert {error(result).code for result in results} == {"auth"}
    assert not any("s3cret" in str(error(result)) for result in results)


FORMS = [("a", TEXT), ("b", EMBEDDING), ("c", SCORE)]


def test_kinds_are_not_mixed_up(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer() as server:
        requests = [
            GenRequest(0, "a", answer=TEXT),
            GenRequest(1, "b", answer=EMBEDDING),
            GenRequest(2, "c", answer=SCORE),
        ]
        results = run_engine(engine(server, **KIND), requests)
        assert [call.prompt for call in server.calls] == ["b"]
        [refused] = run_engine(engine(server), ask(["d"]))
        assert len(server.calls) == 1
    for result in (results[0], results[2], refused):
        assert (error(result).code, error(result).fatal) == ("rejected", True)
        assert error(result).remedy
    assert vector(results[1]) == [1, 0, 1]


def test_aborted_texts_are_delivered_and_a_batch_nobody_wants_is_closed(fault_server: Any) -> None:
    slow = fault_server.Fault("slow", path="/embeddings", contains="slow", delay_s=100)

    async def main(server: Any) -> dict[int, EngineError | None]:
        found: dict[int, EngineError | None] = {}
        chosen = engine(server, batch_size=2, concurrency=1, **KIND)
        await chosen.start()
        texts = ["slow", "slow too", "quick", "also"]
        chosen.submit(ask(texts), lambda results: found.update({result.id: result.error for result in results}))
        while not server.calls:  # noqa: ASYNC110 - the server is in a thread of its own
            await asyncio.sleep(0.005)
        chosen.abort([0, 3, 99])
        while len(found) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
        assert set(found) == {0, 3}
        chosen.abort([1])  # the last one of its batch
        while len(found) < 4:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
        await chosen.close()
        return found

    with fault_server.FaultServer([slow]) as server:
        found = asyncio.run(asyncio.wait_for(main(server), 60))
        assert [call.body["input"] for call in server.calls] == [["slow", "slow too"], ["quick"]]
    assert {number: problem and problem.code for number, problem in found.items()} == {
        0: "cancelled", 1: "cancelled", 2: None, 3: "cancelled",
    }  # fmt: skip


def test_shares_keep_the_sum() -> None:
    assert shares(["a", "bb" * 50, ""], 100) == [3, 93, 4]
    assert shares(["x"], 7) == [7]
    assert sum(shares(["a"] * 7, 3)) == 3


def test_a_query_sends_distinct_texts_in_full_batches(fault_server: Any) -> None:
    async def main(server: Any) -> NodeMetrics:
        chosen = engine(server, **KIND)
        async with run(chosen) as on:
            node, channel = await on.node(answer=EMBEDDING)
            channel.put([(number, f"text {number % 100}") for number in range(300)])
            await node.settled(300)
        await chosen.close()
        return node.metrics

    with fault_server.FaultServer() as server:
        metrics = asyncio.run(main(server))
        assert [len(call.body["input"]) for call in server.calls] == [32, 32, 32, 4]
    assert (metrics.llm_calls, metrics.llm_calls_coalesced) == (100, 200)
    assert (metrics.prompt_tok, metrics.output_tok, metrics.errors) == (200, 0, 0)
