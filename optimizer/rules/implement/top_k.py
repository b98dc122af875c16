"""What llm_top_k_score and llm_top_k_tournament share: which of the two it is, and what comparisons take."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

from halo_sql.ir.estimate import Cost, Estimate
from halo_sql.ir.logical import LlmTopK
from halo_sql.ir.physical import LlmTopKExec
from halo_sql.ir.walk import children
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cardinality import CHARS_PER_TOK, Profile, derive
from halo_sql.optimizer.context import EngineProfile, OptimizerContext
from halo_sql.optimizer.cost import OPERATOR_ROW_S, OPERATOR_S, cpu, levels, llm_estimate, value
from halo_sql.optimizer.engine_cost import LLM_ROW_S
from halo_sql.optimizer.memo import Group, Memo
from halo_sql.optimizer.nodes import calls_of
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Properties

_WAYS = 16  # up the tree that are looked at, at most
FAN_IN = 4  # candidates of a comparison: few enough for small models
#: An engine of ordinary speed and price (dollars per million tokens: 1 in, 4 out).
ORDINARY = EngineProfile(usd_per_prompt_tok=1e-6, usd_per_output_tok=4e-6)
_FRAME_TOK = 40.0  # system message and question around the candidates
_CANDIDATE_TOK = 4.0  # letter and quotes around each
_ANSWER_TOK = 1.0


def method_of(expr: LlmTopK, rows: Profile, objective: str) -> str:
    """'score' or 'tournament': as the user says, else what costs less on an ordinary engine.

    Two methods may rank differently, so the choice rests on the statement, its data and the user's objective, never
    on what engines said of themselves in earlier runs or was learnt there. A comparison that fails has no row of its
    own: only grades can be NULL. Grades are faster, comparisons can be cheaper: they pay for one system message instead
    of several.
    """
    if expr.method:
        return expr.method
    if expr.count is None or not expr.call.deterministic or expr.call.on_error != "fail":
        return "score"
    ordinary = OptimizerContext(engines={expr.call.model: ORDINARY})
    graded = llm_estimate([expr.call], rows, rows.rows, False, ordinary)
    compared = tournament_estimate(expr, rows, ORDINARY)
    return "tournament" if value(compared.cost, objective) < value(graded.cost, objective) else "score"


def tournament_estimate(expr: LlmTopK, rows: Profile, engine: EngineProfile) -> Estimate:
    """The comparisons of ``contests``: a level's side by side, those of further rows one by one. All begin alike, and
    that is computed once."""
    fan_in = expr.call.fan_in or FAN_IN
    count = max(1.0, rows.rows)
    wanted = count if expr.count is None else min(count, float(expr.count + expr.offset))
    levels_calls, later = contests(count, fan_in, wanted)
    calls = sum(asked for asked, _ in levels_calls) + later[0]
    candidates = sum(shown for _, shown in levels_calls) + later[1]
    system_tok = len(expr.call.prompt.system or "") / CHARS_PER_TOK
    parts = levels(expr.call.prompt, rows)
    ratio = CHARS_PER_TOK / engine.chars_per_tok
    frame_tok = _FRAME_TOK + engine.system_tok
    candidate_tok = (parts[-1].end_tok - system_tok) * ratio + _CANDIDATE_TOK
    alike_tok = frame_tok + ((parts[0].end_tok - system_tok) * ratio if len(parts) > 1 else candidate_tok)
    prompt_tok = calls * frame_tok + candidates * candidate_tok
    cached_tok = max(0.0, calls - 1.0) * (alike_tok // engine.block_tok * engine.block_tok)
    cached_tok = min(prompt_tok, cached_tok)
    steps = sum(max(1.0, asked / engine.window_requests) for asked, _ in levels_calls) + later[0]
    prefill_s = (prompt_tok - cached_tok) / engine.prefill_tok_per_s
    decode_s = (steps * engine.decode_step_s + calls * engine.decode_seq_s) * _ANSWER_TOK
    decode_s += prompt_tok * _ANSWER_TOK * engine.kv_read_s
    gpu_s = prefill_s + decode_s + calls * engine.request_s
    answers_tok = calls * _ANSWER_TOK
    usd = prompt_tok * engine.usd_per_prompt_tok + answers_tok * engine.usd_per_output_tok
    tokens = prompt_tok - cached_tok + answers_tok
    cost = Cost(gpu_s, calls * LLM_ROW_S, tokens, usd, prefill_s, decode_s)
    return Estimate(rows.rows, calls, prompt_tok, cached_tok, answers_tok, cost=cost)


def contests(count: float, fan_in: int, wanted: float) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Comparisons, and the candidates shown in them, that find the first ``wanted`` of ``count`` rows: those of each
    level that find the first one, and all that find the others.

    (n - 1) / (m - 1) in all levels; for each further row one per level on the way of the row before it, if several
    candidates are left there. Ranks are taken to be independent of places.
    """
    first, sizes = [], []
    left = ceil(count)
    while left > 1:
        full, rest = divmod(left, fan_in)
        first.append((float(full + (rest > 1)), float(full * fan_in + (rest if rest > 1 else 0))))
        sizes.append(left)
        left = full + (rest > 0)
    ways = ceil(wanted) - 1 if sizes else 0
    points = min(ways, _WAYS)
    asked = shown = 0.0
    for point in range(points):
        gone = (point + 0.5) / points * ways - 0.5  # rows found before, besides the last one
        for level, size in enumerate(sizes):
            full, rest = divmod(size, fan_in)
            for nodes, share in ((fan_in, full * fan_in / size), (rest, rest / size)):
                calls, candidates = _on_the_way(nodes, fan_in**level, gone / (ceil(count) - 1))
                asked += share * calls * ways / points
                shown += share * candidates * ways / points
    return first, (asked, shown)


def _on_the_way(nodes: int, leaves: int, gone: float) -> tuple[float, float]:
    """Whether there is a comparison of so many nodes with so many rows below each, one of which has lost its best row,
    and the candidates shown: expected values when a part ``gone`` of the other rows has been found before."""
    if nodes < 2:
        return 0.0, 0.0
    empty, here_empty = gone**leaves, gone ** (leaves - 1)
    others = nodes - 1
    none = empty**others * here_empty
    one = others * (1.0 - empty) * empty ** (others - 1) * here_empty + (1.0 - here_empty) * empty**others
    candidates = others * (1.0 - empty) + 1.0 - here_empty
    return 1.0 - none - one, candidates - one


def _unlearnt(group: Group, memo: Memo, options: OptimizerContext) -> Profile:
    """The group's profile as it is before anything is learnt of its calls."""
    if not options.calls or not _calls_below(group, memo):
        return group.profile
    expr = group.expressions[0]
    sources = [_unlearnt(memo.group(child), memo, options) for child in children(expr)]
    return derive(expr, sources, replace(options, calls={}))


def _calls_below(group: Group, memo: Memo) -> bool:
    stack = [group]
    while stack:
        expr = stack.pop().expressions[0]
        if calls_of(expr):
            return True
        stack += [memo.group(child) for child in children(expr)]
    return False


def top_k_alternatives(
    expr: Any, method: str, group: int, required: Properties, memo: Memo, ctx: PlanContext
) -> list[Alternative]:
    """The operator over all rows of its input in order, when ``method`` is the one to use."""
    if required.form is not Form.ROWS or required.clustered is not None or not isinstance(expr, LlmTopK):
        return []
    child = memo.group(expr.input)
    rows = child.profile
    if method_of(expr, _unlearnt(child, memo, ctx.options), ctx.options.objective) != method:
        return []
    if method == "score":
        estimate = llm_estimate([expr.call], rows, rows.rows, False, ctx.options)
    else:
        estimate = tournament_estimate(expr, rows, ctx.options.engine(expr.call.model))
    own = cpu(OPERATOR_S + rows.rows * OPERATOR_ROW_S)
    estimate = replace(estimate, rows=memo.group(group).profile.rows, cost=estimate.cost + own)
    op = LlmTopKExec(
        expr.call,
        method,
        expr.descending,
        expr.nulls_first,
        expr.count,
        expr.offset,
        expr.call.fan_in or FAN_IN if method == "tournament" else 1,
    )
    return [Alternative(op, (Requirement(child.id, Properties()),), estimate, f"llm_top_k_{method}")]
