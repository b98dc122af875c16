"""The emulated engine against real vLLM: the same requests on both, with a profile fitted by a calibration.

The bundled model is calibrated (as CALIBRATE MODEL does), then varied runs are made on it, each on an empty prefix
cache: long and short prompts, shared beginnings, bursts and arrivals over time, conversations, choices, more than the
KV cache holds. The emulator gets the same requests at the same times and the answers that the model gave. Prints, and
fails outside the goals: prompt, cached and output tokens (exactly those of vLLM, request by request) and emulated ÷
measured seconds (0.8 to 1.2; on a machine that does nothing else).

Run: ``python benchmarks/emulator.py [--only TEXT] [--rounds 3] [--counters]``; ``--counters``: seconds are not judged.
On a GPU: ``--shape large --options '{"kv_cache_gib": 4}' --times 8``: a model of random weights in one of the sizes of
``workloads/shapes.py``, and eight times as many requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).parent / "workloads"))

import shapes
from report import finish, show, verdict

from halo_sql.engines.calibrate import calibrate
from halo_sql.engines.emulated import EmulatedEngine, Reply
from halo_sql.engines.profiles import Profile, from_speed
from halo_sql.engines.protocol import YES_NO, Dialogue, Engine, GenRequest, GenResult
from halo_sql.engines.python import messages_of
from halo_sql.engines.vllm import VllmEngine
from halo_sql.ir.prompt import Sampling
from halo_sql.virtual_time import VirtualTimeLoop

OPTIONS: Mapping[str, object] = {"kv_cache_gib": 0.15, "max_model_len": 2048}
SHAPE: Mapping[str, object] = {
    "max_model_len": 2048,
    "max_num_seqs": 256,
    "engine_args": {
        "load_format": "dummy",
        "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"},
    },
}
LOW, HIGH = 0.8, 1.2
WORDS = ("report", "parser", "storage", "network", "client", "shell", "release", "order", "city", "river", "stone")


@dataclass(frozen=True, slots=True)
class Run:
    """Requests, and the second at which each is sent."""

    name: str
    requests: tuple[GenRequest, ...]
    at_s: tuple[float, ...]


@dataclass(slots=True)
class Seen:
    """Seconds until the last answer, answers in order, preemptions."""

    seconds: float
    results: list[GenResult]
    preemptions: int


def runs(times: int) -> list[Run]:
    """Always the same ones; ``times`` as many requests where they are many at once."""
    dice = random.Random(7)

    def text(words: int) -> str:
        return " ".join(dice.choice(WORDS) for _ in range(words))

    def ask(user: str, output_tok: int, system: str | None = None, **more: object) -> GenRequest:
        return GenRequest(0, user, system, Sampling(max_tokens=output_tok), **more)  # type: ignore[arg-type]

    def run(name: str, requests: Sequence[GenRequest], gap_s: float = 0.0) -> Run:
        numbered = [
            GenRequest(number, one.user, one.system, one.sampling, one.answer) for number, one in enumerate(requests)
        ]
        return Run(name, tuple(numbered), tuple(gap_s * number for number in range(len(requests))))

    rules, other = text(250), text(120)
    talk = [text(60) for _ in range(4)]
    return [
        run("one long prompt", [ask(text(700), 8)]),
        run("one long answer", [ask(text(20), 64)]),
        run("short ones at once", [ask(text(10 + number), 4) for number in range(16 * times)]),
        run("one beginning at once", [ask(text(8), 8, rules) for _ in range(16 * times)]),
        run(
            "two beginnings in turn", [ask(text(8), 4, rules if number % 2 else other) for number in range(12 * times)]
        ),
        run("over time", [ask(text(30), 12) for _ in range(10)], 0.2),
        run("one beginning over time", [ask(text(12), 6, rules) for _ in range(10)], 0.3),
        run("answers of all lengths", [ask(text(20), 2 + 6 * number) for number in range(8 * times)]),
        run("yes or no", [ask(f"{text(20)}. Is it?", 8, answer=YES_NO) for _ in range(16 * times)]),
        run("conversations", [ask(Dialogue(talk[:turns]), 6, other) for turns in (1, 3, 1, 3)], 0.8),
        run("one after the other, twice", [ask(" ".join(WORDS[: 5 + number % 5]), 3) for number in range(10)], 0.5),
        run("more than the cache holds", [ask(text(180), 8) for _ in range(20 * times)]),
        run("answers outgrow the cache", [ask(f"{text(135)}. Tell a long story.", 64) for _ in range(18 * times)]),
    ]


async def made(engine: Engine, run: Run, clock: Callable[[], float]) -> tuple[float, list[GenResult]]:
    """Send the requests at their times; seconds and results."""
    found: dict[int, GenResult] = {}
    done = asyncio.Event()

    def deliver(results: Sequence[GenResult]) -> None:
        found.update((result.id, result) for result in results)
        if len(found) == len(run.requests):
            done.set()

    began_s = clock()
    at_once = [request for request, at_s in zip(run.requests, run.at_s, strict=True) if at_s == 0.0]
    engine.submit(at_once, deliver)
    for request, at_s in zip(run.requests, run.at_s, strict=True):
        if at_s:
            await asyncio.sleep(max(0.0, began_s + at_s - clock()))
            engine.submit([request], deliver)
    await done.wait()
    seconds = clock() - began_s
    for result in found.values():
        if result.error is not None:
            raise result.error
    return seconds, [found[request.id] for request in run.requests]


async def on_vllm(
    source: str, options: Mapping[str, object], chosen: Sequence[Run], rounds: int
) -> tuple[Profile, list[Seen]]:
    """The fitted profile, and what happened: the fastest of the rounds (what disturbs one only ever adds time)."""
    engine = VllmEngine(source, options)
    try:
        info = await engine.start()
        speed = await calibrate(engine, info, ("model", "vllm", source, ""))
        seen = []
        for run in chosen:
            best: Seen | None = None
            for _ in range(rounds):
                await engine.reset_prefix_cache()
                before = (await engine.stats())["preemptions"]
                seconds, results = await made(engine, run, time.perf_counter)
                after = (await engine.stats())["preemptions"]
                if best is None or seconds < best.seconds:
                    best = Seen(seconds, results, int(after - before))
            assert best is not None
            seen.append(best)
        return from_speed(speed), seen
    finally:
        await engine.close()


async def emulated(run: Run, profile: Profile, answers: Sequence[GenResult]) -> Seen:
    """The same on the emulator, which answers what vLLM did."""
    known = {
        str(messages_of(request)): Reply(answer.text, answer.output_tok)
        for request, answer in zip(run.requests, answers, strict=True)
    }
    options = {"preloaded": True, "tokenizer": "bundled"}
    engine = EmulatedEngine("smollm2", "", options, lambda messages: known[str(messages)], profile)
    await engine.start()
    seconds, results = await made(engine, run, asyncio.get_running_loop().time)
    return Seen(seconds, results, int((await engine.stats())["preemptions"]))


def tokens(results: Sequence[GenResult]) -> list[tuple[int, int, int]]:
    """Prompt, cached and output tokens of each."""
    return [(result.prompt_tok, result.prompt_tok_cached, result.output_tok) for result in results]


def main() -> None:
    parser = argparse.ArgumentParser(description="The emulated engine against real vLLM.")
    parser.add_argument("--only", default="", help="only the runs whose name has this text")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is made on vLLM; the fastest counts")
    parser.add_argument("--counters", action="store_true", help="seconds are shown, not judged")
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="in place of the bundled model")
    parser.add_argument("--options", type=json.loads, default={}, help="of the vLLM engine, a JSON object")
    parser.add_argument("--times", type=int, default=1, help="as many requests")
    given = parser.parse_args()
    chosen = [run for run in runs(given.times) if given.only in run.name]
    with tempfile.TemporaryDirectory() as folder:
        source, options = "bundled:smollm2", OPTIONS
        if given.shape is not None:
            source, options = str(shapes.write(shapes.SHAPES[given.shape], Path(folder) / given.shape)), SHAPE
        profile, measured = asyncio.run(on_vllm(source, {**options, **given.options}, chosen, given.rounds))
    print(
        f"profile: prefill {profile.prefill_tok_per_s:.0f} tok/s, step {1e3 * profile.decode_step_s:.2f} ms, "
        f"each sequence {1e3 * profile.decode_seq_s:.2f} ms, read {1e6 * profile.kv_read_s:.2f} us/tok, "
        f"request {1e3 * profile.request_s:.2f} ms; {profile.kv_capacity_tok} tokens of KV cache"
    )
    rows, reached, ratios = [], True, []
    for run, real in zip(chosen, measured, strict=True):
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            ours = runner.run(emulated(run, profile, real.results))
        same = sum(one == other for one, other in zip(tokens(ours.results), tokens(real.results), strict=True))
        sums = [sum(column) for column in zip(*tokens(real.results), strict=True)]
        exact = same == len(run.requests)
        ratios.append(ours.seconds / real.seconds)
        near = given.counters or LOW <= ratios[-1] <= HIGH
        reached = reached and exact and near
        rows.append(
            [
                run.name,
                f"{sums[0]:,} / {sums[1]:,} / {sums[2]:,}",
                f"{same} of {len(run.requests)}",
                f"{ours.preemptions} : {real.preemptions}",
                f"{real.seconds:.2f} s",
                f"{ratios[-1]:.2f}",
                verdict(exact and near),
            ]
        )
    head = ["run", "prompt / cached / output tok", "equal", "preemptions", "vLLM", "emulated ÷ vLLM", "reached"]
    show(f"The emulator against vLLM; goals: all equal, {LOW} to {HIGH}", head, rows)
    print(f"median emulated ÷ vLLM: {median(ratios):.2f}")
    finish(reached)


if __name__ == "__main__":
    main()
