"""How fast a model is on its worker, as measured: the figures of a calibration, and the seconds they predict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log

from halo_sql.engines.protocol import EngineInfo

#: What queries may teach: those of at least this many tokens and seconds, each by this share, in these bounds.
LEAST_TOK, LEAST_S = 256, 0.5
LEARN = 0.2
FURTHEST = 4.0
MOST_AT_ONCE = 2.0


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine did, or would have to do.

    requests      answered
    computed_tok  prompt tokens that were not taken from the prefix cache
    output_tok    tokens generated
    steps         engine steps that generated them: output tokens ÷ sequences in a step
    read_tok      tokens read from the KV cache: for each generated token those before it
    """

    requests: float = 0.0
    computed_tok: float = 0.0
    output_tok: float = 0.0
    steps: float = 0.0
    read_tok: float = 0.0


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured of one model on one device.

    model, engine, source  the definition it was measured for; ``options`` is a digest of the rest of it
    info                   what the engine said of itself
    prefill_tok_per_s      prompt tokens computed per second
    decode_step_s          seconds of an engine step, whatever its batch
    decode_seq_s           seconds that each sequence of the batch adds to a step
    kv_read_s              seconds that each token it has in the KV cache adds to a sequence's part of a step
    request_s              engine seconds of a request besides
    load_s                 seconds of a start; 0: not seen
    chars_per_tok          characters per token
    bare_tok, system_tok   tokens around a prompt without and with a system message
    error                  median of abs(predicted ÷ measured - 1) over the probes
    probes, probe_tok      requests and tokens that the calibration took
    created_s              seconds since 1970
    pace                   seconds of the queries since ÷ predicted ones; part of every prediction
    queries                queries in ``pace``
    """

    model: str
    engine: str
    source: str
    options: str
    info: EngineInfo
    prefill_tok_per_s: float
    decode_step_s: float
    decode_seq_s: float
    kv_read_s: float
    request_s: float
    load_s: float
    chars_per_tok: float
    bare_tok: float
    system_tok: float
    error: float = 0.0
    probes: int = 0
    probe_tok: int = 0
    created_s: float = 0.0
    pace: float = 1.0
    queries: int = 0

    def of(self, info: EngineInfo) -> bool:
        """Whether it was measured on this engine: same model, device, numbers and window."""
        return key_of(self.info) == key_of(info)

    def seconds(self, work: Work) -> float:
        """Engine seconds of some work: prompts ÷ rate + steps · (step + sequences · each) + reads + requests."""
        return self.pace * (
            work.computed_tok / self.prefill_tok_per_s
            + work.steps * self.decode_step_s
            + work.output_tok * self.decode_seq_s
            + work.read_tok * self.kv_read_s
            + work.requests * self.request_s
        )

    def refined(self, work: Work, busy_s: float) -> Speed:
        """With what a query took folded in; the same when it was too little to tell.

        One query moves the pace by at most ``MOST_AT_ONCE`` ** ``LEARN``, all of them together by at most
        ``FURTHEST``: a machine that was busy with something else for a while does not spoil the figures.
        """
        expected_s = self.seconds(work)
        if work.computed_tok + work.output_tok < LEAST_TOK or min(busy_s, expected_s) < LEAST_S:
            return self
        seen = min(max(busy_s / expected_s, 1.0 / MOST_AT_ONCE), MOST_AT_ONCE)
        pace = self.pace * exp(LEARN * log(seen))
        return replace(self, pace=min(max(pace, 1.0 / FURTHEST), FURTHEST), queries=self.queries + 1)


def key_of(info: EngineInfo) -> tuple[str, str, str, int]:
    """What speeds depend on (the KV cache's size may differ from start to start, by the memory that is free)."""
    return info.identity, info.device, info.dtype, info.window_requests
