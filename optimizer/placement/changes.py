"""Random changes of a schedule's steps: their order, their devices, their numbers of parts, early loads."""

from __future__ import annotations

import random

from halo_sql.optimizer.placement.listing import Step
from halo_sql.optimizer.placement.table import Table

#: The device of a step that takes the one where it ends first, when its turn comes.
FIRST_DONE = -2
#: Part of the changes that concern a step without slack; a block of steps; of those of one step: its number of parts,
#: another device, any place in the order (else one in the order of its device).
CRITICAL, BLOCKS, RESIZED, ELSEWHERE, ANYWHERE = 0.7, 0.2, 0.2, 0.5, 0.5


def changed(
    table: Table, steps: list[Step], rng: random.Random, loads: float, critical: list[int]
) -> tuple[int, list[Step]] | None:
    """One random change: the first place that differs, and the steps; None: this time nothing.

    loads     part of the changes that bring a model to a device before it is asked
    critical  places of steps without slack
    """
    if table.comings and rng.random() < loads:
        place = rng.randint(0, len(steps) - 1)
        m, d = table.comings[rng.randrange(len(table.comings))]
        return place, [*steps[:place], (-1 - m, d, 0), *steps[place:]]
    if len(table.free_s) > 1 and rng.random() < BLOCKS:
        return _block(table, steps, rng)
    if critical and rng.random() < CRITICAL:
        place = critical[rng.randrange(len(critical))]
    else:
        place = rng.randrange(len(steps))
    node, d, parts = steps[place]
    if node < 0 and rng.random() < 0.5:
        return place, [*steps[:place], *steps[place + 1 :]]
    if node >= 0 and d >= 0:
        if table.parts[node] > 1 and rng.random() < RESIZED:
            return _resized(table, steps, place, rng)
        if rng.random() < ELSEWHERE and len(table.options[node]) > 1:
            used = {step[1] for step in steps if step[0] == node} if parts > 1 else {d}
            others = [other for other in table.options[node] if other not in used]
            if not others:
                return None
            d = others[rng.randrange(len(others))]
    return _moved(table, steps, place, (node, d, parts), rng)


def _resized(table: Table, steps: list[Step], place: int, rng: random.Random) -> tuple[int, list[Step]] | None:
    """A node in another number of parts."""
    node, _, parts = steps[place]
    sizes = [size for size in {way[1] for way in table.ways[node]} if size != parts]
    size = sizes[rng.randrange(len(sizes))]
    first = next(i for i, step in enumerate(steps) if step[0] == node)
    made = [step for step in steps if step[0] != node]
    devices = list(table.options[node])
    rng.shuffle(devices)
    made[first:first] = [(node, other, size) for other in devices[:size]]
    return first, made


def _moved(
    table: Table, steps: list[Step], place: int, step: Step, rng: random.Random
) -> tuple[int, list[Step]] | None:
    """The step at this place becomes this one, at another place between its producers and its consumers."""
    made = [*steps[:place], *steps[place + 1 :]]
    node, d, _ = step
    low, high = place, place
    before = table.before[node] if node >= 0 else 0
    while low > 0 and not (made[low - 1][0] >= 0 and before >> made[low - 1][0] & 1):
        low -= 1
    while high < len(made) and not (node >= 0 and made[high][0] >= 0 and table.before[made[high][0]] >> node & 1):
        high += 1
    if rng.random() < ANYWHERE:
        target = rng.randint(low, high)
        if node >= 0 and d >= 0 and step[2] == 1:
            step = (node, FIRST_DONE, 1)
    else:
        tool = table.tool[node] if node >= 0 else -1
        lane = [
            at
            for at in range(low, high)
            if made[at][1] == d and (d >= 0 or (made[at][0] >= 0 and table.tool[made[at][0]] == tool))
        ]
        same = steps[place][1] == d
        places = [at if at < place else at + 1 for at in lane] if same else [*lane, lane[-1] + 1] if lane else [place]
        if not places:
            return None
        target = places[rng.randrange(len(places))]
    made.insert(target, step)
    return min(place, target), made


def _block(table: Table, steps: list[Step], rng: random.Random) -> tuple[int, list[Step]] | None:
    """Steps that stand together change devices: two devices change roles, or a model moves to another device."""
    low, high = sorted((rng.randint(0, len(steps)), rng.randint(0, len(steps))))
    if rng.random() < 0.3:
        high = len(steps)
    a, b = rng.sample(range(len(table.free_s)), 2)
    other = {a: b, b: a} if rng.random() < 0.5 else {a: b}
    asked = {table.model[node] for node, d, _ in steps[low:high] if d in other and node >= 0}
    model = rng.choice(sorted(asked)) if asked and rng.random() < 0.6 else -1
    made = steps[:]
    first = -1
    for place in range(low, high):
        node, d, parts = steps[place]
        to = other.get(d, d)
        if to == d or node < 0 or (model >= 0 and table.model[node] != model) or to not in table.options[node]:
            continue
        if (
            parts > 1
            and any(step[0] == node and step[1] == to for step in made)
            and not (len(other) == 2 and all(low <= at < high for at, step in enumerate(steps) if step[0] == node))
        ):
            continue
        made[place] = (node, to, parts)
        first = place if first < 0 else first
    return None if first < 0 else (first, made)
