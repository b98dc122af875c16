"""Yes / no questions on real vLLM: answered by the first token against by a grammar, in one run.

The same engine and questions, rounds of both in turn, the prefix cache emptied before each. Prints, and fails
below the goals: the same answers, one output token each, and time by grammar ÷ time by the first token (at least 1).
Run: ``python benchmarks/choices.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from report import finish, show, verdict

from halo_sql.engines.chat import ChatTokenizer
from halo_sql.engines.protocol import YES_NO, GenRequest, GenResult
from halo_sql.engines.vllm import VllmEngine
from halo_sql.ir.prompt import Sampling

QUESTIONS, ROUNDS, GOAL = 64, 5, 1.0


def requests() -> list[GenRequest]:
    """Questions of some forty tokens."""
    parts = ("the parser", "the store", "the shell", "a table of prices", "the weather", "two foxes", "rain", "taxes")
    return [
        GenRequest(
            number,
            f"Report {number}: {part} did what {other} should have done. Is this about software?",
            answer=YES_NO,
            sampling=Sampling(max_tokens=8),
        )
        for number, (part, other) in enumerate((part, other) for part in parts for other in parts)
    ][:QUESTIONS]


@contextmanager
def by_grammar() -> Iterator[None]:
    """As if no first token decided."""
    kept = ChatTokenizer.deciding
    ChatTokenizer.deciding = lambda self, choices: {}  # type: ignore[method-assign]
    try:
        yield
    finally:
        ChatTokenizer.deciding = kept  # type: ignore[method-assign]


async def ask(engine: VllmEngine, asked: Sequence[GenRequest]) -> tuple[float, list[GenResult]]:
    """Seconds, and the results in order."""
    await engine.reset_prefix_cache()
    found: dict[int, GenResult] = {}
    done = asyncio.Event()

    def deliver(results: Sequence[GenResult]) -> None:
        found.update((result.id, result) for result in results)
        if len(found) == len(asked):
            done.set()

    started = time.perf_counter()
    engine.submit(asked, deliver)
    await done.wait()
    return time.perf_counter() - started, [found[request.id] for request in asked]


async def measure() -> tuple[list[float], list[float], list[GenResult], list[GenResult]]:
    engine = VllmEngine("bundled:smollm2", {"kv_cache_gib": 0.5, "max_model_len": 512})
    seconds: tuple[list[float], list[float]] = ([], [])
    try:
        await engine.start()
        for place in range(ROUNDS + 1):
            one, first = await ask(engine, requests())
            with by_grammar():
                other, whole = await ask(engine, requests())
            if place:  # the first round warms up
                seconds[0].append(one)
                seconds[1].append(other)
    finally:
        await engine.close()
    return *seconds, first, whole


def main() -> None:
    first_s, whole_s, first, whole = asyncio.run(measure())
    ratio = median(whole_s) / median(first_s)
    same = [result.text for result in first] == [result.text for result in whole]
    single = all(result.output_tok == 1 for result in first)
    tokens = [sum(result.output_tok for result in results) for results in (first, whole)]
    rows = [
        ["equal answers", f"{QUESTIONS if same else 'not all'} of {QUESTIONS}", "all", verdict(same)],
        ["output tokens, first token : grammar", f"{tokens[0]} : {tokens[1]}", "1 each", verdict(single)],
        ["time by grammar ÷ by the first token", f"{ratio:.2f}", f">= {GOAL:g}", verdict(ratio >= GOAL)],
    ]
    show(f"{QUESTIONS} yes / no questions, median of {ROUNDS} rounds", ["what", "measured", "goal", "reached"], rows)
    finish(same and single and ratio >= GOAL)


if __name__ == "__main__":
    main()
