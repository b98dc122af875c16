"""The search over the memo: tasks on a stack, promising rules first, branch and bound.

After Graefe, "The Cascades Framework for Query Optimization", 1995, with the task structure of Columbia (Xu,
1998). A task runs, may push others, and never calls them: plans of any depth are searched without
recursion. Expressions are explored before their group is optimized, inputs before the expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Any

from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cost import value
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import label
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.rules.rule import Rule, RulesByClass, Stage
from halo_sql.optimizer.tasks import ExploreGroup, OptimizeGroup, Task


@dataclass(slots=True)
class Context:
    """The search for one group's best plan with one set of required properties.

    best_value   of the best plan so far, inputs included
    bound        plans of this value and above are of no use to those who asked
    open         being worked on (meeting it again means a plan inside itself)
    failed_below  proven: no plan is cheaper than this
    """

    requirement: Requirement
    best: Alternative | None = None
    best_value: float = inf
    bound: float = inf
    open: bool = False
    failed_below: float = -inf

    @property
    def limit(self) -> float:
        """What a plan must stay below to be worth looking at."""
        return min(self.bound, self.best_value)


class Search:
    """One search. ``contexts`` holds the winners afterwards."""

    def __init__(self, memo: Memo, rules: Sequence[Rule], ctx: PlanContext) -> None:
        self.memo = memo
        self.ctx = ctx
        self.limits = ctx.options.limits
        self.contexts: dict[Requirement, Context] = {}
        self.explored: dict[int, int] = {}  # group -> its tick when it was explored
        self.explore_rules = RulesByClass(_stage(rules, Stage.EXPLORE))
        self.implement_rules = RulesByClass(_stage(rules, Stage.IMPLEMENT))
        self.enforce_rules = RulesByClass(_stage(rules, Stage.ENFORCE))
        self.tasks_run = 0
        self.pruned = 0
        self._stack: list[Task] = []
        self._applied: dict[tuple[str, int], Any] = {}  # (rule, identity of an expression, kept alive here)

    def run(self, root: Requirement) -> Context:
        """The winner for the root; contexts of everything its plan consists of are complete."""
        while self.explore_rules:
            before = (self.memo.expression_count, self.memo.merges)
            self.push(ExploreGroup(root.group))
            self._drain()
            if before == (self.memo.expression_count, self.memo.merges) or self.explored_enough():
                break
            self.explored.clear()  # merged groups and their parents have new neighbours
        context = self.context(Requirement(self.memo.find(root.group), root.properties))
        self.push(OptimizeGroup(context, inf))
        self._drain()
        return context

    def push(self, task: Task) -> None:
        """Run this task next."""
        self._stack.append(task)

    def _drain(self) -> None:
        while self._stack:
            self.tasks_run += 1
            self._stack.pop().run(self)

    def context(self, requirement: Requirement) -> Context:
        """The context of a requirement, made when first asked for."""
        found = self.contexts.get(requirement)
        if found is None:
            found = self.contexts[requirement] = Context(requirement)
        return found

    def explored_enough(self) -> bool:
        """Whether a limit is reached (said once, as a note): no more equal expressions are looked for.

        Half of the tasks are kept for costing what is there.
        """
        if len(self.memo.groups) >= self.limits.groups:
            self.ctx.recorder.note(f"optimizer limit reached: {self.limits.groups} groups; using the best plan so far")
            return True
        if self.tasks_run >= self.limits.tasks // 2:
            self.ctx.recorder.note(f"optimizer limit reached: {self.limits.tasks} tasks; using the best plan so far")
            return True
        return False

    def costed_enough(self) -> bool:
        """Whether the tasks are used up: groups that have a plan keep it."""
        if self.tasks_run < self.limits.tasks:
            return False
        self.ctx.recorder.note(f"optimizer limit reached: {self.limits.tasks} tasks; using the best plan so far")
        return True

    def first_time(self, rule: Rule, expression: Any) -> bool:
        """Whether the rule has not been applied to the expression yet; now it counts as applied."""
        key = (rule.name, id(expression))
        if key in self._applied:
            return False
        self._applied[key] = expression
        return True

    def apply(self, rule: Rule, where: Any, *arguments: Any) -> list[Any]:
        """What a rule gives for ``arguments``, recorded under the label of ``where``."""
        started = perf_counter()
        found: list[Any] = rule.function(*arguments, self.memo, self.ctx)
        seconds = perf_counter() - started
        self.ctx.recorder.record(rule.name, rule.stage, seconds, len(found), lambda: _place(where))
        return found

    def own_value(self, alternative: Alternative) -> float:
        """The alternative's own cost in the objective's unit."""
        return value(alternative.estimate.cost, self.ctx.options.objective)


def _place(where: Any) -> str:
    return f"G{where}" if isinstance(where, int) else label(where)


def _stage(rules: Sequence[Rule], stage: Stage) -> list[Rule]:
    """The rules of a stage, those of higher promise first."""
    return sorted((rule for rule in rules if rule.stage is stage), key=lambda rule: -rule.promise)
