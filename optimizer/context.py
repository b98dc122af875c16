"""What the optimizer knows besides the plan: options, statistics, engine profiles, limits. Frozen, no I/O.

Equal context and plan give an equal physical plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from halo_sql.ir.call_key import call_key
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import LogicalPlan
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.static_tok import StaticTok
from halo_sql.optimizer.samples import ObjectSample
from halo_sql.optimizer.static_tokens import Key, static_key

#: What plans can be chosen by: seconds of the whole plan, money, tokens computed.
OBJECTIVES = ("makespan", "usd", "tokens")


@dataclass(frozen=True, slots=True)
class ColumnStats:
    """A column's values.

    distinct  different values; None: unknown (then as many as rows)
    chars     average characters of the value as text, of a list those of its items; None: unknown
    items     average items of a list; None: unknown, or no list
    """

    distinct: float | None = None
    chars: float | None = None
    items: float | None = None


@dataclass(frozen=True, slots=True)
class InputKey:
    """The rows a call asks for: ``guard`` is TRUE and no column of ``needed`` is NULL; rows equal in ``columns`` ask
    the same."""

    columns: frozenset[ColumnId]
    needed: frozenset[ColumnId]
    guard: ColumnId | None = None

    @property
    def read(self) -> frozenset[ColumnId]:
        """All columns that decide what is asked."""
        return self.columns if self.guard is None else self.columns | {self.guard}


@dataclass(frozen=True, slots=True)
class InputStats:
    """What is known of them.

    rows      how many ask
    distinct  how many ask different things
    chars     average characters of all columns of the key together, over the different ones
    """

    rows: float
    distinct: float
    chars: float


@dataclass(frozen=True, slots=True)
class FragmentStats:
    """What is known of the result of a fragment or of a tree of relational nodes: its rows; per column id, the values;
    and what calls over it will ask.

    is_table  it is a table's rows: reading it again gives the same
    touched   of a source: rows that DuckDB expects to touch for it; 0: unknown
    """

    rows: float
    columns: Mapping[ColumnId, ColumnStats] = field(default_factory=dict)
    inputs: Mapping[InputKey, InputStats] = field(default_factory=dict)
    is_table: bool = False
    touched: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """What a model costs on its worker.

    prefill_tok_per_s  prompt tokens computed per second
    decode_step_s      seconds of one decoding step, whatever the batch
    decode_seq_s       seconds that each sequence of the batch adds to a step
    kv_read_s          seconds that each token it has in the KV cache adds to a sequence's part of a step
    request_s          seconds of a request besides
    window_requests    requests in flight
    batch_requests     of these computed at once; 0: all
    window_tok         tokens in flight, at most; 0: what the KV cache holds
    kv_capacity_tok    tokens the KV cache holds; 0: unknown, taken as unlimited
    block_tok          granularity of prefix sharing
    context_tok        prompt + output limit; 0: unknown
    usd_per_prompt_tok, usd_per_output_tok  price of hosted models
    chars_per_tok      characters per token
    bare_tok, system_tok  tokens around a prompt without and with a system message
    load_s             seconds until it can be asked; 0: it can, or nothing is known
    swap_s             seconds of a start when others have taken its place on the device; 0: unknown
    device             where it computes; '' unknown
    resident_bytes     weights and KV cache on the device; 0: unknown
    memory_bytes       of the device; 0: unknown
    calibrated         how the figures were measured, for EXPLAIN; '': they are assumed
    workers            that answer side by side
    """

    prefill_tok_per_s: float = 5_000.0
    decode_step_s: float = 0.02
    decode_seq_s: float = 0.0
    kv_read_s: float = 0.0
    request_s: float = 0.0
    window_requests: int = 256
    batch_requests: int = 0
    window_tok: int = 0
    kv_capacity_tok: int = 0
    block_tok: int = 16
    context_tok: int = 0
    usd_per_prompt_tok: float = 0.0
    usd_per_output_tok: float = 0.0
    chars_per_tok: float = 4.0
    bare_tok: float = 0.0
    system_tok: float = 0.0
    load_s: float = 0.0
    swap_s: float = 0.0
    device: str = ""
    resident_bytes: float = 0.0
    memory_bytes: float = 0.0
    calibrated: str = ""
    workers: int = 1


DEFAULT_PROFILE = EngineProfile()


@dataclass(frozen=True, slots=True)
class WorkerProfile:
    """One worker of a model.

    number          of ``model/number``
    device          where it computes; workers of one device take turns. A share of a device is a device of its own
    kind            of the device; ``pace`` is how many times longer it takes than the model's EngineProfile says
    memory_bytes    of the device; 0: enough
    resident_bytes  weights and KV cache; 0: as the EngineProfile says
    resident, asleep  whether it can be asked; whether it only has to wake
    load_s, wake_s, sleep_s  seconds of its first start, of a later one, of making room
    kv_tok_bytes    of a token in the KV cache
    link_bytes_per_s  at which it gets KV blocks from other workers; 0: it cannot
    prefixes        warm in its cache (texts)
    """

    number: int
    device: str
    kind: str = ""
    pace: float = 1.0
    memory_bytes: float = 0.0
    resident_bytes: float = 0.0
    resident: bool = True
    asleep: bool = False
    load_s: float = 0.0
    wake_s: float = 0.0
    sleep_s: float = 0.0
    kv_tok_bytes: float = 0.0
    link_bytes_per_s: float = 0.0
    prefixes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CallProfile:
    """What calls take, as learnt from finished ones: those of one template on one model, or all of a model.

    tok_per_char  prompt tokens per character of system and user message
    frame_tok     prompt tokens beside those: what a chat template adds; below 0 where characters overstate
    output_tok    tokens of an answer; None: unknown
    answer_chars  characters of an answer; None: unknown
    true_share    of a filter: the part of its rows that it keeps; None: unknown
    steps         of an agent's conversation: requests; None: unknown, else these two are known, too:
    tool_calls    calls of tools
    prompt_tok    prompt tokens of all its steps (``output_tok`` are those of all steps then)
    """

    tok_per_char: float = 0.25
    frame_tok: float = 1.0
    output_tok: float | None = None
    answer_chars: float | None = None
    true_share: float | None = None
    steps: float | None = None
    tool_calls: float = 0.0
    prompt_tok: float = 0.0


DEFAULT_CALL = CallProfile()


#: ``ToolProfile.join_from`` of calls that are never joined.
NEVER = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ToolProfile:
    """What calls of a tool take.

    call_s, p90_s   seconds of a call by itself: the mean, and what nine in ten stay below
    concurrency     calls at once
    rate_per_s      calls begun per second at most; 0: no limit
    chars           characters of a value; None: unknown
    rows            rows of a value that is a table; None: unknown
    join_from       of a query: how many calls that are there together are run as one join; NEVER; 0: it is no query
    join_s, join_call_s  seconds of a join: at any rate, and for each of its calls
    source          where the seconds come from, for EXPLAIN
    """

    call_s: float = 0.05
    p90_s: float = 0.05
    concurrency: int = 16
    rate_per_s: float = 0.0
    chars: float | None = None
    rows: float | None = None
    join_from: int = 0
    join_s: float = 0.0
    join_call_s: float = 0.0
    source: str = "assumed"


DEFAULT_TOOL = ToolProfile()


@dataclass(frozen=True, slots=True)
class Limits:
    """When the search stops looking for better plans.

    groups  groups in the memo
    tasks   tasks run by the search
    passes  rounds of the normalize rules
    chain   LLM nodes in a row whose orders are all explored; longer rows are ordered greedily by rank
    """

    groups: int = 2_000
    tasks: int = 60_000
    passes: int = 50
    chain: int = 6


@dataclass(frozen=True, slots=True)
class OptimizerContext:
    """Everything ``optimize`` may depend on besides the plan.

    enabled         False: only implement rules run (the statement as written)
    disabled_rules  names of rules not to use
    verify          check schema and tree after every rule
    objective       one of OBJECTIVES
    stats           source fragment or largest relational tree -> statistics; missing: DEFAULT_ROWS, unknown values
    objects         output column of a call -> what its object holes hold, in order; None: nothing is known of one
    engines         model name -> profile; missing: DEFAULT_PROFILE
    warm            (model name, static prefix of a call's prompts) -> the part of its characters that an engine holds
    workers         model name -> its workers; missing: as many as its profile says, each with a device of its own
    calls           (model name, ``call_key`` or '' for all its calls) -> what they took; missing: DEFAULT_CALL
    static          ``static_key`` of a call -> tokens of its prompts' static parts; missing: by their characters
    tools           lower-case name of a tool -> profile; missing: DEFAULT_TOOL
    agent_tools     lower-case name of an agent -> names of its tools in ``tools``
    ordered         whether the order of the result's rows matters
    max_usd, max_seconds, max_tokens  bounds that the plan should keep; 0: none
    occupied_bytes  device -> memory taken by models that the plan does not ask
    approximate     calls that have a ``quality`` may be answered approximately
    steady          SQL of the statement -> whether it gives the same rows each time; missing: it does
    acting          lower-case names of tools with side effects, and of agents that may call one
    prune           branch-and-bound; False searches exhaustively (an oracle for tests)
    """

    enabled: bool = True
    disabled_rules: frozenset[str] = frozenset()
    verify: bool = False
    objective: str = "makespan"
    stats: Mapping[LogicalPlan, FragmentStats] = field(default_factory=dict)
    objects: Mapping[ColumnId, tuple[ObjectSample | None, ...]] = field(default_factory=dict)
    engines: Mapping[str, EngineProfile] = field(default_factory=dict)
    calls: Mapping[tuple[str, str], CallProfile] = field(default_factory=dict)
    tools: Mapping[str, ToolProfile] = field(default_factory=dict)
    agent_tools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ordered: bool = True
    limits: Limits = Limits()
    prune: bool = True
    max_usd: float = 0.0
    max_seconds: float = 0.0
    max_tokens: float = 0.0
    occupied_bytes: Mapping[str, float] = field(default_factory=dict)
    approximate: bool = False
    workers: Mapping[str, tuple[WorkerProfile, ...]] = field(default_factory=dict)
    static: Mapping[Key, StaticTok] = field(default_factory=dict)
    warm: Mapping[tuple[str, str], float] = field(default_factory=dict)
    steady: Mapping[str, bool] = field(default_factory=dict)
    acting: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        assert self.objective in OBJECTIVES, self.objective

    def engine(self, model: str) -> EngineProfile:
        """The profile of a model's worker."""
        return self.engines.get(model, DEFAULT_PROFILE)

    def workers_of(self, model: str) -> tuple[WorkerProfile, ...]:
        """The workers that a model's calls may be sent to; at least one."""
        known = self.workers.get(model)
        if known:
            return known
        engine = self.engine(model)
        name = engine.device or model
        if engine.workers == 1:
            return (WorkerProfile(0, name, resident=not engine.load_s, load_s=engine.load_s, wake_s=engine.swap_s),)
        return tuple(
            WorkerProfile(number, f"{name}/{number}", resident=not engine.load_s, load_s=engine.load_s)
            for number in range(engine.workers)
        )

    def tool(self, name: str) -> ToolProfile:
        """The profile of a tool."""
        return self.tools.get(name.lower(), DEFAULT_TOOL)

    def call(self, call: LlmCall) -> CallProfile:
        """What finished calls of this template took; else those of its model; else DEFAULT_CALL."""
        if not self.calls:
            return DEFAULT_CALL
        return self.calls.get((call.model, call_key(call))) or self.calls.get((call.model, ""), DEFAULT_CALL)

    def learnt(self, call: LlmCall) -> bool:
        """Whether calls of this very template have finished."""
        return bool(self.calls) and (call.model, call_key(call)) in self.calls

    def static_tok(self, call: LlmCall) -> StaticTok | None:
        """Tokens of the static parts of a call's prompts; None: unknown."""
        return self.static.get(static_key(call)) if self.static else None
