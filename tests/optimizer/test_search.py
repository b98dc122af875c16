"""The search: branch and bound, limits, determinism, growth, verification, the trace."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.errors import InternalError
from halo_sql.ir.logical import Filter, Limit, LlmFilter, LlmMap, Project
from halo_sql.ir.physical import LlmFilterExec
from halo_sql.optimizer.context import OBJECTIVES, EngineProfile, Limits
from halo_sql.optimizer.optimize import optimize
from halo_sql.optimizer.rules import RULES
from halo_sql.optimizer.rules.rule import Rule, Stage

from .plans import (
    BODY,
    ID,
    T,
    call,
    col,
    context,
    holes,
    limit,
    llm_filter,
    llm_map,
    operators,
    order_by,
    plan_of,
    project,
    well_formed,
    where,
)
from .test_same_rows import PLANS, build


def filters(count: int, seed: int = 1) -> Any:
    """A row of LLM filters as the binder writes them, of mixed prices."""
    plan: Any = T
    dice = random.Random(seed)
    for number in range(count):
        hole = col(1000 + number)
        text = f"{number} {{{hole.id}}} " + "w" * dice.randrange(200)
        plan = llm_filter(holes(plan, (hole, "CAST(#3 AS VARCHAR)")), 3000 + number, text)
    return plan


def maps(count: int, *, chained: bool) -> Any:
    plan: Any = T
    source = 3
    for number in range(count):
        hole = col(1000 + number)
        plan = llm_map(
            holes(plan, (hole, f"CAST(#{source} AS VARCHAR)")), call(3000 + number, f"{number} {{{hole.id}}}")
        )
        source = 3000 + number if chained else 3
    return project(plan, ID, *(col(3000 + number) for number in range(count)))


@given(PLANS, st.sampled_from(OBJECTIVES))
@settings(max_examples=60, deadline=None)
def test_branch_and_bound_finds_what_exhaustive_search_finds(steps: list[tuple[str, int]], objective: str) -> None:
    plan = build(steps)
    options = {
        "rows": 10_000,
        "distinct": {3: 50, 4: 9000},
        "chars": {3: 3000},
        "objective": objective,
        "engines": {"m": EngineProfile(kv_capacity_tok=10_000, usd_per_prompt_tok=1e-6, usd_per_output_tok=4e-6)},
    }
    pruned, exhaustive = plan_of(plan, context(**options)), plan_of(plan, context(**options, prune=False))
    assert pruned.cost == pytest.approx(exhaustive.cost, rel=1e-12)
    assert operators(pruned.dag) == operators(exhaustive.dag)


def test_pruning_prunes() -> None:
    plan = filters(4)
    assert plan_of(plan).trace.counter("pruned") > 0


@pytest.mark.parametrize("plan", [filters(5), maps(6, chained=True), maps(4, chained=False)], ids=["f", "mc", "m"])
def test_same_input_same_plan(plan: Any) -> None:
    first, second = plan_of(plan), plan_of(plan)
    assert first.dag == second.dag
    assert first.cost == second.cost
    assert first.trace.groups() == second.trace.groups()


@pytest.mark.parametrize("make", [filters, lambda n: maps(n, chained=True), lambda n: maps(n, chained=False)])
def test_long_rows_grow_linearly(make: Any) -> None:
    small, large = plan_of(make(50), context(verify=False)), plan_of(make(100), context(verify=False))
    for counter in ("groups", "expressions", "tasks"):
        assert large.trace.counter(counter) <= 2.2 * small.trace.counter(counter)
    assert large.trace.counter("groups") <= 410
    well_formed(large.dag)


def test_long_row_of_filters_is_ordered_by_rank() -> None:
    done = plan_of(filters(50), context(verify=False))
    sizes = [len(node.op.call.label) for node in done.dag.nodes if isinstance(node.op, LlmFilterExec)]
    assert len(sizes) == 50
    assert sizes == sorted(sizes)
    assert "50 LLM operators in a row: ordered by rank, other orders not explored" in done.dag.notes


def test_greedy_order_is_what_the_full_search_finds() -> None:
    plan = filters(6, seed=5)
    full = plan_of(plan, context(limits=Limits(chain=6)))
    greedy = plan_of(plan, context(limits=Limits(chain=1)))
    assert greedy.cost == pytest.approx(full.cost)
    assert operators(full.dag) == operators(greedy.dag)


def test_greedy_respects_dependencies() -> None:
    plan = llm_filter(llm_map(llm_filter(T, 21, "aaaa {3}"), call(20, "x {3}")), 22, "b {20}")
    done = plan_of(llm_filter(plan, 23, "c {4}"), context(limits=Limits(chain=1)))
    names = [name for name in operators(done.dag) if name.startswith("Llm")]
    assert names == ["LlmFilter('c {4}')", "LlmFilter('aaaa {3}')", "LlmMap('x {3}')", "LlmFilter('b {20}')"]


@pytest.mark.parametrize("limits", [Limits(groups=8), Limits(tasks=40), Limits(groups=1, tasks=1)])
def test_limits_give_the_best_plan_so_far(limits: Limits) -> None:
    plan = filters(6)
    done = plan_of(plan, context(limits=limits))
    well_formed(done.dag)
    assert len([name for name in operators(done.dag) if name.startswith("LlmFilter")]) == 6
    assert any(note.startswith("optimizer limit reached") for note in done.dag.notes)


def test_limit_on_passes() -> None:
    plan = limit(
        order_by(project(llm_map(holes(T, (col(10), "CAST(#3 AS VARCHAR)")), call(20, "x {10}")), ID), "#1"), 1
    )
    done = plan_of(plan, context(limits=Limits(passes=1)))
    assert "optimizer limit reached: 1 normalize passes" in done.dag.notes
    well_formed(done.dag)


def test_deep_plans_need_no_recursion_in_the_optimizer() -> None:
    done = plan_of(maps(300, chained=True), context(verify=False))
    assert len([name for name in operators(done.dag) if name.startswith("LlmMap")]) == 300


def test_depth_of_filters() -> None:
    plan: Any = T
    for number in range(200):
        plan = llm_filter(plan, 3000 + number, f"{number} {{3}}", volatile=True)
    done = plan_of(plan, context(verify=False))
    assert operators(done.dag).count("RowGraph") == 1
    assert len(done.dag.nodes) == 202


# --- verification ---


def broken(name: str, stage: Stage, function: Any) -> tuple[Rule, ...]:
    return (Rule(name, stage, 99, function), *RULES)


@pytest.mark.parametrize(
    ("name", "function", "complaint"),
    [
        (
            "loses_column",
            lambda node, ctx: (
                Project(node.input, node.exprs[:-1]) if isinstance(node, Project) and len(node.exprs) > 1 else None
            ),
            "changed the columns",
        ),
        (
            "reads_nothing",
            lambda node, ctx: (
                replace(node, input=Project(T, ((ID, node.input.exprs[0][1]),)))
                if isinstance(node, Filter) and isinstance(node.input, Project)
                else None
            ),
            "changed the columns",
        ),
        (
            "reads_too_early",
            lambda node, ctx: (
                replace(node.input, input=replace(node, input=node.input.input))
                if isinstance(node, Filter) and isinstance(node.input, LlmMap)
                else None
            ),
            "reads columns its input does not have",
        ),
    ],
)
def test_verify_names_a_broken_normalize_rule(name: str, function: Any, complaint: str) -> None:
    mapped = where(llm_map(project(T, ID, BODY), call(20, "x {3}")), "#20 = 'a'")
    plan = where(project(mapped, ID, col(20)), "#1 > 2")
    with pytest.raises(InternalError, match=f'"{name}".*{complaint}'):
        optimize(plan, (ID, col(20)), context(), broken(name, Stage.NORMALIZE, function))


def test_verify_names_a_broken_explore_rule() -> None:
    def forgets_the_map(expr: Any, memo: Any, ctx: Any) -> list[Any]:
        return memo.expressions(expr.input) if isinstance(expr, LlmMap) else []

    with pytest.raises(InternalError, match='"forgets_the_map" added Scan t'):
        optimize(
            llm_map(T, call(20, "x {3}")), (ID,), context(), broken("forgets_the_map", Stage.EXPLORE, forgets_the_map)
        )


def test_a_rule_that_never_ends_is_stopped() -> None:
    def grows(node: Any, ctx: Any) -> Any:
        return Limit(node, None) if isinstance(node, Limit) else None

    done = optimize(limit(T, 3), T.columns, context(), broken("grows", Stage.NORMALIZE, grows))
    assert any(note.startswith("optimizer limit reached") for note in done.dag.notes)


# --- the trace ---


def test_trace_tells_rules_groups_and_winners() -> None:
    plan = limit(llm_filter(llm_map(T, call(20, "x {3}")), 21, "y {3}"), 3)
    done = plan_of(plan)
    fired = {firing.name: firing for firing in done.trace.rules if firing.fired}
    assert fired["llm_filter_past_llm_map"].where == ("LlmFilter distinct 'y {3}'#21",)
    assert all(firing.seconds >= 0 for firing in done.trace.rules)
    groups = done.trace.groups()
    assert [group.id for group in groups] == sorted(group.id for group in groups)
    both = [group for group in groups if len(group.expressions) == 2]
    assert len(both) == 1
    assert any("LlmMap" in text for text in both[0].expressions)
    assert any(winner.plan.startswith("LlmFilterExec") or "LlmMapExec" in winner.plan for winner in both[0].winners)
    assert min(winner.cost for group in groups for winner in group.winners) >= 0


def test_objective_decides() -> None:
    # b is slow to decode but cheap, a is fast and dear: who runs first depends on what counts
    engines = {
        "slow": EngineProfile(decode_step_s=1.0),
        "dear": EngineProfile(usd_per_prompt_tok=1.0, usd_per_output_tok=1.0),
    }
    plan = LlmFilter(
        LlmFilter(T, call(21, "a {3}", kind="filter", model="slow")), call(22, "b {3}", kind="filter", model="dear")
    )
    first = {
        objective: next(
            name for name in operators(plan_of(plan, context(engines=engines, objective=objective)).dag)[1:]
        )
        for objective in OBJECTIVES
    }
    assert first["makespan"] == "LlmFilter('b {3}')"
    assert first["usd"] == "LlmFilter('a {3}')"
