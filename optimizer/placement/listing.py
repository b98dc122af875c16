"""List scheduling by critical path with model affinity (Graham, 1969; Hu, 1961), and schedules of a given order."""

from __future__ import annotations

from collections.abc import Sequence

from halo_sql.optimizer.placement.problem import EPS_S
from halo_sql.optimizer.placement.state import State
from halo_sql.optimizer.placement.table import Table

#: A node, the device of a part (-1: none), of how many parts; or -1 - a model that comes to the device, and 0.
Step = tuple[int, int, int]


def listed(table: Table, split: bool, by_start: bool = True) -> tuple[State, list[Step]]:
    """A whole schedule, one node after the other, each where it ends first and, if equal, without a load.

    by_start  of the ready nodes the one that can start first, of several that with the longest way to the end; else
              always that with the longest way
    split     nodes go to several devices while fewer nodes are ready than devices there are
    """
    state, steps = State(table), []
    while state.ready:
        nodes = state.nodes()
        asking = sum(1 for i in nodes if table.options[i])
        if not by_start:
            nodes = [max(nodes, key=lambda i: (table.from_start[i], -i))]
        best: tuple[float, ...] | None = None
        for i in nodes:
            if not table.options[i]:
                key, chosen = (state.start_beside_s(i), -table.from_start[i], 0.0, float(i)), [(i, -1, 1)]
            else:
                chosen, start_s, loads = _best(state, i, split and asking < len(table.options[i]))
                key = (start_s, -table.from_start[i], loads, float(i))
            if best is None or key < best:
                best, taken = key, chosen
        for step in taken:
            state.put(*step)
        steps += taken
    return state, steps


def _best(state: State, node: int, split: bool) -> tuple[list[Step], float, float]:
    """Where a node ends first, its start there, and how many models come for it."""
    table = state.table
    model = table.model[node]
    best: tuple[float, float, int, float] | None = None
    for parts in sorted({parts for _, parts in table.ways[node]}) if split else (1,):
        looks = []
        for d in table.options[node]:
            look = state.look(node, d, parts)
            looks.append((look[1], float(not state.there[d] >> model & 1), look[0] - state.free_s[d], d, look[0]))
        chosen = sorted(looks)[:parts]
        key = (chosen[-1][0], sum(row[1] for row in chosen), parts, sum(row[2] for row in chosen))
        if best is None or key[0] < best[0] - EPS_S or (key[0] <= best[0] + EPS_S and key[1:] < best[1:]):
            best = key
            found = [(node, row[3], parts) for row in chosen], min(row[4] for row in chosen), key[1]
    return found


def replayed(table: Table, steps: Sequence[Step]) -> State:
    """The schedule of these steps in order (inputs first)."""
    state = State(table)
    for step in steps:
        state.put(*step)
    return state
