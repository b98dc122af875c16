"""Peak rates of an engine, measured on the day and on the engine that runs the workloads."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from adapters import Bench
from floor import Rates

from halo_sql.engines.protocol import GenRequest, GenResult
from halo_sql.ir.prompt import Sampling

PREFILL_REQUESTS, DECODE_TOK, MOST = 16, 32, 256
_ids = itertools.count(1 << 40)


def measured(bench: Bench, prompt_tok: int) -> Rates:
    """Rates with prompts of ``prompt_tok`` tokens that share nothing, and answers of ``DECODE_TOK`` tokens."""
    return bench.run(_measured(bench, prompt_tok))


async def _measured(bench: Bench, prompt_tok: int) -> Rates:
    prompts = [f"{number} " + f"{number * 7919} word " * (prompt_tok // 5) for number in range(PREFILL_REQUESTS)]
    seconds, results = await _timed(bench, prompts, 1)
    prefill_s = seconds / max(1, sum(result.prompt_tok for result in results))
    first_s, _ = await _timed(bench, ["Once upon a time"], 1)
    alone_s, results = await _timed(bench, ["Once upon a time there"], DECODE_TOK)
    token_s = max(0.0, alone_s - first_s) / max(1, results[0].output_tok - 1)
    decode_s, batch = token_s, 2
    while batch <= MOST:
        seconds, results = await _timed(bench, [f"Tell story {number}" for number in range(batch)], DECODE_TOK)
        per_token = seconds / max(1, sum(result.output_tok for result in results))
        if per_token > 0.95 * decode_s:
            break
        decode_s, batch = per_token, batch * 2
    return Rates(prefill_s, decode_s, first_s, token_s)


async def _timed(bench: Bench, prompts: Sequence[str], max_tokens: int) -> tuple[float, list[GenResult]]:
    loop = asyncio.get_running_loop()
    results: list[GenResult] = []
    done = asyncio.Event()

    def deliver(some: Sequence[GenResult]) -> None:
        results.extend(some)
        if len(results) == len(prompts):
            done.set()

    requests = [GenRequest(next(_ids), prompt, None, Sampling(max_tokens=max_tokens)) for prompt in prompts]
    began = loop.time()
    bench.engine("small").submit(requests, deliver)
    await done.wait()
    failed = next((result.error for result in results if result.error is not None), None)
    if failed is not None:
        raise failed
    return loop.time() - began, results
