"""Whether a schedule is one: each rule of ``problem`` tested by itself, without the solvers' code."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from halo_sql.optimizer.placement.problem import EPS_S, Change, Problem, Run, Schedule

_SLACK_S = 1e-6


def violations(problem: Problem, schedule: Schedule) -> list[str]:
    """What is wrong with a schedule; nothing when it is valid."""
    parts: dict[int, list[Run]] = defaultdict(list)
    for run in schedule.runs:
        parts[run.node].append(run)
    found = [f"node {node} does not run" for node in range(len(problem.nodes)) if node not in parts]
    if found:
        return found
    for node, runs in parts.items():
        found += _parts(problem, node, runs)
    found += _order(problem, parts)
    found += _tools(problem, schedule)
    for place in range(len(problem.devices)):
        found += _device(problem, schedule, place)
    found += _prefixes(problem, schedule)
    last_s = max((run.end_s for run in schedule.runs), default=0.0)
    if abs(last_s - schedule.makespan_s) > _SLACK_S:
        found.append(f"makespan {schedule.makespan_s} is not the last end {last_s}")
    if schedule.bound_s > schedule.makespan_s + _SLACK_S:
        found.append(f"bound {schedule.bound_s} exceeds the makespan {schedule.makespan_s}")
    return found


def _parts(problem: Problem, node: int, runs: list[Run]) -> list[str]:
    asked = problem.nodes[node]
    places = [run.device for run in runs]
    found = []
    if len(set(places)) < len(places) or any(run.parts != len(runs) for run in runs):
        found.append(f"node {node}: parts on {places} say they are {[run.parts for run in runs]}")
    if len(runs) > max(1, asked.max_parts):
        found.append(f"node {node}: {len(runs)} parts, {asked.max_parts} allowed")
    for run in runs:
        if (run.device >= 0) != bool(asked.model) or (asked.model and run.device not in problem.devices_of(node)):
            found.append(f"node {node} cannot run on device {run.device}")
            continue
        extra_s = {"": 0.0, "warm": 0.0}.get(run.prefix, 0.0)
        if run.prefix == "computed":
            extra_s = problem.prefix_s(node, run.device)
        elif run.prefix == "moved":
            extra_s = problem.move_s(node, run.device)
        least_s = problem.part_s(node, run.device, len(runs)) + extra_s
        if run.end_s - run.start_s < least_s - _SLACK_S:
            found.append(f"node {node} takes {run.end_s - run.start_s} s instead of {least_s}")
        if run.start_s < asked.release_s - _SLACK_S:
            found.append(f"node {node} starts at {run.start_s}, before {asked.release_s}")
        if bool(run.prefix) != bool(asked.prefix):
            found.append(f"node {node}: prefix {run.prefix!r}")
    return found


def _order(problem: Problem, parts: dict[int, list[Run]]) -> list[str]:
    found = []
    for edge in problem.edges:
        for source in parts[edge.source]:
            for target in parts[edge.target]:
                source_s = problem.part_s(edge.source, source.device, source.parts)
                prefix_s = source.end_s - source.start_s - source_s
                first_s = problem.first_s(edge.source, source_s, prefix_s)
                target_s = problem.part_s(edge.target, target.device, target.parts)
                last_s = problem.last_s(edge.target, target_s)
                ready_s = source.start_s + first_s if edge.pipelined else source.end_s
                if target.start_s < ready_s - _SLACK_S:
                    found.append(f"node {edge.target} starts before {edge.source} has rows for it")
                if target.end_s < source.end_s + last_s - _SLACK_S:
                    found.append(f"node {edge.target} ends too soon after {edge.source}")
    return found


def _tools(problem: Problem, schedule: Schedule) -> list[str]:
    found = []
    for tool, slots in problem.tools.items():
        runs = [run for run in schedule.runs if problem.nodes[run.node].tool == tool]
        for run in runs:
            beside = [other for other in runs if other.start_s <= run.start_s + EPS_S < other.end_s - EPS_S]
            if len(beside) > slots:
                found.append(f"tool {tool} runs {len(beside)} nodes at {run.start_s}, {slots} allowed")
    return found


def _device(problem: Problem, schedule: Schedule, place: int) -> list[str]:
    """One thing at a time; models there when they are asked; memory."""
    device = problem.devices[place]
    found = []
    taken: list[Run | Change] = [run for run in schedule.runs if run.device == place]
    taken += [change for change in schedule.changes if change.device == place]
    order = {"sleep": 0, "load": 1, "wake": 1}
    taken.sort(key=lambda one: (one.start_s, one.end_s, order.get(one.kind, 2) if isinstance(one, Change) else 2))
    if taken and taken[0].start_s < device.free_s - _SLACK_S:
        found.append(f"{device.name} is busy until {device.free_s}")
    for before, after in pairwise(taken):
        if after.start_s < before.end_s - _SLACK_S:
            found.append(f"{device.name}: {before} and {after} at once")
    there = {name for name, model in device.models.items() if model.state == "resident"}
    been = {name for name, model in device.models.items() if model.state != "cold"}
    for one in taken:
        kv_bytes = 0.0
        if isinstance(one, Run):
            asked = problem.nodes[one.node]
            kv_bytes = asked.kv_bytes
            if asked.model not in there:
                found.append(f"node {one.node}: {asked.model} is not on {device.name}")
        else:
            model, took_s = device.models[one.model], one.end_s - one.start_s
            least_s = {"load": model.load_s, "wake": model.wake_s, "sleep": model.sleep_s}[one.kind]
            if took_s < problem.rounded(least_s) - _SLACK_S:
                found.append(f"{one.kind} of {one.model} in {took_s} s")
            if one.kind == "sleep":
                there.discard(one.model)
            else:
                if one.kind == "wake" and one.model not in been:
                    found.append(f"{one.model} cannot wake on {device.name}")
                there.add(one.model)
                been.add(one.model)
        used = sum(device.models[name].bytes for name in there) + kv_bytes
        if device.memory_bytes and used > device.memory_bytes * (1 + 1e-9):
            found.append(f"{device.name} holds {used} of {device.memory_bytes} bytes at {one.start_s}")
    return found


def _prefixes(problem: Problem, schedule: Schedule) -> list[str]:
    """Warm prefixes were computed on the device, moved ones on another, and no sleep lies between."""
    found = []
    for run in schedule.runs:
        if run.prefix not in ("warm", "moved"):
            continue
        asked = problem.nodes[run.node]
        places = [run.device] if run.prefix == "warm" else [d for d in range(len(problem.devices)) if d != run.device]
        if not any(_is_warm(problem, schedule, asked.model, asked.prefix, place, run.start_s) for place in places):
            found.append(f"node {run.node}: prefix {asked.prefix!r} is not {run.prefix} at {run.start_s}")
    return found


def _is_warm(problem: Problem, schedule: Schedule, model: str, prefix: str, place: int, at_s: float) -> bool:
    residence = problem.devices[place].models.get(model)
    if residence is None:
        return False
    slept_s = [
        change.end_s
        for change in schedule.changes
        if change.device == place
        and (change.model, change.kind) == (model, "sleep")
        and change.end_s <= at_s + _SLACK_S
    ]
    since_s = max(slept_s, default=-1.0)
    if since_s < 0 and prefix in residence.prefixes:
        return True
    return any(
        run.device == place and since_s - _SLACK_S <= run.start_s and run.end_s <= at_s + _SLACK_S
        for run in schedule.runs
        if problem.nodes[run.node].prefix == prefix and problem.nodes[run.node].model == model
    )
