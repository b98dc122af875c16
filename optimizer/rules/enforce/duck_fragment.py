"""A relational tree's rows, by running it in DuckDB."""

from __future__ import annotations

from halo_sql.ir.estimate import Estimate
from halo_sql.optimizer.alternative import Alternative, Requirement, Run
from halo_sql.optimizer.cost import CHAR_S, QUERY_S, cpu, width_chars
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import RELATIONAL
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Properties


def duck_fragment(group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``rows of G => DuckFragmentExec(tree of G)``.

    Safe: the tree is the group's relational expression over leaves. Starting a query costs something, so the
    cheapest plan has as few fragments as possible: maximal runs. Not for groups without a relational expression: this
    filter's rows are an operator's::

        SELECT * FROM t WHERE LLM_FILTER('a {{ b }}')
    """
    if required.form is not Form.ROWS or required.clustered is not None:
        return []
    if not any(isinstance(expr, RELATIONAL) for expr in memo.expressions(group)):
        return []
    profile = memo.group(group).profile
    width = width_chars([column.id for column in memo.group(group).columns], profile)
    estimate = Estimate(profile.rows, cost=cpu(QUERY_S + profile.rows * width * CHAR_S))
    return [Alternative(Run(), (Requirement(group, required.as_form(Form.RUN)),), estimate, "duck_fragment")]
