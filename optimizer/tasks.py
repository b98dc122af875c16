"""The tasks of the search: small steps on a stack."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from halo_sql.ir.walk import children
from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.rules.rule import Rule
from halo_sql.optimizer.verify import check_same_set, check_tree

if TYPE_CHECKING:
    from halo_sql.optimizer.search import Context, Search


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
        for expression in reversed(group.expressions):
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
        for rule in reversed(search.explore_rules.of(self.expression)):
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

    context: Context
    bound: float

    def run(self, search: Search) -> None:
        """Pushes a task per expression and enforcer, unless the answer is known."""
        context = self.context
        bound = self.bound if search.ctx.options.prune else inf
        if context.open or context.best is not None or bound <= context.failed_below:
            return
        context.open, context.bound = True, bound
        search.push(FinishGroup(context))
        group = search.memo.group(context.requirement.group)
        for rule in reversed(search.enforce_rules.of(group, context.requirement.properties.form)):
            search.push(Enforce(rule, context))
        for expression in reversed(group.expressions):
            if all(child.id != group.id for child in children(expression)):
                search.push(OptimizeExpression(context, expression))


@dataclass(slots=True)
class FinishGroup:
    """Closes a group's context: what was found is the best there is below the bound."""

    context: Context

    def run(self, search: Search) -> None:
        """Records the outcome."""
        self.context.open = False
        if self.context.best is None:
            self.context.failed_below = self.context.bound


@dataclass(slots=True)
class OptimizeExpression:
    """Applies the implement rules to one expression, most promising first."""

    context: Context
    expression: Any

    def run(self, search: Search) -> None:
        """Pushes a task per alternative."""
        wanted = self.context.requirement
        found: list[Alternative] = []
        for rule in search.implement_rules.of(self.expression, wanted.properties.form):
            found += search.apply(rule, self.expression, self.expression, wanted.group, wanted.properties)
        for alternative in reversed(found):
            search.push(OptimizeInputs(self.context, alternative, search.own_value(alternative)))


@dataclass(slots=True)
class Enforce:
    """Applies one enforce rule to a group."""

    rule: Rule
    context: Context

    def run(self, search: Search) -> None:
        """Pushes a task per alternative."""
        wanted = self.context.requirement
        found = search.apply(self.rule, wanted.group, wanted.group, wanted.properties)
        for alternative in reversed(found):
            search.push(OptimizeInputs(self.context, alternative, search.own_value(alternative)))


@dataclass(slots=True)
class OptimizeInputs:
    """Costs one alternative: its inputs one by one, given up as soon as it cannot win any more.

    spent  the alternative's own value and that of the inputs before ``index``
    """

    context: Context
    alternative: Alternative
    spent: float
    index: int = 0

    def run(self, search: Search) -> None:
        """Goes on with the next input, or records the alternative as the best so far."""
        context = self.context
        if context.best is not None and search.costed_enough():
            return
        limit = context.limit if search.ctx.options.prune else inf
        while self.index < len(self.alternative.inputs):
            if self.spent >= limit:
                search.pruned += 1
                return
            below = search.context(self.alternative.inputs[self.index])
            if below.best is None:
                if below.open or limit - self.spent <= below.failed_below:
                    return
                search.push(self)
                search.push(OptimizeGroup(below, limit - self.spent))
                return
            self.spent += below.best_value
            self.index += 1
        if self.spent < min(limit, context.best_value):
            context.best, context.best_value = self.alternative, self.spent
