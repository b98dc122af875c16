"""Filters inside a graph of calls: the same rows, calls and errors as node by node, no row waits for another."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from halo_sql.errors import EngineError, Error
from halo_sql.ir.expr import Column, ColumnId, SqlExpr, column_expr
from halo_sql.ir.logical import Filter, Project
from halo_sql.ir.physical import (
    Deferral,
    DuckFragmentExec,
    Input,
    LimitExec,
    LlmFilterExec,
    PhysicalDag,
    RowGraphExec,
)
from halo_sql.ir.types import BIGINT, BOOLEAN, VARCHAR
from halo_sql.operators.build import build
from halo_sql.optimizer.pipeline import row_graphs

from .conftest import Bench, LocalChannels, rows
from .stacks import Gated, Stack, both, call, deciding, parts_of, random_stack, source, until


@pytest.mark.parametrize("seed", range(40))
def test_rows_and_calls_are_those_of_the_stack(bench: Bench, seed: int) -> None:
    both(bench, random_stack(seed, filters=True), deciding, seed=seed, window=seed % 4)


def some_fail(spec: Any, prompt: str) -> str | EngineError:
    if sum(prompt.encode()) % 23 == 0:
        return EngineError("no", code="rejected")
    return deciding(spec, prompt)


def until_it_fails(bench: Bench, plan: PhysicalDag, channels: LocalChannels) -> tuple[list[Any], str]:
    """The rows before the failure, and what it says."""
    taken: list[Any] = []

    async def main() -> None:
        ctx = bench.context(channels)
        stream = build(plan, ctx)
        try:
            async for batch in stream:
                taken.extend(rows([batch]))
        finally:
            await stream.aclose()
            ctx.close()

    try:
        asyncio.run(main())
    except Error as problem:
        return taken, str(problem)
    return taken, ""


@pytest.mark.parametrize("seed", range(40))
def test_by_turn_the_same_row_fails(bench: Bench, seed: int) -> None:
    lookahead = 1 + seed % 9
    stack = random_stack(seed, filters=True, by_turn=True, lookahead=lookahead)
    graph, nodes = (
        until_it_fails(bench, stack.dag(way), LocalChannels(some_fail, seed % 3, seed)) for way in (True, False)
    )
    assert graph == nodes


def test_some_of_these_fail_and_some_end(bench: Bench) -> None:
    said = [
        until_it_fails(bench, random_stack(seed, filters=True, by_turn=True).dag(True), LocalChannels(some_fail))
        for seed in range(40)
    ]
    assert 5 < sum(bool(message) for _, message in said) < 35
    assert any(taken and message for taken, message in said)


@pytest.mark.parametrize("bad", [0, 5, 17])
def test_a_condition_that_fails_waits_for_its_turn(bench: Bench, bad: int) -> None:
    """Rows before it are handed on; a limit that they fill never meets it, nor a filter that takes the row out."""
    stack = Stack(source(40))
    stack.ask(call(10, 1), by_turn=True)
    stack.keep(f"CASE WHEN {{0}} = {bad} THEN CAST({{10}} AS INTEGER) > 0 ELSE {{0}} % 2 = 0 END")
    stack.ask(call(11, 10), by_turn=True)
    taken, said = until_it_fails(bench, stack.dag(True), LocalChannels())
    assert [row[0] for row in taken] == [row for row in range(bad) if row % 2 == 0]
    assert "Could not convert" in said
    if taken:
        stack.put(LimitExec(len(taken)), stack.columns)
        assert len(bench.rows(stack.dag(True))) == len(taken)
    saved = Stack(source(40))
    saved.ask(call(10, 1), by_turn=True)
    saved.keep(f"{{0}} <> {bad}")
    saved.keep(f"{{0}} <> {bad} OR CAST({{10}} AS INTEGER) > 0")
    saved.ask(call(11, 10), by_turn=True)
    assert len(bench.rows(saved.dag(True))) == 39


@pytest.mark.parametrize("seed", range(40))
def test_under_a_limit_no_call_is_made_that_nobody_wants(bench: Bench, seed: int) -> None:
    """Per call: at most as many as for the rows that leave and those that its node reads ahead."""
    chance = random.Random(seed)
    count, ahead = chance.randint(1, 12), [chance.choice([1, 2, 5, 16]) for _ in range(4)]
    stack = Stack(source(400))
    stack.ask(call(10, 1), lookahead=ahead[0], by_turn=True)
    stack.judge(20, 10, lookahead=ahead[1], by_turn=True)
    stack.keep("{0} % 3 > 0")
    stack.ask(call(11, 10), lookahead=ahead[2], by_turn=True)
    stack.judge(21, 11, lookahead=ahead[3], by_turn=True)
    stack.ask(call(12, 1), lookahead=ahead[3], by_turn=True)
    whole = bench.rows(stack.dag(False), LocalChannels(deciding))
    stack.put(LimitExec(count), stack.columns)
    channels = LocalChannels(deciding, seed % 4, seed)
    assert bench.rows(stack.dag(True), channels) == whole[:count]
    last = whole[count - 1][0]  # the source's row
    asked = Counter(prompt[:2] for prompt in channels.asked)
    passed = [row for row in range(400) if deciding(None, f"20?(10(r{row},),)") == "yes" and row % 3]
    again = [row for row in passed if deciding(None, f"21?(11(10(r{row},),),)") == "yes"]
    assert asked["10"] <= last + 1 + min(ahead[:2])
    assert asked["20"] <= last + 1 + min(ahead[:2])
    assert asked["11"] <= sum(row <= last for row in passed) + min(ahead[2:])
    assert asked["12"] <= sum(row <= last for row in again) + ahead[3]


def test_a_slow_row_holds_up_no_other(bench: Bench) -> None:
    """All other rows are through both filters and what stands above before the slow one has passed the first."""
    stack = Stack(source(50))
    stack.ask(call(10, 1))
    stack.judge(20, 10)
    stack.compute((30, "{10} || '!'", VARCHAR))
    stack.keep("{0} % 5 < 4")
    stack.ask(call(11, 30))
    passing = [row for row in range(50) if deciding(None, f"20?(10(r{row},),)") == "yes" and row % 5 < 4]
    slow = passing[0]
    channels = Gated(f"20?(10(r{slow},)", deciding)
    met = len(passing) - 1
    found = until(bench, stack, channels, lambda: sum(p.startswith("11(") for p in channels.asked) == met)
    assert [row[0] for row in found] == passing
    assert len(passing) > 20


def test_rows_taken_out_make_room_for_others(bench: Bench) -> None:
    """Row 0 is slow; four rows may be under way, and the others go at once."""
    stack = Stack(source(40))
    stack.judge(20, 1, lookahead=4)
    stack.ask(call(10, 1), lookahead=4)

    def answer(spec: Any, prompt: str) -> str:
        return prompt if "?" not in prompt else "yes" if prompt == "20?(r0,)" else "no"

    channels = Gated("20?(r0,", answer)
    found = until(bench, stack, channels, lambda: len(channels.asked) + len(channels.held) >= 16)
    assert found == [(0, "r0", "10(r0,)")]
    assert len(channels.asked) == 41


def test_nothing_is_computed_for_rows_that_a_condition_takes_out(bench: Bench) -> None:
    """As in one query of DuckDB's: a cast in the projection below the condition fails for none of them."""
    stack = Stack(source(30, "CASE WHEN i % 2 = 0 THEN 'x' ELSE i::VARCHAR END"))
    stack.ask(call(10, 1))
    number = Column(ColumnId(30), "number", BIGINT)
    flag = Column(ColumnId(31), "flag", BOOLEAN)
    columns = stack.columns
    computed: Any = Project(
        Input(0, columns),  # type: ignore[arg-type]
        (
            *((column, column_expr(column)) for column in columns),
            (number, SqlExpr(parts_of("CAST({1} AS BIGINT)"), BIGINT, row_wise=True)),
            (flag, SqlExpr(parts_of("length({10}) > 0 AND {1} <> 'x'"), BOOLEAN, row_wise=True)),
        ),
    )
    tested = Filter(computed, SqlExpr(parts_of("{31}"), BOOLEAN, row_wise=True))
    text = Column(ColumnId(32), "text", VARCHAR)
    top = Project(
        tested,
        (
            (columns[0], column_expr(columns[0])),
            (text, SqlExpr(parts_of("CAST({30} + 1 AS VARCHAR)"), VARCHAR, row_wise=True)),
        ),
    )
    stack.put(DuckFragmentExec(top, True), (columns[0], text))
    stack.ask(call(11, 32))
    found = both(bench, stack)
    assert found == [(row, str(row + 1), f"11({row + 1},)") for row in range(1, 30, 2)]


def test_every_node_counts_what_it_gives(bench: Bench) -> None:
    stack = Stack(source(60))
    stack.ask(call(10, 1))
    stack.judge(20, 10)
    stack.keep("{0} % 3 > 0", "{0} % 5 > 0")
    stack.ask(call(11, 10))
    counted = []
    for graph in (False, True):
        plan = stack.dag(graph)
        channels = LocalChannels(deciding, 3)

        async def main(plan: PhysicalDag = plan, channels: LocalChannels = channels) -> list[tuple[int, int]]:
            ctx = bench.context(channels)
            stream = build(plan, ctx)
            async for _ in stream:
                pass
            await stream.aclose()
            ctx.close()
            found = [(node, ctx.node_metrics(node.id)) for node in plan.nodes if not isinstance(node.op, RowGraphExec)]
            return [(did.rows, did.rows_total if node.id > 0 else 0) for node, did in found]

        counted.append(asyncio.run(main()))
    passed = [row for row in range(60) if deciding(None, f"20?(10(r{row},),)") == "yes"]
    kept = [row for row in passed if row % 3 and row % 5]
    assert counted[0] == counted[1]
    assert counted[1][1:] == [(60, 60), (len(passed), 60), (len(kept), 0), (len(kept), len(kept))]


def graphs(stack: Stack) -> list[int]:
    nodes, _ = row_graphs(stack.nodes, len(stack.nodes) - 1)
    return [node.op.depth for node in nodes if isinstance(node.op, RowGraphExec)]


def test_filters_that_failures_wait_for_stay_outside() -> None:
    deferral = Deferral(Column(ColumnId(90), "failed", BIGINT))
    waited = Stack(source(1))
    waited.ask(call(10, 1), failed=deferral)
    waited.ask(call(11, 10))
    waited.judge(20, 1, passing=(ColumnId(90),))
    waited.ask(call(12, 1))
    waited.ask(call(13, 12))
    assert graphs(waited) == [2, 2]
    tested = Stack(source(1))
    tested.ask(call(10, 1), failed=deferral)
    tested.ask(call(11, 10))
    tested.keep("{0} > 1 OR {90} IS NOT NULL")
    tested.ask(call(12, 1))
    tested.ask(call(13, 12))
    assert graphs(tested) == [2, 2]
    waiting = Stack(source(1))
    waiting.ask(call(10, 1))
    waiting.judge(20, 1)
    waiting.put(LlmFilterExec(call(21, 1, on_error="fail"), failed=deferral), (*waiting.columns, deferral.column))
    waiting.ask(call(11, 1))
    assert graphs(waiting) == [2]


def test_a_filter_and_a_call_are_a_graph_a_filter_alone_is_none() -> None:
    alone = Stack(source(1))
    alone.keep("{0} > 1")
    alone.judge(20, 1)
    alone.keep("{0} > 2")
    assert graphs(alone) == []
    alone.ask(call(10, 1))
    assert graphs(alone) == [3]
