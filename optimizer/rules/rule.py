"""What a rule is: a name, a stage, a promise and a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from halo_sql.ir.logical import LogicalPlan
from halo_sql.optimizer.properties import Form, Properties

if TYPE_CHECKING:
    from halo_sql.optimizer.alternative import Alternative
    from halo_sql.optimizer.memo import Memo
    from halo_sql.optimizer.plan_context import PlanContext


class Stage(StrEnum):
    """When a rule is used."""

    NORMALIZE = "normalize"  # to a fixpoint, before the memo
    FINISH = "finish"  # once, after the fixpoint
    EXPLORE = "explore"  # adds equal logical expressions to a memo group
    IMPLEMENT = "implement"  # a logical expression as physical alternatives
    ENFORCE = "enforce"  # a required property by an extra operator


#: (node, ctx) -> the node rewritten, or None when the rule does not apply
NormalizeFn = Callable[[Any, "PlanContext"], "LogicalPlan | None"]
#: (expression, memo, ctx) -> equal expressions
ExploreFn = Callable[[Any, "Memo", "PlanContext"], "list[LogicalPlan]"]
#: (expression, group, required, memo, ctx) -> ways to run it that deliver ``required``
ImplementFn = Callable[[Any, int, Properties, "Memo", "PlanContext"], "list[Alternative]"]
#: (group, required, memo, ctx) -> ways to deliver ``required`` from the same group with less required
EnforceFn = Callable[[int, Properties, "Memo", "PlanContext"], "list[Alternative]"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as a value.

    promise    rules of a higher promise are tried first
    function   see the types above, by stage
    on         the node classes it can apply to, those it is offered (none: all classes)
    forms      of an implement or enforce rule: the forms it can deliver, those it is asked for (none: all forms)
    plan_wide  a normalize rule that is offered the whole plan only
    top_down   a normalize rule that is offered a node before its inputs too: it moves what it finds there at once
    essential  without it some statements have no plan: cannot be disabled
    """

    name: str
    stage: Stage
    promise: int
    function: Callable[..., Any]
    on: tuple[type, ...] = ()
    forms: tuple[Form, ...] = ()
    plan_wide: bool = False
    top_down: bool = False
    essential: bool = False


class RulesByClass:
    """The rules that a node of some class is offered, in their order; with a form, those that can deliver it."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)
        self._found: dict[tuple[type, Form | None], tuple[Rule, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._rules)

    def of(self, node: object, form: Form | None = None) -> tuple[Rule, ...]:
        """The rules for this node."""
        key = (type(node), form)
        found = self._found.get(key)
        if found is None:
            offered = [rule for rule in self._rules if not rule.on or issubclass(key[0], rule.on)]
            found = tuple(rule for rule in offered if form is None or not rule.forms or form in rule.forms)
            self._found[key] = found
        return found
