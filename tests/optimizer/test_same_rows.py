"""Optimized plans give the rows of the statement as written, and never make more calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.types import BOOLEAN
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.context import EngineProfile, Limits
from halo_sql.optimizer.rules import RULES
from halo_sql.optimizer.rules.rule import Stage

from .plans import (
    BODY,
    ID,
    A,
    T,
    call,
    col,
    context,
    cte,
    groups,
    holes,
    limit,
    llm_filter,
    llm_map,
    order_by,
    plan_of,
    project,
    reduced,
    top_k,
    well_formed,
    where,
)
from .run_dag import Outcome, run_dag

SETUP = (
    "CREATE TABLE t (id INTEGER, a INTEGER, body VARCHAR, title VARCHAR)",
    "INSERT INTO t SELECT i, i % 7, CASE WHEN i % 11 = 0 THEN NULL ELSE 'body ' || (i % 13) END, 'title ' || (i % 3) "
    "FROM range(60) r(i)",
    "CREATE TABLE u (k INTEGER, word VARCHAR)",
    "INSERT INTO u SELECT i % 5, 'word ' || (i % 4) FROM range(15) r(i)",
)
STEPS = (
    "filter a",
    "filter answer",
    "compare answer",
    "map",
    "map again",
    "map of answer",
    "guarded map",
    "llm filter",
    "pick",
    "compute",
    "sort",
    "sort by answer",
    "limit",
    "cte",
    "top k",
    "groups",
)


def build(steps: list[tuple[str, int]], plan: Any = T, fresh: int = 100) -> Any:
    """A plan step by step over another, as the binder would nest it. Numbers make steps differ."""
    answers: list[Column] = []
    for step, number in steps:
        columns = {column.name: column for column in output_columns(plan)}
        answers = [answer for answer in answers if answer in columns.values()]
        fresh += 10
        hole, output = col(fresh, f"h{fresh}"), fresh + 1
        body = columns["body"]
        if step == "filter a":
            plan = where(plan, f"#{columns['a'].id} > {number % 4}")
        elif step == "filter answer" and answers:
            plan = where(plan, f"length(#{answers[number % len(answers)].id}) % 2 = {number % 2}")
        elif step == "compare answer" and answers:
            plan = where(plan, f"#{answers[number % len(answers)].id} {'<' if number % 2 else '>'} '<{number % 3}'")
        elif step in ("map", "map again", "guarded map"):
            guard = None
            text = f"{'q' if step == 'map again' else number} {{{hole.id}}}"
            plan = holes(plan, (hole, f"CAST(#{body.id} AS VARCHAR)"))
            if step == "guarded map":
                flag = Column(ColumnId(fresh + 2), f"g{fresh}", BOOLEAN)
                plan, guard = holes(plan, (flag, f"#{columns['a'].id} > {number % 5}")), flag.id
            plan = llm_map(plan, call(output, text, guard=guard))
        elif step == "map of answer" and answers:
            plan = llm_map(plan, call(output, f"again {{{answers[-1].id}}}"))
        elif step == "llm filter":
            source = columns["title"] if number % 2 else body
            plan = llm_filter(holes(plan, (hole, f"CAST(#{source.id} AS VARCHAR)")), output, f"{number}? {{{hole.id}}}")
        elif step == "pick":
            kept = [column for column in output_columns(plan) if not column.name.startswith(("h", "g"))]
            plan = project(plan, *kept)
        elif step == "compute":
            plan = holes(plan, (col(output, f"v{output}"), f"upper(#{body.id}) || '!'"))
        elif step == "sort":
            plan = order_by(plan, f"#{columns['id'].id}", modifiers="DESC" if number % 2 else "")
        elif step == "sort by answer" and answers:
            plan = order_by(plan, f"#{answers[0].id}", f"#{columns['id'].id}")
        elif step == "limit":
            plan = limit(plan, 5 + number, number % 3)
        elif step == "top k":
            source = columns["title"] if number % 2 else body
            method = ("", "score", "tournament")[number % 3]
            plan = top_k(
                holes(plan, (hole, f"CAST(#{source.id} AS VARCHAR)")), output, f"{{{hole.id}}}", 3 + number, method
            )
        elif step == "groups" and columns["id"].id == ID.id:
            plan = reduced(groups(plan, fresh + 3, columns["a"]), output, f"{number} ", fresh + 4, fan_in=0)
            plan = project(
                plan,
                (ID, f"#{fresh + 3}"),
                (A, f"#{fresh + 3}"),
                (BODY, f"#{output}"),
                (columns["title"], f"#{output}"),
            )
        elif step == "cte":
            plan = cte(plan, fresh, fresh * 100)
        answers = [column for column in output_columns(plan) if column.name.startswith("'")]
    return plan


def execute(plan: Any, fails: Callable[[str], bool] = lambda text: False, **options: Any) -> Outcome:
    done = plan_of(plan, context(**options))
    well_formed(done.dag)
    return run_dag(done.dag, SETUP, fails)


PLANS = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9)), min_size=1, max_size=8)


@given(PLANS)
@settings(max_examples=60, deadline=None)
def test_same_rows_in_the_same_order(steps: list[tuple[str, int]]) -> None:
    plan = build(steps)
    written, optimized = execute(plan, enabled=False), execute(plan, rows=60)
    assert optimized.rows == written.rows


@given(PLANS)
@settings(max_examples=40, deadline=None)
def test_normalizing_makes_no_more_calls(steps: list[tuple[str, int]]) -> None:
    # orders chosen by the cost model can make more calls when an estimate is wrong; rewrites cannot
    plan = build(steps)
    explore = frozenset(rule.name for rule in RULES if rule.stage is Stage.EXPLORE)
    written, optimized = execute(plan, enabled=False), execute(plan, disabled_rules=explore)
    assert len(set(optimized.prompts)) <= len(set(written.prompts))
    assert len(optimized.prompts) <= len(written.prompts)


@given(PLANS, st.sampled_from([rule.name for rule in RULES]))
@settings(max_examples=60, deadline=None)
def test_same_rows_with_a_rule_disabled(steps: list[tuple[str, int]], rule: str) -> None:
    plan = build(steps)
    assert execute(plan, disabled_rules=frozenset({rule})).rows == execute(plan, enabled=False).rows


@given(PLANS)
@settings(max_examples=40, deadline=None)
def test_same_rows_when_clustered_and_in_any_order(steps: list[tuple[str, int]]) -> None:
    plan = build(steps)
    small = {"m": EngineProfile(window_requests=4, kv_capacity_tok=20)}
    written = execute(plan, enabled=False)
    ordered = execute(plan, rows=100_000, distinct={3: 13, 4: 3}, chars={3: 4000, 4: 4000}, engines=small)
    assert ordered.rows == written.rows
    free = execute(plan, rows=100_000, distinct={3: 13}, chars={3: 4000}, engines=small, ordered=False)
    assert Counter(free.rows) == Counter(written.rows)


EXPLORE = sorted(rule.name for rule in RULES if rule.stage is Stage.EXPLORE)


ORDERED = ("llm filter", "llm filter", "map", "compare answer", "map of answer", "guarded map", "sort", "limit", "pick")
MOVING = st.lists(st.tuples(st.sampled_from(ORDERED), st.integers(0, 9)), min_size=3, max_size=8)


@given(MOVING, st.sampled_from(["", *EXPLORE]), st.booleans(), st.sampled_from([4, 4000]))
@settings(max_examples=100, deadline=None)
def test_a_plan_fails_for_no_call_that_it_does_not_make_as_written(
    steps: list[tuple[str, int]], rule: str, greedy: bool, chars: int
) -> None:
    plan = build(steps)
    written = execute(plan, enabled=False)
    asked = {text for _, text in written.prompts}
    # long bodies draw the calls into another order than the written one
    options = {"limits": Limits(chain=1 if greedy else 6), "rows": 60, "chars": {3: chars}}
    found = execute(plan, lambda text: text not in asked, disabled_rules=frozenset({rule}), **options)
    assert found.rows == written.rows


@pytest.mark.parametrize("step", STEPS)
def test_every_step_is_reached(step: str) -> None:
    plan = build([("map", 1), (step, 2), ("llm filter", 3), ("limit", 4)])
    written, optimized = execute(plan, enabled=False), execute(plan)
    assert optimized.rows == written.rows
