"""Channels: what reaches the engine, what is shared, what is kept, and that every number comes back once."""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.engines.budget import Budget, Price
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.protocol import (
    TEXT,
    YES_NO,
    Answer,
    Channel,
    ChannelSpec,
    Deliver,
    Engine,
    EngineInfo,
    GenRequest,
    GenResult,
    Outcome,
    estimate_tok,
    failure,
)
from halo_sql.engines.store import Entry, ResponseStore
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling
from halo_sql.metrics import NodeMetrics

VOLATILE = Sampling(temperature=0.7)
SHORT = Sampling(max_tokens=8)


def on_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """The test on an event loop of its own."""

    @functools.wraps(test)
    def run_test(**arguments: object) -> None:
        asyncio.run(test(**arguments))

    return run_test


def shout(request: GenRequest) -> GenResult:
    return GenResult(request.id, request.user.upper(), "stop", estimate_tok(request.user), 0, 2)


class LocalEngine:
    """A small engine. 'inside': answers within submit; 'soon': one per turn of the loop; 'held': when told to."""

    def __init__(self, when: str = "inside", answer: Callable[[GenRequest], GenResult] = shout, **info: object) -> None:
        self.info = EngineInfo("local", **info)  # type: ignore[arg-type]
        self.when = when
        self.answer = answer
        self.seen: list[GenRequest] = []
        self.running: dict[int, tuple[GenRequest, Deliver]] = {}
        self.most = self.most_tok = 0
        self.asked = asyncio.Event()

    async def start(self) -> EngineInfo:
        return self.info

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        self.seen += requests
        self.asked.set()
        self.running |= {request.id: (request, deliver) for request in requests}
        self.most = max(self.most, len(self.running))
        sizes = (self.count_tok(request) + request.sampling.max_tokens for request, _ in self.running.values())
        self.most_tok = max(self.most_tok, sum(sizes))
        if self.when == "inside":
            self.release([request.id for request in requests])
        elif self.when == "soon":
            for request in requests:
                asyncio.get_running_loop().call_soon(self.release, [request.id])

    def release(self, ids: Sequence[int] | None = None) -> None:
        """Answer these, or everything that runs, in one delivery per receiver."""
        done: dict[Deliver, list[GenResult]] = {}
        for number in list(self.running) if ids is None else ids:
            if number in self.running:
                request, deliver = self.running.pop(number)
                done.setdefault(deliver, []).append(self.answer(request))
        for deliver, results in done.items():
            deliver(results)

    def abort(self, ids: Sequence[int]) -> None:
        for number in ids:
            if number in self.running:
                _, deliver = self.running.pop(number)
                deliver([failure(number, "aborted", "cancelled")])

    def count_tok(self, request: GenRequest) -> int:
        return estimate_tok(request.user)

    async def close(self) -> None:
        self.abort(list(self.running))


class Node:
    """An operator as a channel sees it."""

    def __init__(self, invalid: Sequence[str] = ()) -> None:
        self.metrics = NodeMetrics()
        self.got: dict[int, Outcome] = {}
        self.invalid = invalid
        self.then: Callable[[int, Outcome], None] = lambda number, outcome: None

    def deliver(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        for number, outcome in outcomes:
            assert number not in self.got, "delivered twice"
            self.got[number] = outcome
        for number, outcome in outcomes:
            self.then(number, outcome)

    def validate(self, text: str, finish: str) -> EngineError | None:
        if finish == "length":
            return EngineError("cut", code="truncated")
        return EngineError("no good", code="invalid_output") if text in self.invalid else None

    async def settled(self, count: int) -> None:
        for _ in range(2000):
            if len(self.got) >= count:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"{len(self.got)} of {count} delivered")

    def errors(self) -> Counter[str]:
        return Counter(outcome.error.code for outcome in self.got.values() if outcome.error is not None)


class Run:
    def __init__(self, engine: LocalEngine, dispatcher: Dispatcher) -> None:
        self.engine = engine
        self.dispatcher = dispatcher

    async def node(
        self,
        system: str | None = None,
        sampling: Sampling = SHORT,
        answer: Answer = TEXT,
        cache: bool = True,
        priority: int = 0,
        ordered: bool = True,
        invalid: Sequence[str] = (),
    ) -> tuple[Node, Channel]:
        node = Node(invalid)
        spec = ChannelSpec("m", system, sampling, answer, cache, priority, ordered)
        return node, await self.dispatcher.open(spec, node.validate, node.metrics, node.deliver)


@asynccontextmanager
async def run(
    engine: LocalEngine,
    store: ResponseStore | None = None,
    budget: Budget | None = None,
    max_concurrency: int = 0,
    **options: object,
) -> AsyncIterator[Run]:
    async def engine_of(model: str) -> tuple[Engine, EngineInfo]:
        return engine, await engine.start()

    dispatcher = Dispatcher(engine_of, store, budget or Budget(), max_concurrency, **options)  # type: ignore[arg-type]
    yield Run(engine, dispatcher)
    await dispatcher.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "responses.sqlite"


def texts(node: Node) -> dict[int, str]:
    return {number: outcome.text for number, outcome in node.got.items()}


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


# --- the store


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


# --- the window and the order


@on_loop
async def test_window_is_never_exceeded() -> None:
    for sizes, limit_tok, limit, concurrency in (
        ((1, 4000), 3000, 10_000, 0),
        ((1, 40), 100_000, 32, 0),
        ((1, 40), 100_000, 32, 5),
    ):
        engine = LocalEngine("soon", window_tok=limit_tok, window_requests=limit)
        chance = random.Random(3)
        async with run(engine, max_concurrency=concurrency) as on:
            nodes = [await on.node(), await on.node(system="other"), await on.node(sampling=VOLATILE)]
            for start in range(0, 300, 100):
                for _, channel in nodes:
                    numbers = range(start, start + 100)
                    channel.put([(number, f"{number} " + "x" * chance.randrange(*sizes)) for number in numbers])
            for node, _ in nodes:
                await node.settled(300)
        assert engine.most <= (concurrency or limit)
        assert engine.most_tok <= limit_tok
        assert engine.most > 1
        assert len(engine.seen) == 900


@on_loop
async def test_a_prompt_larger_than_the_window_goes_alone() -> None:
    engine = LocalEngine("soon", window_tok=100)
    async with run(engine) as on:
        node, channel = await on.node()
        channel.put([(0, "x" * 4000), (1, "y" * 4000), (2, "z")])
        await node.settled(3)
    assert engine.most == 1


@on_loop
async def test_requests_enter_in_prefix_order() -> None:
    chance = random.Random(4)
    prompts = [f"family {family} member {member}" for family in range(20) for member in range(10)]
    chance.shuffle(prompts)
    for ordered in (True, False):
        engine = LocalEngine("held", window_requests=4)
        async with run(engine) as on:
            node, channel = await on.node(ordered=ordered)
            channel.put(list(enumerate(prompts)))
            while engine.running:
                engine.release()
            await node.settled(len(prompts))
        assert [request.user for request in engine.seen] == (sorted(prompts) if ordered else prompts)


@on_loop
async def test_priority_comes_first() -> None:
    engine = LocalEngine("held", window_requests=1)
    async with run(engine) as on:
        _, low = await on.node(priority=5)
        _, high = await on.node(system="s", priority=1)
        low.put([(0, "a"), (1, "b"), (2, "c")])
        high.put([(0, "z")])
        while engine.running:
            engine.release()
    assert [request.user for request in engine.seen] == ["a", "z", "b", "c"]


# --- failures and ends


@on_loop
async def test_refused_credentials_end_everything_at_once() -> None:
    engine = LocalEngine("held", lambda request: failure(request.id, "401", "auth"), window_requests=4)
    async with run(engine) as on:
        node, channel = await on.node()
        channel.put([(number, f"p{number}") for number in range(100)])
        engine.release([engine.seen[0].id])
        assert node.errors() == {"auth": 100}
        channel.put([(100, "later")])
        assert node.errors() == {"auth": 101}
    assert len(engine.seen) == 4
    assert not engine.running


@pytest.mark.parametrize("when", ["inside", "soon", "held"])
@on_loop
async def test_close_leaves_nothing_in_flight(when: str) -> None:
    engine = LocalEngine(when, window_requests=8)
    async with run(engine) as on:
        for _ in range(300):
            node, channel = await on.node(sampling=VOLATILE)
            closing: list[asyncio.Task[None]] = []

            def end(
                number: int,
                outcome: Outcome,
                channel: Channel = channel,
                closing: list[asyncio.Task[None]] = closing,
            ) -> None:
                if number == 2:
                    closing.append(asyncio.ensure_future(channel.close()))

            node.then = end
            channel.put([(number, f"p{number}") for number in range(20)])
            channel.put([(20, "more")])
            await asyncio.sleep(0)
            await channel.close()
            await channel.close()
            await asyncio.gather(*closing)
            count = len(node.got)
            channel.put([(21, "after")])
            assert not engine.running
            assert node.metrics.in_flight == 0
            assert len(node.got) == count


class EagerCloser(LocalEngine):
    """Answers the first request inside submit before it has even seen the others."""

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        super().submit(requests[:1], deliver)
        self.release()
        super().submit(requests[1:], deliver)


@on_loop
async def test_close_inside_submit() -> None:
    engine = EagerCloser("held")
    async with run(engine) as on:
        node, channel = await on.node()

        started: list[asyncio.Task[None]] = []
        node.then = lambda number, outcome: started.append(asyncio.ensure_future(channel.close()))
        channel.put([(number, f"p{number}") for number in range(50)])
        await asyncio.gather(*started)
        assert len(node.got) == 1
    assert not engine.running


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


@on_loop
async def test_an_engine_that_never_lets_go_is_waited_for_one_second() -> None:
    engine = LocalEngine("held")
    engine.abort = lambda ids: None  # type: ignore[method-assign]
    async with run(engine) as on:
        node, channel = await on.node()
        channel.put([(0, "a")])
        began = time.monotonic()
        await channel.close()
        assert 0.9 < time.monotonic() - began < 3
    assert node.got == {}


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


@on_loop
async def test_prices_are_added_up() -> None:
    engine = LocalEngine()
    async with run(engine, prices={"m": Price(1000.0, 2000.0)}) as on:
        node, channel = await on.node()
        channel.put([(0, "a"), (1, "a"), (2, "b")])
    assert node.metrics.usd == pytest.approx(2 * (1 * 1000 + 2 * 2000) / 1e6)


# --- everything at once


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
