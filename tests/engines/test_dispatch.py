"""Channels: what reaches the engine, what is shared, and that every number comes back once."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.engines.budget import Price
from halo_sql.engines.protocol import YES_NO, Channel, ChannelSpec, GenRequest, GenResult, Outcome, failure
from halo_sql.ir.prompt import Sampling
from halo_sql.metrics import NodeMetrics

from .helpers import VOLATILE, LocalEngine, Node, on_loop, run, texts

# --- coalescing


@pytest.mark.parametrize("when", ["inside", "soon"])
@on_loop
async def test_equal_prompts_are_asked_once(when: str) -> None:
    engine = LocalEngine(when)
    async with run(engine) as on:
        first, channel = await on.node()
        second, other = await on.node()
        channel.put([(number, f"p{number % 7}") for number in range(70)])
        other.put([(number, f"p{number}") for number in range(9)])
        await first.settled(70)
        await second.settled(9)
        other.put([(9, "p3"), (10, "new")])  # finished earlier in this run
        await second.settled(11)
    assert sorted(request.user for request in engine.seen) == sorted([*(f"p{number}" for number in range(9)), "new"])
    assert texts(first) == {number: f"P{number % 7}" for number in range(70)}
    assert texts(second) == {**{number: f"P{number}" for number in range(9)}, 9: "P3", 10: "NEW"}
    calls = [node.metrics.llm_calls for node in (first, second)]
    shared = [node.metrics.llm_calls_coalesced for node in (first, second)]
    assert (calls, shared) == ([7, 3], [63, 8])
    assert first.metrics.prompt_tok == 7
    assert first.metrics.output_tok == 14
    assert first.metrics.in_flight == second.metrics.in_flight == 0


@on_loop
async def test_only_what_is_equal_is_merged() -> None:
    engine = LocalEngine()
    async with run(engine) as on:
        variants: list[tuple[Node, Channel]] = [
            await on.node(),
            await on.node(system="s"),
            await on.node(sampling=Sampling(max_tokens=9)),
            await on.node(answer=YES_NO),
            await on.node(cache=False),
            await on.node(sampling=Sampling(temperature=0.5, seed=1)),
        ]
        for _, channel in variants:
            channel.put([(0, "same"), (1, "same")])
    assert len(engine.seen) == len(variants)
    assert all(node.metrics.llm_calls_coalesced == 1 for node, _ in variants)


@on_loop
async def test_answers_pushed_out_of_memory_are_asked_again() -> None:
    engine = LocalEngine()
    async with run(engine, kept_bytes=100_000) as on:
        node, channel = await on.node()
        channel.put([(number, f"p{number}") for number in range(1000)])
        channel.put([(1000, "p0"), (1001, "p999")])
        await node.settled(1002)
    assert node.metrics.llm_calls == 1001
    assert texts(node)[1000] == "P0"


@on_loop
async def test_each_channel_judges_a_shared_answer_itself() -> None:
    engine = LocalEngine("held")
    async with run(engine) as on:
        strict, strict_channel = await on.node(invalid=["A"])
        lax, lax_channel = await on.node()
        strict_channel.put([(0, "a"), (1, "b")])
        lax_channel.put([(0, "a"), (1, "b")])
        engine.release()
        lax_channel.put([(2, "a")])
        strict_channel.put([(2, "a")])
    assert texts(lax) == {0: "A", 1: "B", 2: "A"}
    assert strict.errors() == {"invalid_output": 2}
    assert (strict.metrics.errors, lax.metrics.errors) == (2, 0)
    assert len(engine.seen) == 2


@on_loop
async def test_passing_failures_are_asked_again_and_final_ones_are_not() -> None:
    codes = iter(["timeout", "rejected"])

    def fail(request: GenRequest) -> GenResult:
        return failure(request.id, "no", next(codes), retries=4)

    engine = LocalEngine(answer=fail)
    async with run(engine) as on:
        node, channel = await on.node()
        for number in range(4):
            channel.put([(number, "x")])
    assert [outcome.error.code for outcome in node.got.values() if outcome.error] == ["timeout", *["rejected"] * 3]
    assert (node.metrics.llm_calls, node.metrics.retries, node.metrics.errors) == (2, 8, 4)


@on_loop
async def test_a_shared_call_survives_its_first_asker() -> None:
    engine = LocalEngine("held", window_requests=2)
    async with run(engine) as on:
        first, channel = await on.node()
        second, other = await on.node()
        channel.put([(0, "a"), (1, "b"), (2, "c"), (3, "only mine")])
        other.put([(0, "a"), (1, "b"), (2, "c")])
        await channel.close()
        assert second.metrics.in_flight == 2
        while engine.running:
            engine.release()
        assert texts(second) == {0: "A", 1: "B", 2: "C"}
    assert first.got == {}
    assert [request.user for request in engine.seen] == ["a", "b", "c"]


# --- prices


@on_loop
async def test_prices_are_added_up() -> None:
    engine = LocalEngine()
    async with run(engine, prices={"m": Price(1000.0, 2000.0)}) as on:
        node, channel = await on.node()
        channel.put([(0, "a"), (1, "a"), (2, "b")])
    assert node.metrics.usd == pytest.approx(2 * (1 * 1000 + 2 * 2000) / 1e6)


# --- everything at once


@on_loop
async def test_asking_on_from_a_delivery_does_not_recurse() -> None:
    engine = LocalEngine()
    async with run(engine) as on:
        node, channel = await on.node()

        def ask_on(number: int, outcome: Outcome) -> None:
            if number < 20_000:
                channel.put([(number + 1, f"p{number % 10_000}")])  # new ones at first, known ones later

        node.then = ask_on
        channel.put([(0, "start")])
    assert len(node.got) == 20_001
    assert node.metrics.llm_calls == 10_001


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 12), max_size=15), max_size=12),
    st.sampled_from(["inside", "soon"]),
    st.integers(1, 6),
    st.sampled_from([VOLATILE, Sampling()]),
)
def test_every_number_comes_back_once(puts: list[list[int]], when: str, window: int, sampling: Sampling) -> None:
    async def work() -> None:
        engine = LocalEngine(when, window_requests=window)
        async with run(engine) as on:
            node, channel = await on.node(sampling=sampling)
            count = 0
            for users in puts:
                channel.put([(count + place, f"u{user}") for place, user in enumerate(users)])
                count += len(users)
                await asyncio.sleep(0)
            await node.settled(count)
            flat = [user for users in puts for user in users]
            assert texts(node) == {number: f"U{user}" for number, user in enumerate(flat)}
            assert len(engine.seen) == (len(flat) if sampling is VOLATILE else len(set(flat)))
            assert engine.most <= window

    asyncio.run(work())


@on_loop
async def test_fast_path() -> None:
    """The overhead per row; the bound is generous because machines differ, the measured rate is printed."""
    engine = LocalEngine(window_tok=1 << 30, window_requests=2048, storable=False)
    engine.submit = lambda requests, deliver: deliver(  # type: ignore[method-assign]
        [GenResult(request.id, request.user) for request in requests]
    )
    count = 0

    def deliver(outcomes: Sequence[tuple[int, Outcome]]) -> None:
        nonlocal count
        count += len(outcomes)

    async with run(engine) as on:
        spec = ChannelSpec("m", None, Sampling())
        channel = await on.dispatcher.open(spec, lambda text, finish: None, NodeMetrics(), deliver)
        batches = [
            [(number, f"row {number} {'x' * 100}") for number in range(at, at + 2048)] for at in range(0, 65536, 2048)
        ]
        gc.collect()
        began = time.process_time()
        for batch in batches:
            channel.put(batch)
        rate = count / (time.process_time() - began)
    print(f"{rate:,.0f} rows/s")
    assert count == 65536
    assert rate > 10_000
