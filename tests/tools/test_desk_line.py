"""The line to a tool: how many at once, how many per second, batches, closing at any moment, what a call costs."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal

import pytest

from halo_sql.clock import clock_s
from halo_sql.errors import EngineError
from halo_sql.tools.limits import acts, limits_of
from halo_sql.tools.protocol import Limits, RetryLaterError, ToolRequest
from halo_sql.tools.rate import Pace

from .desk_runners import Called, Together, a_desk, a_tool, arguments_of, echo, hang, on_loop, until


def sleeping(seconds: float) -> Called:
    async def answer(request: ToolRequest) -> str:
        await asyncio.sleep(seconds)
        return request.arguments

    return Called(answer)


@on_loop
async def test_no_more_at_once_than_it_may() -> None:
    runner = sleeping(0.002)
    async with a_desk(a_tool(concurrency=5), runner) as run:
        node = await run.ask(range(100))
        assert node.codes() == {}
    assert runner.most == 5


@on_loop
async def test_no_more_in_any_second_than_it_may() -> None:
    runner = Called(echo)
    async with a_desk(a_tool(rate_per_s=20), runner) as run:
        node = await run.ask(range(50))
        assert node.codes() == {}
    begins = runner.begins
    assert 2.0 <= begins[-1] - begins[0] < 4
    assert all(begins[place + 20] - begins[place] >= 0.99 for place in range(30))


def test_a_pace_below_one_a_second() -> None:
    pace = Pace(0.5)
    assert pace.free_at() <= 100
    pace.take(100.0)
    assert pace.free_at() == 102.0


@on_loop
async def test_lower_priorities_go_first() -> None:
    runner = Called(echo)
    async with a_desk(a_tool(concurrency=1), runner) as run:
        late, one = await run.node(priority=5)
        early, two = await run.node(priority=1)
        one.put([(0, arguments_of("late"))])
        two.put([(0, arguments_of("early"))])
        await late.settled(1)
        await early.settled(1)
    assert [request.arguments for request in runner.seen] == [arguments_of("early"), arguments_of("late")]


# --- batches


@on_loop
async def test_what_comes_in_one_turn_goes_in_one_batch() -> None:
    runner = Together(echo)
    async with a_desk(a_tool(kind="sql", volatility="stable", body="SELECT $n"), runner) as run:
        await run.ask([0])  # starts it
        one, first = await run.node()
        two, second = await run.node()
        first.put([(number, arguments_of(number)) for number in range(100)])
        second.put([(number, arguments_of(number)) for number in range(50, 150)])
        await one.settled(100)
        await two.settled(100)
        assert one.metrics.tool_calls_coalesced == 1
        assert two.metrics.tool_calls_coalesced == 50
    assert runner.sizes == [1, 149]


@on_loop
async def test_batches_have_a_largest_size_and_follow_each_other() -> None:
    runner = Together(echo)
    async with a_desk(a_tool(kind="sql", body="SELECT $n"), runner) as run:
        node = await run.ask(range(5_000))
        assert node.texts()[4_999] == arguments_of(4_999)
    assert runner.sizes == [2_048, 2_048, 904]
    assert runner.most == 1


@on_loop
async def test_errors_within_a_batch_are_those_of_their_calls() -> None:
    failed: list[str] = []

    async def answer(request: ToolRequest) -> str:
        if request.arguments == arguments_of(1):
            raise EngineError("no", code="tool")
        if request.arguments == arguments_of(2) and not failed:
            failed.append(request.arguments)
            raise RetryLaterError("busy", after_s=0.0, code="unavailable")
        return request.arguments

    runner = Together(answer)
    async with a_desk(a_tool(kind="sql", body="SELECT $n"), runner) as run:
        node = await run.ask(range(4))
        assert node.codes() == {"tool": 1}
        assert (node.metrics.tool_calls, node.metrics.retries) == (4, 1)
    assert runner.sizes == [4, 1]


@on_loop
async def test_one_slow_call_does_not_fail_its_whole_batch() -> None:
    async def answer(request: ToolRequest) -> str:
        return await (hang if request.arguments == arguments_of(11) else echo)(request)

    runner = Together(answer)
    async with a_desk(a_tool(kind="sql", body="SELECT $n", timeout_s=0.1), runner) as run:
        node = await run.ask(range(16))
        assert node.codes() == {"timeout": 1}
        assert node.got[11].error is not None


@on_loop
async def test_a_batch_with_too_few_answers_fails() -> None:
    class Short(Together):
        async def call_many(self, requests):  # type: ignore[no-untyped-def]
            return (await super().call_many(requests))[1:]

    async with a_desk(a_tool(kind="sql", body="SELECT $n"), Short(echo)) as run:
        assert (await run.ask(range(3))).codes() == {"engine": 3}


@on_loop
async def test_a_query_that_comes_with_the_call_is_called_by_itself() -> None:
    runner = Together(echo)
    async with a_desk(a_tool(kind="sql", body="$n"), runner) as run:
        await run.ask(range(10))
    assert runner.sizes == []
    assert len(runner.seen) == 10


# --- closing


@pytest.mark.parametrize("volatility", ["volatile", "stable"])
@on_loop
async def test_close_cancels_what_is_under_way_and_delivers_nothing_more(volatility: str) -> None:
    runner = Called(hang)
    async with a_desk(a_tool(volatility=volatility, concurrency=8), runner) as run:
        node, channel = await run.node()
        channel.put([(number, arguments_of(number)) for number in range(20)])
        await until(lambda: runner.running == 8)
        began = clock_s()
        await asyncio.gather(channel.close(), channel.close())
        assert clock_s() - began < 0.1
        assert (runner.running, runner.cancelled) == (0, 8)
        channel.put([(99, arguments_of(99))])
        await asyncio.sleep(0.01)
        assert node.got == {}
        assert node.metrics.in_flight == 0
    assert len(runner.seen) == 8


@on_loop
async def test_who_still_waits_keeps_the_call() -> None:
    gate = asyncio.Event()

    async def answer(request: ToolRequest) -> str:
        await gate.wait()
        return request.arguments

    runner = Called(answer)
    async with a_desk(a_tool(volatility="stable"), runner) as run:
        leaving, one = await run.node()
        staying, two = await run.node()
        one.put([(0, arguments_of(1)), (1, arguments_of(2))])
        two.put([(0, arguments_of(1))])
        await until(lambda: runner.running == 2)
        await one.close()
        assert (runner.cancelled, leaving.metrics.in_flight, staying.metrics.in_flight) == (1, 0, 1)
        gate.set()
        await staying.settled(1)
        assert staying.texts() == [arguments_of(1)]
        assert leaving.got == {}


@on_loop
async def test_close_while_starting_while_paced_and_while_waiting_for_another_attempt() -> None:
    class Slow(Called):
        async def start(self) -> None:
            await asyncio.Event().wait()

    async def busy(request: ToolRequest) -> str:
        raise RetryLaterError("busy", after_s=20.0)

    for runner, options in ((Slow(echo), {}), (Called(echo), {"rate_per_s": 0.01}), (Called(busy), {})):
        began = clock_s()
        async with a_desk(a_tool(**options), runner) as run:
            node, channel = await run.node()
            channel.put([(0, arguments_of(0)), (1, arguments_of(1))])
            for _ in range(50):  # no clock: a virtual one stands while a tool starts
                await asyncio.sleep(0)
            if options:
                assert len(node.got) == 1
        assert clock_s() - began < 1.0


@on_loop
async def test_a_batch_goes_on_as_long_as_somebody_waits_for_it() -> None:
    gate = asyncio.Event()

    async def answer(request: ToolRequest) -> str:
        await gate.wait()
        return request.arguments

    runner = Together(answer)
    async with a_desk(a_tool(kind="sql", body="SELECT $n"), runner) as run:
        _, one = await run.node()
        staying, two = await run.node()
        one.put([(0, arguments_of(1))])
        two.put([(0, arguments_of(2))])
        await until(lambda: runner.running > 0)
        await one.close()
        assert runner.cancelled == 0
        gate.set()
        await staying.settled(1)
        two.put([(1, arguments_of(3))])
        gate.clear()
        await until(lambda: runner.running > 0)
        await two.close()
        assert runner.cancelled == 1


@on_loop
async def test_a_tool_that_ignores_its_cancelling_holds_close_up_for_a_second_at_most() -> None:
    release = asyncio.Event()

    async def stubborn(request: ToolRequest) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return request.arguments

    runner = Called(stubborn)
    began = clock_s()
    async with a_desk(a_tool(), runner) as run:
        node, channel = await run.node()
        channel.put([(0, arguments_of(0))])
        await until(lambda: runner.running > 0)
    assert 0.999 < clock_s() - began < 1.1
    release.set()
    await until(lambda: runner.running == 0)
    await asyncio.sleep(0)
    assert node.got == {}


# --- what it costs


@on_loop
async def test_coalesced_puts_are_cheap() -> None:
    runner = Called(echo)
    async with a_desk(a_tool(volatility="stable"), runner) as run:
        node, channel = await run.node()
        rows = [(number, arguments_of(number % 20)) for number in range(100_000)]
        began = time.process_time()
        for start in range(0, len(rows), 2_048):
            channel.put(rows[start : start + 2_048])
            await asyncio.sleep(0)
        await node.settled(100_000)
        assert time.process_time() - began < 5  # it takes 0.4 s
        assert node.metrics.tool_calls_coalesced == 99_980


@on_loop
async def test_a_call_costs_little() -> None:
    runner = Called(echo)
    async with a_desk(a_tool(), runner) as run:
        node, channel = await run.node()
        began = time.process_time()
        channel.put([(number, arguments_of(number)) for number in range(5_000)])
        await node.settled(5_000)
        assert (time.process_time() - began) / 5_000 < 0.001  # it takes 0.0001; for a busy machine


@on_loop
async def test_calls_that_wait_do_so_at_once() -> None:
    runner = sleeping(0.2)
    async with a_desk(a_tool(concurrency=100), runner) as run:
        began = clock_s()
        node = await run.ask(range(1_000))
        assert 1.999 < clock_s() - began < 2.5
        assert node.codes() == {}
    assert runner.most == 100


# --- limits


def test_limits_come_from_the_kind_and_the_options() -> None:
    assert limits_of(a_tool(kind="http")) == Limits(10.0, 2, 64, 0.0, 1 << 20, 0)
    assert limits_of(a_tool(kind="python")) == Limits(30.0, 2, 16, 0.0, 1 << 20, 0)
    assert limits_of(a_tool(kind="mcp")) == Limits(30.0, 2, 16, 0.0, 1 << 20, 0)
    assert limits_of(a_tool(kind="sql", body="SELECT $n")) == Limits(30.0, 2, 4, 0.0, 8 << 20, 0)
    for body in ("$n", ' $"the query" ;\n'):
        assert limits_of(a_tool(kind="sql", body=body)) == Limits(10.0, 0, 2, 0.0, 64 << 10, 1_000)
    given = a_tool(timeout_s=Decimal("2.5"), max_retries=0, concurrency=3, rate_per_s=9, max_bytes=10, max_rows=2)
    assert limits_of(given) == Limits(2.5, 0, 3, 9.0, 10, 2)


def test_side_effects_allow_no_retries() -> None:
    tool = a_tool(side_effects=True, max_retries=5)
    assert acts(tool)
    assert limits_of(tool).max_retries == 0
    assert not acts(a_tool(side_effects=False))
