"""Local search over the order of steps and their devices, by simulated annealing (Kirkpatrick et al., 1983)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from halo_sql.optimizer.placement.listing import Step
from halo_sql.optimizer.placement.problem import EPS_S
from halo_sql.optimizer.placement.state import State
from halo_sql.optimizer.placement.table import Table

#: A change is tried from the last state kept before it.
KEPT = 4
#: Part of the makespan that a change may cost at first, on the average; it falls to none.
HEAT = 0.06


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
    now = list(steps)
    begun = _replay([State(table)], now, 0, math.inf)
    assert begun is not None, "the steps stand in an order that can be"
    state, before = begun
    score = _score(state, spread)
    best, best_steps = state, now
    for number in range(tries):
        if best.makespan_s <= floor_s + EPS_S:
            break
        found = _changed(table, now, rng, loads)
        if found is None:
            continue
        first, candidate = found
        heat = best.makespan_s * HEAT * (1.0 - number / tries)
        limit = score - heat * math.log(max(rng.random(), 1e-12))
        made = _replay(before, candidate, first, limit)
        if made is None:
            continue
        state, after = made
        new = _score(state, spread)
        if new <= limit:
            now, score, before = candidate, new, after
            if (state.makespan_s, state.loads) < (best.makespan_s, best.loads):
                best, best_steps = state, candidate
    return best, best_steps


def _score(state: State, spread: float) -> float:
    return state.makespan_s + spread * sum(state.free_s) / max(1, len(state.free_s)) + state.loads * 1e-3


def _replay(before: list[State], steps: Sequence[Step], first: int, limit_s: float) -> tuple[State, list[State]] | None:
    """The whole schedule, and its states before each KEPT-th step; None when the order is impossible or longer than
    ``limit_s``. ``before``: those of steps that are equal before the ``first``."""
    kept = before[: first // KEPT + 1]
    state = kept[-1].copy()
    for place in range((len(kept) - 1) * KEPT, len(steps)):
        if place == len(kept) * KEPT:
            kept.append(state.copy())
        step = steps[place]
        if step[0] >= 0 and not state.ready >> step[0] & 1:
            return None
        state.put(*step)
        if state.path_s > limit_s + EPS_S:
            return None
    return state, kept


def _changed(table: Table, steps: list[Step], rng: random.Random, loads: float) -> tuple[int, list[Step]] | None:
    """One random change: the first place that differs, and the steps."""
    if table.comings and rng.random() < loads:
        place = rng.randint(0, len(steps) - 1)
        m, d = table.comings[rng.randrange(len(table.comings))]
        return place, [*steps[:place], (-1 - m, d, 0), *steps[place:]]
    place = rng.randrange(len(steps))
    node, d, parts = steps[place]
    kind = rng.random()
    made = steps[:]
    if node < 0 and kind < 0.5:
        del made[place]
        return place, made
    if d >= 0 and kind < 0.5:
        options = table.ways[node]
        way = options[rng.randrange(len(options))]
        if way[1] == parts == 1:
            if way[0] == d:
                return None
            made[place] = (node, *way)
            if kind < 0.25:
                return place, made
        elif way[1] != parts:
            first = next(i for i, step in enumerate(made) if step[0] == node)
            made = [step for step in made if step[0] != node]
            devices = list(table.options[node])
            rng.shuffle(devices)
            made[first:first] = [(node, other, way[1]) for other in devices[: way[1]]]
            return first, made
        else:
            if way[0] in {step[1] for step in made if step[0] == node}:
                return None
            made[place] = (node, *way)
            return place, made
    return _moved(table, made, place, rng)


def _moved(table: Table, made: list[Step], place: int, rng: random.Random) -> tuple[int, list[Step]]:
    """A step at another place between its producers and its consumers; ``made`` is changed."""
    step = made.pop(place)
    node, low, high = step[0], place, place
    before = table.before[node] if node >= 0 else 0
    while low > 0 and not (made[low - 1][0] >= 0 and before >> made[low - 1][0] & 1):
        low -= 1
    while high < len(made) and not (node >= 0 and made[high][0] >= 0 and table.before[made[high][0]] >> node & 1):
        high += 1
    target = rng.randint(low, high)
    made.insert(target, step)
    return min(place, target), made
