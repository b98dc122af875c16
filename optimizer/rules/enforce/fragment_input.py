"""What a relational node reads: a longer tree, or an operator's rows as a leaf."""

from __future__ import annotations

from halo_sql.ir.estimate import Estimate
from halo_sql.optimizer.alternative import Alternative, Leaf, Requirement, Same
from halo_sql.optimizer.cost import CHAR_S, OPERATOR_S, cpu, width_chars
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import RELATIONAL
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Properties


def fragment_input(group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``source G => tree of G`` when G is relational, ``source G => leaf over the rows of G`` in any case.

    Safe: DuckDB reads the same rows; a leaf is spooled or streamed first. Not for what an LLM node reads: that is
    rows, not a source (the map below reads the whole of its sub-query as one fragment)::

        SELECT LLM_MAP('a {{ b }}') FROM (SELECT * FROM t WHERE c > 1)
    """
    if required.form is not Form.SOURCE:
        return []
    found: list[Alternative] = []
    profile = memo.group(group).profile
    if any(isinstance(expr, RELATIONAL) for expr in memo.expressions(group)):
        below = Requirement(group, required.as_form(Form.RUN))
        found.append(Alternative(Same(), (below,), Estimate(profile.rows), "fragment_input"))
    width = width_chars([column.id for column in memo.group(group).columns], profile)
    estimate = Estimate(profile.rows, cost=cpu(OPERATOR_S + profile.rows * width * CHAR_S))
    found.append(Alternative(Leaf(), (Requirement(group, required.as_form(Form.ROWS)),), estimate, "fragment_input"))
    return found
