"""A query with calls in its text, run by demand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.logical import Demand
from halo_sql.ir.physical import DemandExec
from halo_sql.ir.walk import calls_made
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cardinality import Profile
from halo_sql.optimizer.cost import QUERY_S, ROW_S, cpu, llm_estimate
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Properties


def demand(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``Demand(X, Y, …) => DemandExec(X, Y, …)``.

    Safe: DuckDB evaluates the user's text itself, calls included (as look-ups of answers). One round per rank of
    calls, and one more, runs the text. Not used for calls that can stand beside their rows as columns: those
    stream (``llm_map``)::

        SELECT LLM_MAP('Shorten: {{ body }}') FROM t
    """
    if required.form is not Form.ROWS or required.clustered is not None or not isinstance(expr, Demand):
        return []
    inputs = tuple(Requirement(memo.group(child).id, Properties()) for child in expr.inputs)
    profile = memo.group(group).profile
    rows = profile.rows
    rounds = 1 + len({ask.rank for ask in expr.asks})
    estimate = Estimate(rows)
    for call in calls_made(expr):
        asked = profile.asked(call)
        reaching = rows if asked is None else asked.rows
        estimate += llm_estimate([call], Profile(reaching, {}, profile.inputs), reaching, False, ctx.options)
    own = cpu(rounds * (QUERY_S + rows * ROW_S))
    op = DemandExec(expr.parts, expr.columns, expr.asks, expr.label, expr.write, expr.pinned, expr.unsteady)
    return [Alternative(op, inputs, replace(estimate, rows=rows, cost=estimate.cost + own), "demand")]
