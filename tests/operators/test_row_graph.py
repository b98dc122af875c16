"""Rows through a graph of calls: the same rows, calls and errors as node by node, without order between rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.errors import EngineError, Error
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.physical import (
    Deferral,
    LimitExec,
    RowGraphExec,
    SettleExec,
)
from halo_sql.ir.types import BIGINT, VARCHAR
from halo_sql.operators.build import build
from halo_sql.optimizer.pipeline import row_graphs

from .conftest import Bench, LocalChannels, Source, rows
from .stacks import Gated, Stack, both, call, random_stack, source, until


@pytest.mark.parametrize("seed", range(25))
def test_rows_and_calls_are_those_of_the_stack(bench: Bench, seed: int) -> None:
    both(bench, random_stack(seed), seed=seed, window=seed % 4)


def some_fail(spec: Any, prompt: str) -> str | EngineError:
    return EngineError("no", code="rejected") if "r13" in prompt and prompt.startswith("11") else prompt


@pytest.mark.parametrize("by_turn", [False, True])
def test_the_failing_row_is_that_of_the_stack(bench: Bench, by_turn: bool) -> None:
    stack = Stack(source(40))
    stack.ask(call(10, 1), by_turn=by_turn)
    stack.ask(call(11, 10), by_turn=by_turn)
    stack.ask(call(12, 1), by_turn=by_turn)
    texts = []
    for graph in (False, True):
        with pytest.raises(EngineError) as found:
            bench.run(stack.dag(graph), LocalChannels(some_fail, 2))
        texts.append(str(found.value))
    assert texts[0] == texts[1]
    assert 'prompt "11(10(r13,),)"' in texts[1]


def test_of_several_failing_calls_of_a_row_the_lowest_is_raised_by_turn(bench: Bench) -> None:
    stack = Stack(source(9))
    stack.ask(call(10, 1), by_turn=True)
    stack.ask(call(11, 10), by_turn=True)
    stack.ask(call(12, 1), by_turn=True)

    def answer(spec: Any, prompt: str) -> str | EngineError:
        return EngineError("no", code="rejected") if "r3" in prompt and prompt[:2] in ("11", "12") else prompt

    for graph in (False, True):
        with pytest.raises(EngineError, match=r'prompt "11\(10\(r3,\),\)"'):
            bench.run(stack.dag(graph), LocalChannels(answer, 1))


@pytest.mark.parametrize("bad", [0, 5, 17])
def test_an_expression_that_fails_waits_for_its_turn(bench: Bench, bad: int) -> None:
    """Rows before it are handed on; a limit that they fill never meets it."""
    stack = Stack(source(40))
    stack.ask(call(10, 1), by_turn=True)
    stack.compute((20, f"CASE WHEN {{0}} = {bad} THEN CAST({{10}} AS INTEGER)::VARCHAR ELSE {{10}} END", VARCHAR))
    stack.ask(call(11, 20), by_turn=True)
    taken = []

    async def main() -> None:
        ctx = bench.context(LocalChannels())
        stream = build(stack.dag(True), ctx)
        try:
            async for batch in stream:
                taken.extend(rows([batch]))
        finally:
            await stream.aclose()
            ctx.close()

    with pytest.raises(Error, match="Could not convert"):
        asyncio.run(main())
    assert [row[0] for row in taken] == list(range(bad))
    if bad:
        stack.put(LimitExec(bad), stack.columns)
        assert len(bench.rows(stack.dag(True))) == bad


@pytest.mark.parametrize("limit", [1, 5, 20])
def test_a_limit_bounds_the_calls(bench: Bench, limit: int) -> None:
    lookahead = 16
    stack = Stack(source(5000))
    for output, hole in ((10, 1), (11, 10), (12, 1), (13, 12)):
        stack.ask(call(output, hole), lookahead=lookahead, by_turn=True)
    stack.put(LimitExec(limit), stack.columns)
    asked = []
    for graph in (False, True):
        channels = LocalChannels(window=4)
        assert len(bench.rows(stack.dag(graph), channels)) == limit
        asked.append(Counter(prompt[:2] for prompt in channels.asked))
    assert max(asked[1].values()) <= limit + lookahead
    assert set(asked[1]) == {"10", "11", "12", "13"}


def test_failures_that_wait_are_marked_and_settled(bench: Bench) -> None:
    stack = Stack(source(40))
    deferral = Deferral(Column(ColumnId(90), "failed", BIGINT))
    stack.ask(call(10, 1))
    stack.ask(call(11, 10), failed=deferral)
    stack.ask(call(12, 11))
    columns = stack.columns
    stack.put(SettleExec((deferral,)), tuple(column for column in columns if column.id != 90))
    for graph in (False, True):
        with pytest.raises(EngineError, match=r"11\(10\(r13,\),\)"):
            bench.run(stack.dag(graph), LocalChannels(some_fail, 2))
    whole = both(bench, stack)
    assert whole[13][-1] == "12(11(10(r13,),),)"


def test_errors_are_values_with_struct_and_null(bench: Bench) -> None:
    stack = Stack(source(30))
    stack.ask(call(10, 1))
    stack.ask(call(11, 10, on_error="null"))
    stack.ask(call(12, 11))
    found = both(bench, stack, some_fail)
    assert found[13][-2:] == (None, None)


def test_a_model_that_cannot_start_ends_the_query(bench: Bench) -> None:
    class Broken(LocalChannels):
        async def open(self, spec: Any, *more: Any) -> Any:
            raise EngineError("it cannot start", code="unavailable")

    stack = Stack(source(30))
    stack.ask(call(10, 1))
    stack.ask(call(11, 10))
    with pytest.raises(EngineError, match="it cannot start"):
        bench.run(stack.dag(True), Broken())


def test_a_slow_row_holds_up_no_other(bench: Bench) -> None:
    """All other rows are through all calls and expressions before the slow one has its first answer."""
    stack = Stack(source(50))
    stack.ask(call(10, 1))
    stack.compute((20, "{10} || '!'", VARCHAR))
    stack.ask(call(11, 20))
    stack.ask(call(12, 11))
    channels = Gated("10(r0,)")
    found = until(bench, stack, channels, lambda: sum(p.startswith("12(") for p in channels.asked) == 49)
    assert [row[0] for row in found] == list(range(50))
    assert found[0][-1] == "12(11(10(r0,)!,),)"


def test_independent_calls_of_a_row_overlap(bench: Bench) -> None:
    """Three stacked calls that read the input only are under way together, and what reads one of them goes on."""
    stack = Stack(source(4))
    stack.ask(call(10, 1))
    stack.ask(call(11, 1))
    stack.ask(call(12, 1))
    stack.ask(call(13, 12))
    channels = Gated("10(")  # the calls of the lowest node
    found = until(bench, stack, channels, lambda: sum(p.startswith("13(") for p in channels.asked) == 4)
    assert len(channels.held) == 4
    assert found[0][2:] == ("10(r0,)", "11(r0,)", "12(r0,)", "13(12(r0,),)")


def test_calls_on_the_longest_path_come_first(bench: Bench) -> None:
    stack = Stack(source(3))
    stack.ask(call(10, 1))
    stack.ask(call(11, 1))
    stack.ask(call(12, 11))
    stack.ask(call(13, 12))
    channels = LocalChannels()
    bench.run(stack.dag(True), channels)
    assert sorted(spec.priority for spec in channels.opened) == [0, 1, 2, 2]
    graph = next(node.op for node in stack.dag(True).nodes if isinstance(node.op, RowGraphExec))
    assert (graph.made, graph.longest) == (4, 3)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_closed_midway_nothing_is_left(bench: Bench, after: int) -> None:
    stack = random_stack(3)

    async def main() -> None:
        channels = LocalChannels(window=1)
        ctx = bench.context(channels)
        taken = 0
        async with aclosing(build(stack.dag(True), ctx)) as stream:  # type: ignore[type-var]
            async for _ in stream:
                taken += 1
                if taken >= after:
                    break
        ctx.close()
        assert channels.open_now == 0

    asyncio.run(main())
    bench.assert_clean()


@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_any_split_of_the_input_gives_the_same_rows(sizes: list[int], lookahead: int) -> None:
    import pyarrow as pa

    from .conftest import split

    bench = Bench()
    stack = Stack(source(0))
    stack.ask(call(10, 1), lookahead=lookahead)
    stack.compute((20, "{10} || {0}", VARCHAR))
    stack.ask(call(11, 20), lookahead=lookahead)
    table = pa.table({"c0": pa.array(range(30), pa.int64()), "c1": [f"r{i}" for i in range(30)]})
    plan = stack.dag(True)

    async def main() -> list[tuple[Any, ...]]:
        from halo_sql.operators.row_graph import row_graph

        ctx = bench.context(LocalChannels(window=2), dag=plan)
        await ctx.prepare()
        stream = row_graph(plan.nodes[-1], [Source(split(table, sizes))], ctx)
        try:
            return rows([batch async for batch in stream])
        finally:
            ctx.close()

    found = asyncio.run(main())
    bench.duck.close()
    assert found == [(i, f"r{i}", f"10(r{i},)", f"10(r{i},){i}", f"11(10(r{i},){i},)") for i in range(30)]


def test_stacks_end_where_order_or_rows_change() -> None:
    def graphs(stack: Stack) -> list[int]:
        nodes, _ = row_graphs(stack.nodes, len(stack.nodes) - 1)
        return [node.op.depth for node in nodes if isinstance(node.op, RowGraphExec)]

    one = Stack(source(1))
    one.compute((20, "{1} || '.'", VARCHAR))
    one.ask(call(10, 20), call(11, 1))
    one.pick(0, 10)
    assert graphs(one) == []
    differing = Stack(source(1))
    differing.ask(call(10, 1), by_turn=True)
    differing.ask(call(11, 10), by_turn=False)
    assert graphs(differing) == []
    parted = Stack(source(1))
    for output in (10, 11):
        parted.ask(call(output, output - 1 if output > 10 else 1))
    parted.put(LimitExec(3), parted.columns)
    for output in (12, 13):
        parted.ask(call(output, output - 1))
    assert graphs(parted) == [2, 2]
