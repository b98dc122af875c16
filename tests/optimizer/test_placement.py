"""The placement problem: small optima, valid schedules, determinism, limits, what is planned again."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.optimizer.placement.check import violations
from halo_sql.optimizer.placement.problem import Change, Device, Edge, Node, Problem, Residence, Run, Schedule, Work
from halo_sql.optimizer.placement.solve import Limits, solve
from halo_sql.optimizer.placement.state import State
from halo_sql.optimizer.placement.table import Table, bound_s

QUICK = Limits(visits=3_000, states=300)


def llm(seconds: float, model: str = "m", **rest: Any) -> Node:
    return Node({"d": Work(decode_s=seconds)}, model, **rest)


def tool(seconds: float, name: str = "t", **rest: Any) -> Node:
    return Node({"": Work(decode_s=seconds)}, tool=name, **rest)


def gpu(name: str, *models: str, memory: float = 0.0, state: str = "resident", **rest: Any) -> Device:
    held = {model: Residence(bytes=40.0, load_s=5.0, wake_s=2.0, sleep_s=1.0, state=state) for model in models}
    return Device(name, "d", held, memory, **rest)


def best(problem: Problem, limits: Limits = QUICK) -> Schedule:
    found = solve(problem, limits)
    assert violations(problem, found) == []
    return found


# --- small optima


def test_equal_nodes_go_to_both_devices() -> None:
    found = best(Problem((llm(4), llm(4), llm(4), llm(4)), (), (gpu("a", "m"), gpu("b", "m"))))
    assert (found.makespan_s, found.exact, found.loads) == (8.0, True, 0)


def test_the_longest_way_comes_first() -> None:
    nodes = (llm(1), llm(1), llm(2), llm(6))
    found = best(Problem(nodes, (Edge(2, 3, pipelined=False),), (gpu("a", "m"), gpu("b", "m"))))
    assert found.makespan_s == 8.0
    assert next(run.start_s for run in found.runs if run.node == 2) == 0.0


def test_a_pipelined_consumer_overlaps_on_another_device_only() -> None:
    nodes = (llm(10, "p", first_share=0.1), llm(6, "c", last_share=0.5))
    apart = best(Problem(nodes, (Edge(0, 1),), (gpu("a", "p"), gpu("b", "c"))))
    assert apart.makespan_s == 13.0  # half of the consumer's work is on rows that come last
    together = best(Problem(nodes, (Edge(0, 1),), (gpu("a", "p", "c"),)))
    assert together.makespan_s == 16.0
    whole = best(Problem(nodes, (Edge(0, 1, pipelined=False),), (gpu("a", "p"), gpu("b", "c"))))
    assert whole.makespan_s == 16.0


def test_a_node_is_split_where_nothing_else_waits() -> None:
    problem = Problem((llm(9, max_parts=3),), (), tuple(gpu(name, "m") for name in "abc"))
    found = best(problem)
    assert (found.makespan_s, len(found.runs)) == (3.0, 3)
    floor = Node({"d": Work(decode_s=9.0, floor_s=8.0)}, "m", max_parts=3)
    assert best(Problem((floor,), (), problem.devices)).makespan_s == 8.0


def test_equal_makespans_take_the_fewest_loads() -> None:
    devices = (gpu("a", "m"), gpu("b", "m", state="cold"))
    found = best(Problem((llm(3), llm(2)), (), devices))
    assert (found.makespan_s, found.loads) == (5.0, 0)
    longer = best(Problem((llm(30), llm(20)), (), devices))
    assert (longer.makespan_s, longer.loads) == (30.0, 1)


def test_models_that_do_not_fit_change_places_once() -> None:
    nodes = (llm(3, "x"), llm(3, "y"), llm(3, "x"), llm(3, "y"))
    one = Device(
        "a",
        "d",
        {"x": Residence(0, 40.0, 5.0, 2.0, 1.0, "resident"), "y": Residence(0, 40.0, 5.0, 2.0, 1.0, "asleep")},
        60.0,
    )
    found = best(Problem(nodes, (), (one,)))
    assert [(change.model, change.kind) for change in found.changes] == [("x", "sleep"), ("y", "wake")]
    assert found.makespan_s == 15.0
    assert best(Problem(nodes, (), (replace(one, memory_bytes=80.0),))).makespan_s == 14.0


def test_the_next_model_is_loaded_while_a_device_waits() -> None:
    nodes = (tool(8), llm(4))
    found = best(Problem(nodes, (Edge(0, 1, pipelined=False),), (gpu("a", "m", state="cold"),), {"t": 1}))
    assert found.makespan_s == 12.0
    assert found.changes == (Change(0, "m", "load", 0.0, 5.0),)


def test_kv_of_a_node_needs_room_beside_the_models() -> None:
    device = gpu("a", "m", "n", memory=100.0)
    assert best(Problem((llm(3, kv_bytes=20.0),), (), (device,))).changes == ()
    found = best(Problem((llm(3, kv_bytes=30.0),), (), (device,)))
    assert [(change.model, change.kind) for change in found.changes] == [("n", "sleep")]


def test_a_shared_prefix_keeps_nodes_together_or_moves() -> None:
    work = {"d": Work(prefill_s=1.0, prefix_s=6.0)}
    nodes = tuple(Node(work, "m", prefix="p", prefix_bytes=10.0) for _ in range(2))
    apart = Problem(nodes, (), (gpu("a", "m"), gpu("b", "m")))
    found = best(apart)
    assert (found.makespan_s, sorted(run.prefix for run in found.runs)) == (7.0, ["computed", "computed"])
    three = Problem((*nodes, nodes[0]), (), apart.devices)
    assert best(three).makespan_s == 8.0
    linked = tuple(replace(device, link_bytes_per_s=20.0) for device in apart.devices)
    chain = Problem((nodes[0], llm(9), nodes[1]), (Edge(0, 2, pipelined=False),), linked)
    assert best(chain).makespan_s == 9.0


def test_tools_run_as_many_as_they_can() -> None:
    nodes = tuple(tool(3) for _ in range(5))
    assert best(Problem(nodes, tools={"t": 2})).makespan_s == 9.0
    assert best(Problem(nodes, tools={"t": 5})).makespan_s == 3.0
    assert best(Problem((Node({"": Work(decode_s=2.0)}),) * 3)).makespan_s == 2.0


def test_nothing_to_do() -> None:
    assert best(Problem(())).makespan_s == 0.0


# --- all schedules of small problems


def brute_force(problem: Problem) -> float:
    """The shortest of all orders and devices of a problem without loads and splits."""
    table = Table(problem)
    calls = [i for i in range(table.count) if table.options[i] or table.tool[i] >= 0]
    shortest = float("inf")
    for order in permutations(calls):
        for devices in product(*(table.options[i] or (-1,) for i in order)):
            state = State(table)
            for node, d in zip(order, devices, strict=True):
                if not state.ready >> node & 1:
                    break
                state.put(node, d)
            else:
                shortest = min(shortest, state.makespan_s)
    return shortest


def drawn(seed: int, count: int, plain: bool = False) -> Problem:
    """A random problem with whole seconds; ``plain``: without loads and splits."""
    rng = random.Random(seed)
    nodes = []
    for _ in range(count):
        if rng.random() < 0.25:
            nodes.append(tool(rng.randint(1, 6), first_share=rng.choice((1.0, 0.2)), last_share=rng.choice((1.0, 0.2))))
            continue
        prefix = rng.choice(("", "p", "q"))
        work = {
            "d": Work(rng.randint(0, 4), rng.randint(1, 6), rng.randint(1, 4) if prefix else 0.0, rng.randint(0, 2))
        }
        nodes.append(
            Node(
                work,
                rng.choice("xy" if plain else "xyz"),
                kv_bytes=0.0 if plain else rng.choice((0.0, 15.0)),
                prefix=prefix,
                prefix_bytes=rng.choice((10.0, 60.0)) if prefix else 0.0,
                first_share=rng.choice((1.0, 0.25)),
                last_share=rng.choice((1.0, 0.25)),
                max_parts=1 if plain else rng.randint(1, 3),
            )
        )
    edges = tuple(
        Edge(a, b, rng.random() < 0.6) for b in range(count) for a in range(b) if rng.random() < 1.5 / max(1, count)
    )
    memory = 0.0 if plain else rng.choice((60.0, 100.0, 0.0))
    state = "resident" if plain or not memory else rng.choice(("cold", "asleep"))
    models = "xy" if plain else "xyz"
    devices = tuple(
        gpu(f"g{n}", *models, memory=memory, state=state, link_bytes_per_s=rng.choice((0.0, 20.0)))
        for n in range(rng.randint(1, 3))
    )
    return Problem(tuple(nodes), edges, devices, {"t": rng.randint(1, 2)}, tick_s=1.0)


@pytest.mark.parametrize("seed", range(12))
def test_small_problems_are_solved_exactly(seed: int) -> None:
    problem = drawn(seed, 5, plain=True)
    found = best(problem, Limits())
    assert found.makespan_s == brute_force(problem)


@given(st.integers(0, 10**6), st.integers(1, 14))
@settings(max_examples=60, deadline=None)
def test_every_schedule_is_valid(seed: int, count: int) -> None:
    problem = drawn(seed, count)
    found = best(problem, Limits(visits=600, states=100, beam=4))
    assert bound_s(Table(problem)) <= found.makespan_s + 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_symmetry_and_dominance_change_no_makespan(seed: int) -> None:
    problem = drawn(100 + seed, 5, plain=True)
    nodes = (*problem.nodes, problem.nodes[-1])  # two equal nodes, equal devices
    problem = replace(problem, nodes=nodes)
    wide = Limits(beam=100_000, states=10**9, visits=0, per_s=math.inf)
    assert best(problem, wide).makespan_s == best(problem, replace(wide, symmetry=False)).makespan_s


def test_equal_problems_give_equal_schedules() -> None:
    problem = drawn(7, 16)
    assert solve(problem, QUICK) == solve(drawn(7, 16), QUICK)


def test_above_the_limits_there_is_a_schedule_all_the_same() -> None:
    problem = drawn(11, 60)
    found = best(problem, Limits(nodes=10, large_visits=0))
    assert found.method == "list"
    better = best(problem, Limits(nodes=10, large_visits=12_000))
    assert better.makespan_s <= found.makespan_s
    assert best(problem, Limits(nodes=100, beam=1, states=10, visits=0)).makespan_s <= found.makespan_s


def test_looking_costs_less_than_it_may_bring() -> None:
    def scaled(node: Node) -> Node:
        work = {kind: Work(one.prefill_s / 1e6, one.decode_s / 1e6) for kind, one in node.work.items()}
        return replace(node, work=work, prefix="")

    problem = drawn(25, 14)
    devices = tuple(gpu(name, "x", "y", "z") for name in "ab")
    long = replace(problem, nodes=tuple(replace(node, prefix="") for node in problem.nodes), devices=devices)
    short = replace(long, nodes=tuple(map(scaled, long.nodes)), tick_s=0.0)
    assert best(long, Limits()).method != "list"
    assert best(short, Limits()).method == "list"


# --- what cannot be


def test_problems_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="leads to no later node"):
        Problem((llm(1), llm(1)), (Edge(1, 0),), (gpu("a", "m"),))
    with pytest.raises(ValueError, match="fits no device; add memory or a device"):
        Problem((llm(1, "other"),), (), (gpu("a", "m"),))
    with pytest.raises(ValueError, match="fits no device"):
        Problem((llm(1),), (), (gpu("a", "m", memory=30.0),))


def test_the_check_finds_what_is_wrong() -> None:
    problem = Problem((llm(4), llm(4)), (Edge(0, 1, pipelined=False),), (gpu("a", "m", state="cold"),))
    right = best(problem)
    runs, changes = right.runs, right.changes
    early = replace(right, runs=(runs[0], replace(runs[1], start_s=6.0, end_s=10.0)), makespan_s=10.0)
    assert any("starts before" in problem for problem in violations(problem, early))
    assert any("at once" in problem for problem in violations(problem, early))
    assert any("is not on" in text for text in violations(problem, replace(right, changes=())))
    assert violations(problem, replace(right, runs=runs[:1])) == ["node 1 does not run"]
    short = replace(right, runs=(replace(runs[0], end_s=runs[0].start_s + 1), runs[1]))
    assert any("instead of" in text for text in violations(problem, short))
    assert any("makespan" in text for text in violations(problem, replace(right, makespan_s=1.0)))
    assert any(
        "in 1.0 s" in text for text in violations(problem, replace(right, changes=(replace(changes[0], end_s=1.0),)))
    )


def test_the_check_finds_memory_and_prefixes() -> None:
    tight = Problem((llm(1, "m"), llm(1, "n")), (), (gpu("a", "m", "n", memory=60.0, state="cold"),))
    runs = (Run(0, 0, 10.0, 11.0), Run(1, 0, 11.0, 12.0))
    both = (Change(0, "m", "load", 0.0, 5.0), Change(0, "n", "load", 5.0, 10.0))
    assert any("bytes at" in text for text in violations(tight, Schedule(runs, both, 12.0)))
    warm = Problem((Node({"d": Work(1.0, prefix_s=2.0)}, "m", prefix="p"),), (), (gpu("a", "m"),))
    wrong = Schedule((Run(0, 0, 0.0, 1.0, prefix="warm"),), (), 1.0)
    assert violations(warm, wrong) == ["node 0: prefix 'p' is not warm at 0.0"]


def test_prefixes_of_models_that_share_nothing_do_not_move() -> None:
    warm = replace(gpu("a", "m", "n"), link_bytes_per_s=1e9)
    held = {
        "m": replace(warm.models["m"], prefixes=frozenset("p")),
        "n": replace(warm.models["n"], prefixes=frozenset("p"), moves=False),
    }
    there = replace(warm, models={**held}, free_s=50.0)
    here = replace(warm, name="b", models={"m": replace(held["m"], prefixes=frozenset()), "n": warm.models["n"]})
    here = replace(here, models={**here.models, "n": replace(here.models["n"], moves=False)})
    work = {"d": Work(decode_s=4.0, prefix_s=3.0)}
    nodes = (Node(work, "m", prefix="p", prefix_bytes=1e9), Node(work, "n", prefix="p", prefix_bytes=1e9))
    found = best(Problem(nodes, (), (there, here)))
    assert {run.node: run.prefix for run in found.runs} == {0: "moved", 1: "computed"}
    assert found.makespan_s == 4 + 1 + 4 + 3
