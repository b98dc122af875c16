"""LlmFilter as a streaming operator."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.logical import LlmFilter
from halo_sql.ir.physical import LlmFilterExec
from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.cardinality import true_share
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.llm import llm_alternatives


def llm_filter(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``LlmFilter(X) => LlmFilterExec(X)``, over clustered rows too when they are required.

    Safe: the order of the kept rows stays. A row goal g above means g / selectivity rows of X. Not for a condition
    that is read as a value: it is a column of an LlmMap::

        SELECT LLM_FILTER('a {{ b }}') OR c > 1 FROM t
    """
    if not isinstance(expr, LlmFilter):
        return []
    op = LlmFilterExec(expr.call, expr.distinct)
    return llm_alternatives(expr, op, group, required, true_share(expr.call, ctx.options), memo, ctx)
