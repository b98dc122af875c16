"""Measured inputs and learnt profiles: how they travel through a plan, and what they decide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halo_sql.ir.call_key import call_key
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.prompt import Hole, ObjectHole, Prompt
from halo_sql.optimizer.cardinality import Known, Profile, derive, input_key
from halo_sql.optimizer.context import CallProfile, FragmentStats, InputStats, OptimizerContext
from halo_sql.optimizer.cost import call_levels, llm_estimate
from halo_sql.optimizer.optimize import optimize

from .plans import BODY, ID, A, T, call, llm_filter, llm_map, project, where

BODY_KEY = input_key(call(20, "x {3}"))
ROWS = Profile(100.0, {ColumnId(3): Known(100.0, 40.0)}, {BODY_KEY: InputStats(80.0, 20.0, 44.0)})
NOTHING = OptimizerContext()


def test_what_was_counted_of_a_call_goes_before_what_is_assumed() -> None:
    assert llm_estimate([call(20, "y {3}")], ROWS, 100, False, NOTHING).llm_calls == 20
    assert llm_estimate([call(20, "y {3}", volatile=True)], ROWS, 100, False, NOTHING).llm_calls == 80
    guarded = replace(call(20, "y {3}"), guard=A.id)
    assert llm_estimate([guarded], ROWS, 100, False, NOTHING).llm_calls == 100, "counted for other rows"
    assert call_levels(call(20, "yyyy{3}"), ROWS, NOTHING)[-1].end_tok == (4 + 44) / 4 + 1


def test_a_filter_leaves_values_as_cardenas_says_or_in_proportion_when_they_decide() -> None:
    half = ROWS.some(50.0)
    assert half.inputs[BODY_KEY].rows == 40
    assert half.inputs[BODY_KEY].distinct == pytest.approx(20 * (1 - 0.5**4))
    assert ROWS.some(50.0, frozenset({BODY.id})).inputs[BODY_KEY].distinct == 10
    assert ROWS.some(100.0).inputs == ROWS.inputs


def test_counts_pass_through_what_keeps_rows_and_stop_where_columns_end() -> None:
    assert derive(llm_map(T, call(20, "x {3}")), [ROWS], NOTHING).inputs == ROWS.inputs
    assert derive(project(T, BODY), [ROWS], NOTHING).inputs == ROWS.inputs
    assert derive(project(T, ID), [ROWS], NOTHING).inputs == {}


def test_trees_below_calls_have_the_statistics_of_the_survey() -> None:
    tree = where(T, "#2 > 3")
    plan = llm_map(tree, call(20, "x {3}"))
    key = input_key(call(20, "x {3}"))
    asked = []

    def survey(normalized: object, ctx: OptimizerContext) -> OptimizerContext:
        asked.append(normalized)
        stats = FragmentStats(7.0, {}, {key: InputStats(7.0, 5.0, 10.0)})
        return replace(ctx, stats={normalized.input: stats})  # type: ignore[attr-defined]

    columns = (*T.columns, plan.calls[0] and replace(BODY, id=ColumnId(20)))
    done = optimize(plan, columns, survey=survey)
    llm = next(node for node in done.dag.nodes if node.estimate.llm_calls)
    assert (llm.estimate.rows, llm.estimate.llm_calls) == (7, 5)
    assert len(asked) == 1


def test_a_learnt_selectivity_orders_filters() -> None:
    plan = llm_filter(llm_filter(T, 20, "A {3}"), 21, "B {3}")
    first, second = plan.input.call, plan.call  # type: ignore[attr-defined]

    def below(profiles: dict[tuple[str, str], CallProfile]) -> str:
        """The filter that runs first."""
        done = optimize(plan, T.columns, OptimizerContext(calls=profiles))
        return next(node.op.call.label for node in done.dag.nodes if node.estimate.llm_calls)  # type: ignore[union-attr]

    keeps_little, keeps_much = CallProfile(true_share=0.05), CallProfile(true_share=0.95)
    assert below({("m", call_key(first)): keeps_little, ("m", call_key(second)): keeps_much}) == first.label
    assert below({("m", call_key(first)): keeps_much, ("m", call_key(second)): keeps_little}) == second.label


def test_learnt_lengths_and_the_model_in_their_place() -> None:
    item = call(20, "x {3}")
    own = OptimizerContext(calls={("m", call_key(item)): CallProfile(0.5, 10.0, output_tok=300.0)})
    estimate = llm_estimate([item], ROWS, 100, False, own)
    assert estimate.output_tok == 20 * 300, "what was seen is not cut at max_tokens"
    assert estimate.prompt_tok == 20 * ((2 + 44) * 0.5 + 10)
    other = llm_estimate([call(20, "another {3}")], ROWS, 100, False, own)
    assert other == llm_estimate([call(20, "another {3}")], ROWS, 100, False, NOTHING)
    model = OptimizerContext(calls={("m", ""): CallProfile(0.5, 10.0)})
    assert llm_estimate([item], ROWS, 100, False, model).prompt_tok == estimate.prompt_tok


def test_a_template_is_one_whatever_its_columns_and_field_order() -> None:
    left, right = call(20, "x {3}"), call(30, "x {4}")
    assert call_key(left) == call_key(right)
    assert call_key(left) != call_key(call(20, "y {3}"))
    assert call_key(left) != call_key(replace(left, labels=("a",)))
    assert call_key(call(1, "{3}", kind="filter")) != call_key(replace(call(1, "{3}", kind="filter"), label="other"))
    fields = [("a", ColumnId(1)), ("b", ColumnId(2))]
    ordered, turned = (replace(left, prompt=Prompt((ObjectHole(tuple(f)),))) for f in (fields, fields[::-1]))
    assert call_key(ordered) == call_key(turned)
    assert call_key(replace(left, prompt=Prompt((Hole(ColumnId(1)), "x")))) != call_key(left)
