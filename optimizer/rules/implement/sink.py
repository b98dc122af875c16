"""CREATE TABLE AS and INSERT."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.logical import Sink
from halo_sql.ir.physical import SinkExec
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cost import CHAR_S, QUERY_S, cpu, width_chars
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Properties


def sink(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``Sink(X) => SinkExec(X)``.

    Safe: X's rows are spooled whole and in order before the one DuckDB statement that consumes them. Not for statements
    that read their own target row by row: they are a Demand (``demand``)::

        UPDATE t SET s = LLM_MAP('a {{ b }}')
    """
    if required.form is not Form.ROWS or required.clustered is not None or not isinstance(expr, Sink):
        return []
    child = memo.group(expr.input)
    spooled = child.profile.rows * width_chars([column.id for column in child.columns], child.profile)
    op = SinkExec(expr.prefix, expr.suffix, expr.names, expr.kind)
    estimate = Estimate(1.0, cost=cpu(QUERY_S + spooled * CHAR_S))
    return [Alternative(op, (Requirement(child.id, Properties()),), estimate, "sink")]
