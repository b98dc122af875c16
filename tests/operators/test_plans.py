"""Whole plans: sources, calls, limits, and their metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import LimitExec, LlmFilterExec, PhysicalNode, SelectExec
from halo_sql.ir.prompt import Hole, LlmCall, Prompt
from halo_sql.ir.types import BIGINT
from halo_sql.operators.build import OPERATORS, build

from .plans import columns, llm, source


def test_every_operator_is_registered() -> None:
    import halo_sql.ir.physical as physical

    assert {op.__name__ for op in OPERATORS} == {name for name in vars(physical) if name.endswith("Exec")}


def test_a_source_streams_in_order(kit: Any, bench: Any) -> None:
    batches = bench.run(kit.dag(source(kit)))
    assert [batch.num_rows for batch in batches] == [2048, 2048, 904]
    assert batches[0].schema.names == ["c0", "c1"]
    assert kit.rows(batches) == [(row, f"r{row}") for row in range(5000)]


def test_a_source_is_computed_as_it_is_read(kit: Any, bench: Any) -> None:
    base = kit.query(0, "SELECT i, 'x' || i FROM range(1000000000000) t(i)", columns(kit))
    cut = PhysicalNode(1, LimitExec(3), (0,), base.columns)
    assert bench.rows(kit.dag(base, cut)) == [(0, "x0"), (1, "x1"), (2, "x2")]


def test_llm_map_over_a_source(kit: Any, bench: Any) -> None:
    base = source(kit)
    channels = kit.LocalChannels(window=500)
    assert bench.rows(kit.dag(base, llm(kit, 1, base)), channels) == [(n, f"r{n}", f"r{n}") for n in range(5000)]


def test_select_limit_and_offset(kit: Any, bench: Any) -> None:
    base = source(kit)
    swapped = (kit.column(20), kit.column(21, BIGINT), kit.column(22))
    picks = tuple(zip(swapped, (ColumnId(1), ColumnId(0), ColumnId(1)), strict=True))
    chosen = PhysicalNode(1, SelectExec(picks), (0,), swapped)
    for count, offset in ((3, 0), (0, 0), (2050, 2040), (10, 4995), (None, 4990), (1, 9999)):
        cut = PhysicalNode(2, LimitExec(count, offset), (1,), swapped)
        end = 5000 if count is None else min(5000, offset + count)
        assert bench.rows(kit.dag(base, chosen, cut)) == [(f"r{n}", n, f"r{n}") for n in range(offset, end)]


def test_a_limit_ends_the_calls_before_its_last_row_is_handed_on(kit: Any, bench: Any) -> None:
    async def main() -> None:
        base = source(kit, rows=100_000)
        mapped = llm(kit, 1, base, lookahead=16)
        cut = PhysicalNode(2, LimitExec(10), (1,), mapped.columns)
        channels = kit.LocalChannels(window=4)
        ctx = bench.context(channels)
        stream = build(kit.dag(base, mapped, cut), ctx)
        seen = 0
        async for batch in stream:
            seen += batch.num_rows
            assert (channels.open_now == 0) == (seen == 10)
        assert seen == 10
        assert len(channels.asked) <= 26
        ctx.close()

    asyncio.run(main())
    assert bench.duck.rows("SELECT 1") == [(1,)]


def test_metrics_count_rows_batches_and_seconds(kit: Any, bench: Any) -> None:
    base = source(kit)
    mapped = llm(kit, 1, base)
    yes = LlmCall(ColumnId(8), "filter", Prompt((Hole(ColumnId(1)),)), "echo", on_error="null")
    kept = PhysicalNode(2, LlmFilterExec(yes), (1,), mapped.columns)
    metrics: dict[int, Any] = {}
    started = time.perf_counter()
    bench.run(kit.dag(base, mapped, kept), kit.LocalChannels(window=100), metrics=metrics)
    elapsed = time.perf_counter() - started
    assert [metrics[number].rows for number in range(3)] == [5000, 5000, 0]
    assert metrics[0].batches == 3
    assert metrics[2].errors == 5000
    for found in metrics.values():
        assert found.self_s > 0
        assert found.self_s + found.wait_s <= elapsed + 0.01
    assert sum(found.self_s for found in metrics.values()) <= elapsed * 2  # DuckDB's thread runs beside the loop
