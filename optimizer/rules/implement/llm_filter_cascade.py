"""LlmFilter decided by a cheaper model in part."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.cascade import score_call
from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.cost import llm_estimate
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.cascade import beside, cascade, may_approximate


def llm_filter_cascade(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``LlmFilter(X) => LlmFilterCascadeExec[score](X)``: the proxy scores every prompt, the model answers a sample and
    what the proxy is not sure of.

    Safe: precision and recall are at least the call's ``quality``, each with 95 % confidence and both together, as in
    SUPG (Kang et al., VLDB 2020); an exact plan that costs the same goes first. Only where the user allows it twice::

        SET halo_approximate = true;
        SELECT * FROM tickets WHERE LLM_FILTER('Urgent? {{ body }}', quality => 0.9, proxy => 'small')

    Not without a proxy, not for volatile calls (there is no answer to compare with), and not when the sample would be
    half of the prompts.
    """
    if not may_approximate(expr, required, ctx) or not expr.call.proxy:
        return []
    proxy = score_call(expr.call)
    rows = memo.group(expr.input).profile
    asked = llm_estimate([proxy], rows, rows.rows, False, beside(ctx.options, proxy, expr.call))
    return cascade(expr, proxy, None, asked, group, required, memo, ctx, "llm_filter_cascade")
