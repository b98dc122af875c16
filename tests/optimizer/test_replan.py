"""What is left of a running plan, as observed, and when another placement of it pays."""

from __future__ import annotations

from dataclasses import replace
from time import thread_time
from typing import Any

import pytest

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import LlmMapExec, PhysicalNode, calls_by
from halo_sql.ir.prompt import Hole, Prompt
from halo_sql.optimizer.context import EngineProfile, OptimizerContext, WorkerProfile
from halo_sql.optimizer.placement.replan import (
    LEAST_GAIN_S,
    Asked,
    Observed,
    Replanned,
    Seen,
    replanned,
    rest,
    warmed,
    whole,
    workers_now,
)

from .plans import T, U, call, context, limit, llm_filter, llm_map, plan_of, tool_apply
from .test_placed_plans import side_by_side

SLOW = EngineProfile(prefill_tok_per_s=1_000.0, decode_step_s=0.05, window_requests=16, calibrated="for a test")


def two_models(rows: float = 1000) -> OptimizerContext:
    """m on gpu0 and gpu1, n on gpu1 and gpu2."""
    m = tuple(WorkerProfile(number, f"gpu{number}") for number in (0, 1))
    n = tuple(WorkerProfile(number, f"gpu{number + 1}") for number in (0, 1))
    return context(rows=rows, engines={"m": SLOW, "n": SLOW}, workers={"m": m, "n": n})


def calling(nodes: tuple[PhysicalNode, ...], model: str) -> PhysicalNode:
    return next(node for node in nodes if any(call.model == model for call in calls_by(node.op)))


def planned(plan: Any, ctx: OptimizerContext) -> tuple[tuple[PhysicalNode, ...], list[str], list[int]]:
    nodes = plan_of(plan, ctx).dag.nodes
    return nodes, [getattr(n.op, "worker", "") for n in nodes], [getattr(n.op, "priority", 0) for n in nodes]


PARALLEL = side_by_side(llm_map(T, call(20, "x {3}", model="m")), llm_map(U, call(21, "y {6}", model="n")))


def test_nothing_seen_is_the_plan() -> None:
    nodes, _, _ = planned(PARALLEL, two_models())
    for node, total in zip(nodes, whole(nodes, Observed()), strict=True):
        assert total.rows == node.estimate.rows
        assert sum(calls.llm_calls for calls in total.calls.values()) == node.estimate.llm_calls
    left = rest(nodes, Observed(), two_models())
    assert not left.flying
    for (number, _), calls in left.calls.items():
        assert calls.llm_calls == nodes[number].estimate.llm_calls
        assert calls.cost.gpu_s == pytest.approx(nodes[number].estimate.cost.gpu_s)


def test_averages_stand_for_what_comes() -> None:
    nodes, _, _ = planned(llm_map(T, call(20, "x {3}", model="m")), two_models(100))
    node = calling(nodes, "m")
    asked = Asked(asked=40, sent=30, answered=20, prompt_tok=2_000, cached_tok=400, output_tok=6_000)
    observed = Observed({node.id: Seen(rows=20, read=40, calls={"m": asked})})
    [calls] = whole(nodes, observed)[node.id].calls.values()
    assert (calls.llm_calls, calls.output_tok / calls.llm_calls) == (100, 300)
    left = rest(nodes, observed, two_models())
    [open_calls] = left.calls.values()
    assert (open_calls.llm_calls, open_calls.output_tok) == (70, 70 * 300)
    assert 0 < left.flying[node.id, "m"] < open_calls.cost.gpu_s
    few = Observed({node.id: Seen(read=40, calls={"m": replace(asked, answered=2, output_tok=9_000)})})
    [calls] = whole(nodes, few)[node.id].calls.values()
    assert calls.output_tok / calls.llm_calls == pytest.approx(node.estimate.output_tok / node.estimate.llm_calls)


def test_rows_of_what_has_ended_are_known_and_handed_on() -> None:
    plan = llm_map(llm_filter(T, 20, "x {3}", model="m"), call(21, "y {3}", model="n"))
    nodes, _, _ = planned(plan, two_models(100))
    source, kept, asked = nodes[0], calling(nodes, "m"), calling(nodes, "n")
    observed = Observed({source.id: Seen(rows=1_000, ended=True)})
    found = whole(nodes, observed)
    assert found[source.id].rows == 1_000
    assert found[kept.id].calls["m"].llm_calls == pytest.approx(10 * kept.estimate.llm_calls)
    assert found[asked.id].calls["n"].llm_calls == pytest.approx(10 * asked.estimate.llm_calls)
    judged = Asked(asked=1_000, sent=200, answered=200, prompt_tok=2_000, output_tok=200)
    seen = {**observed.nodes, kept.id: Seen(rows=190, read=1_000, calls={"m": judged})}
    assert whole(nodes, Observed(seen))[kept.id].rows == pytest.approx(950)
    ended = {**seen, kept.id: Seen(rows=7, ended=True, read=1_000, calls={"m": judged})}
    assert whole(nodes, Observed(ended))[kept.id].rows == 7
    assert rest(nodes, Observed(ended), two_models()).calls[kept.id, "m"].llm_calls == 0


def test_below_a_limit_nothing_grows() -> None:
    nodes, _, _ = planned(limit(llm_filter(T, 20, "x {3}", model="m"), 10), two_models(100))
    node = calling(nodes, "m")
    observed = Observed({nodes[0].id: Seen(rows=5_000, ended=True), node.id: Seen(read=64)})
    assert whole(nodes, observed)[node.id].calls["m"].llm_calls == node.estimate.llm_calls


def test_tools_have_left_what_they_have_not_called() -> None:
    nodes, _, _ = planned(llm_map(tool_apply(T, 20, "{3}", "look"), call(21, "y {20}", model="m")), two_models(100))
    node = next(node for node in nodes if node.estimate.tool_calls)
    half = Observed({node.id: Seen(rows=50, tool_calls=50)})
    left = rest(nodes, half, two_models()).nodes[node.id].estimate
    assert left.cost.cpu_s == pytest.approx(node.estimate.cost.cpu_s / 2)


def answers(nodes: tuple[PhysicalNode, ...], model: str, output_tok: int) -> Observed:
    node = calling(nodes, model)
    asked = Asked(1_000, 32, 16, 16 * 20, 0, 16 * output_tok)
    return Observed({node.id: Seen(rows=16, read=1_000, calls={model: asked})})


def test_long_answers_move_calls_to_another_worker_too() -> None:
    ctx = two_models()
    nodes, workers, priorities = planned(PARALLEL, ctx)
    workers = ["m/0" if "m/" in names else "n/1" if "n/" in names else "" for names in workers]
    found = replanned(nodes, workers, priorities, answers(nodes, "n", 400), ctx)
    assert found is not None
    assert found.pays
    assert set(found.workers[calling(nodes, "n").id].split(",")) == {"n/0", "n/1"}
    assert found == replanned(nodes, workers, priorities, answers(nodes, "n", 400), ctx)
    again = replanned(nodes, found.workers, found.priorities, answers(nodes, "n", 400), ctx)
    assert again is not None
    assert not again.pays


@pytest.mark.parametrize(("memory", "moves"), [(100.0, False), (200.0, True)])
def test_models_that_take_turns_get_no_new_places(memory: float, moves: bool) -> None:
    """Rows that trickle in would make them change places again and again; where both fit, n spreads."""
    each = tuple(
        WorkerProfile(k, f"gpu{k}", memory_bytes=memory, resident_bytes=80.0, load_s=1.0, wake_s=1.0) for k in (0, 1)
    )
    ctx = context(rows=1000, engines={"m": SLOW, "n": SLOW}, workers={"m": each, "n": each})
    nodes, workers, priorities = planned(PARALLEL, ctx)
    workers = ["m/0" if "m/" in names else "n/1" if "n/" in names else "" for names in workers]
    found = replanned(nodes, workers, priorities, answers(nodes, "n", 2_000), ctx)
    assert found is not None
    assert found.pays == moves
    assert set(found.workers[calling(nodes, "n").id].split(",")) == ({"n/0", "n/1"} if moves else {"n/1"})
    lost = replanned(nodes, workers, priorities, Observed(lost=frozenset({("n", 1)})), ctx)
    assert lost is not None
    assert lost.workers[calling(nodes, "n").id] == "n/0", "it has no place any more"


def test_a_slow_device_is_left() -> None:
    ctx = two_models()
    nodes, workers, priorities = planned(PARALLEL, ctx)
    workers = ["m/1" if "m/" in names else "n/1" if "n/" in names else "" for names in workers]
    assert workers_now(ctx, ["m"], Observed(paces={"gpu1": 3.0})).workers["m"][1].pace == 3.0
    found = replanned(nodes, workers, priorities, Observed(paces={"gpu1": 3.0}), ctx)
    assert found is not None
    assert found.pays
    assert "m/0" in found.workers[calling(nodes, "m").id]


def test_a_lost_worker_is_not_placed_on() -> None:
    ctx = two_models()
    nodes, workers, priorities = planned(PARALLEL, ctx)
    lost = Observed(lost=frozenset({("m", 1)}))
    found = replanned(nodes, workers, priorities, lost, ctx)
    assert found is not None
    assert found.workers[calling(nodes, "m").id] == "m/0"
    both = Observed(lost=frozenset({("m", 0), ("m", 1)}))
    assert len(workers_now(ctx, ["m"], both).workers["m"]) == 2, "somebody has to fail"


def test_a_lost_worker_is_replaced_by_one_that_had_nothing_to_do() -> None:
    ctx = context(
        rows=1000,
        engines={"m": SLOW},
        workers={"m": tuple(WorkerProfile(number, f"gpu{number}") for number in range(3))},
    )
    nodes, _, priorities = planned(llm_map(T, call(20, "x {3}", model="m")), ctx)
    workers = ["m/0,m/1" if isinstance(node.op, LlmMapExec) else "" for node in nodes]
    found = replanned(nodes, workers, priorities, Observed(lost=frozenset({("m", 1)})), ctx)
    assert found is not None
    assert found.pays
    assert found.workers[calling(nodes, "m").id] == "m/0,m/2"


def test_what_was_sent_has_left_its_prefix() -> None:
    ctx = two_models(rows=40)
    system = "s" * 40_000
    asked = replace(call(20, "x {3}", model="m"), prompt=Prompt(("x ", Hole(ColumnId(3))), system))
    nodes, _, priorities = planned(llm_map(T, asked), ctx)
    workers = ["m/1" if isinstance(node.op, LlmMapExec) else "" for node in nodes]
    node = calling(nodes, "m")
    sent = Asked(40, 16, 16, 16 * 10_010, 15 * 10_000, 16 * 8)
    observed = Observed({node.id: Seen(rows=16, read=40, calls={"m": sent})})
    known = warmed(nodes, workers, observed, ctx)
    assert [len(one.prefixes) for one in known.workers["m"]] == [0, 1]
    found = replanned(nodes, workers, priorities, observed, ctx)
    assert found is not None
    assert found.workers[node.id] == "m/1", "elsewhere it had to be computed first"


def test_a_share_by_speed_is_not_taken_for_halves() -> None:
    """Both workers of three times different speed end sooner than the fast one alone."""
    ctx = two_models()
    nodes, _, priorities = planned(llm_map(T, call(20, "x {3}", model="m")), ctx)
    workers = ["m/0,m/1" if isinstance(node.op, LlmMapExec) else "" for node in nodes]
    found = replanned(nodes, workers, priorities, Observed(paces={"gpu1": 3.0}), ctx)
    assert found is not None
    assert not found.pays


def test_what_little_is_left_is_not_moved() -> None:
    assert not Replanned((), (), 2.0, 1.5).pays, "half a second"
    assert not Replanned((), (), 100.0, 95.0).pays, "5 %"
    assert Replanned((), (), 100.0, 89.0).pays
    assert LEAST_GAIN_S == 1.0


def test_all_sent_leaves_nothing_to_place() -> None:
    ctx = two_models()
    nodes, workers, priorities = planned(llm_map(T, call(20, "x {3}", model="m")), ctx)
    sent = Seen(rows=16, read=1_000, calls={"m": Asked(1_000, 1_000, 16, 320, 0, 320)})
    seen = {nodes[0].id: Seen(rows=1_000, ended=True), calling(nodes, "m").id: sent}
    assert replanned(nodes, workers, priorities, Observed(seen), ctx) is None


def test_a_look_at_a_large_plan_is_short() -> None:
    ctx = two_models()
    parts = [llm_map(T, call(20 + n, f"x{n} {{3}}", model="mn"[n % 2])) for n in range(40)]
    nodes, workers, priorities = planned(side_by_side(*parts), ctx)
    began = thread_time()
    assert replanned(nodes, workers, priorities, answers(nodes, "n", 400), ctx) is not None
    assert thread_time() - began < 2.5
