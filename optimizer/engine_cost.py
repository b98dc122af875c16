"""What requests take on a continuous-batching engine: seconds, tokens, money; and how many are computed at once.

The engine computes prompts at a rate; each of its steps generates one token of every sequence in its batch. A step of
b sequences takes ``decode_step_s + b · decode_seq_s`` and ``kv_read_s`` per token that they have in the KV cache: on a
GPU the first part (reading the weights) is most of it, on a CPU the second. Kwon et al., "Efficient Memory Management
for Large Language Model Serving with PagedAttention", SOSP 2023, describe batching and preemption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from halo_sql.ir.estimate import Cost
from halo_sql.optimizer.context import EngineProfile

#: Seconds of our own work per request.
LLM_ROW_S = 1e-5


@dataclass(frozen=True, slots=True)
class Load:
    """Equal requests as an engine sees them, on the average.

    requests      how many
    prompt_tok    of one
    computed_tok  of all, those that the prefix cache has left out
    output_tok    of one
    shared_tok    of the prompt, in the KV cache once for all of them
    at_once       the most that can be asked at the same time (the others wait for their answers); 0: all
    """

    requests: float
    prompt_tok: float
    computed_tok: float
    output_tok: float
    shared_tok: float = 0.0
    at_once: float = 0.0

    @property
    def own_tok(self) -> float:
        """Tokens that one has in the KV cache for itself, at its end."""
        return max(1.0, self.prompt_tok - self.shared_tok + self.output_tok)


def batch_of(load: Load, engine: EngineProfile) -> float:
    """Requests computed at once: as many as there are, as window and engine take, and as fit the KV cache (or the
    window of tokens where that is larger)."""
    batch = min(float(engine.window_requests), max(1.0, load.at_once or load.requests))
    if engine.batch_requests:
        batch = min(batch, float(engine.batch_requests))
    if engine.kv_capacity_tok:
        room_tok = max(engine.kv_capacity_tok, engine.window_tok) - load.shared_tok
        batch = min(batch, max(1.0, room_tok / load.own_tok))
    return batch


def preempted_tok(load: Load, batch: float, engine: EngineProfile) -> float:
    """Tokens computed again because a batch outgrew the KV cache: of each batch those sequences that do not fit
    lose their prompts and, on the average, half of their answers."""
    if not engine.kv_capacity_tok:
        return 0.0
    over_tok = batch * load.own_tok + load.shared_tok - engine.kv_capacity_tok
    if over_tok <= 0.0 or batch <= 1.0:
        return 0.0
    victims = min(batch - 1.0, over_tok / load.own_tok)
    return load.requests / batch * victims * (load.own_tok - load.output_tok / 2)


def engine_cost(load: Load, engine: EngineProfile) -> Cost:
    """Engine seconds = computed ÷ rate + steps · step(batch) + requests · each, with steps = output ÷ batch;
    money for all tokens of prompts and answers; tokens computed."""
    batch = batch_of(load, engine)
    computed_tok = load.computed_tok + preempted_tok(load, batch, engine)
    answer_tok = load.requests * load.output_tok
    prefill_s = computed_tok / engine.prefill_tok_per_s
    decode_s = answer_tok * engine.decode_step_s / batch + answer_tok * engine.decode_seq_s
    if engine.kv_read_s:
        decode_s += answer_tok * (load.prompt_tok + load.output_tok / 2) * engine.kv_read_s
    usd = load.requests * load.prompt_tok * engine.usd_per_prompt_tok + answer_tok * engine.usd_per_output_tok
    return Cost(
        prefill_s + decode_s + load.requests * engine.request_s,
        load.requests * LLM_ROW_S,
        computed_tok + answer_tok,
        usd,
        prefill_s,
        decode_s,
    )


def overlapped_s(loads: Sequence[Load], engine: EngineProfile) -> float:
    """Seconds that loads take less when they are asked side by side than one after the other: a step generates a token
    of every sequence, whichever load it is of. As many steps as the longest has alone, or as all tokens need."""
    if len(loads) < 2:
        return 0.0
    alone = [load.requests * load.output_tok / batch_of(load, engine) for load in loads]
    requests = sum(load.requests for load in loads)
    answers_tok = sum(load.requests * load.output_tok for load in loads)
    if not requests or not answers_tok:
        return 0.0
    prompts_tok = sum(load.requests * load.prompt_tok for load in loads)
    every = Load(
        requests,
        prompts_tok / requests,
        0.0,
        answers_tok / requests,
        sum(load.shared_tok for load in loads) / len(loads),
    )
    together = max(*alone, answers_tok / batch_of(every, engine))
    return max(0.0, sum(alone) - together) * engine.decode_step_s
