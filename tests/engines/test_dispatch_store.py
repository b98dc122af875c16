"""Channels over the response store: what is kept, what is asked again."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_sql.engines.budget import Budget
from halo_sql.engines.protocol import EMBEDDING, SCORE, TEXT, GenRequest, GenResult, failure
from halo_sql.engines.store import Entry, ResponseStore

from .helpers import VOLATILE, LocalEngine, on_loop, run, shout, texts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "responses.sqlite"


@on_loop
async def test_a_second_run_asks_nothing(path: Path) -> None:
    engine = LocalEngine("soon")
    results = []
    for calls in (500, 0):
        store = ResponseStore(path)
        async with run(engine, store) as on:
            node, channel = await on.node()
            channel.put([(number, f"p{number % 500}") for number in range(600)])
            await node.settled(600)
        store.close()
        assert not store.warnings
        assert node.metrics.llm_calls == calls
        assert node.metrics.llm_calls_from_store == 500 - calls
        assert node.metrics.llm_calls_coalesced == 100
        results.append(texts(node))
    assert results[0] == results[1]
    assert len(engine.seen) == 500


@pytest.mark.parametrize("poison", ["error", "length", "invalid"])
@on_loop
async def test_only_valid_answers_are_kept(path: Path, poison: str) -> None:
    def spoil(request: GenRequest) -> GenResult:
        if poison == "error":
            return failure(request.id, "broken", "engine")
        return GenResult(request.id, "BAD" if poison == "invalid" else "cu", "length" if poison == "length" else "stop")

    store = ResponseStore(path)
    for answer, bad, calls in ((spoil, 3, 3), (shout, 0, 3), (shout, 0, 0)):
        engine = LocalEngine(answer=answer)
        async with run(engine, store) as on:
            node, channel = await on.node(invalid=["BAD"])
            channel.put([(number, f"p{number}") for number in range(3)])
            await node.settled(3)
        assert (node.metrics.errors, len(engine.seen)) == (bad, calls)
    store.close()


@on_loop
async def test_a_stored_answer_that_does_not_fit_is_asked_again(path: Path) -> None:
    store = ResponseStore(path)
    for invalid, calls in (((), 1), (("P",), 1), ((), 0)):
        engine = LocalEngine()
        async with run(engine, store) as on:
            node, channel = await on.node(invalid=invalid)
            channel.put([(0, "p")])
            await node.settled(1)
        assert node.metrics.llm_calls == calls
    store.close()


@pytest.mark.parametrize(("cache", "storable"), [(False, True), (True, False)])
@on_loop
async def test_store_is_skipped_where_it_must_be(path: Path, cache: bool, storable: bool) -> None:
    store = ResponseStore(path)
    for _ in range(2):
        engine = LocalEngine(storable=storable)
        async with run(engine, store) as on:
            node, channel = await on.node(cache=cache)
            channel.put([(0, "p"), (1, "p")])
            await node.settled(2)
        assert (node.metrics.llm_calls, node.metrics.llm_calls_coalesced) == (1, 1)
    assert store.flush()
    assert store.stats().entries == 0
    store.close()


@on_loop
async def test_undetermined_requests_are_never_merged_or_kept(path: Path) -> None:
    store = ResponseStore(path)
    for _ in range(2):
        engine = LocalEngine()
        async with run(engine, store) as on:
            node, channel = await on.node(sampling=VOLATILE)
            channel.put([(number, "same") for number in range(5)])
            await node.settled(5)
        assert len(engine.seen) == node.metrics.llm_calls == 5
    store.close()


@on_loop
async def test_an_answer_that_comes_after_the_end_is_kept(path: Path) -> None:
    store = ResponseStore(path)
    engine = LocalEngine("held")
    engine.abort = lambda ids: engine.release(ids)  # type: ignore[method-assign]  # too late: it has finished
    async with run(engine, store) as on:
        node, channel = await on.node()
        channel.put([(0, "paid")])
        await engine.asked.wait()
        await channel.close()
    assert node.got == {}
    store.flush()
    assert store.stats().entries == 1
    store.close()


@on_loop
async def test_close_while_the_store_is_read(path: Path) -> None:
    store = ResponseStore(path)
    store.put_many([(bytes(32), Entry("x"))])
    engine = LocalEngine()
    async with run(engine, store) as on:
        first, channel = await on.node()
        second, other = await on.node()
        channel.put([(number, f"p{number}") for number in range(100)])
        other.put([(0, "p1")])
        await channel.close()
        await second.settled(1)
        assert texts(second) == {0: "P1"}
    assert first.got == {}
    assert len(engine.seen) == 1
    store.close()


def by_kind(request: GenRequest) -> GenResult:
    text = {"score": "0.25", "embedding": "AACAPw=="}.get(request.answer.kind, "text")
    return GenResult(request.id, text, "stop", 3, 0, 0 if request.answer.kind == "embedding" else 1)


@on_loop
async def test_scores_and_vectors_are_kept_like_texts_and_apart_from_them(path: Path) -> None:
    for asked in (1, 0):
        engine, store = LocalEngine(answer=by_kind), ResponseStore(path)
        async with run(engine, store, Budget(max_tokens=1000)) as on:
            for answer, text in ((TEXT, "text"), (SCORE, "0.25"), (EMBEDDING, "AACAPw==")):
                node, channel = await on.node(answer=answer)
                channel.put([(0, "same"), (1, "same")])
                await node.settled(2)
                assert texts(node) == {0: text, 1: text}
                metrics = node.metrics
                assert (metrics.llm_calls, metrics.llm_calls_from_store) == (asked, 1 - asked)
                assert metrics.llm_calls_coalesced == 1
                assert metrics.prompt_tok == 3 * asked
                assert metrics.output_tok == (0 if answer is EMBEDDING else asked)
        store.close()
