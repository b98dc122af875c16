"""A limit that stops its input."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.logical import Limit
from halo_sql.ir.physical import LimitExec
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cost import OPERATOR_S, cpu
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Order, Properties


def limit(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``Limit[n](X) => LimitExec[n](X)`` with the row goal n (plus the offset) for X.

    Safe: the first rows in X's order; X is closed when they are there, so a streaming LLM node below makes no more
    calls. The relational alternative (inside a fragment) reads X whole, and costs accordingly; it wins where no LLM
    node is left below, and this one is not used::

        SELECT LLM_MAP('a {{ b }}') FROM t LIMIT 10
    """
    if required.form is not Form.ROWS or required.clustered is not None or not isinstance(expr, Limit):
        return []
    goal = required.row_goal
    if expr.count is not None:
        goal = float(expr.count) if goal is None else min(goal, float(expr.count))
    if goal is not None:
        goal += expr.offset
    below = Properties(Form.ROWS, Order.INPUT, None, goal)
    estimate = Estimate(memo.group(group).profile.rows, cost=cpu(OPERATOR_S))
    op = LimitExec(expr.count, expr.offset)
    return [Alternative(op, (Requirement(memo.group(expr.input).id, below),), estimate, "limit")]
