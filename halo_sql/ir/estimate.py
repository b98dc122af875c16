"""What a physical node or a plan is expected to take."""

from __future__ import annotations

from dataclasses import dataclass, fields

from halo_sql.quick import quick_init


@quick_init
@dataclass(frozen=True, slots=True)
class Cost:
    """What a node or plan is expected to take; all parts add up.

    gpu_s   seconds of engine time (prefill + decode at the planned batch size)
    cpu_s   seconds of DuckDB and operator time
    tokens  tokens computed: uncached prompt tokens + output tokens
    usd     price of hosted calls
    prefill_s, decode_s  parts of gpu_s: computing prompts, generating answers; the rest is per request
    """

    gpu_s: float = 0.0
    cpu_s: float = 0.0
    tokens: float = 0.0
    usd: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.gpu_s + other.gpu_s,
            self.cpu_s + other.cpu_s,
            self.tokens + other.tokens,
            self.usd + other.usd,
            self.prefill_s + other.prefill_s,
            self.decode_s + other.decode_s,
        )


NO_COST = Cost()


@quick_init
@dataclass(frozen=True, slots=True)
class Estimate:
    """Expectations of one physical node (self, inputs excluded). A sum is of calls over the rows of its left side."""

    rows: float = 0.0
    llm_calls: float = 0.0
    prompt_tok: float = 0.0
    prompt_tok_cached: float = 0.0
    output_tok: float = 0.0
    cost: Cost = NO_COST
    tool_calls: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.rows,
            self.llm_calls + other.llm_calls,
            self.prompt_tok + other.prompt_tok,
            self.prompt_tok_cached + other.prompt_tok_cached,
            self.output_tok + other.output_tok,
            self.cost + other.cost,
            self.tool_calls + other.tool_calls,
        )

    def part(self, share: float) -> Estimate:
        """What such a part of the calls takes."""
        cost = Cost(**{item.name: getattr(self.cost, item.name) * share for item in fields(Cost)})
        return Estimate(
            self.rows,
            self.llm_calls * share,
            self.prompt_tok * share,
            self.prompt_tok_cached * share,
            self.output_tok * share,
            cost,
            self.tool_calls * share,
        )


NOTHING_EXPECTED = Estimate()
