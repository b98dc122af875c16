"""A relational node as part of a DuckDB query: runs of them become one fragment."""

from __future__ import annotations

from math import log2
from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.logical import Distinct, Filter, Fragment, Join, Limit, Sort
from halo_sql.ir.walk import children
from halo_sql.optimizer.alternative import Alternative, Requirement, Tree
from halo_sql.optimizer.cardinality import FILTER_SELECTIVITY
from halo_sql.optimizer.cost import ROW_S, SORT_ROW_S, cpu
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import RELATIONAL, is_llm, passes_goal
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Order, Properties


def relational_run(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``Filter | Project | Join | Sort | Limit | Distinct | Fragment => a node of a fragment's tree``.

    Safe: DuckDB runs what the user wrote. A row goal passes through row-wise filters, projections and unnesting only
    (they are streamed); everything else reads its inputs whole. Not for LLM nodes and CTE readings: they are leaves of
    the tree. Nor for a limit that stops LLM nodes: read whole, they would call for rows that nobody asks for, and
    fail for them::

        SELECT body FROM t WHERE LLM_FILTER('a {{ b }}') LIMIT 3
    """
    if required.form is not Form.RUN or not isinstance(expr, RELATIONAL):
        return []
    if isinstance(expr, Limit) and expr.count is not None and _stops_calls(expr.input, memo):
        return []
    inputs = tuple(
        Requirement(
            memo.group(child).id, Properties(Form.SOURCE, _order(expr, required), None, _goal(expr, required, memo))
        )
        for child in children(expr)
    )
    rows = sum(memo.group(child).profile.rows for child in children(expr)) or memo.group(group).profile.rows
    seconds = rows * ROW_S
    if isinstance(expr, Join):
        seconds += memo.group(group).profile.rows * ROW_S
    if isinstance(expr, Sort):
        seconds += rows * SORT_ROW_S * log2(rows + 2)
    estimate = Estimate(memo.group(group).profile.rows, cost=cpu(seconds))
    return [Alternative(Tree(expr), inputs, estimate, "relational_run")]


def _order(expr: Any, required: Properties) -> Order:
    if isinstance(expr, Sort | Distinct):
        return Order.ANY
    return Order.INPUT if isinstance(expr, Limit | Fragment) else required.order


def _goal(expr: Any, required: Properties, memo: Memo) -> float | None:
    if required.row_goal is None or not passes_goal(expr):
        return None
    if isinstance(expr, Filter):
        return required.row_goal / FILTER_SELECTIVITY
    if isinstance(expr, Fragment):
        each = 0.0 if expr.unnested is None else memo.group(expr.inputs[0]).profile.known(expr.unnested).items
        return required.row_goal / (each or 1.0)
    return required.row_goal


def _stops_calls(group: Any, memo: Memo) -> bool:
    """Whether rows that are read as far as wanted come from LLM nodes."""
    while True:
        node = memo.expressions(group)[0]
        if is_llm(node):
            return True
        if not passes_goal(node) or not children(node):
            return False
        group = node.input if not isinstance(node, Fragment) else node.inputs[0]
