"""The exact program of the benchmarks, on problems so small that it takes no time; needs highspy."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from halo_sql.optimizer.placement.check import violations
from halo_sql.optimizer.placement.problem import Problem
from halo_sql.optimizer.placement.solve import Limits, solve
from halo_sql.optimizer.placement.table import Table, bound_s

from .test_placement import drawn

pytest.importorskip("highspy")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def oracle() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return import_module("placement_milp").solve
    finally:
        sys.path.remove(str(BENCHMARKS))


def check(oracle: Any, problem: Problem) -> None:
    """Nothing ends before our bound; the program's schedule is valid, and no longer than ours."""
    found = solve(problem, Limits(visits=4_000, states=400))
    least_s = bound_s(Table(problem))
    assert oracle(problem, least_s - problem.tick_s, 30.0).status == "none"
    answer = oracle(problem, found.makespan_s, 30.0)
    assert answer.status == "optimal"
    assert answer.schedule is not None
    assert violations(problem, answer.schedule) == []
    assert least_s <= answer.makespan_s <= found.makespan_s
    if found.exact:
        assert answer.makespan_s == found.makespan_s


@pytest.mark.parametrize("seed", range(6))
def test_the_program_agrees_on_loads_splits_and_prefixes(oracle: Any, seed: int) -> None:
    check(oracle, drawn(seed, 4))


@pytest.mark.parametrize("seed", range(4))
def test_the_program_agrees_on_orders(oracle: Any, seed: int) -> None:
    check(oracle, drawn(seed, 5, plain=True))
