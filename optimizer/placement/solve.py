"""The best schedule found for a placement problem, within limits that count work and not time."""

from __future__ import annotations

from dataclasses import dataclass

from halo_sql.optimizer.placement.epochs import search
from halo_sql.optimizer.placement.improve import improved
from halo_sql.optimizer.placement.listing import Step, listed, replayed
from halo_sql.optimizer.placement.problem import EPS_S, Problem, Schedule
from halo_sql.optimizer.placement.state import State
from halo_sql.optimizer.placement.table import Table, bound_s


@dataclass(frozen=True, slots=True)
class Limits:
    """How long is looked for.

    nodes    of larger problems no dynamic programming: lists, improved
    beam     states kept per epoch
    states   made by the dynamic programming in all; beyond, one state per epoch
    visits   nodes put down by the local search in all; large_visits: of larger problems
    per_s    visits per second that could be saved at most, so that looking costs less than it may bring
    symmetry equal devices and nodes are interchangeable (False: an oracle for tests)
    """

    nodes: int = 40
    beam: int = 16
    states: int = 2_000
    visits: int = 200_000
    large_visits: int = 40_000
    per_s: float = 20_000.0
    symmetry: bool = True


#: Part of the last search's changes that bring models to devices before they are asked.
EARLY_LOADS = 0.04
#: Early loads and spread (see ``improved``) of each search: they get stuck in different places.
SEARCHES = ((0.0, 0.3), (0.0, 0.03), (EARLY_LOADS, 0.3), (EARLY_LOADS, 0.1))
DEFAULT_LIMITS = Limits()
#: A state of the dynamic programming takes as long as so many visits.
VISITS_PER_STATE = 20.0


def solve(problem: Problem, limits: Limits = DEFAULT_LIMITS) -> Schedule:
    """The shortest schedule met, of several the one with the fewest loads; ``Schedule.bound_s`` says how good it is at
    least. Equal problems and limits give equal schedules."""
    table = Table(problem)
    floor_s = bound_s(table)
    plans: list[tuple[State, list[Step], str]] = []
    for split in (False, True) if max(table.parts, default=1) > 1 else (False,):
        for by_start in (True, False):
            plans.append((*listed(table, split, by_start), "list"))
    plans.sort(key=_rank)
    exact = False
    if _open(plans[0], floor_s) and table.count <= limits.nodes:
        limit_s = plans[0][0].makespan_s
        states = min(float(limits.states), (limit_s - floor_s) * limits.per_s / VISITS_PER_STATE)
        found = search(table, limit_s, floor_s, limits.beam, int(states), limits.symmetry)
        exact = found.whole and _simple(table)
        if found.steps is not None:
            state = replayed(table, found.steps)
            plans.insert(0, (state, found.steps, "dynamic programming"))
    if not exact:
        visits = limits.visits if table.count <= limits.nodes else limits.large_visits
        worth = (plans[0][0].makespan_s - floor_s) * limits.per_s
        tries = int(min(float(visits), worth)) // max(1, len(SEARCHES) * table.count)
        for seed, (loads, spread) in enumerate(SEARCHES):
            steps = plans[seed % min(2, len(plans))][1]
            if tries and _open(plans[0], floor_s):
                state, better = improved(table, steps, floor_s, tries, seed, loads, spread)
                if _rank((state, better, "")) < _rank(plans[0]):
                    plans.insert(0, (state, better, "local search"))
    state, _, method = plans[0]
    floor_s = state.makespan_s if exact else floor_s
    return state.schedule(floor_s, method, exact or state.makespan_s <= floor_s + EPS_S)


def _rank(plan: tuple[State, list[Step], str]) -> tuple[float, int]:
    return plan[0].makespan_s, plan[0].loads


def _open(plan: tuple[State, list[Step], str], floor_s: float) -> bool:
    return plan[0].makespan_s > floor_s + EPS_S


def _simple(table: Table) -> bool:
    """Whether orders of starts and devices are all that there is to decide: each device has all of its models."""
    return all(
        table.there[d] >> table.model[i] & 1 and not table.kv[i] for i in range(table.count) for d in table.options[i]
    )
