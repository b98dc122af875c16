"""The normalize stage: rewrites that are always good, to a fixpoint.

Node rules are offered every node, inputs first (some before the inputs, too, so that what sinks does so at once and
not step by step); what a rule returns is normalized again at once. Rules over
the whole plan come before that (promise above 0) or after it, and when anything changed all is repeated. No
recursion: deep plans are planned like shallow ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from halo_sql.ir.logical import LogicalPlan
from halo_sql.ir.walk import children, with_children
from halo_sql.optimizer.nodes import label, walk_once
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.rules.rule import Rule, RulesByClass, Stage
from halo_sql.optimizer.verify import check_same_columns, check_tree


def normalize(plan: LogicalPlan, rules: Sequence[Rule], ctx: PlanContext) -> LogicalPlan:
    """The plan after the rules of stages NORMALIZE (to a fixpoint) and FINISH (once)."""
    active = [rule for rule in rules if ctx.allows(rule.name)]
    node_rules = [rule for rule in active if rule.stage is Stage.NORMALIZE and not rule.plan_wide]
    plan_rules = [rule for rule in active if rule.stage is Stage.NORMALIZE and rule.plan_wide]
    first = [rule for rule in plan_rules if rule.promise > 0]
    last = [rule for rule in plan_rules if rule.promise <= 0]
    passes = ctx.options.limits.passes
    fixpoint = _Fixpoint(node_rules, ctx)
    for _ in range(passes):
        before, reads = plan, ctx.cte_reads
        ctx.refresh(plan)
        if ctx.cte_reads != reads:  # normal form depends on it
            fixpoint = _Fixpoint(node_rules, ctx)
        for rule in first:
            plan = _offer(rule, plan, ctx) or plan
        plan = fixpoint.run(plan)
        for rule in last:
            plan = _offer(rule, plan, ctx) or plan
        if plan is before or fixpoint.spent:
            break
    else:
        ctx.recorder.note(f"optimizer limit reached: {passes} normalize passes")
    for rule in active:
        if rule.stage is Stage.FINISH:
            plan = _offer(rule, plan, ctx) or plan
    ctx.refresh(plan)
    return plan


def _offer(rule: Rule, node: Any, ctx: PlanContext) -> LogicalPlan | None:
    started = perf_counter()
    result: LogicalPlan | None = rule.function(node, ctx)
    if result is node:
        result = None
    seconds = perf_counter() - started
    ctx.recorder.record(rule.name, rule.stage, seconds, result is not None, lambda: label(node))
    if result is not None and ctx.options.verify:
        check_same_columns(rule.name, node, result)
        check_tree(rule.name, result)
    return result


class _Fixpoint:
    """Every node until no node rule applies. ``_clean`` holds nodes known to be in normal form."""

    FIRINGS_PER_NODE = 50

    def __init__(self, rules: Sequence[Rule], ctx: PlanContext) -> None:
        self._rules = RulesByClass(rules)
        self._top_down = RulesByClass([rule for rule in rules if rule.top_down])
        self._ctx = ctx
        self._fuel = 0  # rewrites left + 1, for all passes together (plans may grow meanwhile); 0: not started
        self._clean: dict[int, tuple[Any, Any]] = {}  # id -> (node, its normal form); nodes are kept alive

    @property
    def spent(self) -> bool:
        """Whether more rewrites were made than any terminating set of rules needs."""
        return self._fuel == 1

    def run(self, plan: LogicalPlan) -> Any:
        """The plan in normal form."""
        if not self._fuel:
            self._fuel = self.FIRINGS_PER_NODE * sum(1 for _ in walk_once(plan))
        # a frame: [the node a parent waits for, the current form of it]
        stack: list[list[Any]] = [[plan, self._before_inputs(plan)]]
        while stack:
            original, current = stack[-1]
            waiting = [child for child in children(current) if id(child) not in self._clean]
            if waiting:
                stack += [[child, self._before_inputs(child)] for child in waiting]
                continue
            current = with_children(current, tuple(self._clean[id(child)][1] for child in children(current)))
            rewritten = self._apply(self._rules, current)
            if rewritten is not None:
                stack[-1][1] = rewritten
                continue
            stack.pop()
            self._clean[id(current)] = (current, current)
            self._clean[id(original)] = (original, current)
        if self.spent:
            self._ctx.recorder.note("optimizer limit reached: rewrites by the normalize rules")
        return self._clean[id(plan)][1]

    def _before_inputs(self, node: Any) -> Any:
        """The node as the rules leave it that are offered nodes before their inputs."""
        while (rewritten := self._apply(self._top_down, node)) is not None:
            node = rewritten
        return node

    def _apply(self, rules: RulesByClass, node: Any) -> LogicalPlan | None:
        """What the first rule makes of the node that applies, as long as rewrites are left."""
        if self._fuel <= 1:
            return None
        for rule in rules.of(node):
            result = _offer(rule, node, self._ctx)
            if result is not None:
                self._fuel -= 1
                return result
        return None
