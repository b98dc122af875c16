"""Plans that are cancelled, closed or left early leave nothing behind."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from halo_sql.ir.physical import MaterializeExec, PhysicalNode
from halo_sql.ir.types import BIGINT
from halo_sql.operators.build import build

from .plans import columns, llm, relation, row_wise, source

HEAVY = "SELECT sum(hash(a.i + b.i)), 'x' FROM range(10000000) a(i), range(100000) b(i)"


@pytest.mark.parametrize("where", ["source", "row_wise", "blocking"])
def test_cancelling_inside_duckdb_does_not_wait_for_the_query(kit: Any, bench: Any, where: str) -> None:
    base = kit.query(0, HEAVY, columns(kit)) if where == "source" else source(kit, rows=1)
    plan = kit.dag(base)
    heavy_sum = "(SELECT sum(hash(a.i + b.i)) FROM range(10000000) a(i), range(100000) b(i))::VARCHAR"
    if where == "row_wise":
        plan = kit.dag(base, row_wise(1, base, kit, heavy_sum + " || {}"))
    if where == "blocking":
        plan = kit.dag(base, relation(1, [base], f"SELECT n0, {heavy_sum} FROM {{}}", columns(kit)))

    async def main() -> float:
        ctx = bench.context()
        stream = build(plan, ctx)
        task = asyncio.create_task(kit.drain(stream))
        await asyncio.wait([task], timeout=0.5)
        started = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        spent = time.perf_counter() - started
        await stream.aclose()
        ctx.close()
        return spent

    assert asyncio.run(main()) < 20  # less than a second on a quiet machine; the queries take hours
    bench.assert_clean()


def test_closing_a_plan_that_never_ran(kit: Any, bench: Any) -> None:
    async def main() -> None:
        base = source(kit)
        shared = PhysicalNode(1, MaterializeExec(), (0,), base.columns)
        both = relation(2, [shared, shared], "SELECT 1 FROM {} a, {} b", (kit.column(5, BIGINT),))
        ctx = bench.context()
        stream = build(kit.dag(base, shared, both), ctx)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        ctx.close()

    asyncio.run(main())


def test_leaving_a_stream_early_frees_the_connection(kit: Any, bench: Any) -> None:
    async def main() -> None:
        base = source(kit, rows=100_000)
        first = llm(kit, 1, base)
        middle = row_wise(2, first, kit, "upper({})")
        ctx = bench.context(kit.LocalChannels(window=50))
        stream = build(kit.dag(base, first, middle, llm(kit, 3, middle, 9, 7)), ctx)
        await anext(stream)
        await stream.aclose()
        assert ctx.channels.open_now == 0  # type: ignore[attr-defined]
        ctx.close()

    asyncio.run(main())
    bench.assert_clean()
