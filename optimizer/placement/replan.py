"""The rest of a problem, as observed at some moment of its run: what it may take now, and a schedule for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from halo_sql.optimizer.placement.problem import Device, Edge, Node, Problem, Residence, Schedule, Work
from halo_sql.optimizer.placement.solve import DEFAULT_LIMITS, Limits, solve

#: How far what a model's nodes took may change the seconds of the others.
LEAST_PACE, MOST_PACE = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known at a moment. Nodes and devices by place in the problem.

    now_s      since the start of the run
    took_s     done node -> seconds of its work on all its devices together
    planned_s  done node -> the seconds that the plan had for that (``planned_seconds``)
    running    node -> seconds until it will have ended, as far as is known; its place stays as it is
    placed     node that is done or running -> its devices
    models     device -> models that can be asked there; devices left out are as at the beginning
    """

    now_s: float
    took_s: Mapping[int, float] = field(default_factory=dict)
    planned_s: Mapping[int, float] = field(default_factory=dict)
    running: Mapping[int, float] = field(default_factory=dict)
    placed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    models: Mapping[int, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replanned:
    """``problem``: the rest, its clock beginning at ``now_s``; ``nodes``: place there -> place in the whole problem."""

    problem: Problem
    schedule: Schedule
    nodes: tuple[int, ...]


def planned_seconds(schedule: Schedule) -> dict[int, float]:
    """Node -> seconds of its runs together."""
    found: dict[int, float] = {}
    for run in schedule.runs:
        found[run.node] = found.get(run.node, 0.0) + run.end_s - run.start_s
    return found


def replan(problem: Problem, done: Collection[int], observed: Observed, limits: Limits = DEFAULT_LIMITS) -> Replanned:
    """A new schedule for the nodes that are neither done nor running.

    The work of a model's nodes is taken to be as many times longer as that of its done nodes was (their median, within
    LEAST_PACE and MOST_PACE), and so is that of a tool. Prefixes of done nodes are warm where their model still is.
    ValueError when a node is done or running whose producers have not begun.
    """
    begun = set(done) | set(observed.running)
    for edge in problem.edges:
        if edge.target in begun and edge.source not in begun:
            raise ValueError(f"node {edge.target} has begun before {edge.source}, which it reads")
    paces = _paces(problem, done, observed)
    nodes = tuple(place for place in range(len(problem.nodes)) if place not in begun)
    new = {place: number for number, place in enumerate(nodes)}
    release_s = {place: max(0.0, problem.nodes[place].release_s - observed.now_s) for place in nodes}
    for edge in problem.edges:
        left_s = observed.running.get(edge.source)
        if edge.target in new and left_s is not None:
            source = problem.nodes[edge.source]
            first_s = 0.0 if edge.pipelined and source.first_share < 1.0 else left_s
            release_s[edge.target] = max(release_s[edge.target], first_s)
    for tool, slots in problem.tools.items():
        left = sorted(s for node, s in observed.running.items() if problem.nodes[node].tool == tool)
        if len(left) >= slots:
            for place in nodes:
                if problem.nodes[place].tool == tool:
                    release_s[place] = max(release_s[place], left[-slots])
    edges = tuple(
        Edge(new[edge.source], new[edge.target], edge.pipelined)
        for edge in problem.edges
        if edge.source in new and edge.target in new
    )
    rest = Problem(
        tuple(_slower(problem.nodes[place], paces, release_s[place]) for place in nodes),
        edges,
        tuple(_now(problem, place, set(done), observed) for place in range(len(problem.devices))),
        problem.tools,
        problem.tick_s,
    )
    return Replanned(rest, solve(rest, limits), nodes)


def _paces(problem: Problem, done: Collection[int], observed: Observed) -> dict[tuple[str, str], float]:
    ratios: dict[tuple[str, str], list[float]] = {}
    for place in sorted(done):
        took_s, planned_s = observed.took_s.get(place), observed.planned_s.get(place, 0.0)
        if took_s is not None and planned_s > 0:
            node = problem.nodes[place]
            ratios.setdefault((node.model, node.tool), []).append(took_s / planned_s)
    return {key: min(MOST_PACE, max(LEAST_PACE, median(found))) for key, found in ratios.items()}


def _slower(node: Node, paces: Mapping[tuple[str, str], float], release_s: float) -> Node:
    pace = paces.get((node.model, node.tool), 1.0)
    work = {
        kind: Work(one.prefill_s * pace, one.decode_s * pace, one.prefix_s * pace, one.floor_s * pace)
        for kind, one in node.work.items()
    }
    return replace(node, work=work, release_s=release_s)


def _now(problem: Problem, place: int, done: Collection[int], observed: Observed) -> Device:
    """A device as it is: what it holds, what is warm there, until when it is busy."""
    device = problem.devices[place]
    running = [left_s for node, left_s in observed.running.items() if place in observed.placed.get(node, ())]
    here = observed.models.get(place)
    ran = [node for node in [*done, *observed.running] if place in observed.placed.get(node, ())]
    asked = {problem.nodes[node].model for node in ran}
    models: dict[str, Residence] = {}
    for name, one in device.models.items():
        there = one.state == "resident" if here is None else name in here
        been = one.state != "cold" or name in asked
        warm = {problem.nodes[node].prefix for node in ran if node in done and problem.nodes[node].model == name} - {""}
        known = one.prefixes if one.state == "resident" else frozenset()
        state = "resident" if there else "asleep" if been else "cold"
        models[name] = replace(one, state=state, prefixes=frozenset(known | warm) if there else frozenset())
    free_s = max([0.0, device.free_s - observed.now_s, *running])
    return replace(device, models=models, free_s=free_s)
