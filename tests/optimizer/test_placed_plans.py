"""Plans on several workers: workers and priorities in the DAG, what EXPLAIN says, and what calls are sent with."""

from __future__ import annotations

from typing import Any

from halo_sql.explain import render_text
from halo_sql.ir.logical import Fragment, InputRef
from halo_sql.ir.physical import LlmFilterExec, LlmMapExec, LlmTopKExec, PhysicalNode, calls_by
from halo_sql.ir.walk import output_columns
from halo_sql.operators.priorities import PRIORITY_STEP, scheduled
from halo_sql.optimizer.context import EngineProfile, OptimizerContext, WorkerProfile
from halo_sql.optimizer.placement.check import violations
from halo_sql.optimizer.placement.plan import STEP, has_choice, place

from .plans import T, U, call, col, context, llm_map, plan_of, well_formed

SLOW = EngineProfile(prefill_tok_per_s=1_000.0, decode_step_s=0.05, window_requests=16, calibrated="for a test")


def pool(*numbers: int, **rest: Any) -> tuple[WorkerProfile, ...]:
    return tuple(WorkerProfile(number, f"gpu{number}", **rest) for number in numbers)


def two_workers(**rest: Any) -> OptimizerContext:
    return context(rows=1000, engines={"m": SLOW, "n": SLOW}, workers={"m": pool(0, 1), **rest})


def side_by_side(*plans: Any) -> Fragment:
    """A query over these plans: no order is given."""
    parts: list[str | InputRef] = []
    for index, plan in enumerate(plans):
        parts += [" UNION ALL FROM " if parts else "FROM ", InputRef(index, (("x", output_columns(plan)[-1].id),))]
    return Fragment(tuple(parts), (col(900),), plans)


def asking(dag: Any) -> list[Any]:
    return [node.op for node in dag.nodes if isinstance(node.op, LlmMapExec)]


def test_one_node_is_split_over_all_workers() -> None:
    dag = plan_of(llm_map(T, call(20, "x {3}", model="m")), two_workers()).dag
    well_formed(dag)
    assert [(op.worker, op.priority) for op in asking(dag)] == [("m/0,m/1", STEP)]


def test_nodes_side_by_side_get_a_worker_each_or_all_share() -> None:
    plan = side_by_side(llm_map(T, call(20, "x {3}", model="m")), llm_map(U, call(21, "y {6}", model="m")))
    done = plan_of(plan, two_workers())
    assert {op.priority for op in asking(done.dag)} == {STEP, 2 * STEP}
    used = {name for op in asking(done.dag) for name in op.worker.split(",")}
    assert used == {"m/0", "m/1"}
    assert done.dag == plan_of(plan, two_workers()).dag


def test_explain_shows_workers_priorities_and_loads() -> None:
    cold = pool(0, 1, resident=False, load_s=7.0, memory_bytes=50e9, resident_bytes=30e9)
    ctx = context(rows=1000, engines={"m": SLOW}, workers={"m": cold})
    text = render_text(plan_of(llm_map(T, call(20, "x {3}", model="m")), ctx).dag)
    assert "worker=m/0,m/1" in text
    assert f"priority={STEP}" in text
    assert "Note: placed on 2 devices: ~" in text
    assert "Note: gpu0 loads m at ~0.0 s, ~7.0 s" in text
    assert "Note: gpu1 loads m at ~0.0 s, ~7.0 s" in text


def test_a_load_that_does_not_pay_is_not_planned() -> None:
    far = (*pool(0), WorkerProfile(1, "gpu1", resident=False, load_s=10_000.0))
    ctx = context(rows=1000, engines={"m": SLOW}, workers={"m": far})
    dag = plan_of(llm_map(T, call(20, "x {3}", model="m")), ctx).dag
    assert [op.worker for op in asking(dag)] == ["m/0"]
    assert not [note for note in dag.notes if "loads" in note]


def test_one_worker_per_model_is_planned_as_ever() -> None:
    plan = llm_map(llm_map(T, call(20, "x {3}", model="m")), call(21, "y {20}", model="n"))
    plain = plan_of(plan, context(rows=1000, engines={"m": SLOW, "n": SLOW})).dag
    said = plan_of(plan, context(rows=1000, engines={"m": SLOW, "n": SLOW}, workers={"m": pool(0)})).dag
    assert plain == said
    assert [(op.worker, op.priority) for op in asking(plain)] == [("m/0", 0), ("n/0", 0)]


def test_workers_of_unknown_speed_are_all_used() -> None:
    ctx = context(rows=1000, engines={"m": EngineProfile(workers=3)})
    dag = plan_of(llm_map(T, call(20, "x {3}", model="m")), ctx).dag
    assert [(op.worker, op.priority) for op in asking(dag)] == [("m/0,m/1,m/2", 0)]
    assert not has_choice(dag.nodes, ctx)


def test_consumers_on_another_model_overlap_with_their_producers() -> None:
    plan = llm_map(llm_map(T, call(20, "x {3}", model="m")), call(21, "y {20}", model="n"))
    ctx = two_workers(n=(WorkerProfile(0, "gpu2"),))
    dag = plan_of(plan, ctx).dag
    placed = place(dag.nodes, ctx)
    assert violations(placed.problem, placed.schedule) == []
    first, second = (number for number, node in enumerate(dag.nodes) if isinstance(node.op, LlmMapExec))
    assert placed.starts_s[first] < placed.starts_s[second]
    ends = {run.node: run.end_s for run in placed.schedule.runs}
    assert placed.starts_s[second] < max(ends[part] for part in placed.parts[first])


def test_a_long_shared_input_keeps_its_readers_on_one_worker() -> None:
    nodes = side_by_side(llm_map(T, call(20, "{3} x", model="m")), llm_map(T, call(21, "{3} y", model="m")))
    ctx = context(rows=50, chars={3: 40_000.0}, engines={"m": SLOW}, workers={"m": pool(0, 1)})
    dag = plan_of(nodes, ctx).dag
    problem = place(dag.nodes, ctx).problem
    prefixes = [node.prefix for node in problem.nodes if node.model]
    assert len(prefixes) == 2
    assert prefixes[0] == prefixes[1] != ""


def test_calls_are_sent_with_the_user_s_priority_first() -> None:
    own, other = call(20, "x {3}", model="m"), call(21, "y {3}", model="m", priority=-1)
    for op in (
        LlmMapExec((own, other), priority=6),
        LlmFilterExec(own, priority=6),
        LlmTopKExec(own, "score", True, priority=6),
    ):
        node = scheduled(PhysicalNode(0, op, (), ()))
        assert [one.priority for one in calls_by(node.op)] == [6, 6 - PRIORITY_STEP][: len(calls_by(op))]
    plain = PhysicalNode(0, LlmMapExec((other,)), (), ())
    assert scheduled(plain) is plain
