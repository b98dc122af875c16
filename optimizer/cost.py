"""The cost model of ARCHITECTURE.md section 5: seconds, tokens and money of physical operators.

An LLM node over ``n`` rows computes the trie of its prompts: the static prefix once, then per hole the
distinct values so far × the tokens up to the next hole; shared parts end at KV-block boundaries. Decoding
takes ``output tokens × step ÷ batch``, the batch being what the window and the KV cache allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import Cost, Estimate
from halo_sql.ir.prompt import Hole, ItemsHole, LlmCall, Prompt
from halo_sql.optimizer.cardinality import CHARS_PER_TOK, Profile, object_chars, output_tok
from halo_sql.optimizer.context import EngineProfile, OptimizerContext

#: Seconds: starting a DuckDB query, one row through a relational node, one character spooled or exported,
#: an operator's own start, one row through a Python-side operator.
QUERY_S = 1e-3
ROW_S = 5e-8
CHAR_S = 1e-9
OPERATOR_S = 2e-5
OPERATOR_ROW_S = 2e-8
SORT_ROW_S = 2e-7
LLM_ROW_S = 1e-5
#: As long as nothing is known of a tool or an agent: seconds of a call, calls at once; steps of a conversation.
TOOL_CALL_S = 0.05
TOOL_CONCURRENCY = 16
AGENT_STEPS = 3


@dataclass(frozen=True, slots=True)
class Level:
    """A prompt's part: from a hole to just before the next one.

    columns  columns of the holes so far
    end_tok  tokens from the prompt's start to the part's end
    """

    columns: tuple[ColumnId, ...]
    end_tok: float


def levels(prompt: Prompt, profile: Profile) -> list[Level]:
    """The prompt's parts in order; the first is the static prefix."""
    chars = float(len(prompt.system or ""))
    columns: list[ColumnId] = []
    found: list[Level] = []
    for segment in prompt.user:
        if isinstance(segment, str):
            chars += len(segment)
            continue
        found.append(Level(tuple(columns), chars / CHARS_PER_TOK))
        if isinstance(segment, Hole | ItemsHole):
            columns.append(segment.column)
            chars += profile.known(segment.column).chars
        else:
            columns += [column for _, column in segment.fields]
            chars += object_chars(segment) + sum(profile.known(column).chars for _, column in segment.fields)
    found.append(Level(tuple(columns), chars / CHARS_PER_TOK + 1.0))
    return found


def trie_tok(parts: Sequence[Level], profile: Profile, calls: float, block_tok: int) -> float:
    """Prompt tokens computed when every shared prefix is computed once (whole KV blocks only)."""
    total, shared = 0.0, 0.0
    for part in parts[:-1]:
        boundary = part.end_tok // block_tok * block_tok
        total += min(calls, profile.distinct(part.columns)) * max(0.0, boundary - shared)
        shared = max(shared, boundary)
    return total + calls * max(0.0, parts[-1].end_tok - shared)


def llm_estimate(
    calls: Sequence[LlmCall], profile: Profile, rows: float, clustered: bool, options: OptimizerContext
) -> Estimate:
    """What LLM calls over the first ``rows`` rows of an input with this profile take (rows: those read)."""
    total = Estimate(rows=rows)
    for call in calls:
        one = _call(call, Profile(rows, profile.columns), clustered, options)
        total = Estimate(
            rows,
            total.llm_calls + one.llm_calls,
            total.prompt_tok + one.prompt_tok,
            total.prompt_tok_cached + one.prompt_tok_cached,
            total.output_tok + one.output_tok,
            total.cost + one.cost,
            total.tool_calls + one.tool_calls,
        )
    return total


def _call(call: LlmCall, profile: Profile, clustered: bool, options: OptimizerContext) -> Estimate:
    engine = options.engine(call.model)
    parts = levels(call.prompt, profile)
    deterministic = call.deterministic
    requests = min(profile.rows, profile.distinct(parts[-1].columns)) if deterministic else profile.rows
    if call.kind == "tool":
        seconds = requests * LLM_ROW_S + ceil(requests / TOOL_CONCURRENCY) * TOOL_CALL_S
        return Estimate(profile.rows, tool_calls=requests, cost=Cost(cpu_s=seconds))
    if call.kind == "agent":
        return _agent(call, requests, parts[-1].end_tok, engine)
    prompt_tok = requests * parts[-1].end_tok
    computed_tok = min(prompt_tok, computed_prompt_tok(parts, profile, requests, clustered, engine))
    answer_tok = requests * output_tok(call)
    gpu_s = computed_tok / engine.prefill_tok_per_s + answer_tok * engine.decode_step_s / _batch(
        requests, parts[-1].end_tok + output_tok(call), engine
    )
    usd = prompt_tok * engine.usd_per_prompt_tok + answer_tok * engine.usd_per_output_tok
    cost = Cost(gpu_s, requests * LLM_ROW_S, computed_tok + answer_tok, usd)
    return Estimate(profile.rows, requests, prompt_tok, prompt_tok - computed_tok, answer_tok, cost=cost)


def _agent(call: LlmCall, rows: float, own_tok: float, engine: EngineProfile) -> Estimate:
    """Conversations of AGENT_STEPS steps, or as many as there may be: each reads the ones before it out of the cache,
    what all rows are told is computed once, all steps but the last call a tool."""
    steps = min(AGENT_STEPS, call.steps or AGENT_STEPS)
    answer_tok = output_tok(call)
    each_tok = 2 * answer_tok  # a call and its result
    shared_tok = (call.around + len(call.prompt.system or "")) / CHARS_PER_TOK
    own_tok = max(1.0, own_tok - len(call.prompt.system or "") / CHARS_PER_TOK)
    first_tok = shared_tok + own_tok
    prompts = rows * sum(first_tok + step * each_tok for step in range(steps))
    computed = shared_tok * min(1.0, rows) + rows * (own_tok + (steps - 1) * each_tok)
    answers = rows * steps * answer_tok
    gpu_s = computed / engine.prefill_tok_per_s + answers * engine.decode_step_s / _batch(rows, first_tok, engine)
    usd = prompts * engine.usd_per_prompt_tok + answers * engine.usd_per_output_tok
    calls = rows * steps
    return Estimate(
        rows,
        calls,
        prompts,
        max(0.0, prompts - computed),
        answers,
        Cost(gpu_s, calls * LLM_ROW_S, computed + answers, usd),
        rows * (steps - 1),
    )


def computed_prompt_tok(
    parts: Sequence[Level], profile: Profile, requests: float, clustered: bool, engine: EngineProfile
) -> float:
    """Prompt tokens computed: the whole trie once when it fits the KV cache or rows come clustered; otherwise the
    trie of each window of rows (only the static prefix stays)."""
    whole = trie_tok(parts, profile, requests, engine.block_tok)
    window = float(engine.window_requests)
    if clustered or engine.kv_capacity_tok == 0 or whole <= engine.kv_capacity_tok or requests <= window:
        return whole
    static = parts[0].end_tok // engine.block_tok * engine.block_tok if len(parts) > 1 else 0.0
    one_window = trie_tok(parts, Profile(window, profile.columns), window, engine.block_tok)
    return static + requests / window * (one_window - static)


def _batch(requests: float, tok_per_request: float, engine: EngineProfile) -> float:
    batch = min(float(engine.window_requests), max(1.0, requests))
    if engine.kv_capacity_tok:
        batch = min(batch, max(1.0, engine.kv_capacity_tok / tok_per_request))
    return batch


def width_chars(columns: Sequence[ColumnId], profile: Profile) -> float:
    """Average characters of a row."""
    return sum(profile.known(column).chars for column in columns)


def cpu(seconds: float) -> Cost:
    """A cost that is CPU time only."""
    return Cost(cpu_s=seconds)


def value(cost: Cost, objective: str) -> float:
    """A cost as the one number plans are compared by; seconds break ties of the other objectives."""
    seconds = cost.gpu_s + cost.cpu_s
    if objective == "usd":
        return cost.usd + 1e-9 * seconds
    if objective == "tokens":
        return cost.tokens + 1e-6 * seconds
    return seconds
