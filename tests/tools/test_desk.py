"""The desk: who is called how often, what becomes of failures, limits of size, start and time."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from halo_sql.call_log import CallLog, RunLog
from halo_sql.clock import clock_s
from halo_sql.engines.budget import Budget
from halo_sql.engines.store import ResponseStore
from halo_sql.errors import CatalogError, EngineError, InterruptedQueryError
from halo_sql.ir.types import SqlType
from halo_sql.tools.memory import ToolCache
from halo_sql.tools.protocol import BoundTool, RetryLaterError, Runner, ToolRequest

from .desk_runners import Called, a_desk, a_tool, arguments_of, echo, failing, hang, on_loop

# --- who is called


@pytest.mark.parametrize(("volatility", "calls"), [("volatile", 6), ("stable", 3), ("immutable", 3)])
@on_loop
async def test_equal_arguments_are_one_call_unless_volatile(volatility: str, calls: int) -> None:
    runner = Called(echo)
    async with a_desk(a_tool(volatility=volatility), runner) as run:
        node = await run.ask([1, 2, 1, 3, 1, 2])
        assert node.texts() == [arguments_of(number) for number in (1, 2, 1, 3, 1, 2)]
        assert len(runner.seen) == node.metrics.tool_calls == calls
        assert node.metrics.tool_calls_coalesced == 6 - calls
        later = await run.ask([3, 4])
        assert later.metrics.tool_calls_coalesced == (0 if volatility == "volatile" else 1)
        assert later.metrics.in_flight == node.metrics.in_flight == 0
    assert runner.starts == 1


@on_loop
async def test_two_nodes_share_a_call_and_each_judges_its_value() -> None:
    gate = asyncio.Event()

    async def gated(request: ToolRequest) -> str:
        await gate.wait()
        return request.arguments

    runner = Called(gated)
    async with a_desk(a_tool(volatility="stable"), runner) as run:
        content, one = await run.node()
        picky, two = await run.node(refuses=arguments_of(1))
        one.put([(0, arguments_of(1))])
        two.put([(7, arguments_of(1))])
        gate.set()
        await content.settled(1)
        await picky.settled(1)
        assert content.texts() == [arguments_of(1)]
        assert picky.codes() == {"invalid_output": 1}
        assert (content.metrics.errors, picky.metrics.errors) == (0, 1)
        two.put([(8, arguments_of(1))])
        assert picky.codes() == {"invalid_output": 2}
    assert len(runner.seen) == 1


@on_loop
async def test_an_answer_may_lead_to_the_next_question() -> None:
    runner = Called(echo)
    async with a_desk(a_tool(volatility="stable"), runner) as run:
        node, channel = await run.node()
        node.then = lambda number: channel.put([(number + 1, arguments_of(0))]) if number < 2_000 else None
        channel.put([(0, arguments_of(0))])
        await node.settled(2_001)
    assert len(runner.seen) == 1


@on_loop
async def test_memory_of_finished_calls_is_bounded() -> None:
    runner = Called(echo)
    async with a_desk(a_tool(volatility="stable"), runner, kept_bytes=50_000) as run:
        await run.ask(range(1000))
        await run.ask([999, 0])
    assert len(runner.seen) == 1001  # the first has been forgotten, the last has not


@on_loop
async def test_immutable_values_outlive_the_run_unless_cache_is_off(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "store.sqlite")
    runner = Called(echo)
    tool = a_tool(volatility="immutable")
    log = CallLog()
    for _ in range(2):
        async with a_desk(tool, runner, cache=ToolCache(store), log=RunLog(log, 1, {}, True)) as run:
            node = await run.ask([1, 2, 1])
            assert node.texts() == [arguments_of(1), arguments_of(2), arguments_of(1)]
            assert node.metrics.tool_calls_coalesced == 1
    assert (node.metrics.tool_calls, node.metrics.tool_calls_from_store, len(runner.seen)) == (0, 2, 2)
    assert [record.status for record in log.records()] == ["done", "done", "store", "store"]
    async with a_desk(tool, runner, cache=ToolCache(store)) as run:
        await run.ask([1], cache=False)
    assert len(runner.seen) == 3
    others = [
        a_tool(volatility="stable"),
        a_tool(volatility="immutable", body="https://127.0.0.2/{{n}}"),
        a_tool(volatility="immutable", path="$.x"),
        a_tool(volatility="immutable", returns=SqlType("INTEGER", "integer")),
    ]
    for place, other in enumerate(others):
        async with a_desk(other, runner, cache=ToolCache(store)) as run:
            await run.ask([1])
        assert len(runner.seen) == 4 + place
    async with a_desk(
        a_tool(volatility="immutable", timeout_s=3, max_retries=1), runner, cache=ToolCache(store)
    ) as run:
        assert (await run.ask([1])).metrics.tool_calls_from_store == 1
    store.close()


@on_loop
async def test_a_stored_value_that_fits_no_more_is_asked_for_again(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "store.sqlite")
    runner = Called(echo)
    async with a_desk(a_tool(volatility="immutable"), runner, cache=ToolCache(store)) as run:
        await run.ask(["x" * 100])
    async with a_desk(a_tool(volatility="immutable", max_bytes=50), runner, cache=ToolCache(store)) as run:
        node = await run.ask(["x" * 100])
        assert node.codes() == {"too_large": 1}
        assert node.metrics.tool_calls_from_store == 0
    store.close()


@on_loop
async def test_an_edited_function_has_new_values(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "store.sqlite")
    runners = []
    for identity in ("one", "one", "two"):
        runner = Called(echo)
        runner.identity = identity  # type: ignore[attr-defined]
        runners.append(runner)
        tool = a_tool(kind="python", volatility="immutable")
        async with a_desk(tool, runner, cache=ToolCache(store)) as run:
            await run.ask([1])
    assert [len(runner.seen) for runner in runners] == [1, 0, 1]
    store.close()


# --- what fails


@on_loop
async def test_retries_are_counted_and_end() -> None:
    def broken() -> EngineError:
        return RetryLaterError("busy", after_s=0.0, code="unavailable")

    for failures, codes, retries in ((2, {}, 2), (3, {"unavailable": 1}, 2)):
        runner = Called(failing(failures, broken))
        async with a_desk(a_tool(), runner) as run:
            node = await run.ask([1])
            assert node.codes() == codes
            assert (node.metrics.tool_calls, node.metrics.retries) == (1, retries)
            assert node.metrics.errors == len(codes)
        assert len(runner.seen) == 3


@on_loop
async def test_what_is_not_retryable_is_not_retried_and_shared() -> None:
    runner = Called(failing(9, lambda: EngineError("no such customer", code="tool")))
    async with a_desk(a_tool(volatility="stable"), runner) as run:
        assert (await run.ask([1, 1])).codes() == {"tool": 2}
        assert (await run.ask([1])).codes() == {"tool": 1}
    assert len(runner.seen) == 1


@on_loop
async def test_a_failure_that_may_pass_is_no_answer_for_later_rows() -> None:
    runner = Called(failing(1, lambda: EngineError("down", code="unavailable", retryable=True)))
    async with a_desk(a_tool(volatility="stable", max_retries=0), runner) as run:
        assert (await run.ask([1])).codes() == {"unavailable": 1}
        assert (await run.ask([1])).texts() == [arguments_of(1)]


@on_loop
async def test_retry_later_is_obeyed_and_holds_the_others_back() -> None:
    runner = Called(failing(1, lambda: RetryLaterError("429", after_s=0.3)))
    async with a_desk(a_tool(concurrency=1), runner) as run:
        node = await run.ask([1, 2])
        assert node.codes() == {}
    gaps = [later - runner.begins[0] for later in runner.begins[1:]]
    assert min(gaps) >= 0.29
    assert len(runner.seen) == 4


@on_loop
async def test_nobody_waits_for_a_tool_that_asks_for_hours() -> None:
    runner = Called(failing(1, lambda: RetryLaterError("429", after_s=3_600)))
    async with a_desk(a_tool(), runner) as run:
        assert (await run.ask([1])).codes() == {"rate_limit": 1}


@on_loop
async def test_a_call_that_hangs_ends_at_its_deadline() -> None:
    runner = Called(hang)
    async with a_desk(a_tool(timeout_s=0.05, max_retries=1), runner) as run:
        node = await run.ask([1])
        error = node.got[0].error
        assert error is not None
        assert error.code == "timeout"
        assert "timeout_s = 0.05" in error.message
        assert node.metrics.retries == 1
    assert runner.cancelled == len(runner.seen) == 2


@on_loop
async def test_exceptions_of_a_runner_become_errors() -> None:
    async def wrong(request: ToolRequest) -> str:
        kind = {
            "1": KeyError("x"),
            "2": InterruptedQueryError("stop"),
            "3": CatalogError("no secret", remedy="Make it"),
        }
        raise kind[request.arguments[-2]]

    async with a_desk(a_tool(), Called(wrong)) as run:
        node = await run.ask([1, 2, 3])
        found = [node.got[number].error for number in range(3)]
        assert [error.code for error in found if error] == ["engine", "cancelled", "engine"]
        assert "KeyError" in str(found[0])
        assert "Make it" in str(found[2])


@on_loop
async def test_a_runner_that_cancels_itself_still_answers() -> None:
    async def quits(request: ToolRequest) -> str:
        raise asyncio.CancelledError

    async with a_desk(a_tool(), Called(quits)) as run:
        assert (await run.ask([1])).codes() == {"cancelled": 1}


@on_loop
async def test_refused_credentials_end_the_line() -> None:
    gate = asyncio.Event()

    async def answer(request: ToolRequest) -> str:
        await gate.wait()
        if request.arguments == arguments_of(0):
            raise EngineError("401", code="auth")
        return await hang(request)

    runner = Called(answer)
    async with a_desk(a_tool(concurrency=4), runner) as run:
        node, channel = await run.node()
        node.then = lambda number: channel.put([(100 + number, arguments_of(number))]) if number < 100 else None
        channel.put([(number, arguments_of(number)) for number in range(100)])
        gate.set()
        await node.settled(200)
        assert node.codes() == {"auth": 200}
        assert all(outcome.error is not None and outcome.error.fatal for outcome in node.got.values())
    assert len(runner.seen) == 4
    assert runner.running == 0


# --- sizes and types


@on_loop
async def test_values_are_checked_for_everybody() -> None:
    async def answer(request: ToolRequest) -> str:
        return {"1": "no json", "2": '"' + "é" * 60 + '"', "3": "3"}[request.arguments[-2]]

    runner = Called(answer)
    async with a_desk(a_tool(volatility="stable", max_bytes=100), runner) as run:
        node = await run.ask([1, 2, 3, 1])
        assert [getattr(node.got[number].error, "code", None) for number in range(4)] == [
            "invalid_output",
            "too_large",
            None,
            "invalid_output",
        ]
        assert node.metrics.errors == 3
    assert len(runner.seen) == 3


@on_loop
async def test_rows_of_a_query_that_came_with_the_call_are_counted() -> None:
    async def answer(request: ToolRequest) -> str:
        rows = int(request.arguments[:-1].split()[-1])
        return "[" + ",".join(["{}"] * rows) + "]"

    async with a_desk(a_tool(kind="sql", body=" $n "), Called(answer)) as run:
        node = await run.ask([1_000, 1_001])
        assert node.codes() == {"too_large": 1}
        assert node.got[1].error is not None
        assert "1,001 rows" in node.got[1].error.message


# --- the start


@pytest.mark.parametrize("code", ["unavailable", "auth"])
@on_loop
async def test_a_tool_that_cannot_start_fails_every_request_and_starts_once(code: str) -> None:
    runner = Called(echo, start=EngineError("not there", code=code, remedy="Install it"))
    async with a_desk(a_tool(volatility="stable"), runner) as run:
        node = await run.ask([1, 2])
        again = await run.ask([1])
        assert (node.codes(), again.codes()) == ({code: 2}, {code: 1})
        error = node.got[0].error
        assert error is not None
        assert error.fatal is (code == "auth")
        assert node.metrics.tool_calls == 0
    assert (runner.starts, runner.seen) == (1, [])


@on_loop
async def test_no_runner_is_made_before_it_is_needed_and_its_failure_is_told() -> None:
    made: list[str] = []

    def runner_of(tool: BoundTool) -> Runner:
        made.append(tool.name)
        raise EngineError("install the package mcp", code="unavailable")

    async with a_desk(a_tool(), runner_of) as run:
        await run.node()
        assert made == []
        assert (await run.ask([1, 2])).codes() == {"unavailable": 2}
    assert made == ["look"]


@on_loop
async def test_an_unknown_tool_is_named() -> None:
    async with a_desk(a_tool("orders"), Called(echo)) as run:
        run.tool = a_tool("order")
        with pytest.raises(EngineError, match='"order" does not exist') as caught:
            await run.node()
        assert 'Did you mean "orders"?' in str(caught.value)


# --- time, log


@on_loop
async def test_when_the_time_is_up_everything_fails_with_the_setting_to_raise() -> None:
    runner = Called(hang)
    async with a_desk(a_tool(concurrency=2), runner, budget=Budget(max_seconds=0.1)) as run:
        began = clock_s()
        node = await run.ask(range(10))
        assert clock_s() - began < 0.11
        assert node.codes() == {"budget": 10}
        assert "halo_max_seconds" in str(node.got[9].error)
        assert (await run.ask([1])).codes() == {"budget": 1}
    assert runner.cancelled == len(runner.seen) == 2


@on_loop
async def test_calls_are_logged_unless_who_asks_does_so() -> None:
    log = CallLog()
    runner = Called(failing(1, lambda: EngineError("no", code="tool")))
    async with a_desk(a_tool("orders"), runner, log=RunLog(log, 7, {}, True)) as run:
        await run.ask([5])
        await run.ask([5])
        await run.ask([6], traced=True)
    first, second = log.records()
    assert (first.kind, first.model, first.query, first.row, first.prompt) == ("tool", "orders", 7, 0, arguments_of(5))
    assert (first.status, first.error, first.answer) == ("failed", "tool: no", None)
    assert (second.status, second.error, second.answer) == ("done", None, arguments_of(5))
    assert isinstance(first.started, datetime)
