"""Failures of single rows: by turn under a LIMIT, marked and settled where conditions of the statement come later."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.duck import Duck
from halo_sql.errors import EngineError, Error
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import (
    Deferral,
    LimitExec,
    LlmFilterExec,
    LlmMapExec,
    PhysicalNode,
    SettleExec,
)
from halo_sql.ir.prompt import Hole, LlmCall, Prompt
from halo_sql.operators.build import build
from halo_sql.operators.context import RunContext
from halo_sql.operators.readahead import ReadAhead

from .plans import columns, row_wise, source


def call(output: int = 2, kind: str = "map", **options: Any) -> LlmCall:
    return LlmCall(ColumnId(output), kind, Prompt((Hole(ColumnId(1)),)), "echo", **options)


def failing(spec: Any, prompt: str) -> str | EngineError:
    """Prompts say what becomes of them: 'bad …' fails, 'lost …' ends the query, 'no …' is a no."""
    if prompt.startswith("bad"):
        return EngineError(f"no answer to {prompt}", code="rejected")
    if prompt.startswith("lost"):
        return EngineError("wrong key", code="auth", fatal=True)
    if spec.answer.kind == "choice" or spec.answer.choices:
        return "no" if prompt.startswith("no") else "yes"
    return prompt


def texts_source(kit: Any, texts: Sequence[str | None]) -> PhysicalNode:
    values = ", ".join(f"({row}, {'NULL' if text is None else repr(text)})" for row, text in enumerate(texts))
    return kit.query(0, f"SELECT * FROM (VALUES {values}) v(i, t) ORDER BY i", columns(kit))


def mapped(kit: Any, number: int, below: PhysicalNode, output: int = 2, **options: Any) -> PhysicalNode:
    added = [kit.column(output)] + ([options["failed"].column] if options.get("failed") else [])
    op = LlmMapExec((call(output),), **options)
    return PhysicalNode(number, op, (below.id,), (*below.columns, *added))


def filtered(kit: Any, number: int, below: PhysicalNode, output: int = 5, **options: Any) -> PhysicalNode:
    added = (options["failed"].column,) if options.get("failed") else ()
    op = LlmFilterExec(call(output, "filter"), **options)
    return PhysicalNode(number, op, (below.id,), (*below.columns, *added))


def settled(number: int, below: PhysicalNode, *deferrals: Deferral) -> PhysicalNode:
    gone = {deferral.column.id for deferral in deferrals}
    rest = tuple(column for column in below.columns if column.id not in gone)
    return PhysicalNode(number, SettleExec(deferrals), (below.id,), rest)


def pulled(kit: Any, bench: Any, dag: Any, channels: Any) -> tuple[list[Any], Error | None]:
    """The rows until the end or an error, and that error."""

    async def main() -> tuple[list[Any], Error | None]:
        ctx = bench.context(channels)
        stream, batches = build(dag, ctx), []
        try:
            async with aclosing(stream):  # type: ignore[type-var]
                async for batch in stream:
                    batches.append(batch)
        except Error as problem:
            return batches, problem
        finally:
            ctx.close()
            assert channels.open_now == 0
        return batches, None

    batches, problem = asyncio.run(main())
    return [
        row for batch in batches for row in zip(*(item.to_pylist() for item in batch.columns), strict=True)
    ], problem


TEXTS = st.lists(st.sampled_from(["a", "b", None, "bad 1", "bad 2"]), min_size=1, max_size=20)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(0, 4), st.integers(0, 99), st.integers(1, 12), st.booleans())
def test_by_turn_all_rows_before_the_first_failing_one_come_out(
    kit: Any, texts: list[str | None], window: int, seed: int, lookahead: int, distinct: bool
) -> None:
    duck = Duck.connect(":memory:", False, {})
    bench = type("Bench", (), {"context": lambda self, channels: RunContext(duck, channels)})()
    node = mapped(kit, 1, texts_source(kit, texts), by_turn=True, lookahead=lookahead, distinct=distinct)
    # a second operator reads ahead of what its consumer takes, and must not meet the failure before its rows
    above = mapped(kit, 2, node, 3, by_turn=True, lookahead=lookahead)
    dag, channels = kit.dag(texts_source(kit, texts), node, above), kit.LocalChannels(failing, window, seed)
    rows, problem = pulled(kit, bench, dag, channels)
    duck.close()
    first = next((row for row, text in enumerate(texts) if text is not None and text.startswith("bad")), len(texts))
    assert rows == [(row, text, text, text) for row, text in enumerate(texts[:first])]
    assert (problem is None) == (first == len(texts))
    if problem is not None:
        assert f'prompt "{texts[first]}"' in str(problem)


@pytest.mark.parametrize("window", [0, 1, 3])
def test_under_a_limit_a_row_that_is_not_wanted_does_not_fail_it(kit: Any, bench: Any, window: int) -> None:
    below = texts_source(kit, ["a", "b", "bad", "c"])
    node = mapped(kit, 1, below, by_turn=True)
    for count, good in ((2, True), (3, False)):
        top = PhysicalNode(2, LimitExec(count), (1,), node.columns)
        rows, problem = pulled(kit, bench, kit.dag(below, node, top), kit.LocalChannels(failing, window))
        assert [row[0] for row in rows] == [0, 1]
        assert (problem is None) == good


def test_a_sql_step_hands_on_the_rows_before_a_failure(kit: Any, bench: Any) -> None:
    below = texts_source(kit, ["a", "b", "c", "d", "bad", "e"])
    node = mapped(kit, 1, below, by_turn=True)
    step = row_wise(2, node, kit, "upper({})")
    rows, problem = pulled(kit, bench, kit.dag(below, node, step), kit.LocalChannels(failing))
    assert rows == [(0, "A"), (3, "D")]
    assert problem is not None


def test_no_call_is_made_for_rows_behind_a_known_failure(kit: Any, bench: Any) -> None:
    below = texts_source(kit, ["bad", *["x"] * 50])
    channels = kit.LocalChannels(failing)
    _, problem = pulled(kit, bench, kit.dag(below, mapped(kit, 1, below, by_turn=True, lookahead=4)), channels)
    assert problem is not None
    assert len(channels.asked) == 4


def test_what_meets_every_row_is_raised_at_once(kit: Any, bench: Any) -> None:
    below = texts_source(kit, ["a", "bad", "lost"])
    deferral = Deferral(kit.column(9, kit.BIGINT))
    for node in (mapped(kit, 1, below, by_turn=True), mapped(kit, 1, below, failed=deferral)):
        rows, problem = pulled(kit, bench, kit.dag(below, node), kit.LocalChannels(failing))
        assert rows == []
        assert isinstance(problem, EngineError)
        assert problem.code == "auth"
        assert problem.fatal


def test_marked_rows_pass_filters_that_they_need_not_wait_for(kit: Any, bench: Any) -> None:
    below = texts_source(kit, ["a", "no", "bad", "no bad", None])
    deferral = Deferral(kit.column(9, kit.BIGINT))
    first = mapped(kit, 1, below, failed=deferral)
    passing = filtered(kit, 2, first, passing=(ColumnId(9),), failed=Deferral(kit.column(8, kit.BIGINT)))
    rows, problem = pulled(kit, bench, kit.dag(below, first, passing), kit.LocalChannels(failing))
    assert problem is None
    assert [(row[0], row[2]) for row in rows] == [(0, "a"), (2, None)]
    assert [row[3] for row in rows] == [None, 0]  # the map's failure
    assert [row[4] for row in rows] == [None, 1]  # the filter's, asked the same
    late = filtered(kit, 2, first)
    rows, problem = pulled(kit, bench, kit.dag(below, first, late), kit.LocalChannels(failing))
    assert problem is not None  # this one waits for nothing: its own failure ends the query


def test_settle_raises_the_failure_of_the_first_row_left(kit: Any, bench: Any) -> None:
    below = texts_source(kit, ["a", "b", "bad 1", "bad 2"])
    deferral = Deferral(kit.column(9, kit.BIGINT))
    first = mapped(kit, 1, below, failed=deferral)
    rows, problem = pulled(kit, bench, kit.dag(below, first, settled(2, first, deferral)), kit.LocalChannels(failing))
    assert rows == [(0, "a", "a"), (1, "b", "b")]
    assert 'LLM_MAP, prompt "bad 1": no answer to bad 1' in str(problem)


def test_settle_passes_what_did_not_fail(kit: Any, bench: Any) -> None:
    below = source(kit, 0, 5000)
    deferral = Deferral(kit.column(9, kit.BIGINT))
    first = mapped(kit, 1, below, failed=deferral)
    rows, problem = pulled(kit, bench, kit.dag(below, first, settled(2, first, deferral)), kit.LocalChannels(failing))
    assert problem is None
    assert [row[0] for row in rows] == list(range(5000))


class Dead:
    """Channels to a model that cannot start."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.open_now = 0

    async def open(self, *_: Any) -> Any:
        raise EngineError("vllm is not installed", code=self.code)


def test_a_model_that_cannot_start_fails_the_rows_that_ask_it(kit: Any, bench: Any) -> None:
    below = texts_source(kit, [None, None, "a", None])
    rows, problem = pulled(kit, bench, kit.dag(below, mapped(kit, 1, below, by_turn=True)), Dead("unavailable"))
    assert [row[0] for row in rows] == [0, 1]
    assert str(problem) == "Engine Error: vllm is not installed"
    deferral = Deferral(kit.column(9, kit.BIGINT))
    rows, problem = pulled(kit, bench, kit.dag(below, mapped(kit, 1, below, failed=deferral)), Dead("unavailable"))
    assert problem is None
    assert [row[3] for row in rows] == [None, None, 0, None]
    rows, problem = pulled(kit, bench, kit.dag(below, mapped(kit, 1, below, failed=deferral)), Dead("auth"))
    assert (rows, getattr(problem, "code", "")) == ([], "auth")


def test_batches_before_an_error_are_taken_first(kit: Any) -> None:
    class Broken(kit.Source):  # type: ignore[misc]
        async def __anext__(self) -> Any:
            if not self.batches:
                raise ValueError("disk")
            return self.batches.pop(0)

    async def main() -> None:
        reader = ReadAhead(Broken(kit.split(pa.table({"c0": range(6)}), [2, 2, 2])))
        reader.start()
        taken = await reader.take_some(100)
        assert sum(batch.num_rows for batch in taken) == 6
        with pytest.raises(ValueError, match="disk"):
            await reader.take_some(100)

    asyncio.run(main())
