"""The cascade operator by itself: batches, samples, failures, closing. Its statistics: ``test_cascade_cut``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from halo_sql.errors import EngineError
from halo_sql.ir.cascade import classify_call, score_call
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import LlmFilterCascadeExec, PhysicalNode
from halo_sql.ir.prompt import Hole, LlmCall, Prompt
from halo_sql.ir.types import BOOLEAN
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.context import RunContext
from halo_sql.operators.llm_filter_cascade import llm_filter_cascade
from halo_sql.operators.measured import Clock, Measured

CALL = LlmCall(
    ColumnId(9),
    "filter",
    Prompt(("is it true? ", Hole(ColumnId(1)))),
    "large",
    returns=BOOLEAN,
    quality=0.9,
    proxy="small",
    label="LLM_FILTER(…)",
)


def answer(spec: Any, prompt: str) -> str | EngineError:
    """Every third number is true; the small model is a little less sure of each fifth."""
    number = int(prompt.rsplit(" ", 1)[1])
    if spec.model == "large":
        return "yes" if number % 3 == 0 else "no"
    return str((0.8 if number % 3 == 0 else 0.2) + (0.01 if number % 5 == 0 else 0.0))


def node(kit: Any, call: LlmCall = CALL) -> PhysicalNode:
    return PhysicalNode(1, LlmFilterCascadeExec(call, score_call(call)), (0,), (kit.column(0), kit.column(1)))


def table(numbers: Sequence[int | None]) -> Any:
    texts = [None if number is None else str(number) for number in numbers]
    return pa.table({"c0": pa.array(range(len(texts)), pa.int64()), "c1": pa.array(texts, pa.string())})


def run(
    kit: Any, bench: Any, plan: PhysicalNode, batches: Sequence[Any], channels: Any
) -> tuple[list[tuple[Any, ...]], NodeMetrics]:
    async def main() -> tuple[list[Any], NodeMetrics]:
        ctx: RunContext = bench.context(channels)
        source = kit.Source(batches)
        stream = Measured(llm_filter_cascade(plan, [source], ctx), [source], ctx.node_metrics(1), Clock())
        try:
            return await kit.drain(stream), ctx.node_metrics(1)
        finally:
            await stream.aclose()
            ctx.close()
            assert source.closed
            assert channels.open_now == 0

    found, metrics = asyncio.run(main())
    return kit.rows(found), metrics


@pytest.mark.parametrize("sizes", [[], [1] * 40, [0, 700, 0, 3]])
@pytest.mark.parametrize("window", [0, 7])
def test_any_split_and_order_of_answers_gives_the_same_rows(
    kit: Any, bench: Any, sizes: list[int], window: int
) -> None:
    numbers = [number if number % 50 else None for number in range(1500)]
    channels = kit.LocalChannels(answer, window=window, seed=len(sizes))
    found, metrics = run(kit, bench, node(kit), kit.split(table(numbers), sizes), channels)
    assert found == [(number, str(number)) for number in range(1500) if number % 3 == 0 and number % 50]
    assert metrics.details["sampled"] + metrics.details["asked"] < 800
    assert sum(metrics.details[key] for key in ("sampled", "asked", "accepted by proxy", "rejected by proxy")) == 1470
    assert metrics.rows_total == 1500
    assert [(spec.model, spec.answer.kind) for spec in channels.opened] == [("small", "score"), ("large", "choice")]


def test_equal_rows_are_asked_once_and_counted(kit: Any, bench: Any) -> None:
    channels = kit.LocalChannels(answer)
    found, metrics = run(kit, bench, node(kit), kit.split(table([n % 600 for n in range(1800)]), [500] * 3), channels)
    assert len(found) == 600
    assert metrics.llm_calls_coalesced == 1200
    assert channels.asked.count("is it true? 3") <= 2  # each model once


@pytest.mark.parametrize("numbers", [[], [None] * 600, list(range(100))])
def test_too_few_prompts_are_answered_by_the_model(kit: Any, bench: Any, numbers: list[int | None]) -> None:
    channels = kit.LocalChannels(answer)
    found, metrics = run(kit, bench, node(kit), kit.split(table(numbers), [50]), channels)
    assert [row for row, _ in found] == [number for number in numbers if number is not None and number % 3 == 0]
    assert {spec.model for spec in channels.opened} <= {"large"}
    assert metrics.details["sampled"] == 0


def test_where_the_proxy_fails_the_model_is_asked(kit: Any, bench: Any) -> None:
    def some(spec: Any, prompt: str) -> str | EngineError:
        number = int(prompt.rsplit(" ", 1)[1])
        if spec.model == "small" and number % 4 == 0:
            return EngineError("no", code="engine") if number % 8 else "perhaps"
        return answer(spec, prompt)

    found, metrics = run(kit, bench, node(kit), kit.split(table(range(2000)), []), kit.LocalChannels(some))
    assert [row for row, _ in found] == list(range(0, 2000, 3))
    assert metrics.details["asked"] + metrics.details["sampled"] >= 500
    assert metrics.details["accepted by proxy"] > 0
    assert metrics.errors == 500


@pytest.mark.parametrize("code", ["auth", "budget", "cancelled"])
@pytest.mark.parametrize("model", ["small", "large"])
def test_some_errors_end_the_query_whatever_on_error_says(kit: Any, bench: Any, code: str, model: str) -> None:
    from dataclasses import replace

    def ended(spec: Any, prompt: str) -> str | EngineError:
        return EngineError("stop", code=code) if spec.model == model else answer(spec, prompt)

    plan = node(kit, replace(CALL, on_error="null"))
    with pytest.raises(EngineError, match="stop"):
        run(kit, bench, plan, kit.split(table(range(1000)), []), kit.LocalChannels(ended, window=5))


@pytest.mark.parametrize("turns", [0, 5, 20, 60, 200])
def test_cancelling_anywhere_closes_channels_and_input(kit: Any, bench: Any, turns: int) -> None:
    async def main() -> None:
        channels = kit.LocalChannels(answer, window=4)
        ctx = bench.context(channels)
        source = kit.Source(kit.split(table(range(1000)), [100] * 9))
        stream = Measured(llm_filter_cascade(node(kit), [source], ctx), [source], ctx.node_metrics(1), Clock())
        task = asyncio.create_task(kit.drain(stream))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert channels.open_now == 0
        await stream.aclose()
        assert source.closed
        ctx.close()

    asyncio.run(main())


def test_a_classification_leaves_the_label_open_and_names_all(kit: Any, bench: Any) -> None:
    prompt = Prompt(("is ", Hole(ColumnId(1)), " a ", Hole(ColumnId(2)), "?"), "Be strict.")
    call = LlmCall(ColumnId(9), "filter", prompt, "m", returns=BOOLEAN, quality=0.9)
    plan = PhysicalNode(1, LlmFilterCascadeExec(call, classify_call(call, ColumnId(2)), ColumnId(2)), (0,), ())

    def choose(spec: Any, text: str) -> str:
        number = int(text.split()[1])
        if spec.answer.kind == "json":
            assert text == f"is {number} a [LABEL]?"
            return '["even"]' if number % 2 == 0 else '["odd"]'
        return "yes" if text.endswith(" even?") == (number % 2 == 0) else "no"

    pairs = [(str(number), label) for number in range(400) for label in ("even", "odd", "prime")]
    columns = {"c1": pa.array([number for number, _ in pairs]), "c2": pa.array([label for _, label in pairs])}
    plan = PhysicalNode(1, plan.op, (0,), (kit.column(1), kit.column(2)))
    channels = kit.LocalChannels(choose)
    found, _ = run(kit, bench, plan, kit.split(pa.table(columns), [500]), channels)
    wanted = [(n, label) for n, label in pairs if (label == "even") == (int(n) % 2 == 0)]
    right = len(set(found) & set(wanted))
    assert min(right / len(found), right / len(wanted)) >= 0.9
    assert sum("[LABEL]" in text for text in channels.asked) == 400
    assert channels.opened[0].system == (
        "Be strict.\n\nIn the user's question, [LABEL] stands for one of the labels below.\n"
        "Answer with a JSON array of every label for which the answer to the question is yes, and nothing else.\n"
        "Labels:\n- even\n- odd\n- prime"
    )
    assert channels.opened[0].learn != channels.opened[1].learn
