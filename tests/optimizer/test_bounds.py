"""Bounds of money, seconds and tokens: the best plan that keeps them, as exhaustive enumeration finds it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.ir.logical import LlmFilter
from halo_sql.ir.physical import LlmFilterExec
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.bounds import KEPT, Frontier, bounds_of
from halo_sql.optimizer.context import EngineProfile, Limits, OptimizerContext
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.optimize import optimize
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules import RULES
from halo_sql.optimizer.rules.implement.llm_filter import llm_filter as implement_filter
from halo_sql.optimizer.rules.rule import Rule, Stage
from halo_sql.optimizer.search import Search

from .plans import T, call, context, cte, llm_filter, llm_map, operators, plan_of, well_formed
from .test_share_schedule_cost import union

#: b is slow and free, a is fast and costs money: who filters first decides what the other has to do.
ENGINES = {
    "slow": EngineProfile(decode_step_s=1.0),
    "dear": EngineProfile(usd_per_prompt_tok=1.0, usd_per_output_tok=1.0),
}
TWO = LlmFilter(
    LlmFilter(T, call(21, "a {3}", kind="filter", model="slow")), call(22, "b {3}", kind="filter", model="dear")
)


def first_filter(done: Any) -> str:
    return operators(done.dag)[1]


def filters(*models: str) -> Any:
    plan: Any = T
    for number, model in enumerate(models):
        plan = llm_filter(plan, 21 + number, f"{number} " + "w" * 40 * number + " {3}", model=model)
    return plan


# --- orders of filters ---


def test_a_bound_that_the_best_plan_keeps_changes_nothing() -> None:
    free = plan_of(TWO, context(engines=ENGINES))
    bounded = plan_of(TWO, context(engines=ENGINES, max_usd=1e9, max_seconds=1e9, max_tokens=1e9))
    assert bounded.dag == free.dag
    assert first_filter(free) == "LlmFilter('b {3}')"


def test_the_fastest_plan_within_the_money_is_taken() -> None:
    free = plan_of(TWO, context(engines=ENGINES))
    usd = sum(node.estimate.cost.usd for node in free.dag.nodes)
    bounded = plan_of(TWO, context(engines=ENGINES, max_usd=0.6 * usd))
    assert first_filter(bounded) == "LlmFilter('a {3}')"
    assert sum(node.estimate.cost.usd for node in bounded.dag.nodes) <= 0.6 * usd
    assert bounded.cost > free.cost
    [note] = bounded.dag.notes
    assert note.startswith(f"halo_max_usd {0.6 * usd:g}: estimated ")
    assert "instead of the" in note
    well_formed(bounded.dag)


def test_money_is_saved_within_the_seconds() -> None:
    cheap = plan_of(TWO, context(engines=ENGINES, objective="usd"))
    seconds = sum(node.estimate.cost.gpu_s + node.estimate.cost.cpu_s for node in cheap.dag.nodes)
    bounded = plan_of(TWO, context(engines=ENGINES, objective="usd", max_seconds=0.9 * seconds))
    assert first_filter(cheap) == "LlmFilter('a {3}')"
    assert first_filter(bounded) == "LlmFilter('b {3}')"


def test_nothing_is_cheap_enough() -> None:
    bounded = plan_of(TWO, context(engines=ENGINES, max_usd=1.0))
    assert first_filter(bounded) == "LlmFilter('a {3}')"  # the cheapest there is
    usd = sum(node.estimate.cost.usd for node in bounded.dag.nodes)
    assert bounded.dag.notes == (f"estimated {usd:.4g} usd is above halo_max_usd 1",)


def test_starting_a_model_takes_of_the_time() -> None:
    engines = {"m": EngineProfile(load_s=30.0)}
    plan = llm_map(T, call(20, "x {3}"))
    assert plan_of(plan, context(engines=engines, max_seconds=60.0)).dag.notes == ()
    [note] = plan_of(plan, context(engines=engines, max_seconds=25.0)).dag.notes
    assert note.startswith("estimated 3")
    assert note.endswith(" seconds is above halo_max_seconds 25")


def test_a_part_read_twice_has_one_plan() -> None:
    def shared(number: int) -> Any:
        return cte(TWO, 1, number)

    plan = union(shared(40), shared(50))
    free = plan_of(plan, context(engines=ENGINES))
    bounded = plan_of(plan, context(engines=ENGINES, max_usd=60_000.0))
    for done in (free, bounded):
        well_formed(done.dag)
        assert sum(isinstance(node.op, LlmFilterExec) for node in done.dag.nodes) == 2


# --- against enumeration ---


def several_ways(costs: tuple[tuple[float, float], ...]) -> Rule:
    """A filter in several ways that differ in seconds and money by these factors."""

    def variants(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
        found = []
        for number, (slower, dearer) in enumerate(costs):
            for way in implement_filter(expr, group, required, memo, ctx):
                cost = way.estimate.cost
                cost = replace(cost, gpu_s=cost.gpu_s * slower, usd=(cost.usd + 1e-6) * dearer)
                op = replace(way.op, lookahead=7000 + number)  # type: ignore[type-var]
                found.append(replace(way, op=op, estimate=replace(way.estimate, cost=cost), rule="several_ways"))
        return found

    return Rule("several_ways", Stage.IMPLEMENT, 60, variants, on=(LlmFilter,))


def all_plans(plan: Any, ctx: OptimizerContext, rules: tuple[Rule, ...]) -> set[tuple[float, tuple[float, ...]]]:
    """Value and bounded quantities of every plan that the memo holds."""
    state = PlanContext(ctx, plan)
    memo = Memo(ctx)
    search = Search(memo, rules, state)
    root = search.run(Requirement(memo.insert(plan), Properties())).requirement
    bounds = bounds_of(ctx)
    ways = Frontier(search, bounds, None).ways
    known: dict[Requirement, set[tuple[float, tuple[float, ...]]]] = {}

    def plans(requirement: Requirement) -> set[tuple[float, tuple[float, ...]]]:
        if requirement not in known:
            known[requirement] = set()
            found = set()
            for way in ways(requirement):
                partial = {(search.own_value(way), tuple(bound.of(way.estimate) for bound in bounds))}
                for item in way.inputs:
                    partial = {
                        (value + more, tuple(map(float.__add__, spent, also)))
                        for value, spent in partial
                        for more, also in plans(item)
                    }
                found |= partial
            known[requirement] = found
        return known[requirement]

    return plans(root)


FACTORS = st.tuples(*(st.sampled_from((0.2, 0.5, 1.0, 3.0, 8.0)) for _ in range(2)))


@given(
    st.lists(st.sampled_from(("slow", "dear", "m")), min_size=1, max_size=3),
    st.lists(FACTORS, min_size=1, max_size=2, unique=True),
    st.sampled_from(("makespan", "usd", "tokens")),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.2),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_as_exhaustive_enumeration_finds_it(
    models: list[str], factors: list[Any], objective: str, usd_part: float, s_part: float, both: bool
) -> None:
    plan = filters(*models)
    rules = (several_ways(tuple(factors)), *(rule for rule in RULES if rule.stage is not Stage.NORMALIZE))
    ctx = context(engines=ENGINES, objective=objective, max_usd=1e9, max_seconds=1e9 if both else 0.0)
    everything = all_plans(plan, ctx, rules)
    lowest = [min(spent[place] for _, spent in everything) for place in range(1 + both)]
    highest = [max(spent[place] for _, spent in everything) for place in range(1 + both)]
    parts = (usd_part, s_part)
    most = [low + part * (high - low) for low, high, part in zip(lowest, highest, parts, strict=False)]
    ctx = replace(ctx, max_usd=max(1e-12, most[0]), max_seconds=most[1] if both else 0.0)
    done = optimize(plan, output_columns(plan), ctx, rules)
    within = [
        value
        for value, spent in everything
        if all(amount <= bound * (1 + 1e-9) for amount, bound in zip(spent, most, strict=True))
    ]
    capped = any("some were left out" in note for note in done.dag.notes)
    if within:
        assert done.cost >= min(within) * (1 - 1e-9)
        assert capped or done.cost == pytest.approx(min(within), rel=1e-9)
        assert capped or not any("is above" in note for note in done.dag.notes)
    else:
        assert any("is above halo_max_" in note for note in done.dag.notes)
    well_formed(done.dag)


def test_many_winners_are_thinned_out_with_a_note() -> None:
    factors = tuple((2.0**-step, 2.0**step) for step in range(KEPT + 3))  # 1e-6 to 1e-3 usd
    plan, rules = filters("m"), (several_ways(factors), *(rule for rule in RULES if rule.name != "llm_filter"))
    free = optimize(plan, output_columns(plan), context(), rules)
    done = optimize(plan, output_columns(plan), context(max_usd=6e-4), rules)
    assert f"more than {KEPT} plans of a group differ in costs: some were left out" in done.dag.notes
    assert not any("is above" in note for note in done.dag.notes)
    ways = [node.op.lookahead for done in (free, done) for node in done.dag.nodes if isinstance(node.op, LlmFilterExec)]
    assert ways == [7000 + KEPT + 2, 7000 + KEPT + 1]  # the fastest, and the fastest that can be paid


def test_a_limit_of_tasks_leaves_the_plan_as_it_was() -> None:
    engines, limits = ENGINES, Limits(tasks=20)
    free = plan_of(TWO, context(engines=engines, limits=limits))
    done = plan_of(TWO, context(engines=engines, limits=limits, max_usd=1.0))
    assert operators(done.dag) == operators(free.dag)
    assert any(note.startswith("optimizer limit reached: 20 tasks") for note in done.dag.notes)
    assert any("is above halo_max_usd 1" in note for note in done.dag.notes)


def test_long_rows_are_bounded_in_no_time() -> None:
    plan = filters(*("slow" if number % 2 else "dear" for number in range(60)))
    done = plan_of(plan, context(engines=ENGINES, max_usd=1.0, verify=False))
    assert done.trace.seconds < 15  # the bound leaves room for a busy machine
    assert any("is above" in note for note in done.dag.notes)
