"""What llm_reduce_one_shot and llm_reduce_tree_fold share: how many requests a group is expected to take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.logical import LlmReduce
from halo_sql.ir.physical import LlmReduceExec
from halo_sql.ir.prompt import ItemsHole, LlmCall
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cardinality import CHARS_PER_TOK, DEFAULT_CHARS, Profile, output_tok
from halo_sql.optimizer.cost import OPERATOR_ROW_S, OPERATOR_S, cpu, llm_estimate
from halo_sql.optimizer.engine_cost import Load, engine_cost
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Properties
from halo_sql.optimizer.rules.implement.llm import lookahead


@dataclass(frozen=True, slots=True)
class Fold:
    """The tree expected over one group: its items, those a request takes, the levels, the requests of all levels."""

    items: float
    fan_in: float
    levels: int
    requests: float


def expected_fold(call: LlmCall, groups: Profile, ctx: PlanContext) -> Fold:
    """By the average group, the call's fan_in and the context of its engine, where that is known."""
    hole = call.prompt.user[-1]
    assert isinstance(hole, ItemsHole)
    known = groups.known(hole.column)
    chars = max(1.0, known.chars)  # groups that are all empty have none
    items = max(1.0, known.items or chars / (DEFAULT_CHARS + 1.0))
    context_tok = ctx.options.engine(call.model).context_tok
    room_chars = inf
    if context_tok:
        static = sum(len(part) for part in call.prompt.user if isinstance(part, str)) + len(call.prompt.system or "")
        room_chars = max(1.0, (context_tok - call.sampling.max_tokens) * CHARS_PER_TOK - static)
    most = float(call.fan_in) if call.fan_in else inf
    fan_in = max(1.0, min(most, room_chars // (chars / items), items))
    left, levels, requests = items, 0, 0.0
    while True:
        parts = float(ceil(left / fan_in))
        levels, requests = levels + 1, requests + parts
        if parts <= 1.0:
            break
        left = parts
        fan_in_above = max(2.0, min(most, room_chars // max(1.0, output_tok(call, ctx.options) * CHARS_PER_TOK)))
        fan_in = fan_in if levels == 1 and fan_in >= 2.0 else fan_in_above
    first = max(1.0, min(most, room_chars // (chars / items), items))
    return Fold(items, first, levels, requests)


def reduce_alternatives(
    expr: LlmReduce, variant: str, folds: list[Fold], group: int, required: Properties, memo: Memo, ctx: PlanContext
) -> list[Alternative]:
    """The operator over groups as they come; a row goal passes through."""
    if required.form is not Form.ROWS or required.clustered is not None:
        return []
    child = memo.group(expr.input)
    goal = required.row_goal
    read = child.profile.rows if goal is None else min(child.profile.rows, goal)
    estimate = Estimate(memo.group(group).profile.rows, cost=cpu(OPERATOR_S + read * OPERATOR_ROW_S))
    for call, fold in zip(expr.calls, folds, strict=True):
        estimate += _call(call, fold, child.profile, read, ctx)
    largest = max(folds, key=lambda fold: fold.requests)
    shape = LlmReduceExec(expr.calls, variant, largest.items, largest.fan_in, largest.levels)
    op = replace(shape, lookahead=lookahead(expr.calls, goal, ctx), by_turn=goal is not None)
    below = Requirement(child.id, Properties(Form.ROWS, required.order, None, goal))
    return [Alternative(op, (below,), estimate, f"llm_reduce_{variant.replace(' ', '_')}")]


def _call(call: LlmCall, fold: Fold, groups: Profile, read: float, ctx: PlanContext) -> Estimate:
    """A request per group takes instruction, items and answer; each further one an instruction, an answer, and an
    answer that is read again. The further ones are those of the levels below, one level after the other."""
    one = llm_estimate([call], groups, read, False, ctx.options)
    more = (fold.requests - 1.0) * one.llm_calls
    if not more:
        return one
    engine, known = ctx.options.engine(call.model), ctx.options.static_tok(call)
    static = sum(len(part) for part in call.prompt.user if isinstance(part, str)) + len(call.prompt.system or "")
    around_tok = engine.bare_tok if call.prompt.system is None else engine.system_tok
    each_tok = static / engine.chars_per_tok + around_tok if known is None else float(known.whole)
    head_tok = each_tok if known is None else float(known.head)
    cached_tok = more * min(each_tok, head_tok // engine.block_tok * engine.block_tok)
    answers_tok = more * output_tok(call, ctx.options)
    prompt_tok = more * each_tok + answers_tok
    side_by_side = more / max(1.0, fold.levels - 1.0)
    load = Load(more, prompt_tok / more, prompt_tok - cached_tok, answers_tok / more, at_once=side_by_side)
    extra = Estimate(0.0, more, prompt_tok, cached_tok, answers_tok, engine_cost(load, engine))
    return one + extra


def folds_of(expr: Any, memo: Memo, ctx: PlanContext) -> list[Fold]:
    """The expected tree of each call of an LlmReduce."""
    groups = memo.group(expr.input).profile
    return [expected_fold(call, groups, ctx) for call in expr.calls]
