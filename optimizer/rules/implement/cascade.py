"""What llm_filter_cascade and classify_join share: when a cascade may be used, and what it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.call_key import call_key
from halo_sql.ir.cascade import pays, sample_draws
from halo_sql.ir.estimate import Estimate
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import LlmFilter
from halo_sql.ir.physical import LlmFilterCascadeExec
from halo_sql.ir.prompt import LlmCall
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cardinality import true_share
from halo_sql.optimizer.context import EngineProfile, OptimizerContext
from halo_sql.optimizer.cost import CALLER_ROW_S, OPERATOR_S, cpu, llm_estimate
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Properties

#: The rules.
CASCADES = frozenset({"llm_filter_cascade", "classify_join"})
#: Part of the prompts on which proxies are assumed not to decide.
UNDECIDED = 0.2


def may_approximate(expr: Any, required: Properties, ctx: PlanContext) -> bool:
    """Whether a filter may be decided by a proxy in part: the user has said so twice, and equal calls have equal
    answers. The cascade delivers plain rows only, and reads all: under a LIMIT it could fail for one behind it."""
    options = ctx.options
    return (
        isinstance(expr, LlmFilter)
        and options.enabled
        and options.approximate
        and expr.call.quality > 0.0
        and expr.call.deterministic
        and required.form is Form.ROWS
        and required.clustered is None
        and (required.row_goal is None or expr.call.on_error != "fail")
    )


def cascade(
    expr: LlmFilter,
    proxy: LlmCall,
    label: ColumnId | None,
    asked: Estimate,
    group: int,
    required: Properties,
    memo: Memo,
    ctx: PlanContext,
    rule: str,
) -> list[Alternative]:
    """The cascade whose proxy takes ``asked``: with a sample, and a part that the model decides on. Nothing when the
    sample would not pay. It reads all of its input, whatever the row goal is."""
    child = memo.group(expr.input)
    call = expr.call
    rows = child.profile.rows
    prompts = child.profile.requests(call)
    draws = sample_draws(call.quality, true_share(call, ctx.options))
    if not pays(draws, prompts):
        return []
    exact = llm_estimate([call], child.profile, rows, False, ctx.options)
    estimate = exact.part(min(1.0, draws / prompts + UNDECIDED)) + asked
    cost = estimate.cost + cpu(OPERATOR_S + rows * CALLER_ROW_S)
    if proxy.model != call.model:
        cost = replace(cost, gpu_s=cost.gpu_s + ctx.options.engine(proxy.model).load_s)
    estimate = replace(estimate, rows=memo.group(group).profile.rows, cost=cost)
    op = LlmFilterCascadeExec(call, proxy, label, draws)
    below = Properties(Form.ROWS, required.order)
    return [Alternative(op, (Requirement(child.id, below),), estimate, rule)]


def beside(options: OptimizerContext, proxy: LlmCall, call: LlmCall) -> OptimizerContext:
    """The context with what can be said of the proxy beside the filter's model.

    Speeds are compared only where both were measured. Otherwise the proxy is taken for an engine like the model's, and
    for faster by as much as it is cheaper where both have a price. A prompt has as many tokens for the one as for the
    other until something is learnt of the proxy's.
    """
    calls = options.calls
    learnt = calls.get((call.model, call_key(call))) or calls.get((call.model, ""))
    if learnt is not None and (proxy.model, call_key(proxy)) not in calls and proxy.kind == "score":
        calls = {**calls, (proxy.model, call_key(proxy)): replace(learnt, true_share=None)}
    own, other = options.engine(proxy.model), options.engine(call.model)
    if proxy.model == call.model or (own.calibrated and other.calibrated):
        return replace(options, calls=calls)
    ratio = min(1.0, _price(own) / _price(other)) if _price(own) and _price(other) else 1.0
    likened = replace(
        other,
        prefill_tok_per_s=other.prefill_tok_per_s / ratio,
        decode_step_s=other.decode_step_s * ratio,
        decode_seq_s=other.decode_seq_s * ratio,
        kv_read_s=other.kv_read_s * ratio,
        request_s=other.request_s * ratio,
        usd_per_prompt_tok=own.usd_per_prompt_tok,
        usd_per_output_tok=own.usd_per_output_tok,
    )
    return replace(options, calls=calls, engines={**options.engines, proxy.model: likened})


def _price(engine: EngineProfile) -> float:
    return engine.usd_per_prompt_tok + engine.usd_per_output_tok
