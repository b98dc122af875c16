"""Operators over the real dispatcher and the echo engine: the defining equation, and exact call counts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from halo_sql.engines.budget import Budget
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.echo import EchoEngine
from halo_sql.errors import EngineError
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import LimitExec, LlmFilterExec, LlmMapExec, PhysicalDag, PhysicalNode
from halo_sql.ir.prompt import Hole, LlmCall, Prompt
from halo_sql.ir.types import BIGINT, SqlType


def run(bench: Any, kit: Any, plan: PhysicalDag, budget: Budget | None = None) -> tuple[list[Any], Any]:
    """Rows and the counters of node 1."""
    engine = EchoEngine()
    metrics: dict[int, Any] = {}

    async def main() -> list[Any]:
        info = await engine.start()

        async def engine_of(model: str) -> tuple[Any, Any]:
            return engine, info

        dispatcher = Dispatcher(engine_of, None, budget or Budget())
        ctx = bench.context(dispatcher, metrics=metrics)
        from halo_sql.operators.build import build

        stream = build(plan, ctx)
        try:
            return await kit.drain(stream)
        finally:
            await stream.aclose()
            await dispatcher.close()
            ctx.close()

    return kit.rows(asyncio.run(main())), metrics[1]


def mapping(kit: Any, sql: str, distinct: bool = False, **options: Any) -> tuple[PhysicalNode, PhysicalNode]:
    lookahead = options.pop("lookahead", 4096)
    base = kit.query(0, sql, (kit.column(0, BIGINT), kit.column(1)))
    call = LlmCall(ColumnId(2), "map", Prompt((Hole(ColumnId(1)),)), "echo", **options)
    columns = (*base.columns, kit.column(2, call.returns))
    return base, PhysicalNode(1, LlmMapExec((call,), distinct, lookahead), (0,), columns)


@pytest.mark.parametrize("distinct", [False, True])
def test_echo_is_the_identity_and_equal_prompts_are_asked_once(kit: Any, bench: Any, distinct: bool) -> None:
    sql = "SELECT i, CASE WHEN i % 7 > 0 THEN 'v' || (i % 50) END FROM range(10000) t(i)"
    found, metrics = run(bench, kit, kit.dag(*mapping(kit, sql, distinct)))
    expected = [None if n % 7 == 0 else f"v{n % 50}" for n in range(10_000)]
    assert [row[2] for row in found] == expected
    asked = sum(text is not None for text in expected)
    assert metrics.llm_calls == 50
    assert metrics.llm_calls_coalesced == asked - 50
    assert metrics.in_flight == 0


def test_typed_answers_of_bare_texts(kit: Any, bench: Any) -> None:
    sql = "SELECT i, (DATE '2024-01-01' + i::INTEGER)::VARCHAR FROM range(100) t(i)"
    found, _ = run(bench, kit, kit.dag(*mapping(kit, sql, returns=SqlType("DATE", "date"))))
    assert [str(row[2]) for row in found] == [row[1] for row in found]


def test_a_limit_bounds_the_calls(kit: Any, bench: Any) -> None:
    base, mapped = mapping(kit, "SELECT i, 'v' || i FROM range(100000) t(i)", lookahead=20)
    cut = PhysicalNode(2, LimitExec(10), (1,), mapped.columns)
    found, metrics = run(bench, kit, kit.dag(base, mapped, cut))
    assert len(found) == 10
    assert metrics.llm_calls <= 10 + 20


def test_a_call_budget_ends_the_query(kit: Any, bench: Any) -> None:
    plan = kit.dag(*mapping(kit, "SELECT i, 'v' || i FROM range(1000) t(i)", on_error="null"))
    with pytest.raises(EngineError) as problem:
        run(bench, kit, plan, Budget(max_calls=100))
    assert problem.value.code == "budget"


def test_filter_of_booleans(kit: Any, bench: Any) -> None:
    base = kit.query(0, "SELECT i, (i % 3 = 0)::VARCHAR FROM range(5000) t(i)", (kit.column(0, BIGINT), kit.column(1)))
    call = LlmCall(ColumnId(2), "filter", Prompt((Hole(ColumnId(1)),)), "echo")
    found, metrics = run(bench, kit, kit.dag(base, PhysicalNode(1, LlmFilterExec(call), (0,), base.columns)))
    assert [row for row, _ in found] == list(range(0, 5000, 3))
    assert metrics.llm_calls == 2
