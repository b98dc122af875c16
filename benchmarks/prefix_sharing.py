"""A 900-token system prompt shared by 32 rows on real vLLM: with prefix caching against without, in one run.

Prints, and fails below the goals: time without ÷ time with (at least 5), and computed prompt tokens ÷ tokens of the
unique-prefix trie rounded to KV blocks (at most 1.05). Run: ``python benchmarks/prefix_sharing.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from statistics import median

from report import finish, show, verdict

from halo_sql.engines import bundled
from halo_sql.engines.chat import ChatTokenizer
from halo_sql.engines.protocol import GenRequest, GenResult
from halo_sql.engines.vllm import VllmEngine
from halo_sql.ir.prompt import Sampling

TOPICS = ("parser", "optimizer", "scheduler", "storage layer", "network client", "test runner", "type checker", "shell")
GOAL_RATIO, GOAL_TRIE = 5.0, 1.05


def system_prompt(tokenizer: ChatTokenizer, tokens: int) -> str:
    """A text of rules, at least ``tokens`` prompt tokens long."""
    lines = ["You label short reports. The rules:"]
    while True:
        number = len(lines)
        topic = TOPICS[number % len(TOPICS)]
        release, label = number * 7 % 13, number % 9
        lines.append(f"Rule {number}: a report about the {topic} of release {release} gets label L{label}.")
        if tokenizer.count(GenRequest(0, "", system="\n".join(lines))) >= tokens:
            return "\n".join(lines)


def trie_tok(prompts: Sequence[Sequence[int]], block_tok: int) -> int:
    """Prompt tokens that must be computed when whole KV blocks of equal prefixes are shared."""
    blocks: set[tuple[int, ...]] = set()
    tails = 0
    for prompt in {tuple(prompt) for prompt in prompts}:
        full = len(prompt) // block_tok * block_tok
        blocks.update(prompt[:end] for end in range(block_tok, full + 1, block_tok))
        tails += len(prompt) - full
    return len(blocks) * block_tok + tails


async def run(requests: Sequence[GenRequest], options: dict[str, object], times: int) -> tuple[float, list[GenResult]]:
    """Seconds for all requests on a warm engine with a cold cache (median of some times), and the last results."""
    engine = VllmEngine("bundled:smollm2", options)
    try:
        await engine.start()
        await ask(engine, [GenRequest(0, "Hello", sampling=Sampling(max_tokens=2))])
        seconds: list[float] = []
        results: list[GenResult] = []
        for _ in range(times):
            await engine.reset_prefix_cache()
            started = time.perf_counter()
            results = await ask(engine, requests)
            seconds.append(time.perf_counter() - started)
        return median(seconds), results
    finally:
        await engine.close()


async def ask(engine: VllmEngine, requests: Sequence[GenRequest]) -> list[GenResult]:
    found: dict[int, GenResult] = {}
    done = asyncio.Event()

    def deliver(results: Sequence[GenResult]) -> None:
        found.update({result.id: result for result in results})
        if len(found) == len(requests):
            done.set()

    engine.submit(requests, deliver)
    await done.wait()
    return [found[request.id] for request in requests]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--system-tok", type=int, default=900)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--block-tok", type=int, default=32)
    arguments = parser.parse_args()

    tokenizer = ChatTokenizer.load(bundled.ensure("smollm2"))
    system = system_prompt(tokenizer, arguments.system_tok)
    sampling = Sampling(max_tokens=arguments.max_tokens)
    requests = [
        GenRequest(n, f"Report {n}: the {TOPICS[n % len(TOPICS)]} is slow. Label?", system, sampling)
        for n in range(arguments.rows)
    ]
    prompts = tokenizer.render_batch(requests)
    options: dict[str, object] = {"block_size": arguments.block_tok, "kv_cache_gib": 2}
    shared_s, shared = asyncio.run(run(requests, options, times=3))
    plain_s, plain = asyncio.run(run(requests, options | {"enable_prefix_caching": False}, times=1))

    total = sum(result.prompt_tok for result in shared)
    computed = sum(result.prompt_tok - result.prompt_tok_cached for result in shared)
    trie = trie_tok(prompts, arguments.block_tok)
    errors = sum(result.error is not None for result in [*shared, *plain])
    same = sum(one.text == other.text for one, other in zip(shared, plain, strict=True))
    ratio, over = plain_s / shared_s, computed / trie
    fast, lean, sound = ratio >= GOAL_RATIO, over <= GOAL_TRIE, errors == 0
    plain_tok = sum(result.prompt_tok - result.prompt_tok_cached for result in plain)
    shared_tok = tokenizer.count(GenRequest(0, "", system))
    show(
        f"Prefix sharing: {len(requests)} rows, {shared_tok} of {total // len(requests)} prompt tokens shared",
        ("", "measured", "goal", ""),
        [
            ("prompt tokens", str(total), "", ""),
            ("computed, caching off", str(plain_tok), "", ""),
            ("computed, caching on", str(computed), "", ""),
            (f"trie of {arguments.block_tok}-token blocks", str(trie), "", ""),
            ("computed / trie", f"{over:.3f}", f"<= {GOAL_TRIE}", verdict(lean)),
            ("time off / time on", f"{ratio:.1f}", f">= {GOAL_RATIO:g}", verdict(fast)),
            ("  seconds off, on (this machine)", f"{plain_s:.1f}, {shared_s:.1f}", "", ""),
            ("equal answers", f"{same} of {len(requests)}", "", ""),
            ("errors", str(errors), "0", verdict(sound)),
        ],
    )
    finish(fast and lean and sound)


if __name__ == "__main__":
    main()
