"""Explore, implement and enforce rules: where they give something, where they must not, and what wins."""

from __future__ import annotations

import re
from typing import Any

import pytest

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import (
    Project,
)
from halo_sql.ir.physical import DuckFragmentExec, LlmFilterExec, LlmMapExec, PrefixClusterExec, SelectExec
from halo_sql.ir.prompt import Sampling
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.context import EngineProfile, OptimizerContext
from halo_sql.optimizer.rules import RULES
from halo_sql.optimizer.rules.rule import Rule, Stage

from .memo_cases import BIG, CHEAP_ABOVE, CLUSTERED, GIVES, GIVES_NOT, LONG, MAPPED, S
from .plans import (
    ID,
    T,
    call,
    col,
    context,
    groups,
    limit,
    llm_filter,
    llm_map,
    operators,
    order_by,
    plan_of,
    project,
    reduced,
    top_k,
    well_formed,
    where,
)

NAMES = [rule.name for rule in RULES if rule.stage not in (Stage.NORMALIZE, Stage.FINISH)]


def test_every_rule_has_both_cases() -> None:
    assert set(NAMES) == set(GIVES) == set(GIVES_NOT)


@pytest.mark.parametrize("rule", NAMES)
def test_gives(rule: str) -> None:
    plan, options, expected = GIVES[rule]
    done = plan_of(plan, context(**options))
    well_formed(done.dag)
    assert done.trace.fired(rule) > 0
    assert any(expected in name for name in operators(done.dag)), operators(done.dag)


@pytest.mark.parametrize("rule", NAMES)
def test_gives_not(rule: str) -> None:
    plan, options, unwanted = GIVES_NOT[rule]
    done = plan_of(plan, context(**options))
    well_formed(done.dag)
    if unwanted:
        assert not any(unwanted in name for name in operators(done.dag)), operators(done.dag)
    else:
        assert done.trace.fired(rule) == 0


@pytest.mark.parametrize("rule", NAMES)
def test_disabled(rule: str) -> None:
    plan, options, _ = GIVES[rule]
    done = plan_of(plan, context(**options, disabled_rules=frozenset({rule})))
    essential = next(item.essential for item in RULES if item.name == rule)
    note = f"rule cannot be disabled: {rule}" if essential else f"rule disabled: {rule}"
    assert note in done.dag.notes
    assert (done.trace.fired(rule) > 0) == essential


def test_unknown_disabled_rule_is_said() -> None:
    done = plan_of(MAPPED, context(disabled_rules=frozenset({"push_filter"})))
    assert done.dag.notes == ("disabled rule does not exist: push_filter",)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule_says_what_it_does_why_it_is_safe_and_when_not(rule: Rule) -> None:
    text = rule.function.__doc__ or ""
    assert "=>" in text.split("\n\n")[0]
    assert "Safe" in text
    assert re.search(r"\b[Nn](ot|or)\b", text[text.index("Safe") :])
    assert re.search(r"::\n\n {8}\S", text)  # SQL to which it does not apply
    assert rule.function.__name__ == rule.name
    assert rule.function.__module__.endswith(f".{rule.name}")


def first_llm(plan: Any, ctx: OptimizerContext) -> str:
    """The LLM operator that sees the rows first."""
    return next(name for name in operators(plan_of(plan, ctx).dag) if name.startswith("Llm"))


def test_cheaper_filter_first() -> None:
    assert first_llm(CHEAP_ABOVE, context()) == "LlmFilter('y {3}')"
    already = llm_filter(llm_filter(T, 22, "y {3}"), 21, LONG + "{3}")
    assert first_llm(already, context()) == "LlmFilter('y {3}')"


def test_filter_order_follows_statistics() -> None:
    # the same prompts over a column with few values: fewer calls, so it goes first
    plan = llm_filter(llm_filter(T, 21, "y {3}"), 22, "y {4}")
    assert first_llm(plan, context(rows=5000, distinct={3: 5000, 4: 10})) == "LlmFilter('y {4}')"
    assert first_llm(plan, context(rows=5000, distinct={3: 10, 4: 5000})) == "LlmFilter('y {3}')"


def test_llm_filter_before_map_and_its_sql_filter() -> None:
    plan = llm_filter(where(llm_map(T, call(20, LONG + "{3}")), "length(#20) > 3"), 21, "y {3}")
    assert operators(plan_of(plan, context()).dag)[1] == "LlmFilter('y {3}')"


def test_cheap_map_with_sql_filter_before_llm_filter() -> None:
    plan, options, _ = GIVES["llm_map_past_llm_filter"]
    assert first_llm(plan, context(**options)) == "LlmMap('x {3}')"


def test_llm_filter_before_or_after_a_sort_by_answers() -> None:
    # a cheap score and a dear filter: when few rows are wanted, score all, sort, and ask about the first ones
    scored = llm_map(T, call(20, "score {3}", sampling=Sampling(max_tokens=1)))
    dear = order_by(llm_filter(scored, 21, "{3} " + LONG * 9), "#20")
    names = [name.split("(")[0] for name in operators(plan_of(limit(dear, 3), context(rows=2000)).dag)]
    assert names == ["DuckFragment", "LlmMap", "DuckFragment", "LlmFilter", "Limit"]
    # a cheap filter and a dear score: filter first, limit or not
    cheap = order_by(llm_filter(llm_map(T, call(20, "score {3}")), 21, "y {3}"), "#20")
    for plan in (cheap, limit(cheap, 3)):
        assert operators(plan_of(plan, context(rows=2000)).dag)[1:3] == ["LlmFilter('y {3}')", "LlmMap('score {3}')"]


def test_runs_are_maximal() -> None:
    source = order_by(where(project(T, ID, (col(10), "upper(#3)")), "#1 > 3"), "#1")
    plan = order_by(where(llm_map(source, call(20, "x {10}")), "#20 = 'a'"), "#20")
    done = plan_of(plan)
    assert operators(done.dag) == [
        "DuckFragment(Sort(Filter(Project(Fragment))))",
        "LlmMap('x {10}')",
        "DuckFragment(Sort(Filter($0)))",
    ]


@pytest.mark.parametrize(("row_wise", "streaming"), [(True, True), (False, False)])
def test_streaming_is_row_wise_only(row_wise: bool, streaming: bool) -> None:
    done = plan_of(where(MAPPED, "#20 = 'a'", row_wise=row_wise))
    fragments = [node.op for node in done.dag.nodes if isinstance(node.op, DuckFragmentExec)]
    assert [fragment.streaming for fragment in fragments] == [False, streaming]


def test_limit_sets_row_goal_and_lookahead() -> None:
    engines = {"m": EngineProfile(window_requests=32)}
    plan = limit(llm_filter(llm_filter(T, 21, "y {3}"), 22, "z {3}"), 10)
    done = plan_of(plan, context(rows=100_000, engines=engines))
    filters = [node for node in done.dag.nodes if isinstance(node.op, LlmFilterExec)]
    # 10 rows wanted: 20 into the upper filter, 40 into the lower one, never more than the window
    assert [node.op.lookahead for node in filters if isinstance(node.op, LlmFilterExec)] == [32, 20]
    assert [round(node.estimate.llm_calls) for node in filters] == [40, 20]
    unlimited = plan_of(llm_filter(T, 21, "y {3}"), context(rows=100_000)).dag
    assert [node.op.lookahead for node in unlimited.nodes if isinstance(node.op, LlmFilterExec)] == [4096]


def test_goal_does_not_pass_a_sort_on_answers() -> None:
    done = plan_of(limit(order_by(MAPPED, "#20"), 10), context(rows=5000))
    assert [round(node.estimate.llm_calls) for node in done.dag.nodes if isinstance(node.op, LlmMapExec)] == [5000]


def test_limit_of_a_source_stays_in_sql() -> None:
    assert operators(plan_of(limit(order_by(T, "#1"), 10)).dag) == ["DuckFragment(Limit(Sort(Fragment)))"]


def test_clustering_saves_prompt_tokens() -> None:
    clustered = plan_of(CLUSTERED, context(**BIG))
    streamed = plan_of(CLUSTERED, context(**BIG, disabled_rules=frozenset({"restore_order"})))
    assert clustered.cost < streamed.cost / 2
    names = [name.split("(")[0] for name in operators(clustered.dag)]
    assert names == ["DuckFragment", "PrefixCluster", "LlmMap", "RestoreOrder"]
    assert output_columns(CLUSTERED) == clustered.dag.node(clustered.dag.root).columns


def test_one_clustering_serves_two_nodes() -> None:
    plan = llm_map(llm_filter(T, 21, "is {3} about {4}?"), call(20, "read {3} and answer {4}"))
    done = plan_of(plan, context(**BIG))
    names = [name.split("(")[0] for name in operators(done.dag)]
    assert names == ["DuckFragment", "PrefixCluster", "LlmFilter", "LlmMap", "RowGraph", "RestoreOrder"]


def test_no_order_needed_no_sort_back() -> None:
    done = plan_of(CLUSTERED, context(**BIG, ordered=False))
    assert [type(node.op) for node in done.dag.nodes][-1] is SelectExec
    assert any(isinstance(node.op, PrefixClusterExec) for node in done.dag.nodes)
    position = [node.op.position for node in done.dag.nodes if isinstance(node.op, PrefixClusterExec)]
    assert position[0].id not in {column.id for column in done.dag.node(done.dag.root).columns}


def test_rows_that_do_not_repeat_are_not_clustered() -> None:
    done = plan_of(CLUSTERED, context(**{**BIG, "distinct": {3: 10_000}}))
    assert not any(isinstance(node.op, PrefixClusterExec) for node in done.dag.nodes)


def test_optimizer_off_is_the_statement_as_written() -> None:
    plan = limit(order_by(project(llm_map(T, call(20, "x {3}")), ID, S), "#1"), 10)
    done = plan_of(plan, context(enabled=False))
    assert done.logical is plan
    assert operators(done.dag) == [
        "DuckFragment(Fragment)",
        "LlmMap('x {3}')",
        "Select",
        "DuckFragment(Limit(Sort($0)))",
    ]
    assert "optimizer off: the statement as written" in done.dag.notes


def test_pick_of_columns_is_no_query() -> None:
    done = plan_of(project(MAPPED, S, ID))
    root = done.dag.node(done.dag.root)
    assert isinstance(root.op, SelectExec)
    assert [column.id for column in root.columns] == [20, 1]
    assert isinstance(done.logical, Project)
    assert ColumnId(3) not in {column.id for column in root.columns}


def test_the_method_of_a_top_k_does_not_depend_on_what_engines_said() -> None:
    plan = top_k(T, 20, "x {3}", 5)
    slow = {"m": EngineProfile(window_requests=1, decode_step_s=1.0)}
    for engines in ({}, slow):
        done = plan_of(plan, context(rows=1000, engines=engines))
        assert "LlmTopK(score)" in operators(done.dag)
    assert "LlmTopK(score)" in operators(plan_of(plan, context(rows=1000, engines=slow, enabled=False)).dag)


@pytest.mark.parametrize("rows", [1, 2, 10, 100, 10_000])
@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_tournament_is_not_quadratic(rows: int, count: int) -> None:
    done = plan_of(top_k(T, 20, "x {3}", count, "tournament"), context(rows=rows))
    node = next(node for node in done.dag.nodes if "LlmTopK" in type(node.op).__name__)
    assert node.estimate.llm_calls <= rows + 2 * count * (rows.bit_length() + 1)


def test_a_fold_is_estimated_level_by_level() -> None:
    done = plan_of(reduced(groups(T, 30, keys=0), 20, "sum", 31, fan_in=10), context(rows=1000))
    node = next(node for node in done.dag.nodes if type(node.op).__name__ == "LlmReduceExec")
    op: Any = node.op
    assert (op.levels, round(op.items), op.fan_in) == (3, 1000, 10)
    assert node.estimate.llm_calls == 111
