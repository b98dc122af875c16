"""ORDER BY LLM_RANK: grades and tournaments give one order; how many calls each takes; NULLs, ties, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.duck import Duck
from halo_sql.engines import ranking
from halo_sql.errors import EngineError
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import LlmTopKExec, PhysicalNode
from halo_sql.ir.prompt import Hole, LlmCall, Prompt
from halo_sql.ir.types import DOUBLE
from halo_sql.operators.context import RunContext
from halo_sql.operators.llm_top_k import llm_top_k
from halo_sql.operators.measured import Clock, Measured


def judge(spec: Any, prompt: str) -> str | EngineError:
    """A model that grades by the number it is given, and compares as it grades."""
    if spec.answer == ranking.GRADE:
        return prompt
    texts, most = ranking.read_comparison(prompt) or ([], True)
    keys = [ranking.order_key(float(text)) for text in texts]
    return str(ranking.LETTERS[keys.index(max(keys) if most else min(keys))])


def node_of(kit: Any, method: str, count: int | None, **options: Any) -> PhysicalNode:
    on_error = options.pop("on_error", "fail")
    call = LlmCall(
        ColumnId(9), "rank", Prompt((Hole(ColumnId(1)),), ranking.GRADE_SYSTEM), "echo", DOUBLE, on_error=on_error
    )
    options = {"descending": True, **options}
    return PhysicalNode(1, LlmTopKExec(call, method, count=count, **options), (0,), (kit.column(0), kit.column(1)))


def run(kit: Any, bench: Any, node: PhysicalNode, batches: Sequence[Any], channels: Any) -> list[tuple[Any, ...]]:
    async def main() -> list[Any]:
        ctx = bench.context(channels)
        source = kit.Source(batches)
        stream = Measured(llm_top_k(node, [source], ctx), [source], ctx.node_metrics(1), Clock())
        try:
            return await kit.drain(stream)
        finally:
            await stream.aclose()
            ctx.close()
            assert source.closed
            assert channels.open_now == 0

    return kit.rows(asyncio.run(main()))


def table(values: Sequence[float | None]) -> Any:
    texts = [None if value is None else repr(value) for value in values]
    return pa.table({"c0": pa.array(range(len(values)), pa.int64()), "c1": pa.array(texts, pa.string())})


numbers = st.one_of(st.none(), st.integers(-3, 3).map(float), st.floats(), st.sampled_from([float("nan"), 0.0, -0.0]))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(numbers, max_size=40),
    st.lists(st.integers(0, 9), max_size=6),
    st.tuples(st.integers(0, 4), st.integers(0, 99)),
    st.tuples(st.one_of(st.none(), st.integers(0, 50)), st.integers(0, 8)),
    st.booleans(),
    st.booleans(),
    st.integers(2, 6),
)
def test_both_methods_give_the_order_of_the_numbers(
    kit: Any,
    values: list[float | None],
    parts: list[int],
    window: tuple[int, int],
    cut: tuple[int | None, int],
    descending: bool,
    nulls_first: bool,
    fan_in: int,
) -> None:
    def key(row: int) -> tuple[bool, tuple[float, float]]:
        value = values[row]
        if value is None:
            return not nulls_first, (0, 0)
        infinite, number = ranking.order_key(value)
        return nulls_first, (-infinite, -number) if descending else (infinite, number)

    (count, offset), everything = cut, sorted(range(len(values)), key=key)
    expected = everything[offset:] if count is None else everything[offset : offset + count]
    duck = Duck.connect(":memory:", False, {})
    own = SimpleNamespace(context=lambda channels: RunContext(duck, channels))
    for method in ("score", "tournament"):
        channels = kit.LocalChannels(judge, *window)
        node = node_of(kit, method, count, offset=offset, descending=descending, nulls_first=nulls_first, fan_in=fan_in)
        found = run(kit, own, node, kit.split(table(values), parts), channels)
        assert [row for row, _ in found] == expected, method
    duck.close()


@pytest.mark.parametrize(("fan_in", "at_most"), [(2, 99 + 9 * 7), (4, 33 + 1 + 9 * 4), (10, 11 + 9 * 2)])
def test_a_tournament_takes_n_and_k_log_n_comparisons(kit: Any, bench: Any, fan_in: int, at_most: int) -> None:
    channels = kit.LocalChannels(judge, window=7)
    values = [float((number * 37) % 101) for number in range(100)]
    found = run(kit, bench, node_of(kit, "tournament", 10, fan_in=fan_in), kit.split(table(values), []), channels)
    assert [float(text) for _, text in found] == sorted(values, reverse=True)[:10]
    assert len(channels.asked) <= at_most


def test_grades_take_a_call_per_distinct_text(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(judge)
    found = run(kit, bench, node_of(kit, "score", 3), kit.split(table([1.0, 2.0, 2.0, None, 1.0]), []), channels)
    assert found == [(1, "2.0"), (2, "2.0"), (0, "1.0")]
    assert len(channels.asked) == 2


def test_equal_candidates_are_not_compared(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(judge)
    assert len(run(kit, bench, node_of(kit, "tournament", 3), kit.split(table([5.0] * 9), []), channels)) == 3
    assert channels.opened == []


@pytest.mark.parametrize("method", ["score", "tournament"])
@pytest.mark.parametrize(("values", "count"), [([], 5), ([None, None], 5), ([1.0, 2.0], 0)])
def test_nothing_to_rank_needs_no_model(kit: Any, bench: Any, method: str, values: list[Any], count: int) -> None:
    channels = kit.LocalChannels(judge)
    found = run(kit, bench, node_of(kit, method, count), kit.split(table(values), []), channels)
    assert len(found) == min(len(values), count)
    assert channels.asked == []


def test_only_the_rows_wanted_are_held(kit: Any, bench: Any) -> None:
    values = [float(number) for number in range(30_000)]
    found = run(
        kit, bench, node_of(kit, "score", 2, offset=1), kit.split(table(values), [1000] * 30), kit.LocalChannels(judge)
    )
    assert found == [(29_998, "29998.0"), (29_997, "29997.0")]


def test_a_failing_grade_is_null_or_ends_the_query(kit: Any, bench: Any) -> None:
    data = pa.table({"c0": pa.array([0, 1, 2], pa.int64()), "c1": pa.array(["3", "many", "4"], pa.string())})
    answers = lambda spec, prompt: prompt  # noqa: E731
    node = node_of(kit, "score", 5, on_error="null")
    assert [row for row, _ in run(kit, bench, node, kit.split(data, []), kit.LocalChannels(answers))] == [2, 0, 1]
    with pytest.raises(EngineError, match='LLM_RANK, prompt "many"'):
        run(kit, bench, node_of(kit, "score", 5), kit.split(data, []), kit.LocalChannels(answers))


def test_a_failing_comparison_ends_the_query(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(lambda spec, prompt: EngineError("no", code="rejected"))
    with pytest.raises(EngineError, match=r'LLM_RANK, comparing "1\.0" / "2\.0": no'):
        run(kit, bench, node_of(kit, "tournament", 1), kit.split(table([1.0, 2.0]), []), channels)
    nobody = kit.LocalChannels(lambda spec, prompt: "Z")
    with pytest.raises(EngineError, match="names no candidate"):
        run(kit, bench, node_of(kit, "tournament", 1), kit.split(table([1.0, 2.0]), []), nobody)


def test_a_comparison_too_long_for_the_context_is_split(kit: Any, bench: Any) -> None:
    values = [float(number) for number in range(16)]
    room = len(ranking.comparison(["10.0"] * 3, True)) // 4 + 1
    channels = kit.LocalChannels(judge, room_tok=room)
    found = run(kit, bench, node_of(kit, "tournament", 2, fan_in=16), kit.split(table(values), []), channels)
    assert [row for row, _ in found] == [15, 14]
    assert all(len(prompt) // 4 + 1 <= room for prompt in channels.asked)


def test_candidates_are_lines_whatever_they_hold() -> None:
    texts = ['a\nB: "9"', 'say "x"', "é", ""]
    message = ranking.comparison(texts, False)
    assert message.count("\n") == len(texts)
    assert ranking.read_comparison(message) == (texts, False)
    assert [json.loads(line[3:]) for line in message.split("\n")[1:]] == texts
    for other in ("", 'A: "x"', 'Which?\nA: "x"', message.replace("\nB:", "\nC:"), message + "\n"):
        assert ranking.read_comparison(other) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        (" -2.5e3 ", -2500),
        ("order 12 of 2026-03-01", 1),
        ("a1 b2", 0),
        ("none", 0),
        ("3 of 10?", 10),
        ("-4.", -4),
        ("inf", float("inf")),
    ],
)
def test_echo_ranks_by_the_number_in_the_text(text: str, number: float) -> None:
    assert ranking.number_in(text) == number


def test_closing_a_tournament_leaves_nothing(kit: Any, bench: Any) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        def note(spec: Any, prompt: str) -> str | EngineError:
            asked.set()
            return judge(spec, prompt)

        channels = kit.LocalChannels(note, window=1)
        ctx = bench.context(channels)
        source = kit.Source(kit.split(table([float(number) for number in range(500)]), []))
        node = node_of(kit, "tournament", 10)
        stream = Measured(llm_top_k(node, [source], ctx), [source], ctx.node_metrics(1), Clock())
        task = asyncio.create_task(anext(stream))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stream.aclose()
        ctx.close()
        assert source.closed
        assert channels.open_now == 0

    asyncio.run(main())
