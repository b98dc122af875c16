"""Every normalize rule: where it fires and what comes out, where it must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halo_sql.ir.expr import Column
from halo_sql.ir.logical import LlmMap, Sort, SortKey
from halo_sql.ir.walk import output_columns, walk
from halo_sql.optimizer.rules import RULES
from halo_sql.optimizer.rules.rule import Stage

from .normalize_cases import FIRES, KEPT, KNOWN, MAPPED, RANDOM, STAYS, H, R, S
from .plans import (
    ID,
    T,
    call,
    col,
    context,
    holes,
    limit,
    llm_filter,
    llm_map,
    normalized,
    order_by,
    plan_of,
    project,
    shape,
    where,
)

NAMES = [rule.name for rule in RULES if rule.stage in (Stage.NORMALIZE, Stage.FINISH)]


def test_every_rule_has_both_cases() -> None:
    assert set(NAMES) == set(FIRES) == set(STAYS)
    assert all(FIRES.values())
    assert all(STAYS.values())


@pytest.mark.parametrize(
    ("rule", "plan", "expected"), [(rule, plan, text) for rule, cases in FIRES.items() for plan, text in cases if text]
)
def test_fires(rule: str, plan: Any, expected: str) -> None:
    after, state = normalized(plan, rule, ctx=KNOWN.get(rule))
    assert state.recorder.counters[rule].fired > 0
    assert shape(after) == expected
    assert [(column.id, column.type) for column in output_columns(after)] == [
        (column.id, column.type) for column in output_columns(plan)
    ]


@pytest.mark.parametrize(("rule", "plan"), [(rule, plan) for rule, plans in STAYS.items() for plan in plans])
def test_stays(rule: str, plan: Any) -> None:
    after, _ = normalized(plan, rule, ctx=KNOWN.get(rule))
    assert after is plan


@pytest.mark.parametrize("rule", NAMES)
def test_disabled_rule_does_not_fire(rule: str) -> None:
    plan = FIRES[rule][0][0]
    done = plan_of(plan, replace(KNOWN.get(rule, context()), disabled_rules=frozenset({rule})))
    assert done.trace.fired(rule) == 0
    assert f"rule disabled: {rule}" in done.dag.notes


def test_folded_prompt_is_one_text() -> None:
    after, _ = normalized(FIRES["fold_constant_prompts"][0][0], "fold_constant_prompts")
    assert isinstance(after, LlmMap)
    assert after.calls[0].prompt.user[0] == "a b's c "


def test_merged_calls_keep_one() -> None:
    after, _ = normalized(FIRES["merge_equal_calls"][0][0], "merge_equal_calls")
    maps = [node for node in walk(after) if isinstance(node, LlmMap)]
    assert [len(node.calls) for node in maps] == [1]


def test_dropped_call_of_two_keeps_the_other() -> None:
    plan = project(llm_map(T, call(20, "x {3}"), call(21, "z {3}")), R)
    after, _ = normalized(plan, "drop_unused_calls")
    maps = [node for node in walk(after) if isinstance(node, LlmMap)]
    assert [[item.output for item in node.calls] for node in maps] == [[21]]


def test_distinct_is_set() -> None:
    after, _ = normalized(MAPPED, "distinct_before_llm")
    assert isinstance(after, LlmMap)
    assert after.distinct


def test_filter_below_two_llm_nodes_at_once() -> None:
    plan = where(llm_map(KEPT, call(20, "x {3}")), "#2 > 1")
    after, state = normalized(plan, "push_filter_below_llm")
    assert shape(after) == "LlmMap('x {3}') > LlmFilter('y {3}') > Filter(#2 > 1) > Fragment"
    assert state.recorder.counters["push_filter_below_llm"].fired == 1


def test_volatile_sort_key_moves_with_its_rows() -> None:
    # ORDER BY random() LIMIT n is how people sample: the sample is taken before the calls
    plan = limit(Sort(MAPPED, (SortKey(RANDOM),)), 10)
    after, _ = normalized(plan)
    assert shape(after).startswith("LlmMap('x {3}') > Limit > Sort")


def test_statement_of_all_rules() -> None:
    source = where(T, "#2 > 1")
    kept = llm_filter(holes(source, (H, "CAST(#3 AS VARCHAR)")), 11, "y {10}")
    mapped = llm_map(holes(kept, (col(12), "CAST(#3 AS VARCHAR)")), call(20, "x {12}"))
    plan = limit(order_by(project(mapped, ID, S), "#1"), 10)
    after, _ = normalized(plan)
    assert shape(after) == (
        "Project > LlmMap('x {12}') > Project > Limit > LlmFilter('y {10}') > "
        "Sort > Project > Filter(#2 > 1) > Fragment"
    )


def test_many_rules_reach_a_fixpoint_twice() -> None:
    plan = FIRES["merge_equal_calls"][2][0]
    once, _ = normalized(plan)
    twice, _ = normalized(once)
    assert shape(once) == shape(twice)


def test_position_of_columns_is_kept() -> None:
    plan = project(llm_map(MAPPED, call(21, "x {3}")), R, ID, S)
    after, _ = normalized(plan)
    assert [column.id for column in output_columns(after)] == [21, 1, 20]
    assert isinstance(output_columns(after)[0], Column)
