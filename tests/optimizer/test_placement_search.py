"""The local search over schedules: what it changes, and what it leaves to the state."""

from __future__ import annotations

import random

import pytest

from halo_sql.optimizer.placement.changes import FIRST_DONE, changed
from halo_sql.optimizer.placement.check import violations
from halo_sql.optimizer.placement.improve import _critical, improved
from halo_sql.optimizer.placement.listing import listed, replayed
from halo_sql.optimizer.placement.problem import Device, Edge, Node, Problem, Residence, Work
from halo_sql.optimizer.placement.state import State
from halo_sql.optimizer.placement.table import Table

from .test_placement import drawn


def llm(seconds: float, model: str = "m") -> Node:
    return Node({"d": Work(decode_s=seconds)}, model)


def gpu(name: str, *models: str, memory: float = 0.0) -> Device:
    held = {
        model: Residence(bytes=40.0, load_s=5.0, wake_s=2.0, sleep_s=1.0, state="resident" if fits else "cold")
        for model, fits in zip(models, (True, True, False), strict=False)
    }
    return Device(name, "d", held, memory)


def test_only_steps_without_slack_are_critical() -> None:
    nodes = (llm(4), llm(1), llm(6), llm(2))
    problem = Problem(nodes, (Edge(0, 2, False), Edge(1, 3, False)), (gpu("a", "m"), gpu("b", "m")))
    table = Table(problem)
    steps = [(0, 0, 1), (1, 1, 1), (2, 0, 1), (3, 1, 1)]
    assert _critical(table, replayed(table, steps), steps) == [0, 2]
    crowded = [(1, 0, 1), (0, 0, 1), (3, 1, 1), (2, 0, 1)]  # the short one delays the long way
    assert _critical(table, replayed(table, crowded), crowded) == [0, 1, 3]


def test_the_model_that_is_asked_last_makes_room() -> None:
    """Of two equal models the one whose next step on this device is nearer stays."""
    for kept in ("x", "y"):
        other = "y" if kept == "x" else "x"
        problem = Problem(tuple(llm(3, m) for m in ("z", kept, other)), (), (gpu("a", "x", "y", "z", memory=80.0),))
        table = Table(problem)
        state = State(table)
        state.steps = [(0, 0, 1), (1, 0, 1), (2, 0, 1)]
        for place, step in enumerate(state.steps):
            state.place = place
            state.put(*step)
        made = state.schedule(0.0, "", False)
        assert violations(problem, made) == []
        assert [(change.kind, change.model) for change in made.changes][:2] == [("sleep", other), ("load", "z")]


@pytest.mark.parametrize("seed", range(12))
def test_changes_are_orders_that_can_be(seed: int) -> None:
    table = Table(drawn(seed, 14))
    rng = random.Random(seed)
    _, steps = listed(table, True)
    seen: set[str] = set()
    for _ in range(400):
        found = changed(table, steps, rng, 0.1, [0])
        if found is None:
            continue
        first, made = found
        assert made[:first] == steps[:first]
        state, whole = State(table), []
        for node, d, parts in made:
            assert node < 0 or state.ready >> node & 1, "behind its producers"
            assert d == FIRST_DONE or node < 0 or (d, parts) in state.ways(node), "parts are on different devices"
            whole.append((node, table.options[node][-1] if d == FIRST_DONE else d, parts))
            state.put(*whole[-1])
        assert not state.ready, "all nodes are there"
        seen |= {"way" if d == FIRST_DONE else "early load" if node < 0 else "order" for node, d, _ in made}
        if len(made) <= len(steps) + 3:
            steps = whole
    assert {"order", "early load"} <= seen or not table.comings
    assert "way" in seen


@pytest.mark.parametrize("seed", [3, 9, 21, 50])
def test_a_search_is_valid_no_longer_and_the_same_again(seed: int) -> None:
    problem = drawn(seed, 20)
    table = Table(problem)
    state, steps = listed(table, False)
    found, order = improved(table, steps, 0.0, 300, seed, 0.05)
    assert violations(problem, found.schedule(0.0, "", False)) == []
    assert found.makespan_s <= state.makespan_s
    again, same = improved(table, steps, 0.0, 300, seed, 0.05)
    assert (again.makespan_s, same) == (found.makespan_s, order)
