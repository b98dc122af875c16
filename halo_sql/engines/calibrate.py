"""A calibration run: small probes of known size, measured from outside, and the figures fitted to them.

The seconds of a set of requests handed to an engine at once are taken as linear in prompt tokens computed, engine
steps, tokens generated, tokens read from the KV cache, and requests (``speed.Work``): a continuous-batching engine
computes prompts at a rate, and each of its steps costs a part of its own and one per sequence.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from statistics import median

from halo_sql.engines.budget import FREE, Budget, Price
from halo_sql.engines.fit import nonnegative
from halo_sql.engines.kinds import EMBEDDING
from halo_sql.engines.protocol import EMBEDDING as VECTOR
from halo_sql.engines.protocol import TEXT, YES_NO, Answer, Engine, EngineInfo, GenRequest, GenResult
from halo_sql.engines.speed import Speed, Work
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling

#: See ``calibrate``; the most requests at once, and those of the further probes in round two.
ENOUGH_S = 35.0
NEEDED = 7
MOST_AT_ONCE, FEW = 64, 8
OUTPUT_TOK, SHORT_TOK = 16, 4
#: An engine of one's own whose first round takes less is quick: it gets prompts of about so many tokens, too.
QUICK_S, FILLING_TOK = 4.0, 1024
_WORDS = """report parser storage network client shell release customer order city weather river stone garden window
    paper market engine letter bridge morning answer winter summer doctor school number table music forest"""
#: What prompts and rows are like, for characters per token.
_PROSE = """Read the ticket below, and say in one sentence what the customer wants. Don't guess: if it isn't clear,
answer 'unclear'. The lamp (model Aurora, 39 euros) was shipped last Tuesday, but Ms. Jansen hasn't received it yet; she
asks whether it's lost, who pays for a new one, and how long that would take."""
_next_id = count(1 << 40).__next__  # beside those of the lanes, whose engine it may be at the same time
LEAST_S = 1e-9  # per token or step: nothing is infinitely fast
#: Tokens of context whose reading takes no longer than all else that a sequence costs in a step (by memory rates and
#: arithmetic of GPUs and CPUs it is about 1,000). Few probes tell the two apart, and both rise with the answers.
LEAST_READS = 256


@dataclass(frozen=True, slots=True)
class Probe:
    """Requests submitted at once.

    requests    how many, each with a prompt of its own
    words       of each prompt
    output_tok  most that each may answer
    answer      the form of the answers
    lead        a text that all of them begin with
    """

    requests: int
    words: int
    output_tok: int = 1
    answer: Answer = TEXT
    lead: str = ""


async def calibrate(
    engine: Engine,
    info: EngineInfo,
    definition: tuple[str, str, str, str],
    kind: str = "generate",
    load_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    budget: Budget | None = None,
    price: Price = FREE,
    enough_s: float = ENOUGH_S,
    workers: tuple[int, ...] = (),
) -> Speed:
    """The figures of a started engine.

    definition  name, engine and source of the model, and a digest of its options
    kind        'generate' or 'embedding'
    load_s      seconds its start took; 0: not seen
    clock       seconds; those of a simulated engine are its own
    enough_s    seconds after which no further probes are begun but the first NEEDED
    workers     of those behind the engine, the ones to ask; (): any
    budget      what the probes may take, at their upper bounds; ``price`` is what they cost
    Takes some 10,000 tokens and less than a minute on a CPU, some 70,000 on an engine that needs seconds for that:
    there the first round only shows it every shape of a batch, as kernels are loaded and compiled when they are first
    used. Raises the EngineError of a probe that fails, or that the budget does not allow.
    """
    words = _Words()

    async def measured(probe: Probe) -> tuple[Work, float]:
        requests = [replace(request, workers=workers) for request in _requests(probe, words)]
        if budget is not None:
            _reserve(budget, price, engine, requests)
        return await _measure(engine, requests, clock)

    await measured(Probe(1, 4, 2, _form(kind)))  # what happens only once
    await measured(Probe(1, 4, 2, YES_NO if kind != EMBEDDING else VECTOR))
    began = clock()

    async def a_round(first: bool) -> list[tuple[Work, float]]:
        seen = []
        for place, probe in enumerate(_probes(info, kind, words)):
            if not (first and place < NEEDED) and clock() - began > enough_s:
                break
            if first or place < NEEDED or probe.requests <= FEW:
                seen.append(await measured(probe))
        return seen

    seen = await a_round(first=True)
    if info.kv_capacity_tok and clock() - began < min(QUICK_S, enough_s):
        filling = list(_filling(info, kind, seen[1][0]))
        for probe in filling:
            await measured(probe)
        seen = await a_round(first=True) + [await measured(probe) for probe in filling]
    seen += await a_round(first=False)
    if all(work.output_tok < SHORT_TOK * work.requests for work, _ in seen):
        # A model that only gives short answers: steps are as many as requests, and what they read is their prompts.
        seen = [(replace(work, steps=0.0, read_tok=0.0), seconds) for work, seconds in seen]
    columns = []
    for work, _ in seen:
        reads = work.read_tok + LEAST_READS * work.output_tok if work.read_tok else 0.0
        columns.append([work.requests, work.computed_tok, work.output_tok, work.steps, reads])
    requests, computed, output, steps, read = nonnegative(columns, [seconds for _, seconds in seen])
    output += LEAST_READS * read
    bare_tok, prose_tok = _count(engine, "", kind), _count(engine, _PROSE, kind)
    speed = Speed(
        *definition,
        info,
        prefill_tok_per_s=1.0 / max(LEAST_S, computed),
        decode_step_s=steps,
        decode_seq_s=output,
        kv_read_s=read,
        request_s=requests,
        load_s=load_s,
        chars_per_tok=len(_PROSE) / max(1, prose_tok - bare_tok),
        bare_tok=bare_tok,
        system_tok=0 if kind == EMBEDDING else max(0, _count(engine, "", kind, "a") - 1),
        probes=int(sum(work.requests for work, _ in seen)),
        probe_tok=int(sum(work.computed_tok + work.output_tok for work, _ in seen)),
        created_s=time.time(),
    )
    return replace(speed, error=median(abs(speed.seconds(work) / seconds - 1.0) for work, seconds in seen))


def _probes(info: EngineInfo, kind: str, words: _Words) -> Iterator[Probe]:
    """Prompts of several lengths, answers over a long context, guided ones, and answers in batches of several sizes.

    The first NEEDED tell all figures apart."""
    form = _form(kind)
    longest = _longest(info)
    most = min(MOST_AT_ONCE, info.batch_requests or info.window_requests)
    yield Probe(1, longest // 8, 1, form)
    yield Probe(1, longest, 1, form)
    yield Probe(min(16, most), longest // 32, 2, form)
    if kind == EMBEDDING:
        yield Probe(min(8, most), longest // 8, 1, form)
        return
    shared = words.text(longest) + " "
    yield Probe(1, 8, OUTPUT_TOK)
    yield Probe(min(4, most), 8, OUTPUT_TOK)
    yield Probe(1, 4, 1, TEXT, shared)
    yield Probe(min(4, most), 4, OUTPUT_TOK, TEXT, shared)
    yield Probe(min(8, most), 16, 4, YES_NO)
    yield Probe(min(8, most), longest // 8, 1)
    yield from (Probe(size, 8, OUTPUT_TOK) for size in (2, 8) if size <= most)
    yield from (Probe(size, 8, OUTPUT_TOK // 2) for size in (16, 32, MOST_AT_ONCE) if size <= most)
    yield Probe(1, longest // 2, 1)


def _filling(info: EngineInfo, kind: str, longest: Work) -> Iterator[Probe]:
    """Prompts that fill the steps of a quick engine: there a step takes what reading the weights takes, however few
    tokens it computes, and the rate shows in full steps only. ``longest``: the usual probe of one long prompt."""
    room_tok = min(FILLING_TOK, info.context_tok // 2 or FILLING_TOK, info.kv_capacity_tok // 16)
    size = int(_longest(info) * room_tok / longest.computed_tok)
    if size > _longest(info):
        form, most = _form(kind), min(MOST_AT_ONCE, info.batch_requests or info.window_requests)
        for requests, part in ((1, 1), (4, 1), (16, 2), (32, 4)):
            yield Probe(min(requests, most), size // part, 1, form)


def _longest(info: EngineInfo) -> int:
    """Words of the longest usual prompt."""
    return min(400, info.context_tok // 4) if info.context_tok else 400


def _requests(probe: Probe, words: _Words) -> list[GenRequest]:
    task = "Is it?" if probe.answer is YES_NO else "Write a long story about all of it."
    return [
        GenRequest(
            _next_id(),
            f"{probe.lead}{words.text(probe.words)} {task}",
            sampling=Sampling(max_tokens=probe.output_tok),
            answer=probe.answer,
        )
        for _ in range(probe.requests)
    ]


def _reserve(budget: Budget, price: Price, engine: Engine, requests: Sequence[GenRequest]) -> None:
    """Claim the most that the requests may take. EngineError('budget') when it is too much."""
    for request in requests:
        prompt_tok, output_tok = engine.count_tok(request), request.sampling.max_tokens
        usd = price.usd(prompt_tok, output_tok)
        budget.reserve(prompt_tok + output_tok, usd)
        budget.settle(prompt_tok + output_tok, prompt_tok + output_tok, usd, usd)


async def _measure(engine: Engine, requests: Sequence[GenRequest], clock: Callable[[], float]) -> tuple[Work, float]:
    """What the requests were for the engine, and its seconds."""
    began = clock()
    results = await _ask(engine, requests)
    seconds = clock() - began
    work = Work()
    for request, result in zip(requests, results, strict=True):
        if result.error is not None:
            raise result.error
        prompt_tok = result.prompt_tok or engine.count_tok(request)
        work = Work(
            work.requests + 1,
            work.computed_tok + prompt_tok - result.prompt_tok_cached,
            work.output_tok + result.output_tok,
            max(work.steps, result.output_tok),
            work.read_tok + result.output_tok * (prompt_tok + result.output_tok / 2),
        )
    return work, max(seconds, LEAST_S)


async def _ask(engine: Engine, requests: Sequence[GenRequest]) -> list[GenResult]:
    """All at once; the results in the order of the requests. Aborted when it is cancelled."""
    found: dict[int, GenResult] = {}
    done = asyncio.Event()

    def deliver(results: Sequence[GenResult]) -> None:
        found.update((result.id, result) for result in results)
        if len(found) == len(requests):
            done.set()

    engine.submit(requests, deliver)
    try:
        await done.wait()
    except asyncio.CancelledError:
        engine.abort([request.id for request in requests if request.id not in found])
        raise
    return [found[request.id] for request in requests]


class _Words:
    """English words in an order that nobody has seen, so that no prefix cache knows it."""

    def __init__(self) -> None:
        self._dice = random.Random()
        self._words = _WORDS.split()

    def text(self, length: int) -> str:
        """So many of them."""
        return " ".join(self._dice.choice(self._words) for _ in range(length))


def _form(kind: str) -> Answer:
    return VECTOR if kind == EMBEDDING else TEXT


def _count(engine: Engine, user: str, kind: str, system: str | None = None) -> int:
    """Tokens of a prompt; 0 for a model whose template has no place for a system message."""
    try:
        return engine.count_tok(GenRequest(0, user, system, answer=_form(kind)))
    except EngineError:
        return 0
