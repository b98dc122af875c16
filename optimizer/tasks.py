"""The tasks of the search: small steps on a stack."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from halo_sql.ir.walk import children
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.rules.rule import Rule
from halo_sql.optimizer.verify import check_same_set, check_tree

if TYPE_CHECKING:
    from halo_sql.optimizer.search import Search


class Task(Protocol):
    """One step; pushes what has to come first or next."""

    def run(self, search: Search) -> None:
        """Do it."""
        ...


@dataclass(slots=True)
class ExploreGroup:
    """Adds all equal expressions to a group, its inputs' groups first."""

    group: int

    def run(self, search: Search) -> None:
        """Pushes the rules for each expression, and above them the inputs."""
        group = search.memo.group(self.group)
        if search.explored.get(group.id) == group.tick:
            return
        search.explored[group.id] = group.tick
        for expression in reversed(list(group.expressions)):
            search.push(ExploreExpression(group.id, expression))
        for expression in group.expressions:
            for child in children(expression):
                search.push(ExploreGroup(child.id))


@dataclass(slots=True)
class ExploreExpression:
    """Applies the explore rules to one expression, most promising first."""

    group: int
    expression: Any

    def run(self, search: Search) -> None:
        """Pushes a task per rule."""
        for rule in reversed(search.explore_rules):
            search.push(ApplyRule(rule, self.group, self.expression))


@dataclass(slots=True)
class ApplyRule:
    """Applies one explore rule to one expression; what is new is explored next."""

    rule: Rule
    group: int
    expression: Any

    def run(self, search: Search) -> None:
        """Interns the rule's results in the expression's group."""
        memo = search.memo
        if search.explored_enough() or not search.first_time(self.rule, self.expression):
            return
        found = search.apply(self.rule, self.expression, self.expression)
        if not found:
            return
        group = memo.group(self.group)
        known = set(map(id, group.expressions))
        for expression in found:
            if search.ctx.options.verify:
                check_same_set(self.rule.name, group.columns, expression)
                check_tree(self.rule.name, expression)
            memo.insert(expression, group.id)
            group = memo.group(group.id)
        fresh = [item for item in group.expressions if id(item) not in known]
        search.explored[group.id] = group.tick
        for expression in reversed(fresh):
            search.push(ExploreExpression(group.id, expression))
        for expression in fresh:
            for child in children(expression):
                search.push(ExploreGroup(child.id))


@dataclass(slots=True)
class OptimizeGroup:
    """Finds a group's best plan with the required properties that is cheaper than ``bound``."""

    requirement: Requirement
    bound: float

    def run(self, search: Search) -> None:
        """Pushes a task per expression and enforcer, unless the answer is known."""
        context = search.context(self.requirement)
        bound = self.bound if search.ctx.options.prune else inf
        if context.open or context.best is not None or bound <= context.failed_below:
            return
        context.open, context.bound = True, bound
        search.push(FinishGroup(self.requirement))
        for rule in reversed(search.enforce_rules):
            search.push(Enforce(rule, self.requirement))
        group = search.memo.group(self.requirement.group)
        for expression in reversed(list(group.expressions)):
            if all(child.id != group.id for child in children(expression)):
                search.push(OptimizeExpression(self.requirement, expression))


@dataclass(slots=True)
class FinishGroup:
    """Closes a group's context: what was found is the best there is below the bound."""

    requirement: Requirement

    def run(self, search: Search) -> None:
        """Records the outcome."""
        context = search.context(self.requirement)
        context.open = False
        if context.best is None:
            context.failed_below = context.bound


@dataclass(slots=True)
class OptimizeExpression:
    """Applies the implement rules to one expression, most promising first."""

    requirement: Requirement
    expression: Any

    def run(self, search: Search) -> None:
        """Pushes a task per alternative."""
        found: list[Alternative] = []
        for rule in search.implement_rules:
            found += search.apply(
                rule, self.expression, self.expression, self.requirement.group, self.requirement.properties
            )
        for alternative in reversed(found):
            search.push(OptimizeInputs(self.requirement, alternative))


@dataclass(slots=True)
class Enforce:
    """Applies one enforce rule to a group."""

    rule: Rule
    requirement: Requirement

    def run(self, search: Search) -> None:
        """Pushes a task per alternative."""
        required = self.requirement
        found = search.apply(self.rule, required.group, required.group, required.properties)
        for alternative in reversed(found):
            search.push(OptimizeInputs(required, alternative))


@dataclass(slots=True)
class OptimizeInputs:
    """Costs one alternative: its inputs one by one, given up as soon as it cannot win any more."""

    requirement: Requirement
    alternative: Alternative
    index: int = 0
    spent: float = -1.0

    def run(self, search: Search) -> None:
        """Goes on with the next input, or records the alternative as the best so far."""
        context = search.context(self.requirement)
        if self.spent < 0:
            self.spent = search.own_value(self.alternative)
        limit = context.limit if search.ctx.options.prune else inf
        if context.best is not None and search.costed_enough():
            return
        while self.index < len(self.alternative.inputs):
            if self.spent >= limit:
                search.pruned += 1
                return
            wanted = self.alternative.inputs[self.index]
            below = search.context(wanted)
            if below.best is None:
                if below.open or limit - self.spent <= below.failed_below:
                    return
                search.push(self)
                search.push(OptimizeGroup(wanted, limit - self.spent))
                return
            self.spent += below.best_value
            self.index += 1
        if self.spent < context.best_value and (self.spent < limit or not search.ctx.options.prune):
            context.best, context.best_value = self.alternative, self.spent
