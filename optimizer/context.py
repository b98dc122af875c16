"""What the optimizer knows besides the plan: options, statistics, engine profiles, limits. Frozen, no I/O.

Equal context and plan give an equal physical plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Fragment

#: What plans can be chosen by: seconds of the whole plan, money, tokens computed.
OBJECTIVES = ("makespan", "usd", "tokens")


@dataclass(frozen=True, slots=True)
class ColumnStats:
    """A column's values.

    distinct  different values; None: unknown (then as many as rows)
    chars     average characters of the value as text; None: unknown
    """

    distinct: float | None = None
    chars: float | None = None


@dataclass(frozen=True, slots=True)
class FragmentStats:
    """What is known of a fragment's result: its rows and, per column id, the values."""

    rows: float
    columns: Mapping[ColumnId, ColumnStats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """What a model costs on its worker.

    prefill_tok_per_s  prompt tokens computed per second
    decode_step_s      seconds of one decoding step, whatever the batch
    window_requests    requests in flight
    kv_capacity_tok    tokens the KV cache holds; 0: unknown, taken as unlimited
    block_tok          granularity of prefix sharing
    context_tok        prompt + output limit; 0: unknown
    usd_per_prompt_tok, usd_per_output_tok  price of hosted models
    """

    prefill_tok_per_s: float = 5_000.0
    decode_step_s: float = 0.02
    window_requests: int = 256
    kv_capacity_tok: int = 0
    block_tok: int = 16
    context_tok: int = 0
    usd_per_prompt_tok: float = 0.0
    usd_per_output_tok: float = 0.0


DEFAULT_PROFILE = EngineProfile()


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
    stats           source fragment -> its statistics; missing: DEFAULT_ROWS and unknown values
    engines         model name -> profile; missing: DEFAULT_PROFILE
    ordered         whether the order of the result's rows matters
    prune           branch-and-bound; False searches exhaustively (an oracle for tests)
    """

    enabled: bool = True
    disabled_rules: frozenset[str] = frozenset()
    verify: bool = False
    objective: str = "makespan"
    stats: Mapping[Fragment, FragmentStats] = field(default_factory=dict)
    engines: Mapping[str, EngineProfile] = field(default_factory=dict)
    ordered: bool = True
    limits: Limits = Limits()
    prune: bool = True

    def __post_init__(self) -> None:
        assert self.objective in OBJECTIVES, self.objective

    def engine(self, model: str) -> EngineProfile:
        """The profile of a model's worker."""
        return self.engines.get(model, DEFAULT_PROFILE)
