"""A projection that only picks columns needs no DuckDB."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Project
from halo_sql.ir.physical import SelectExec
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cost import OPERATOR_S, cpu
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import is_pick
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Properties


def select(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``Project[pick](X) => SelectExec(X)``.

    Safe: columns are passed on by reference, batch by batch. Not when something is computed::

        SELECT id + 1 FROM …
    """
    if required.form is not Form.ROWS or required.clustered is not None:
        return []
    if not isinstance(expr, Project) or not is_pick(expr):
        return []
    picked: list[tuple[Any, ColumnId]] = []
    for column, item in expr.exprs:
        source = item.as_column()
        assert source is not None
        picked.append((column, source))
    rows = memo.group(group).profile.rows
    estimate = Estimate(rows, cost=cpu(OPERATOR_S))
    return [
        Alternative(SelectExec(tuple(picked)), (Requirement(memo.group(expr.input).id, required),), estimate, "select")
    ]
