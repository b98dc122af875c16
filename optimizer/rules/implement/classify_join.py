"""LlmFilter over pairs of items and labels, by one classification per item."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.call_key import call_key
from halo_sql.ir.cascade import MOST_LABELS, classify_call, label_holes
from halo_sql.ir.estimate import Estimate
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import LlmFilter
from halo_sql.optimizer.alternative import Alternative
from halo_sql.optimizer.cardinality import Profile
from halo_sql.optimizer.cost import llm_estimate
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Properties
from halo_sql.optimizer.rules.implement.cascade import beside, cascade, may_approximate


def classify_join(expr: Any, group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``LlmFilter(X) => LlmFilterCascadeExec[classify](X)``: |items| classifications instead of |items| × |labels|
    questions, where one hole of the prompt has 2 to 50 different values.

    Safe: the labels that are named score 1, the others 0, and a sample of the model's answers shows whether either can
    be trusted; what cannot is asked pair by pair. The guarantee is that of ``llm_filter_cascade``; the model itself
    classifies when no proxy is given::

        SELECT * FROM tickets t JOIN topics l ON LLM_FILTER('Is {{ t.body }} about {{ l.topic }}?', quality => 0.9)

    Not where the values are not known to be few, are part of an object (``{{ body, topic }}``), or where classifying
    takes more than half as many requests as there are prompts.
    """
    if not may_approximate(expr, required, ctx):
        return []
    rows = memo.group(expr.input).profile
    found: list[Alternative] = []
    for label in label_holes(expr.call):
        known = rows.columns.get(label)
        count = rows.known(label).distinct
        if known is None or known.distinct >= rows.rows or not 2 <= count <= MOST_LABELS:
            continue
        asked = _classified(expr, label, round(count), rows, ctx)
        if asked.llm_calls <= rows.requests(expr.call) / 2:
            proxy = classify_call(expr.call, label)
            found += cascade(expr, proxy, label, asked, group, required, memo, ctx, "classify_join")
    return found


def _classified(expr: LlmFilter, label: ColumnId, count: int, rows: Profile, ctx: PlanContext) -> Estimate:
    """What the classifications take; the labels are not known yet, but how many and how long they are."""
    texts = [str(number).rjust(max(2, round(rows.known(label).chars)), "x") for number in range(count)]
    call = classify_call(expr.call, label, texts)
    options = beside(ctx.options, call, expr.call)
    learnt = options.calls.get((call.model, call_key(classify_call(expr.call, label))))
    if learnt is not None:
        options = replace(options, calls={**options.calls, (call.model, call_key(call)): learnt})
    return llm_estimate([call], Profile(rows.rows, rows.columns), rows.rows, False, options)
