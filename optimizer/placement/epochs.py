"""Epoch dynamic programming with bounds, dominance, symmetry pruning and a beam.

An epoch puts one more node (or part of one) down, in the order of starts. The states of an epoch are kept apart by what
is done, the models on each device and its warm prefixes; of two that agree in these, one that is nowhere later
dominates. Equal devices are interchangeable: only one of those in equal state is tried, and states that differ by such
an exchange are the same. Of equal nodes the first comes first. States whose bound reaches the best schedule known are
left.
"""

from __future__ import annotations

from dataclasses import dataclass

from halo_sql.optimizer.placement.listing import Step
from halo_sql.optimizer.placement.problem import EPS_S
from halo_sql.optimizer.placement.state import State
from halo_sql.optimizer.placement.table import Table


@dataclass(frozen=True, slots=True)
class Found:
    """steps: of the best schedule, None: none below the limit; whole: nothing was left out but by bounds."""

    steps: list[Step] | None
    makespan_s: float
    whole: bool
    states: int


def search(table: Table, limit_s: float, floor_s: float, beam: int, most: int, symmetry: bool = True) -> Found:
    """The best schedule shorter than ``limit_s``, as far as ``beam`` states per epoch and ``most`` in all show it.

    Ends at once with one as short as ``floor_s``.
    """
    level: list[tuple[State, tuple[object, ...] | None]] = [(State(table), None)]
    best: list[Step] | None = None
    whole, seen = True, 0
    while level:
        kept: dict[object, list[tuple[tuple[float, ...], float, float, State, tuple[object, ...] | None]]] = {}
        for state, way in level:
            for step in _steps(state, symmetry):
                if step[1] >= 0:
                    look = state.look(*step)
                    start_s = look[0]
                    if look[1] + table.from_end[step[0]] >= limit_s - EPS_S:
                        continue
                else:
                    start_s = state.start_beside_s(step[0])
                if start_s < state.last_s - EPS_S:
                    continue
                seen += 1
                made = state.copy()
                made.put(*step)
                made.last_s = max(made.last_s, start_s)
                bound_s = table.problem.rounded(made.bound_s())
                if bound_s >= limit_s - EPS_S:
                    continue
                trail: tuple[object, ...] = (way, step)
                if not made.ready:
                    limit_s, best = made.makespan_s, _trail(trail)
                    if limit_s <= floor_s + EPS_S:
                        return Found(best, limit_s, whole, seen)
                    continue
                _keep(kept, made, bound_s, trail, symmetry)
        rows = [row for some in kept.values() for row in some]
        rows.sort(key=lambda row: (row[1], row[2], row[0]))
        if len(rows) > beam or (seen >= most and rows):
            whole = False
            rows = rows[: beam if seen < most else 1]
        level = [(row[3], row[4]) for row in rows if row[1] < limit_s - EPS_S]
    return Found(best, limit_s, whole, seen)


def _steps(state: State, symmetry: bool) -> list[Step]:
    table = state.table
    first: dict[object, int] = {}
    canonical = list(range(len(state.free_s)))
    if symmetry:
        for d, alike in enumerate(table.alike):
            same = (alike, state.free_s[d], state.there[d], state.been[d], state.warm[d], state.gaps[d])
            opened = tuple(used >> d & 1 for _, used in state.open.values())
            canonical[d] = first.setdefault((*same, opened, state.kept_s[d], state.peak[d]), d)
    found: list[Step] = []
    for node in state.nodes():
        twin = table.twin[node]
        if symmetry and twin >= 0 and not state.done >> twin & 1:
            continue
        for d, parts in state.ways(node):
            if d < 0 or canonical[d] == d:
                found.append((node, d, parts))
    return found


def _keep(
    kept: dict[object, list[tuple[tuple[float, ...], float, float, State, tuple[object, ...] | None]]],
    made: State,
    bound_s: float,
    trail: tuple[object, ...],
    symmetry: bool,
) -> None:
    """Add a state to those of its key, unless one of them is nowhere later; take out those that it dominates."""
    table = made.table
    devices = [
        (table.alike[d], made.there[d], made.been[d], made.warm[d], made.free_s[d], d) for d in range(len(made.free_s))
    ]
    if symmetry:
        devices.sort()
    held = tuple((alike if symmetry else d, *rest) for alike, *rest, _, d in devices)
    key = (made.done, tuple(made.open.items()), held)
    waiting = [i for i in range(table.count) if not made.done >> i & 1]
    times = (
        *(max(row[4], made.last_s) for row in devices),
        *(made.rows_s[i] for i in waiting),
        *(made.ends_s[i] for i in waiting),
        *(free_s for slots in made.slots_s for free_s in sorted(slots)),
        made.last_s,
        float(made.loads),
    )
    rows = kept.setdefault(key, [])
    for other in rows:
        if all(left <= right for left, right in zip(other[0], times, strict=True)):
            return
    rows[:] = [other for other in rows if not all(a <= b for a, b in zip(times, other[0], strict=True))]
    rows.append((times, bound_s, sum(times[: len(devices)]), made, trail))


def _trail(trail: tuple[object, ...] | None) -> list[Step]:
    steps: list[Step] = []
    while trail is not None:
        trail, step = trail  # type: ignore[assignment]
        steps.append(step)  # type: ignore[arg-type]
    return steps[::-1]
