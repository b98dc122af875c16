"""Plans within bounds of money, seconds or tokens: the best by the objective that is expected to keep them.

A search for one number cannot see that a plan which is second by the objective is first that can be afforded. So per
group and required properties all plans are kept that no other beats in the objective and in every bounded quantity
(Pareto winners, as Abacus keeps them: Russo et al., "Abacus: A Cost-Based Optimizer for Semantic Operator Systems",
2025). It is only done where the winner of the ordinary search breaks a bound, over the same memo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.walk import children
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.context import OptimizerContext
from halo_sql.optimizer.search import Search

#: Plans kept per group and requirement.
KEPT = 8

Quantities = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """A bounded quantity of a plan: the setting, the unit as users know it, the most of it."""

    setting: str
    unit: str
    most: float

    def of(self, estimate: Estimate) -> float:
        """What an operator takes of it. A token counts as often as it is sent, as in the limit of a run."""
        if self.unit == "usd":
            return estimate.cost.usd
        if self.unit == "tokens":
            return estimate.prompt_tok + estimate.output_tok
        return estimate.cost.gpu_s + estimate.cost.cpu_s


@dataclass(frozen=True, slots=True)
class Point:
    """A plan of a group: what it takes, inputs included, and how it is made.

    value  in the objective's unit
    spent  in each bounded quantity
    """

    value: float
    spent: Quantities
    alternative: Alternative
    inputs: tuple[Point, ...]


def keep_bounds(search: Search, root: Requirement, options: OptimizerContext, load_s: float) -> None:
    """Replace the search's winners by those of the best plan within the bounds, where its own breaks one.

    When no plan is expected to keep them, it is the one that comes nearest, and a note says by how much it fails.
    ``load_s``: seconds that starting models takes of the time, whatever the plan.
    """
    bounds = bounds_of(options)
    if not bounds:
        return
    loads = tuple(load_s if bound.unit == "seconds" else 0.0 for bound in bounds)
    first = _plus(loads, _spent(search, root, bounds))
    if not _over(first, bounds):
        return
    frontier = Frontier(search, bounds, tuple(bound.most - load for bound, load in zip(bounds, loads, strict=True)))
    points = frontier.points(root)
    if not points and not frontier.gave_up:
        frontier = Frontier(search, bounds, None)
        points = frontier.points(root)
        points = sorted(points, key=lambda point: (_worst(_plus(loads, point.spent), bounds), point.value))
    if frontier.gave_up:
        search.ctx.recorder.note(f"optimizer limit reached: {search.limits.tasks} tasks; bounds were not looked at")
    if points:
        _take(search, root, points[0])
    spent = _plus(loads, _spent(search, root, bounds))
    over = _over(spent, bounds)
    for index, bound in enumerate(bounds):
        if index in over:
            search.ctx.recorder.note(
                f"estimated {spent[index]:.4g} {bound.unit} is above {bound.setting} {bound.most:g}"
            )
        elif first[index] > bound.most:
            search.ctx.recorder.note(
                f"{bound.setting} {bound.most:g}: estimated {spent[index]:.4g} {bound.unit} instead of the "
                f"{first[index]:.4g} of the plan that is best by {options.objective}"
            )


def bounds_of(options: OptimizerContext) -> tuple[Bound, ...]:
    """The bounds that are set."""
    known = (
        Bound("halo_max_usd", "usd", options.max_usd),
        Bound("halo_max_seconds", "seconds", options.max_seconds),
        Bound("halo_max_tokens", "tokens", options.max_tokens),
    )
    return tuple(bound for bound in known if bound.most > 0.0)


class Frontier:
    """The Pareto winners of groups. ``most``: plans above it in a quantity are left out (None: none is).

    gave_up  the limit of tasks was reached
    """

    def __init__(self, search: Search, bounds: Sequence[Bound], most: Quantities | None) -> None:
        self.gave_up = False
        self._search = search
        self._bounds = bounds
        self._most = most
        self._last_task = search.tasks_run + search.limits.tasks
        self._alternatives: dict[Requirement, list[Alternative]] = {}
        self._done: dict[Requirement, list[Point]] = {}

    def points(self, root: Requirement) -> list[Point]:
        """The group's plans that no other beats, best value first."""
        stack, open_ones = [root], set[Requirement]()
        while stack:
            requirement = stack[-1]
            if requirement in self._done:
                stack.pop()
            elif requirement in open_ones:
                self._done[requirement] = self._combined(self._alternatives[requirement])
            else:
                if self._search.tasks_run >= self._last_task:
                    self.gave_up = True
                    return []
                open_ones.add(requirement)
                self._alternatives[requirement] = found = self.ways(requirement)
                below = [item for way in found for item in way.inputs]
                stack += [item for item in below if item not in self._done and item not in open_ones]
        return self._done[root]

    def ways(self, requirement: Requirement) -> list[Alternative]:
        """What the rules offer for a requirement, as in ``tasks``."""
        search, wanted = self._search, requirement.properties
        group = search.memo.group(requirement.group)
        found: list[Alternative] = []
        for expression in group.expressions:
            if all(child.id != group.id for child in children(expression)):
                for rule in search.implement_rules.of(expression, wanted.form):
                    found += search.apply(rule, expression, expression, requirement.group, wanted)
        for rule in search.enforce_rules.of(group, wanted.form):
            found += search.apply(rule, requirement.group, requirement.group, wanted)
        search.tasks_run += 1 + len(found)
        return found

    def _combined(self, ways: Sequence[Alternative]) -> list[Point]:
        found: list[Point] = []
        for way in ways:
            own = tuple(bound.of(way.estimate) for bound in self._bounds)
            plans = [Point(self._search.own_value(way), own, way, ())]
            for item in way.inputs:
                below = self._done.get(item, ())  # one that is open would be a plan inside itself
                plans = self._best([_with(plan, point) for plan in plans for point in below])
            found += plans
        return self._best(found)

    def _best(self, points: list[Point]) -> list[Point]:
        """Those within the bounds that no other beats, at most KEPT: the best in each quantity, others evenly."""
        if self._most is not None:
            points = [point for point in points if all(map(_at_most, point.spent, self._most))]
        points = sorted(points, key=lambda point: (point.value, point.spent))
        kept: list[Point] = []
        for point in points:
            if not any(all(map(_at_most, other.spent, point.spent)) for other in kept):
                kept.append(point)
        if len(kept) <= KEPT:
            return kept
        self._search.ctx.recorder.note(f"more than {KEPT} plans of a group differ in costs: some were left out")
        chosen = {
            0,
            *(min(range(len(kept)), key=lambda at: kept[at].spent[place]) for place in range(len(self._bounds))),
        }
        step = (len(kept) - 1) / (KEPT - 1)
        for number in range(KEPT):
            if len(chosen) < KEPT:
                chosen.add(round(number * step))
        return [kept[place] for place in sorted(chosen)]


def _with(plan: Point, below: Point) -> Point:
    return Point(plan.value + below.value, _plus(plan.spent, below.spent), plan.alternative, (*plan.inputs, below))


def _take(search: Search, root: Requirement, point: Point) -> None:
    """Make a plan the search's winners. One requirement has one winner: where a plan takes two, the cheaper is used."""
    chosen: dict[Requirement, Point] = {}
    stack = [(root, point)]
    while stack:
        requirement, wanted = stack.pop()
        known = chosen.get(requirement)
        if known is not None and known.spent <= wanted.spent:
            continue
        chosen[requirement] = wanted
        stack += zip(wanted.alternative.inputs, wanted.inputs, strict=True)
    for requirement, wanted in chosen.items():
        context = search.context(requirement)
        context.best, context.best_value = wanted.alternative, wanted.value


def _spent(search: Search, root: Requirement, bounds: Sequence[Bound]) -> Quantities:
    """What the winners of the search take, each as often as it is used."""
    done: dict[Requirement, Quantities] = {}
    stack = [root]
    while stack:
        requirement = stack[-1]
        best = search.context(requirement).best
        assert best is not None, "winners are complete"
        waiting = [item for item in best.inputs if item not in done]
        if waiting:
            stack += waiting
            continue
        stack.pop()
        total = tuple(bound.of(best.estimate) for bound in bounds)
        for item in best.inputs:
            total = _plus(total, done[item])
        done[requirement] = total
    return done[root]


def _over(spent: Quantities, bounds: Sequence[Bound]) -> list[int]:
    return [place for place, bound in enumerate(bounds) if not _at_most(spent[place], bound.most)]


def _worst(spent: Quantities, bounds: Sequence[Bound]) -> float:
    """The largest part of a bound that is spent."""
    return max(amount / bound.most for amount, bound in zip(spent, bounds, strict=True))


def _at_most(amount: float, most: float) -> bool:
    return amount <= most * (1.0 + 1e-9)


def _plus(left: Quantities, right: Quantities) -> Quantities:
    return tuple(map(float.__add__, left, right))
