"""The cost model of ARCHITECTURE.md section 5: seconds, tokens and money of physical operators.

An LLM node over ``n`` rows computes the trie of its prompts: the static prefix once, then per hole the
distinct values so far × the tokens up to the next hole; shared parts end at KV-block boundaries. What its engine
takes for that is in ``engine_cost``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from halo_sql.ir.estimate import Cost, Estimate
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.prompt import LlmCall, ObjectHole, Prompt
from halo_sql.ir.static_tok import StaticTok
from halo_sql.optimizer.cardinality import CHARS_PER_TOK, Profile, output_tok
from halo_sql.optimizer.context import DEFAULT_CALL, CallProfile, EngineProfile, OptimizerContext
from halo_sql.optimizer.engine_cost import LLM_ROW_S, Load, engine_cost, overlapped_s
from halo_sql.optimizer.prefixes import warm_tok
from halo_sql.optimizer.samples import ObjectSample
from halo_sql.optimizer.tool_cost import agent_tools_s, tool_s
from halo_sql.quick import quick_init

#: Seconds: starting a DuckDB query, one row through a relational node, one character spooled or exported,
#: an operator's own start, one row through a Python-side operator, one through an operator that makes calls.
QUERY_S = 1e-3
ROW_S = 5e-8
CHAR_S = 1e-9
OPERATOR_S = 2e-5
OPERATOR_ROW_S = 2e-8
CALLER_ROW_S = 4e-6
SORT_ROW_S = 2e-7
#: As long as nothing is known of an agent: steps of a conversation.
AGENT_STEPS = 3
#: How far, as a share, the ends of parts between holes may lie from what characters say.
SPREAD = 0.1


@quick_init
@dataclass(frozen=True, slots=True)
class Level:
    """A prompt's part: from a hole, or a field of an object hole, to just before the next one.

    columns  columns of the holes so far
    end_tok  tokens from the prompt's start to the part's end
    seen     distinct combinations of their values by a sample; None: what is known of each column decides
    static_chars, hole_chars  characters from the prompt's start to the part's end that are the same in all rows, and
             those of the values
    spread   end_tok is anywhere within so large a share of itself, all values alike; 0: it is taken as it is
    """

    columns: tuple[ColumnId, ...]
    end_tok: float
    seen: float | None = None
    static_chars: float = 0.0
    hole_chars: float = 0.0
    spread: float = 0.0

    def distinct(self, profile: Profile) -> float:
        """Distinct combinations of the columns' values, at most the rows."""
        return profile.distinct(self.columns) if self.seen is None else min(self.seen, max(1.0, profile.rows))


def levels(
    prompt: Prompt,
    profile: Profile,
    samples: Sequence[ObjectSample | None] = (),
    learnt: CallProfile = DEFAULT_CALL,
) -> list[Level]:
    """The prompt's parts in order; the first is the static prefix. ``samples`` are those of its object holes, and
    ``learnt`` turns characters into tokens."""
    static, holes = float(len(prompt.system or "")), 0.0
    columns: list[ColumnId] = []
    found: list[Level] = []
    seen: float | None = None
    objects = iter(samples)
    each_tok = learnt.tok_per_char
    for segment in prompt.user:
        if isinstance(segment, str):
            static += len(segment)
        elif isinstance(segment, ObjectHole):
            sample = next(objects, None)
            names = tuple(name for name, _ in segment.fields)
            counts = () if sample is None else sample.distinct(names, profile.rows)
            static += 2.0
            for place, (name, column) in enumerate(segment.fields):
                static += len(name) + 6.0
                found.append(Level(tuple(columns), (static + holes) * each_tok, seen, static, holes))
                columns.append(column)
                known = None if sample is None else sample.chars(name)
                holes += profile.known(column).chars if known is None else known
                seen = None if sample is None else counts[place]
        else:
            found.append(Level(tuple(columns), (static + holes) * each_tok, seen, static, holes))
            columns.append(segment.column)
            own = profile.known(segment.column)
            holes += own.chars
            seen = None if seen is None else seen * own.distinct
    whole_tok = max(1.0, (static + holes) * each_tok + learnt.frame_tok)
    found.append(Level(tuple(columns), whole_tok, seen, static, holes))
    return found


def call_levels(call: LlmCall, profile: Profile, options: OptimizerContext) -> list[Level]:
    """``levels`` of a call's prompt; the whole prompt as long as the prompts that are different are on average. Static
    parts are what the model's tokenizer makes of them, where that is known."""
    learnt = options.call(call)
    sampled = call.fused[0].output if call.fused else call.output
    parts = levels(call.prompt, profile, options.objects.get(sampled, ()), learnt)
    asked = profile.asked(call)
    if asked is not None and asked.distinct:
        surplus = asked.chars - sum(profile.known(column).chars for column in call.prompt.columns())
        end_tok = max(1.0, parts[-1].end_tok + surplus * learnt.tok_per_char)
        end_tok = max(end_tok, parts[-2].end_tok if len(parts) > 1 else 0.0)
        parts[-1] = replace(parts[-1], end_tok=end_tok, hole_chars=max(0.0, parts[-1].hole_chars + surplus))
    engine = options.engine(call.model)
    unlearnt = (learnt.tok_per_char, learnt.frame_tok) == (DEFAULT_CALL.tok_per_char, DEFAULT_CALL.frame_tok)
    static = None if call.kind in ("agent", "tool") else options.static_tok(call)
    if static is not None:
        each_tok = 1.0 / engine.chars_per_tok if unlearnt else learnt.tok_per_char
        whole_tok = static.whole + parts[-1].hole_chars * each_tok
        if not unlearnt and options.learnt(call):
            whole_tok = max(parts[-1].end_tok, float(static.head))
        return counted(parts, static, whole_tok)
    return in_tokens(parts, call, engine) if unlearnt else parts


def counted(parts: Sequence[Level], static: StaticTok, whole_tok: float) -> list[Level]:
    """The parts of prompts of ``whole_tok`` tokens on average whose static tokens are known: the first is exact, those
    behind it have their share of the rest by characters, and a SPREAD."""
    first, last = parts[0], parts[-1]
    between = last.static_chars - first.static_chars
    static_tok = (static.whole - static.tail - static.head) / between if between else 0.0
    each_tok = max(0.0, whole_tok - static.whole) / last.hole_chars if last.hole_chars else 0.0
    found = []
    for part in parts[:-1]:
        end_tok = static.head + (part.static_chars - first.static_chars) * static_tok + part.hole_chars * each_tok
        found.append(replace(part, end_tok=min(end_tok, whole_tok), spread=SPREAD if part.columns else 0.0))
    return [*found, replace(last, end_tok=whole_tok)]


def requests_of(call: LlmCall, profile: Profile, parts: Sequence[Level]) -> float:
    """Requests of a call with these parts over the rows: as measured, else as many as the last part has values."""
    if profile.asked(call) is not None or not call.deterministic:
        return profile.requests(call)
    return min(profile.rows, parts[-1].distinct(profile))


def trie_tok(parts: Sequence[Level], profile: Profile, calls: float, block_tok: int) -> float:
    """Prompt tokens computed when every shared prefix is computed once (whole KV blocks only)."""
    total, shared = 0.0, 0.0
    for part in parts[:-1]:
        boundary = blocks_tok(part.end_tok, part.spread, block_tok)
        total += min(calls, part.distinct(profile)) * max(0.0, boundary - shared)
        shared = max(shared, boundary)
    return total + calls * max(0.0, parts[-1].end_tok - shared)


def blocks_tok(end_tok: float, spread: float, block_tok: int) -> float:
    """Tokens of the whole blocks before ``end_tok``: their mean over all ends within ``spread``, so that an estimate
    next to a block's edge does not decide about the whole block."""
    if not spread or end_tok <= 0.0:
        return end_tok // block_tok * block_tok
    low, high = end_tok * (1.0 - spread), end_tok * (1.0 + spread)
    return (_blocks_area(high, block_tok) - _blocks_area(low, block_tok)) / (high - low)


def _blocks_area(end_tok: float, block_tok: int) -> float:
    """The integral of whole blocks from 0 to ``end_tok``."""
    count = end_tok // block_tok
    return block_tok * count * (block_tok * (count - 1.0) / 2.0 + end_tok - count * block_tok)


def llm_estimate(
    calls: Sequence[LlmCall], profile: Profile, rows: float, clustered: bool, options: OptimizerContext
) -> Estimate:
    """What LLM calls over the first ``rows`` rows of an input with this profile take (rows: those read)."""
    total = Estimate(rows=rows)
    loads: dict[str, list[Load]] = {}
    for call in calls:
        estimate, load = _call(call, profile.some(rows), clustered, options)
        total += estimate
        if load is not None:
            loads.setdefault(call.model, []).append(load)
    for model, beside in loads.items():
        saved_s = overlapped_s(beside, options.engine(model)) if len(beside) > 1 else 0.0
        if saved_s:
            total = replace(total, cost=total.cost + Cost(gpu_s=-saved_s, decode_s=-saved_s))
    return total


def _call(call: LlmCall, profile: Profile, clustered: bool, options: OptimizerContext) -> tuple[Estimate, Load | None]:
    """What one call takes, and the load of its requests beside which others may run."""
    engine = options.engine(call.model)
    parts = call_levels(call, profile, options)
    requests = requests_of(call, profile, parts)
    if call.kind == "tool":
        seconds = requests * LLM_ROW_S + tool_s(options.tool(call.target), requests)
        return Estimate(profile.rows, tool_calls=requests, cost=Cost(cpu_s=seconds)), None
    if call.kind == "agent":
        return _agent(call, requests, parts[-1].end_tok, engine, options), None
    answer_tok = output_tok(call, options)
    each_tok = parts[-1].end_tok
    prompt_tok = requests * each_tok
    computed_tok = min(prompt_tok, computed_prompt_tok(parts, profile, requests, clustered, engine))
    shared_tok = parts[0].end_tok if len(parts) > 1 else 0.0
    computed_tok -= min(computed_tok, warm_tok(call, shared_tok, options))
    load = Load(requests, each_tok, computed_tok, answer_tok, shared_tok)
    cost, cached_tok = engine_cost(load, engine), prompt_tok - computed_tok
    return Estimate(profile.rows, requests, prompt_tok, cached_tok, requests * answer_tok, cost=cost), load


def in_tokens(parts: list[Level], call: LlmCall, engine: EngineProfile) -> list[Level]:
    """The parts by what the engine's tokenizer and chat template have shown in a calibration."""
    around = engine.bare_tok if call.prompt.system is None else engine.system_tok
    ratio = CHARS_PER_TOK / engine.chars_per_tok
    if ratio == 1.0 and not around:
        return parts
    return [replace(part, end_tok=part.end_tok * ratio + around) for part in parts]


def _agent(call: LlmCall, rows: float, own_tok: float, engine: EngineProfile, options: OptimizerContext) -> Estimate:
    """Conversations of AGENT_STEPS steps, or as many as there may be: each reads the ones before it out of the cache,
    what all rows are told is computed once, all steps but the last call a tool. Averages of earlier ones go first."""
    learnt = options.call(call)
    steps = min(AGENT_STEPS, call.steps or AGENT_STEPS)
    answer_tok = output_tok(call, options)
    each_tok = 2 * answer_tok  # a call and its result
    shared_tok = (call.around + len(call.prompt.system or "")) / engine.chars_per_tok
    own_tok = max(1.0, own_tok - len(call.prompt.system or "") / engine.chars_per_tok)
    first_tok = shared_tok + own_tok
    calls = float(rows * steps)
    prompts = rows * sum(first_tok + step * each_tok for step in range(steps))
    computed = shared_tok * min(1.0, rows) + rows * (own_tok + (steps - 1) * each_tok)
    answers, tool_calls = calls * answer_tok, rows * (steps - 1)
    if learnt.steps is not None and prompts:
        computed *= rows * learnt.prompt_tok / prompts
        prompts = rows * learnt.prompt_tok
        answers, calls = rows * (learnt.output_tok or 0.0), rows * learnt.steps
        answer_tok = answers / calls if calls else 0.0
        tool_calls = rows * learnt.tool_calls
    load = Load(calls, prompts / calls if calls else 0.0, computed, answer_tok, shared_tok, at_once=rows)
    cost = engine_cost(load, engine) + cpu(agent_tools_s(call, tool_calls, rows, options))
    return Estimate(rows, calls, prompts, max(0.0, prompts - computed), answers, cost, tool_calls)


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
