"""Reading a CTE: its rows under new column ids."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.logical import CteScan
from halo_sql.ir.physical import SelectExec
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cost import OPERATOR_S, cpu
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Properties


def cte_scan(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``CteScan(P) => SelectExec(P)``; ``share`` puts a MaterializeExec between when there are several readers.

    Safe: every reader requires the same of P (all rows in order), so P has one plan however its readers differ, and
    a volatile CTE is computed once. For that reason a row goal or a clustering does not pass into P::

        WITH c AS (SELECT LLM_MAP('x {{ b }}', temperature => 1) AS s FROM t)
        SELECT * FROM (FROM c LIMIT 1) UNION ALL FROM c
    """
    if required.form is not Form.ROWS or required.clustered is not None or not isinstance(expr, CteScan):
        return []
    below = memo.group(expr.input)
    pairs = zip(expr.columns, below.columns, strict=True)
    op = SelectExec(tuple((column, source.id) for column, source in pairs))
    estimate = Estimate(memo.group(group).profile.rows, cost=cpu(OPERATOR_S))
    return [Alternative(op, (Requirement(below.id, Properties()),), estimate, "cte_scan")]
