"""When filters with a quality are decided by a proxy in part, and when they must not be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halo_sql.ir.physical import LlmFilterCascadeExec
from halo_sql.optimizer.context import EngineProfile

from .memo_cases import APPROXIMATE, CASCADE, LABELS, PAIRS, SLOW
from .plans import T, U, context, join, limit, llm_filter, operators, plan_of


@pytest.mark.parametrize(
    "options",
    [
        {"approximate": False},
        {"enabled": False},
        {"rows": 300},  # too few for a sample
        {"engines": {"m": SLOW, "p": EngineProfile()}},  # the proxy was not measured
        {"engines": {"m": SLOW}},
    ],
    ids=lambda options: ",".join(options),
)
def test_no_cascade_unless_allowed_and_known_to_be_cheaper(options: dict[str, Any]) -> None:
    found = operators(plan_of(CASCADE, context(**APPROXIMATE | options)).dag)
    assert found[-1] == "LlmFilter('y {3}')"


def test_no_cascade_without_a_quality_or_a_truth() -> None:
    for plan in (
        llm_filter(T, 21, "y {3}"),
        llm_filter(T, 21, "y {3}", quality=0.9),
        llm_filter(T, 21, "y {3}", quality=0.9, proxy="p", volatile=True),
    ):
        assert "Cascade" not in str(operators(plan_of(plan, context(**APPROXIMATE)).dag))


def test_under_a_limit_the_exact_filter_streams() -> None:
    assert "LlmFilter('y {3}')" in operators(plan_of(limit(CASCADE, 5), context(**APPROXIMATE)).dag)
    many = limit(CASCADE, 2_000)
    assert "LlmFilter('y {3}')" in operators(plan_of(many, context(**APPROXIMATE)).dag), "a row behind it may fail"
    forgiving = replace(CASCADE, call=replace(CASCADE.call, on_error="null"))
    assert "LlmFilterCascade(score)" in operators(plan_of(limit(forgiving, 2_000), context(**APPROXIMATE)).dag)


def test_prices_stand_for_speeds_where_neither_was_measured() -> None:
    def engine(usd: float) -> EngineProfile:
        return EngineProfile(usd_per_prompt_tok=usd, usd_per_output_tok=4 * usd)

    for cheap, expected in (
        (1e-7, "LlmFilterCascade(score)"),
        (1e-6, "LlmFilter('y {3}')"),
        (0.0, "LlmFilter('y {3}')"),
    ):
        engines = {"m": engine(1e-6), "p": engine(cheap)}
        assert operators(plan_of(CASCADE, context(**APPROXIMATE | {"engines": engines})).dag)[-1] == expected


def test_pairs_are_classified_by_their_few_labels() -> None:
    [node] = [node for node in plan_of(PAIRS, context(**LABELS)).dag.nodes if isinstance(node.op, LlmFilterCascadeExec)]
    assert isinstance(node.op, LlmFilterCascadeExec)
    assert (node.op.label, node.op.proxy.kind, node.op.proxy.model) == (6, "classify", "m")
    exact = plan_of(PAIRS, context(**LABELS | {"approximate": False})).dag.nodes[-1]
    assert node.estimate.llm_calls < 0.5 * exact.estimate.llm_calls
    only = llm_filter(join(T, U, on=()), 21, "is {3, 6} right?", quality=0.9)
    assert "Cascade" not in str(operators(plan_of(only, context(**LABELS)).dag))
