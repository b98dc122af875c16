"""What requests cost on an engine: the curve of the batch, the KV cache, preemption, tokenizers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from statistics import mean

import pytest

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import LlmFilterExec
from halo_sql.ir.prompt import Prompt
from halo_sql.operators.tournament import first_of
from halo_sql.optimizer.cardinality import Known, Profile
from halo_sql.optimizer.context import EngineProfile, OptimizerContext
from halo_sql.optimizer.cost import llm_estimate
from halo_sql.optimizer.engine_cost import Load, batch_of, engine_cost, overlapped_s, preempted_tok
from halo_sql.optimizer.residency import load_seconds, memory_notes
from halo_sql.optimizer.rules.implement.top_k import contests

from .plans import T, call, context, llm_filter, llm_map, plan_of

ENGINE = EngineProfile(
    prefill_tok_per_s=100.0, decode_step_s=0.5, decode_seq_s=0.1, request_s=0.25, window_requests=64, batch_requests=8
)


def test_seconds_are_prompts_steps_sequences_and_requests() -> None:
    cost = engine_cost(Load(16, 50, 600, 10), ENGINE)
    assert cost.prefill_s == pytest.approx(600 / 100)
    assert cost.decode_s == pytest.approx(160 / 8 * 0.5 + 160 * 0.1)  # 20 steps of 8 sequences
    assert cost.gpu_s == pytest.approx(6 + 10 + 16 + 16 * 0.25)
    assert cost.tokens == 600 + 160


def test_what_a_sequence_has_in_the_cache_is_read_in_each_step() -> None:
    reading = EngineProfile(kv_read_s=1e-3)
    short, long = (engine_cost(Load(4, prompt, 0, 10), reading) for prompt in (100, 1100))
    assert long.decode_s - short.decode_s == pytest.approx(40 * 1000 * 1e-3)


def test_a_batch_is_what_there_is_what_the_engine_takes_and_what_fits() -> None:
    assert batch_of(Load(3, 10, 30, 5), ENGINE) == 3
    assert batch_of(Load(100, 10, 1000, 5), ENGINE) == 8
    assert batch_of(Load(100, 10, 1000, 5, at_once=2), ENGINE) == 2
    small = EngineProfile(kv_capacity_tok=1_000)
    assert batch_of(Load(100, 80, 8000, 20), small) == 10
    assert batch_of(Load(100, 80, 8000, 20, shared_tok=60), small) == pytest.approx(940 / 40)
    assert batch_of(Load(100, 5000, 500_000, 20), small) == 1


def test_a_batch_that_outgrows_the_cache_is_computed_again_in_part() -> None:
    load = Load(100, 80, 8_000, 20)
    fits = EngineProfile(kv_capacity_tok=1_000)
    assert preempted_tok(load, batch_of(load, fits), fits) == 0.0
    tight = EngineProfile(kv_capacity_tok=1_000, window_tok=2_000)
    assert batch_of(load, tight) == 20
    again = preempted_tok(load, 20, tight)
    assert again == pytest.approx(100 / 20 * 10 * 90)  # 10 of each 20 lose 80 tokens and half of 20
    assert engine_cost(load, tight).tokens == pytest.approx(8_000 + 2_000 + again)
    assert engine_cost(load, tight).prefill_s > engine_cost(load, fits).prefill_s


def test_tokens_are_those_of_the_calibrated_tokenizer_and_template() -> None:
    profile = Profile(10.0, {ColumnId(3): Known(10.0, 400.0)})
    asked = call(20, "{3}")
    plain = llm_estimate([asked], profile, 10, False, OptimizerContext())
    engine = EngineProfile(chars_per_tok=5.0, bare_tok=30.0, system_tok=14.0)
    exact = llm_estimate([asked], profile, 10, False, OptimizerContext(engines={"m": engine}))
    assert plain.prompt_tok == pytest.approx(10 * 101)
    assert exact.prompt_tok == pytest.approx(10 * (101 * 4 / 5 + 30))
    told = asked.__class__(ColumnId(20), "map", Prompt(asked.prompt.user, "s" * 50), "m")
    framed = llm_estimate([told], profile, 10, False, OptimizerContext(engines={"m": engine}))
    assert framed.prompt_tok == pytest.approx(10 * ((101 + 12.5) * 4 / 5 + 14))


def test_who_filters_first_depends_on_the_measured_engine() -> None:
    # a long question with a short answer against a short one: reading is dear on one engine, steps on the other
    plan = llm_filter(llm_filter(T, 21, "w" * 2000 + " {3}", model="reads"), 22, "b {4}", model="writes")
    engines = {
        "reads": EngineProfile(prefill_tok_per_s=1e6, decode_step_s=1e-4),
        "writes": EngineProfile(prefill_tok_per_s=1e6, decode_step_s=0.1, decode_seq_s=0.01),
    }
    turned = {"reads": EngineProfile(prefill_tok_per_s=50.0), "writes": engines["reads"]}
    dags = [plan_of(plan, context(engines=speeds)).dag for speeds in (engines, turned)]
    first = [next(node.op.call.model for node in dag.nodes if isinstance(node.op, LlmFilterExec)) for dag in dags]
    assert first == ["reads", "writes"]


# --- memory ---


def big(gigabytes: float, **rest: object) -> EngineProfile:
    return EngineProfile(device="cuda", resident_bytes=gigabytes * 1e9, memory_bytes=80e9, **rest)  # type: ignore[arg-type]


def test_models_that_do_not_fit_the_device_are_told() -> None:
    plan = llm_map(llm_map(T, call(20, "x {3}", model="a")), call(21, "y {20}", model="b"))
    assert plan_of(plan, context(engines={"a": big(30), "b": big(40)})).dag.notes == ()
    done = plan_of(plan, context(engines={"a": big(30), "b": big(60)}))
    assert done.dag.notes == ("a, b: weights and KV cache of 90.0 GB exceed the 80.0 GB of cuda",)
    beside = context(engines={"a": big(30), "b": big(40)}, occupied_bytes={"cuda": 20e9})
    assert memory_notes(["a", "b"], beside) == [
        "a, b: weights and KV cache of 70.0 GB beside 20.0 GB of other models exceed the 80.0 GB of cuda"
    ]
    assert memory_notes(["a", "b"], context(engines={"a": EngineProfile(resident_bytes=1e15)})) == []


def test_load_seconds_are_those_of_models_that_have_not_started() -> None:
    options = context(engines={"a": EngineProfile(load_s=20.0), "b": EngineProfile()})
    assert load_seconds(["a", "b", "c"], options) == 20.0
    assert set(plan_of(llm_map(T, call(20, "x {3}", model="a")), options).engines) == {"a"}


def test_calls_side_by_side_share_decoding_steps() -> None:
    alone = Load(4, 10, 40, 8), Load(4, 10, 40, 12)
    each_s = [engine_cost(load, ENGINE).decode_s for load in alone]
    assert overlapped_s(alone[:1], ENGINE) == 0.0
    assert overlapped_s(alone, ENGINE) == pytest.approx(8 * ENGINE.decode_step_s), "12 steps instead of 8 and 12"
    assert sum(each_s) - overlapped_s(alone, ENGINE) > max(each_s), "each sequence still has its part of a step"
    full = Load(80, 10, 800, 8), Load(80, 10, 800, 12)  # batches of 8: every step is full already
    assert overlapped_s(full, ENGINE) == 0.0
    assert overlapped_s((Load(0, 10, 0, 8), Load(0, 10, 0, 8)), ENGINE) == 0.0


@pytest.mark.parametrize("fan_in", [2, 3, 4, 7])
@pytest.mark.parametrize("count", [1, 2, 8, 12, 40, 64])
def test_contests_are_those_that_a_tournament_holds(count: int, fan_in: int) -> None:
    for wanted in (1, 2, 3, count // 3 + 1):
        wanted = min(wanted, count)
        levels, later = contests(count, fan_in, wanted)
        held = [Counting(random.Random(seed), count) for seed in range(20)]
        for one in held:
            assert asyncio.run(first_of(range(count), wanted, fan_in, one)) == one.order[:wanted]  # type: ignore[arg-type]
        calls, shown = (sum(part) for part in zip(*levels, strict=True)) if levels else (0.0, 0.0)
        if wanted == 1:
            assert {(one.calls, one.shown) for one in held} == {(calls, shown)}
        assert calls + later[0] == pytest.approx(mean(one.calls for one in held), rel=0.1, abs=0.75)
        assert shown + later[1] == pytest.approx(mean(one.shown for one in held), rel=0.1, abs=2.0)


class Counting:
    """A judge of ranks at random; counts the comparisons of several candidates."""

    def __init__(self, dice: random.Random, count: int) -> None:
        self.calls = self.shown = 0
        self.order = dice.sample(range(count), count)

    async def winners(self, asked: Sequence[Sequence[int | None]]) -> list[int | None]:
        found: list[int | None] = []
        for contest in asked:
            left = [row for row in contest if row is not None]
            if len(left) > 1:
                self.calls, self.shown = self.calls + 1, self.shown + len(left)
            found.append(min(left, key=self.order.index) if left else None)
        return found
