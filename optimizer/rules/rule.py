"""What a rule is: a name, a stage, a promise and a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from halo_sql.ir.logical import LogicalPlan

if TYPE_CHECKING:
    from halo_sql.optimizer.alternative import Alternative
    from halo_sql.optimizer.memo import Memo
    from halo_sql.optimizer.plan_context import PlanContext
    from halo_sql.optimizer.properties import Properties


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
ImplementFn = Callable[[Any, int, "Properties", "Memo", "PlanContext"], "list[Alternative]"]
#: (group, required, memo, ctx) -> ways to deliver ``required`` from the same group with less required
EnforceFn = Callable[[int, "Properties", "Memo", "PlanContext"], "list[Alternative]"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as a value.

    promise    rules of a higher promise are tried first
    function   see the types above, by stage
    plan_wide  a normalize rule that is offered the whole plan only
    essential  without it some statements have no plan: cannot be disabled
    """

    name: str
    stage: Stage
    promise: int
    function: Callable[..., Any]
    plan_wide: bool = False
    essential: bool = False
