"""Local search over the order of steps and their devices, by simulated annealing (Kirkpatrick et al., 1983)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from halo_sql.optimizer.placement.changes import FIRST_DONE, changed
from halo_sql.optimizer.placement.listing import Step
from halo_sql.optimizer.placement.problem import EPS_S
from halo_sql.optimizer.placement.state import State
from halo_sql.optimizer.placement.table import Table

#: A change is tried from the last state kept before it.
KEPT = 4
#: Part of the makespan that a change may cost at first, on the average; it falls to none. With more than HOT_FROM tries
#: per node there is time to cool from more, up to HOTTEST times as much.
HEAT, HOT_FROM, HOTTEST = 0.015, 60.0, 4.0


def improved(
    table: Table,
    steps: Sequence[Step],
    floor_s: float,
    tries: int,
    seed: int = 0,
    loads: float = 0.0,
    spread: float = 0.1,
) -> tuple[State, list[Step]]:
    """The best schedule met in so many tries from the given one; ends with one as short as ``floor_s``. Equal arguments
    give an equal schedule.

    loads   part of the changes that bring a model to a device before it is asked
    spread  weight of the devices' mean end beside the last one
    """
    rng = random.Random(seed)
    heat = HEAT * min(HOTTEST, max(1.0, tries / (HOT_FROM * max(1, table.count))))
    now = list(steps)
    begun = _replay([State(table)], now, 0, math.inf, spread)
    assert begun is not None, "the steps stand in an order that can be"
    state, before = begun
    score = _score(state, spread)
    best, best_steps = state, now
    critical: list[int] | None = None
    for number in range(tries):
        if best.makespan_s <= floor_s + EPS_S:
            break
        if critical is None:
            critical = _critical(table, state, now)
        found = changed(table, now, rng, loads, critical)
        if found is None:
            continue
        first, candidate = found
        warmth_s = best.makespan_s * heat * (1.0 - number / tries)
        limit = score - warmth_s * math.log(max(rng.random(), 1e-12))
        made = _replay(before, candidate, first, limit, spread)
        if made is None:
            continue
        other, after = made
        new = _score(other, spread)
        if new <= limit:
            now, score, before, state, critical = candidate, new, after, other, None
            if (state.makespan_s, state.loads) < (best.makespan_s, best.loads):
                best, best_steps = state, candidate
    return best, best_steps


def _score(state: State, spread: float) -> float:
    return state.makespan_s + spread * sum(state.free_s) / max(1, len(state.free_s)) + state.loads * 1e-3


def _replay(
    before: list[State], steps: list[Step], first: int, limit_s: float, spread: float
) -> tuple[State, list[State]] | None:
    """The whole schedule, and its states before each KEPT-th step; None when the order is impossible or its score above
    ``limit_s``. ``before``: those of steps that are equal before the ``first``. FIRST_DONE is replaced."""
    kept = before[: first // KEPT + 1]
    table = kept[-1].table
    devices = len(table.free_s)
    every = next((g for g, group in enumerate(table.groups) if len(group) == devices), -1)
    state = kept[-1].copy()
    state.steps = steps
    for place in range((len(kept) - 1) * KEPT, len(steps)):
        if place == len(kept) * KEPT:
            kept.append(state.copy())
        step = steps[place]
        if step[0] >= 0 and not state.ready >> step[0] & 1:
            return None
        state.place = place
        if step[1] == FIRST_DONE:
            node, _, parts = step
            step = steps[place] = (node, min(table.options[node], key=lambda d: state.look(node, d, parts)[1]), parts)
        state.put(*step)
        if state.path_s > limit_s + EPS_S:
            return None
        if every >= 0:
            mean_s = (sum(state.free_s) + state.work_s[every]) / devices
            if max(state.path_s, mean_s) + spread * mean_s > limit_s + EPS_S:
                return None
    return state, kept


def _critical(table: Table, state: State, steps: Sequence[Step]) -> list[int]:
    """Places of the steps on a way without slack from the beginning to the end."""
    runs: dict[int, list[tuple[int, int, float, float]]] = {}
    lanes: dict[int, list[tuple[float, tuple[int, int, float, float] | None]]] = {}
    log = state.log
    while log is not None:
        log, run, changes = log
        if run is not None:
            one = run[:4]
            runs.setdefault(run[0], []).append(one)
            lanes.setdefault(run[1] if run[1] >= 0 else -2 - table.tool[run[0]], []).append((run[3], one))
        for d, _, _, _, end_s in changes:
            lanes.setdefault(d, []).append((end_s, None))
    todo = [one for some in runs.values() for one in some if one[3] >= state.makespan_s - EPS_S]
    met: set[tuple[int, int]] = set()
    while todo:
        node, d, start_s, end_s = todo.pop()
        if (node, d) in met:
            continue
        met.add((node, d))
        late_s = end_s - table.least_last_s[node]
        for source, pipelined in table.sources[node]:
            todo += [one for one in runs[source] if one[3] >= (min(start_s, late_s) if pipelined else start_s) - EPS_S]
        lane = d if d >= 0 else -2 - table.tool[node]
        if lane == -1:
            continue
        before = [item for item in lanes[lane] if item[0] <= start_s + EPS_S]
        if max((end for end, _ in before), default=-1.0) >= start_s - EPS_S:
            last = max((one for _, one in before if one is not None), key=lambda one: one[3], default=None)
            if last is not None:
                todo.append(last)
    return [place for place, (node, d, _) in enumerate(steps) if (node, d) in met]
