"""The row pump and the two LLM operators: order, windows, NULLs, guards, errors, back pressure, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.errors import EngineError
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import LlmFilterExec, LlmMapExec, PhysicalNode
from halo_sql.ir.prompt import Hole, LlmCall, ObjectHole, Prompt, Sampling
from halo_sql.ir.types import BOOLEAN, VARCHAR, SqlType
from halo_sql.operators.context import RunContext
from halo_sql.operators.llm_filter import llm_filter
from halo_sql.operators.llm_map import llm_map
from halo_sql.operators.measured import Clock, Measured

INTEGER = SqlType("INTEGER", "integer")
ECHO = Prompt((Hole(ColumnId(1)),))


def call(output: int = 9, prompt: Prompt = ECHO, **options: Any) -> LlmCall:
    return LlmCall(ColumnId(output), options.pop("kind", "map"), prompt, "echo", **options)


def table(texts: Sequence[str | None], **more: Any) -> Any:
    columns = {"c0": pa.array(range(len(texts)), pa.int64()), "c1": pa.array(texts, pa.string())}
    return pa.table(columns | more)


def map_node(kit: Any, calls: Sequence[LlmCall], names: Sequence[int] = (0, 1), **options: Any) -> PhysicalNode:
    columns = [kit.column(number) for number in [*names, *(item.output for item in calls)]]
    return PhysicalNode(1, LlmMapExec(tuple(calls), **options), (0,), tuple(columns))


def run(kit: Any, bench: Any, node: PhysicalNode, batches: Sequence[Any], channels: Any) -> list[tuple[Any, ...]]:
    operator = llm_filter if isinstance(node.op, LlmFilterExec) else llm_map

    async def main() -> list[Any]:
        ctx: RunContext = bench.context(channels)
        source = kit.Source(batches)
        stream = Measured(operator(node, [source], ctx), [source], ctx.node_metrics(1), Clock())
        try:
            return await kit.drain(stream)
        finally:
            await stream.aclose()
            ctx.close()
            assert source.closed
            assert channels.open_now == 0

    return kit.rows(asyncio.run(main()))


texts = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "", "é🎉"]), st.text(max_size=5)), max_size=30)
sizes = st.lists(st.integers(0, 7), max_size=8)


@settings(deadline=None, max_examples=150)
@given(texts, sizes, st.integers(0, 5), st.integers(0, 99), st.integers(1, 40), st.booleans())
def test_any_split_window_and_order_gives_the_same_rows(
    kit: Any, values: list[str | None], parts: list[int], window: int, seed: int, lookahead: int, distinct: bool
) -> None:
    from halo_sql.duck import Duck

    clean = [None if text is None else text.encode(errors="replace").decode() for text in values]
    data = table(clean)
    bench = type("Bench", (), {"context": lambda self, channels: RunContext(duck, channels)})()
    duck = Duck.connect(":memory:", False, {})
    channels = kit.LocalChannels(window=window, seed=seed)
    node = map_node(kit, [call()], lookahead=lookahead, distinct=distinct)
    found = run(kit, bench, node, kit.split(data, parts), channels)
    duck.close()
    assert found == [(row, text, text) for row, text in enumerate(clean)]
    if distinct and len(parts) == 0 and lookahead >= len(clean):
        assert sorted(channels.asked) == sorted({text for text in clean if text is not None})
    elif not distinct:
        assert sorted(channels.asked) == sorted(text for text in clean if text is not None)


@pytest.mark.parametrize("distinct", [False, True])
def test_guards_and_null_holes_make_no_request(kit: Any, bench: Any, distinct: bool) -> None:
    data = table(["a", "b", "c", None], c2=pa.array([True, False, None, True]))
    channels = kit.LocalChannels(window=1)
    guarded = call(guard=ColumnId(2))
    node = map_node(kit, [guarded, call(8)], (0, 1, 2), distinct=distinct)
    found = run(kit, bench, node, kit.split(data, [2]), channels)
    assert [row[3] for row in found] == ["a", None, None, None]
    assert [row[4] for row in found] == ["a", "b", "c", None]
    assert sorted(channels.asked) == ["a", "a", "b", "c"]


def test_rows_without_a_request_need_no_model(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels()
    assert run(kit, bench, map_node(kit, [call()]), kit.split(table([None] * 5000), [2048]), channels)[-1][0] == 4999
    assert channels.opened == []


@pytest.mark.parametrize("batches", [[], [0], [0, 0]])
def test_empty_inputs(kit: Any, bench: Any, batches: list[int]) -> None:
    data = kit.split(table([]), batches)[: len(batches)]
    assert run(kit, bench, map_node(kit, [call()]), data, kit.LocalChannels()) == []


def test_prompts_join_texts_holes_and_objects(kit: Any, bench: Any) -> None:
    prompt = Prompt(
        ("Say ", Hole(ColumnId(1)), ": ", ObjectHole((('k"', ColumnId(2)), ("n", ColumnId(1)))), "!", Hole(ColumnId(1)))
    )
    data = table(["x", None], c2=pa.array([None, '"v"'], pa.string()))
    channels = kit.LocalChannels()
    found = run(kit, bench, map_node(kit, [call(prompt=prompt)], (0,)), kit.split(data, []), channels)
    assert found == [(0, 'Say x: {"k\\"": null, "n": x}!x'), (1, None)]


def test_a_constant_prompt_is_asked_once_when_distinct(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(window=3)
    node = map_node(kit, [call(prompt=Prompt(("hi",)))], (0,), distinct=True)
    found = run(kit, bench, node, kit.split(table(["x"] * 50), []), channels)
    assert [text for _, text in found] == ["hi"] * 50
    assert channels.asked == ["hi"]


def test_sampled_answers_are_never_shared(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels()
    node = map_node(kit, [call(sampling=Sampling(temperature=1.0))], distinct=True)
    run(kit, bench, node, kit.split(table(["x"] * 5), []), channels)
    assert channels.asked == ["x"] * 5


def failing(spec: Any, prompt: str) -> str | EngineError:
    return EngineError(f"no {prompt}", code="rejected") if prompt.startswith("bad") else prompt


def test_on_error_null_and_struct(kit: Any, bench: Any) -> None:
    data = table(["1", "bad", "x", None])
    calls = [
        call(7, returns=INTEGER, on_error="null"),
        call(8, returns=INTEGER, on_error="struct"),
    ]
    for distinct in (False, True):
        channels = kit.LocalChannels(failing, window=2)
        found = run(kit, bench, map_node(kit, calls, (0,), distinct=distinct), kit.split(data, [1]), channels)
        assert [row[1] for row in found] == [1, None, None, None]
        structs = [row[2] for row in found]
        assert structs[0] == {"value": 1, "error": None}
        assert structs[1] == {"value": None, "error": "no bad"}
        assert structs[2]["error"].startswith('the answer "x" does not fit INTEGER')
        assert structs[3] is None


@pytest.mark.parametrize("distinct", [False, True])
def test_errors_are_counted_per_row(kit: Any, bench: Any, distinct: bool) -> None:
    async def main() -> None:
        ctx = bench.context(kit.LocalChannels(failing))
        node = map_node(kit, [call(on_error="null")], distinct=distinct)
        await kit.drain(llm_map(node, [kit.Source(kit.split(table(["bad", "bad", "ok", "ok"]), []))], ctx))
        metrics = ctx.node_metrics(1)
        assert metrics.errors == 2
        assert metrics.llm_calls + metrics.llm_calls_coalesced == 4
        assert metrics.llm_calls == (2 if distinct else 4)
        assert metrics.rows_total == 4
        ctx.close()

    asyncio.run(main())


def test_on_error_fail_names_call_prompt_and_reason(kit: Any, bench: Any) -> None:
    data = table(["ok"] * 5 + ["bad " + "x" * 200, "bad2"] + ["ok"] * 5)
    labelled = call(label="LLM_MAP('{{ a }}')")
    with pytest.raises(EngineError) as problem:
        run(kit, bench, map_node(kit, [labelled]), kit.split(data, [3]), kit.LocalChannels(failing))
    text = str(problem.value)
    assert text.startswith("Engine Error: LLM_MAP('{{ a }}'), prompt \"bad xxx")
    assert "..." in text
    assert "no bad x" in text
    assert "on_error => 'null'" in text
    assert problem.value.code == "rejected"


@pytest.mark.parametrize("code", ["auth", "budget", "cancelled"])
def test_some_errors_end_the_query_whatever_on_error_says(kit: Any, bench: Any, code: str) -> None:
    channels = kit.LocalChannels(lambda spec, prompt: EngineError("stop", code=code))
    with pytest.raises(EngineError, match="stop"):
        run(kit, bench, map_node(kit, [call(on_error="null")]), kit.split(table(["a"]), []), channels)


@pytest.mark.parametrize("distinct", [False, True])
def test_filter_keeps_yes_only(kit: Any, bench: Any, distinct: bool) -> None:
    data = table(["yes", "no", None, "maybe", "TRUE", "0", "yes"])
    only = call(kind="filter", returns=BOOLEAN, on_error="null")
    node = PhysicalNode(1, LlmFilterExec(only, distinct), (0,), (kit.column(0), kit.column(1)))
    for parts in ([], [1] * 7, [3]):
        channels = kit.LocalChannels(window=2)
        found = run(kit, bench, node, kit.split(data, parts), channels)
        assert [row for row, _ in found] == [0, 4, 6]
    assert channels.opened[0].answer.choices == ("yes", "no")


def test_filter_as_a_column_is_boolean(kit: Any, bench: Any) -> None:
    node = map_node(kit, [call(kind="filter", returns=BOOLEAN)], (0,))
    found = run(kit, bench, node, kit.split(table(["yes", "no", None]), []), kit.LocalChannels())
    assert [value for _, value in found] == [True, False, None]


def test_a_slow_consumer_stops_the_reading(kit: Any, bench: Any) -> None:
    async def main() -> None:
        channels = kit.LocalChannels(window=8)
        ctx = bench.context(channels)
        source = kit.Source(kit.split(table(["x"] * 1000), [10] * 99))
        stream = llm_map(map_node(kit, [call()], lookahead=40), [source], ctx)
        seen = 0
        async for batch in stream:
            for _ in range(20):
                await asyncio.sleep(0)
            assert source.read - seen <= 40
            assert len(channels.asked) - seen <= 40
            seen += batch.num_rows
        assert seen == 1000
        ctx.close()

    asyncio.run(main())


def test_calls_under_a_limit_stay_within_the_lookahead(kit: Any, bench: Any) -> None:
    async def main() -> None:
        channels = kit.LocalChannels(window=4)
        ctx = bench.context(channels)
        source = kit.Source(kit.split(table(["x"] * 5000), [2048, 2048]))
        stream = llm_map(map_node(kit, [call()], lookahead=16), [source], ctx)
        seen = 0
        async for batch in stream:
            seen += batch.num_rows
            if seen >= 10:
                break
        await stream.aclose()
        assert len(channels.asked) <= 10 + 16
        assert source.read <= 2048
        assert channels.opened[0].ordered is False
        assert channels.open_now == 0
        ctx.close()

    asyncio.run(main())


def test_short_lookahead_crosses_batches_without_a_pause(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(window=4)
    node = map_node(kit, [call()], lookahead=16)
    found = run(kit, bench, node, kit.split(table([str(n) for n in range(300)]), [100, 100]), channels)
    assert [text for _, _, text in found] == [str(n) for n in range(300)]


@pytest.mark.parametrize("seed", range(5))
def test_cancelling_anywhere_closes_channels_and_input(kit: Any, bench: Any, seed: int) -> None:
    async def main() -> None:
        channels = kit.LocalChannels(window=1)
        ctx = bench.context(channels)
        source = kit.Source(kit.split(table(["x"] * 200), [7] * 20))
        stream = Measured(
            llm_map(map_node(kit, [call(), call(8)], lookahead=20), [source], ctx),
            [source],
            ctx.node_metrics(1),
            Clock(),
        )
        task = asyncio.create_task(kit.drain(stream))
        for _ in range(seed * 9):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert channels.open_now == 0
        await stream.aclose()
        assert source.closed
        ctx.close()

    asyncio.run(main())


def test_finished_rows_leave_together(kit: Any, bench: Any) -> None:
    async def main() -> list[int]:
        ctx = bench.context(kit.LocalChannels())
        source = kit.Source(kit.split(table(["x"] * 4096), [2048]))
        sizes = [batch.num_rows async for batch in llm_map(map_node(kit, [call()]), [source], ctx)]
        ctx.close()
        return sizes

    assert asyncio.run(main()) == [2048, 2048]


def test_the_model_not_starting_fails_the_query(kit: Any, bench: Any) -> None:
    class Dead(kit.LocalChannels):  # type: ignore[misc]
        async def open(self, *args: Any) -> Any:
            raise EngineError("vllm is not installed", code="unavailable")

    with pytest.raises(EngineError, match="not installed"):
        run(kit, bench, map_node(kit, [call(), call(8)]), kit.split(table(["a"]), []), Dead())


def test_a_failing_input_fails_the_node(kit: Any, bench: Any) -> None:
    class Broken(kit.Source):  # type: ignore[misc]
        async def __anext__(self) -> Any:
            if self.read:
                raise ValueError("disk")
            return await super().__anext__()

    async def main() -> None:
        channels = kit.LocalChannels(window=1)
        ctx = bench.context(channels)
        source = Broken(kit.split(table(["x"] * 10), [3]))
        with pytest.raises(ValueError, match="disk"):
            await kit.drain(llm_map(map_node(kit, [call()]), [source], ctx))
        assert channels.open_now == 0
        ctx.close()

    asyncio.run(main())


def test_varchar_column_type(kit: Any, bench: Any) -> None:
    assert VARCHAR.kind == "varchar"
    found = run(
        kit, bench, map_node(kit, [call()]), kit.split(table(["\x00", "x" * 1_000_000]), []), kit.LocalChannels()
    )
    assert [text for _, _, text in found] == ["\x00", "x" * 1_000_000]
