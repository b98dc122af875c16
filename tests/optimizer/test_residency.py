"""Models that do not fit their device together: the order of nodes, and what changing places costs."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import pytest

from halo_sql.explain_sections import render
from halo_sql.ir.logical import Fragment, InputRef
from halo_sql.ir.physical import LlmMapExec, PhysicalNode, calls_by
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.context import EngineProfile, OptimizerContext
from halo_sql.optimizer.residency import crowded, switches

from .plans import T, U, call, col, context, llm_map, plan_of, well_formed


def engine(gigabytes: float, swap_s: float = 20.0, **rest: Any) -> EngineProfile:
    return EngineProfile(device="cuda", resident_bytes=gigabytes * 1e9, memory_bytes=80e9, swap_s=swap_s, **rest)


TIGHT = {"a": engine(50), "b": engine(50, 30.0)}
ROOMY = {"a": engine(30), "b": engine(40, 30.0)}


def asked(dag: Any) -> list[str]:
    return [item.model for node in dag.nodes for item in calls_by(node.op)]


def turns(*models: str) -> list[PhysicalNode]:
    return [
        PhysicalNode(place, LlmMapExec((call(20 + place, "x {3}", model=model),)), (), ())
        for place, model in enumerate(models)
    ]


def side_by_side(*models: str) -> Fragment:
    """A query over maps of different tables, each with a model of its own: no order is given."""
    plans = tuple(
        llm_map(U if place % 2 else T, call(20 + place, f"question {place} {{{6 if place % 2 else 3}}}", model=model))
        for place, model in enumerate(models)
    )
    parts: list[str | InputRef] = []
    for index, plan in enumerate(plans):
        parts += [" UNION ALL FROM " if parts else "FROM ", InputRef(index, (("x", output_columns(plan)[-1].id),))]
    return Fragment(tuple(parts), (col(900),), plans)


def test_a_model_that_was_put_out_is_started_again() -> None:
    places = crowded(["a", "b"], context(engines=TIGHT))
    assert places == {"cuda": ["a", "b"]}
    found = switches(turns("a", "b", "a", "b", "b"), places, context(engines=TIGHT))
    assert [(switch.node, switch.model, switch.seconds) for switch in found] == [(2, "a", 20.0), (3, "b", 30.0)]
    assert switches(turns("a", "a", "b"), places, context(engines=TIGHT)) == []


def test_where_all_fit_nothing_is_started_again() -> None:
    assert crowded(["a", "b"], context(engines=ROOMY)) == {}
    assert crowded(["a", "b"], context(engines=ROOMY, occupied_bytes={"cuda": 20e9})) == {"cuda": ["a", "b"]}
    assert crowded(["a", "b"], OptimizerContext()) == {}


def test_the_model_that_is_needed_last_makes_room() -> None:
    engines = {name: engine(40) for name in "abc"}
    places = {"cuda": ["a", "b", "c"]}
    found = switches(turns("a", "b", "c", "a", "b"), places, context(engines=engines))
    assert [switch.model for switch in found] == ["b"], "c takes the place of b, which comes after a"


def test_estimates_notes_and_seconds_say_so() -> None:
    chain = T
    for place, model in enumerate("aba"):
        chain = llm_map(chain, call(20 + place, f"x {{{19 + place if place else 3}}}", model=model))  # type: ignore[assignment]
    done = plan_of(chain, context(rows=10, engines=TIGHT))
    free = plan_of(chain, context(rows=10, engines=ROOMY))
    assert done.dag.notes == (
        "a, b: weights and KV cache of 100.0 GB exceed the 80.0 GB of cuda; models change places once, ~20.0 s",
    )
    seconds = [sum(node.estimate.cost.gpu_s for node in each.dag.nodes) for each in (done, free)]
    assert seconds[0] - seconds[1] == pytest.approx(20.0)
    assert [(swap.model, swap.seconds) for swap in done.swaps] == [("a", 20.0)]
    assert free.swaps == ()
    node = done.swaps[0].node
    assert f"#{node} starts a again: 20.0 s" in render(None, done, "text", ["costs"], "")  # type: ignore[arg-type]
    bounded = plan_of(chain, context(rows=10, engines=TIGHT, max_seconds=15.0)).dag.notes
    assert any("is above halo_max_seconds 15" in note for note in bounded)
    assert plan_of(chain, context(rows=10, engines=ROOMY, max_seconds=15.0)).dag.notes == ()


@pytest.mark.parametrize("models", sorted(set(permutations("aabb"))))
def test_nodes_of_a_model_are_neighbours_where_models_must_change_places(models: tuple[str, ...]) -> None:
    done = plan_of(side_by_side(*models), context(rows=100, engines=TIGHT))
    well_formed(done.dag)
    order = asked(done.dag)
    assert sum(one != other for one, other in pairwise(order)) == 1, order
    assert done.swaps == ()


def test_where_all_fit_the_critical_path_decides_alone() -> None:
    done = plan_of(side_by_side(*"abab"), context(rows=100, engines=ROOMY))
    assert done.dag.nodes == plan_of(side_by_side(*"abab"), context(rows=100, engines={})).dag.nodes
