"""Long rows of LLM nodes: one good order instead of all orders.

The number of orders of n independent filters is n!, and of the groups they need 2ⁿ. Beyond ``Limits.chain`` nodes
in a row only this order is added to the memo: filters by rank, cost ÷ (1 − selectivity), which is the best order
when costs do not depend on each other (Hellerstein and Stonebraker, SIGMOD 1993); maps as late as they may come.
"""

from __future__ import annotations

from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Filter, Join, LlmFilter, LlmMap, LogicalPlan
from halo_sql.ir.walk import children, output_columns, with_children
from halo_sql.optimizer.cardinality import Profile, derive, true_share
from halo_sql.optimizer.comparisons import all_never_fail
from halo_sql.optimizer.cost import llm_estimate, value
from halo_sql.optimizer.nodes import calls_of, columns_of, is_llm, is_volatile, outputs, reads, walk_once
from halo_sql.optimizer.plan_context import PlanContext


def longest_chain(plan: LogicalPlan) -> int:
    """LLM nodes in the longest row of LLM nodes, relational filters and joins, all sides of a join counted."""
    longest = 0
    inside: set[int] = set()
    for node in walk_once(plan):
        if id(node) in inside or not (is_llm(node) or isinstance(node, Join)):
            continue
        length, waiting = 0, [node]
        while waiting:
            current = waiting.pop()
            if isinstance(current, LlmMap | LlmFilter | Filter | Join) and id(current) not in inside:
                inside.add(id(current))
                length += is_llm(current)
                waiting += children(current)
        longest = max(longest, length)
    return longest


def order_greedily(plan: LogicalPlan, ctx: PlanContext) -> Any:
    """The plan with every row of non-volatile LLM nodes in the greedy order. Columns may change their order."""
    rebuilt: dict[int, tuple[Any, Any, Profile]] = {}  # by identity: (node kept alive, new node, its profile)
    chains: dict[int, tuple[list[Any], Any]] = {}
    stack: list[Any] = [plan]
    while stack:
        node = stack[-1]
        if id(node) not in chains:
            chains[id(node)] = _chain(node)
        chain, bottom = chains[id(node)]
        below = (bottom,) if chain else children(node)
        waiting = [child for child in below if id(child) not in rebuilt]
        if waiting:
            stack += waiting
            continue
        stack.pop()
        profiles = [rebuilt[id(child)][2] for child in below]
        if not chain:
            result = with_children(node, tuple(rebuilt[id(child)][1] for child in below))
            rebuilt[id(node)] = (node, result, derive(result, profiles, ctx.options))
            continue
        current, profile = rebuilt[id(bottom)][1], profiles[0]
        for item in _order(chain, profile, ctx):
            current = with_children(item, (current,))
            profile = derive(current, [profile], ctx.options)
        rebuilt[id(node)] = (node, current, profile)
    return rebuilt[id(plan)][1]


def _chain(node: Any) -> tuple[list[Any], Any]:
    """The row of non-volatile LLM nodes that starts at ``node`` (top first) and what is below it. Those on the sides of
    an inner join that does not read their answers belong to it: above the join they are asked for its rows only."""
    chain, bottom = _row(node)
    if isinstance(bottom, Join) and bottom.kind == "inner":
        read, sides = columns_of(bottom.on), []
        harmless = all_never_fail(bottom.on, output_columns(bottom))
        for side in bottom.inputs:
            above, rest = _row(side)
            if any(_stays(item, read, harmless) for item in above):
                above, rest = [], side
            chain += above
            sides.append(rest)
        bottom = with_children(bottom, tuple(sides))
    return (chain, bottom) if len(chain) > 1 else ([], node)


def _stays(node: Any, read: frozenset[ColumnId], harmless: bool) -> bool:
    """Whether a node must stay below a join that reads these columns; ``harmless``: its conditions never fail."""
    return bool(outputs(node) & read) if isinstance(node, LlmMap) else not harmless


def _row(node: Any) -> tuple[list[Any], Any]:
    found: list[Any] = []
    while is_llm(node) and not is_volatile(node):
        found.append(node)
        node = node.input
    return found, node


def _order(chain: list[Any], profile: Profile, ctx: PlanContext) -> list[Any]:
    """The nodes bottom first: the filter of the least rank among those whose inputs are there, else the next map."""
    waiting = list(reversed(chain))
    rank = {id(node): _rank(node, profile, ctx) for node in waiting if isinstance(node, LlmFilter)}
    pending: set[ColumnId] = set()
    for node in waiting:
        if isinstance(node, LlmMap):
            pending |= outputs(node)
    ordered: list[Any] = []
    while waiting:
        ready = [node for node in waiting if isinstance(node, LlmFilter) and not reads(node) & pending]
        chosen = min(ready, key=lambda node: rank[id(node)]) if ready else _next_map(waiting)
        waiting = [node for node in waiting if node is not chosen]
        ordered.append(chosen)
        if isinstance(chosen, LlmMap):
            pending -= outputs(chosen)
    return ordered


def _next_map(waiting: list[Any]) -> Any:
    return next(node for node in waiting if isinstance(node, LlmMap))


def _rank(node: LlmFilter, profile: Profile, ctx: PlanContext) -> float:
    estimate = llm_estimate(calls_of(node), profile, profile.rows, False, ctx.options)
    return value(estimate.cost, ctx.options.objective) / (1.0 - true_share(node.call, ctx.options))
