"""LLM_REDUCE: what is asked of which group, folds by fan_in and by context, errors, closing."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.duck import Duck
from halo_sql.errors import EngineError
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import LlmReduceExec, PhysicalNode
from halo_sql.ir.prompt import Hole, ItemsHole, LlmCall, Prompt
from halo_sql.ir.types import SqlType
from halo_sql.operators.context import RunContext
from halo_sql.operators.items import Items
from halo_sql.operators.llm_reduce import llm_reduce
from halo_sql.operators.measured import Clock, Measured

LISTS = pa.list_(pa.field("l", pa.string()))
INTEGER = SqlType("INTEGER", "integer")


def call(output: int = 9, *head: Any, separator: str = "\n", **options: Any) -> LlmCall:
    return LlmCall(ColumnId(output), "reduce", Prompt((*head, ItemsHole(ColumnId(1), separator))), "echo", **options)


def table(groups: Sequence[list[str] | None], heads: Sequence[str | None] = ()) -> Any:
    more = {"c2": pa.array(heads, pa.string())} if heads else {}
    return pa.table({"c0": pa.array(range(len(groups)), pa.int64()), "c1": pa.array(groups, LISTS)} | more)


def node_of(kit: Any, calls: Sequence[LlmCall], **options: Any) -> PhysicalNode:
    columns = [kit.column(0), *(kit.column(one.output) for one in calls)]
    return PhysicalNode(1, LlmReduceExec(tuple(calls), **options), (0,), tuple(columns))


def run(kit: Any, bench: Any, node: PhysicalNode, batches: Sequence[Any], channels: Any) -> list[tuple[Any, ...]]:
    async def main() -> list[Any]:
        ctx = bench.context(channels)
        source = kit.Source(batches)
        stream = Measured(llm_reduce(node, [source], ctx), [source], ctx.node_metrics(1), Clock())
        try:
            return await kit.drain(stream)
        finally:
            await stream.aclose()
            ctx.close()
            assert source.closed
            assert channels.open_now == 0

    return kit.rows(asyncio.run(main()))


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
group_lists = st.lists(st.one_of(st.none(), st.lists(words, max_size=14)), max_size=12)


@settings(deadline=None, max_examples=150)
@given(
    group_lists,
    st.lists(st.integers(0, 5), max_size=6),
    st.integers(0, 4),
    st.integers(0, 99),
    st.integers(1, 20),
    st.sampled_from([0, 2, 3, 7]),
    st.sampled_from([0, 8, 12, 40]),
)
def test_any_split_window_fan_in_and_context_gives_the_same_text(
    kit: Any,
    groups: list[list[str] | None],
    parts: list[int],
    window: int,
    seed: int,
    lookahead: int,
    fan_in: int,
    room_tok: int,
) -> None:
    # joining is associative: with an empty instruction every fold of an echo gives the text of one request
    channels = kit.LocalChannels(window=window, seed=seed, room_tok=room_tok)
    node = node_of(kit, [call(fan_in=fan_in, on_error="null")], lookahead=lookahead)
    duck = Duck.connect(":memory:", False, {})
    own = SimpleNamespace(context=lambda channels: RunContext(duck, channels))
    found = run(kit, own, node, kit.split(table(groups), parts), channels)
    duck.close()
    for (row, text), items in zip(found, groups, strict=True):
        whole = "\n".join(items) if items else None
        assert text == whole or (text is None and room_tok and len((whole or "").encode()) > 3), (row, text)
    if room_tok:
        assert all(len(prompt) // 4 + 1 <= room_tok for prompt in channels.asked)
    assert len(channels.asked) <= 2 * sum(len(items or ()) for items in groups) + len(groups)


def test_the_message_is_the_instruction_and_the_items(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels()
    one = call(9, "Sum up ", Hole(ColumnId(2)), ":\n\n", separator=" | ")
    data = table([["a", "b"], ["c"], None, [], ["d"]], ["x", "y", "z", "u", None])
    assert run(kit, bench, node_of(kit, [one]), kit.split(data, [2]), channels) == [
        (0, "Sum up x:\n\na | b"), (1, "Sum up y:\n\nc"), (2, None), (3, None), (4, None),
    ]  # fmt: skip
    assert len(channels.asked) == 2


def test_a_fold_asks_the_parts_then_their_answers(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(lambda spec, prompt: "<" + prompt.split(":")[1].replace(",", "") + ">")
    one = call(9, "S:", separator=",", fan_in=3)
    found = run(kit, bench, node_of(kit, [one]), kit.split(table([list("abcdefg")]), []), channels)
    # three parts, the last of one item; then the three answers together
    assert channels.asked == ["S:a,b,c", "S:d,e,f", "S:g", "S:<abc>,<def>,<g>"]
    assert found == [(0, "<<abc><def><g>>")]


def test_an_answer_that_stands_alone_goes_up_unasked(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(lambda spec, prompt: f"({prompt})")
    data = kit.split(table([list("abcde")]), [])
    assert run(kit, bench, node_of(kit, [call(separator="", fan_in=2)]), data, channels) == [(0, "(((ab)(cd))(e))")]
    assert channels.asked == ["ab", "cd", "e", "(ab)(cd)", "((ab)(cd))(e)"]


def test_groups_do_not_wait_for_each_other(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(window=100)
    groups = [[str(item) for item in range(10)] for _ in range(20)]
    data = kit.split(table(groups, list("abcdefghijklmnopqrst")), [])
    run(kit, bench, node_of(kit, [call(9, Hole(ColumnId(2)), fan_in=5)]), data, channels)
    assert len(channels.asked) == 60
    first_level = {f"{name}{start}" for name in "abcdefghijklmnopqrst" for start in (0, 5)}
    assert {prompt[:2] for prompt in channels.asked[:40]} == first_level


def test_an_item_longer_than_the_context_is_an_error_of_its_group(kit: Any, bench: Any) -> None:
    data = table([["a", "b"], ["a", "x" * 400], ["c"]])
    channels = kit.LocalChannels(room_tok=20)
    node = node_of(kit, [call(on_error="struct")])
    rows = run(kit, bench, node, kit.split(data, []), channels)
    assert [row[1]["value"] for row in rows] == ["a\nb", None, "c"]
    assert rows[1][1]["error"].startswith("item 2 of the group and the instruction do not fit the model's context")
    with pytest.raises(EngineError, match="do not fit") as caught:
        run(kit, bench, node_of(kit, [call()]), kit.split(data, []), kit.LocalChannels(room_tok=20))
    assert caught.value.code == "context"
    assert "left" in caught.value.remedy


def test_partial_answers_that_do_not_fit_together_are_an_error(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(lambda spec, prompt: "y" * 60, room_tok=20)
    with pytest.raises(EngineError, match="two partial answers do not fit"):
        run(kit, bench, node_of(kit, [call(fan_in=2)]), kit.split(table([list("abcd")]), []), channels)


def test_a_failing_part_fails_its_group_only(kit: Any, bench: Any) -> None:
    def answer(spec: Any, prompt: str) -> str | EngineError:
        return EngineError("no c", code="rejected") if "c" in prompt else prompt

    data = table([list("ab"), list("abcd"), list("xy")])
    node = node_of(kit, [call(fan_in=2, on_error="null")])
    for window in (0, 1, 3):
        channels = kit.LocalChannels(answer, window=window)
        assert [row[1] for row in run(kit, bench, node, kit.split(data, [1]), channels)] == ["a\nb", None, "x\ny"]
    with pytest.raises(EngineError, match='LLM_REDUCE, prompt "": no c'):
        run(kit, bench, node_of(kit, [call(fan_in=2)]), kit.split(data, []), kit.LocalChannels(answer))


def test_answers_are_converted_at_every_level(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(lambda spec, prompt: str(sum(map(int, prompt.split("+")))))
    one = call(separator="+", fan_in=2, returns=INTEGER)
    found = run(kit, bench, node_of(kit, [one]), kit.split(table([list("12345")]), []), channels)
    assert found == [(0, 15)]
    wrong = kit.LocalChannels(lambda spec, prompt: "many")
    with pytest.raises(EngineError, match="does not fit INTEGER"):
        run(kit, bench, node_of(kit, [one]), kit.split(table([list("12345")]), []), wrong)


def test_several_calls_side_by_side(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(window=2)
    node = node_of(kit, [call(8, "x "), call(9, "y ", fan_in=2)])
    assert run(kit, bench, node, kit.split(table([["a"], None, ["b", "c", "d"]]), [1]), channels) == [
        (0, "x a", "y a"), (1, None, None), (2, "x b\nc\nd", "y y b\nc\ny d"),
    ]  # fmt: skip


@pytest.mark.parametrize("batches", [[], [0], [0, 0]])
def test_empty_inputs_need_no_model(kit: Any, bench: Any, batches: list[int]) -> None:
    channels = kit.LocalChannels()
    data = kit.split(table([]), batches)[: len(batches)]
    assert run(kit, bench, node_of(kit, [call()]), data, channels) == []
    assert run(kit, bench, node_of(kit, [call()]), kit.split(table([None, []]), []), channels) == [(0, None), (1, None)]
    assert channels.opened == []


def test_closing_midway_leaves_nothing(kit: Any, bench: Any) -> None:
    async def main() -> None:
        channels = kit.LocalChannels(window=1)
        ctx = bench.context(channels)
        source = kit.Source(kit.split(table([list("abcdef")] * 50), [5] * 10))
        node = node_of(kit, [call(fan_in=2)], lookahead=4)
        stream = Measured(llm_reduce(node, [source], ctx), [source], ctx.node_metrics(1), Clock())
        assert (await anext(stream)).num_rows >= 1
        await stream.aclose()
        ctx.close()
        assert source.closed
        assert source.read <= 20
        assert channels.open_now == 0

    asyncio.run(main())


def test_a_million_items_are_not_a_million_objects(kit: Any, bench: Any) -> None:
    items = pa.array([f"item {number}" for number in range(1_000_000)], pa.string())
    batch = pa.RecordBatch.from_arrays(
        [pa.array([0], pa.int64()), pa.ListArray.from_arrays(pa.array([0, len(items)], pa.int32()), items)],
        names=["c0", "c1"],
    )
    tracemalloc.start()
    channels = kit.LocalChannels(lambda spec, prompt: str(prompt.count("item")), room_tok=1_000_000)
    found = run(kit, bench, node_of(kit, [call()]), [batch], channels)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(prompt.count("item") for prompt in channels.asked) == 1_000_000
    assert 4 <= len(channels.asked) <= 8
    assert found[0][0] == 0
    assert peak_bytes < 8 * sum(map(len, channels.asked))


@given(st.lists(words, min_size=1, max_size=20), st.text(max_size=3).filter(lambda text: text.isprintable()), st.data())
def test_items_are_joined_and_measured_like_texts(texts: list[str], separator: str, data: Any) -> None:
    padded = pa.array(["before", *texts, "behind"], pa.string()).slice(1, len(texts))
    items = Items(padded)
    first = data.draw(st.integers(0, len(texts) - 1))
    end = data.draw(st.integers(first + 1, len(texts)))
    whole = separator.join(texts[first:end])
    assert items.join(first, end, separator) == whole
    assert items.size_bytes(first, end, separator) == len(whole.encode())
    last = items.last_within(first, len(whole.encode()), separator)
    assert last >= end
    assert len(separator.join(texts[first:last]).encode()) <= len(whole.encode())
