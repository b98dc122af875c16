"""Two workers against one on the same cores: time, prompt tokens from caches, prefixes that move.

Without arguments: the real router over workers that only count, as with ``devices`` that divide the cores. A worker of
a simulated machine computes one request after the other in a time proportional to its tokens to compute, half as fast
as one with all cores; its prefix cache is exact, LRU and in blocks. ``--real``: the bundled model on vLLM (for a quiet
machine, some minutes).

Prints, and fails below the goals: seconds of two ÷ seconds of one (at most 1.05), cached tokens ÷ those of one cache of
the same size (at least 0.95), and prefixes computed again by the second worker though moving is cheaper (none).
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import os
import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from report import finish, show, verdict

from halo_sql.catalog.objects import ModelDef
from halo_sql.engines.meter import Meter
from halo_sql.engines.protocol import Deliver, Engine, EngineInfo, GenRequest, GenResult, estimate_prompt_tok
from halo_sql.engines.registry import create
from halo_sql.engines.router import DECODE_TOK
from halo_sql.engines.workers import WorkerGroup
from halo_sql.ir.prompt import Sampling

GOAL_TIME, GOAL_HITS = 1.05, 0.95
BLOCK_CHARS = 128
OUTPUT_TOK = 4
MOVE_COST = 0.05  # of a token fetched, against one computed
SHORT = Sampling(max_tokens=OUTPUT_TOK)
TURNS = 5  # of the bundled model


# --- the simulated machine


class Clock:
    """Virtual time: jobs end in order of their time, and what an end starts begins then."""

    def __init__(self) -> None:
        self.now = 0.0
        self._jobs: list[tuple[float, int, CountingWorker]] = []
        self._numbers = itertools.count()

    def add(self, worker: CountingWorker, end: float) -> None:
        heapq.heappush(self._jobs, (end, next(self._numbers), worker))

    def run(self) -> None:
        while self._jobs:
            self.now, _, worker = heapq.heappop(self._jobs)
            worker.end()


class CountingWorker:
    """``engines.protocol.Engine`` with a prefix cache and a pace, in virtual time."""

    def __init__(self, clock: Clock, pace: float, capacity_tok: int, storage: set[tuple[str, ...]] | None) -> None:
        self.clock, self.pace, self.storage = clock, pace, storage
        self.capacity_tok = capacity_tok
        self.queue: list[tuple[GenRequest, Deliver]] = []
        self.current: tuple[GenResult, Deliver] | None = None
        self.cache: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self.computed: list[tuple[str, ...]] = []

    async def start(self) -> EngineInfo:
        return EngineInfo(
            "counting", window_requests=64, device="cpu", kv_capacity_tok=self.capacity_tok, kv_tok_bytes=1000
        )

    async def describe(self) -> EngineInfo | None:
        return await self.start()

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        self.queue += [(request, deliver) for request in requests]
        self.next()

    def next(self) -> None:
        if self.current is not None or not self.queue:
            return
        request, deliver = self.queue.pop(0)
        cached = moved = 0
        for block in blocks(request):
            if block in self.cache:
                cached += BLOCK_CHARS // 4
            elif request.fetch and self.storage is not None and block in self.storage:
                moved += BLOCK_CHARS // 4
            else:
                self.computed.append(block)
            self.cache[block] = None
            if request.keep_chars and self.storage is not None:
                self.storage.add(block)
        for block in reversed(blocks(request)):
            self.cache.move_to_end(block)
        while len(self.cache) * BLOCK_CHARS // 4 > self.capacity_tok:
            self.cache.popitem(last=False)
        prompt_tok = estimate_prompt_tok(request)
        work = prompt_tok - cached - moved * (1 - MOVE_COST) + DECODE_TOK * OUTPUT_TOK
        result = GenResult(request.id, "x", "stop", prompt_tok, cached + moved, OUTPUT_TOK, prompt_tok_moved=moved)
        self.current = (result, deliver)
        self.clock.add(self, self.clock.now + work / self.pace)

    def end(self) -> None:
        assert self.current is not None
        (result, deliver), self.current = self.current, None
        deliver([result])
        self.next()

    def abort(self, ids: Sequence[int]) -> None:
        """Nothing is aborted here."""

    def count_tok(self, request: GenRequest) -> int:
        return estimate_prompt_tok(request)

    async def close(self) -> None:
        """Nothing to release."""


def blocks(request: GenRequest) -> list[tuple[str, ...]]:
    text = f"{request.system or ''}\0{request.user}"
    ends = range(BLOCK_CHARS, len(text) + 1, BLOCK_CHARS)
    return [(text[:end],) for end in ends]


class Memory:
    """What workers leave each other: a token is fetched in MOVE_COST of the time of computing it."""

    def __init__(self, prefill_tok_per_s: float) -> None:
        self._bytes_per_s = 1000 * prefill_tok_per_s / MOVE_COST

    def bytes_per_s(self) -> float:
        return self._bytes_per_s

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True)
class Outcome:
    """What a run took: seconds, prompt tokens, of these cached, of these moved; blocks that several computed."""

    seconds: float
    prompt_tok: int
    cached_tok: int
    moved_tok: int
    again: int


async def simulate(
    phases: Sequence[Sequence[GenRequest]], workers: int, capacity_tok: int, moves: bool, window: int = 256
) -> Outcome:
    """Requests through a group, one phase after the other, ``window`` in flight, as the channels send them. The cores
    are the same ones: each of several workers is slower by their number."""
    clock = Clock()
    storage: set[tuple[str, ...]] | None = set() if moves else None
    pace = 1.0 / workers
    engines = [CountingWorker(clock, pace, capacity_tok // workers, storage) for _ in range(workers)]
    group = WorkerGroup(engines, storage=Memory(pace) if moves else None, prefill_tok_per_s=pace)
    for worker in group.workers:
        worker.meter = Meter(clock=lambda: clock.now)
    await group.start()
    await group.all_ready()
    results: list[GenResult] = []
    waiting: list[GenRequest] = []

    def deliver(found: Sequence[GenResult]) -> None:
        results.extend(found)
        send(len(found))

    def send(count: int) -> None:
        batch = [waiting.pop() for _ in range(min(count, len(waiting)))]
        if batch:
            group.submit(batch, deliver)

    for requests in phases:
        waiting = list(reversed(requests))
        send(window)
        clock.run()
    assert len(results) == sum(map(len, phases))
    await group.close()
    computed = [set(engine.computed) for engine in engines]
    again = sum(map(len, computed)) - len(set().union(*computed))
    return Outcome(
        clock.now,
        sum(result.prompt_tok for result in results),
        sum(result.prompt_tok_cached for result in results),
        sum(result.prompt_tok_moved for result in results),
        again,
    )


# --- prompts


def words(seed: object, chars: int) -> str:
    found = random.Random(str(seed))
    return "".join(f"{found.getrandbits(24):06x} " for _ in range(chars // 7 + 1))[:chars]


def one_prefix(rows: int) -> list[GenRequest]:
    """A system message of 900 tokens and short rows."""
    return [GenRequest(n, words(n, 240), words("rules", 3600), SHORT) for n in range(rows)]


def groups(rows: int, each: int, order: str) -> list[GenRequest]:
    """``each`` rows per document of 600 tokens, sorted or in any order."""
    found = [GenRequest(n, words(f"d{n // each}", 2400) + words(n, 160), words("do", 400), SHORT) for n in range(rows)]
    if order == "shuffled":
        random.Random(1).shuffle(found)
    return found


def skewed(rows: int) -> list[GenRequest]:
    """Documents of 600 tokens, a few asked for often and many once (Zipf)."""
    found = random.Random(2)
    ranks = found.choices(range(200), [1 / (rank + 1) for rank in range(200)], k=rows)
    return [GenRequest(n, words(f"d{rank}", 2400) + words(n, 160), None, SHORT) for n, rank in enumerate(ranks)]


def unlike(rows: int) -> list[GenRequest]:
    """Nothing shared."""
    return [GenRequest(n, words(n, 1200), None, SHORT) for n in range(rows)]


def simulated(rows: int) -> bool:
    """The table of the simulated machine."""
    sets = {
        "one prefix of 900 tok": one_prefix(rows),
        "20 rows per document, sorted": groups(rows, 20, "sorted"),
        "20 rows per document, shuffled": groups(rows, 20, "shuffled"),
        "documents by Zipf": skewed(rows),
        "nothing shared": unlike(rows),
    }
    table, reached = [], True
    for name, requests in sets.items():
        for capacity_tok, size in ((1 << 24, "all"), (24_000, "24k")):
            one, two, moving = (
                asyncio.run(simulate([requests], workers, capacity_tok, moves))
                for workers, moves in ((1, False), (2, False), (2, True))
            )
            ratio = min(two.seconds, moving.seconds) / one.seconds
            hits = two.cached_tok / one.cached_tok if one.cached_tok else 1.0
            good = ratio <= GOAL_TIME and (size != "all" or hits >= GOAL_HITS)
            reached &= good
            table.append(
                (
                    name,
                    size,
                    f"{two.seconds / one.seconds:.3f}",
                    f"{moving.seconds / one.seconds:.3f}",
                    f"{hits:.3f}",
                    f"{two.again}",
                    f"{moving.again}",
                    f"{moving.moved_tok}",
                    verdict(good),
                )
            )
    head = ("prompts", "cache", "time", "moving", "hits", "again", "again, moving", "tok moved", "")
    show(f"Two workers / one on the same cores, {rows} rows (<= {GOAL_TIME}; hits >= {GOAL_HITS})", head, table)
    return later(rows) and reached


def later(rows: int) -> bool:
    """Prefixes that one worker has computed when a second one is given their rows."""
    seconds: dict[bool, Outcome] = {}
    documents = [replace(request, workers=(0,)) for request in groups(80, 2, "sorted")]
    others = [
        replace(request, id=1000 + number, workers=(1,), user=documents[number % 80].user[:2400] + words(number, 160))
        for number, request in enumerate(documents * (rows // 800 + 1))
    ]
    for moves in (False, True):
        seconds[moves] = asyncio.run(simulate([documents, others], 2, 1 << 24, moves))
    alone, moving = seconds[False], seconds[True]
    show(
        "Rows of 40 documents on worker 1 when worker 0 has computed them",
        ("", "off", "storage", "goal", ""),
        [
            ("blocks computed twice", str(alone.again), str(moving.again), "0", verdict(moving.again == 0)),
            ("tokens moved", str(alone.moved_tok), str(moving.moved_tok), "", ""),
            ("time / off", "1.00", f"{moving.seconds / alone.seconds:.2f}", "", ""),
        ],
    )
    return moving.again == 0


# --- the bundled model


async def ask(engine: Engine, requests: Sequence[GenRequest]) -> tuple[float, list[GenResult]]:
    found: dict[int, GenResult] = {}
    done = asyncio.Event()

    def deliver(results: Sequence[GenResult]) -> None:
        found.update({result.id: result for result in results})
        if len(found) == len(requests):
            done.set()

    began = time.perf_counter()
    engine.submit(requests, deliver)
    await done.wait()
    return time.perf_counter() - began, [found[request.id] for request in requests]


async def compared(
    options: dict[str, object], others: dict[str, object], requests: Sequence[GenRequest]
) -> list[tuple[float, list[GenResult]]]:
    """The same requests on a model with these options and on one with others, in turns (a machine is not as fast in one
    minute as in the next): median seconds, and the results of the last turn, of each."""
    engines = [create(ModelDef("m", "bundled:smollm2", "vllm", {**options, **more})) for more in ({}, others)]
    try:
        for engine in engines:
            await engine.start()
            if isinstance(engine, WorkerGroup):
                await engine.all_ready()
        seconds: list[list[float]] = [[], []]
        results: list[list[GenResult]] = [[], []]
        for turn in range(TURNS + 1):
            system = f"{turn} {requests[0].system}"
            for place, engine in enumerate(engines):
                asked = [replace(one, id=100_000 * turn + one.id, system=system) for one in requests]
                second, results[place] = await ask(engine, asked)
                seconds[place] += [second] if turn else []  # the first is slower, on all of them
        return [(median(own), last) for own, last in zip(seconds, results, strict=True)]
    finally:
        for engine in engines:
            await engine.close()


def real(rows: int) -> bool:
    """The table of the bundled model."""
    requests = [replace(request, user=request.user[:80]) for request in one_prefix(rows)]
    base: dict[str, object] = {"kv_cache_gib": 1, "max_model_len": 4096}
    variants: dict[str, dict[str, object]] = {
        "two workers": {"workers": 2},
        "two, kv_sharing = 'storage'": {"workers": 2, "kv_sharing": "storage"},
        "two, the cores divided": {"workers": 2, "devices": ",".join(map(str, sorted(os.sched_getaffinity(0))))},
    }
    table, reached = [], True
    for name, options in variants.items():
        (one_s, one), (seconds, results) = asyncio.run(compared(base, options, requests))
        cached, moved = (
            [sum(getattr(result, what) for result in own) for own in (results, one)]
            for what in ("prompt_tok_cached", "prompt_tok_moved")
        )
        hits = cached[0] / max(1, cached[1])
        same = sum(mine.text == theirs.text for mine, theirs in zip(results, one, strict=True))
        errors = sum(result.error is not None for result in results)
        good = seconds <= GOAL_TIME * one_s and hits >= GOAL_HITS and not errors
        judged = "divided" not in name  # which is what workers do not do by themselves
        reached &= good or not judged
        cells = (f"{seconds / one_s:.3f}", f"{hits:.3f}", str(moved[0]), f"{same}")
        table.append((name, *cells, verdict(good) if judged else ""))
    head = ("", f"s / one (<= {GOAL_TIME})", f"hits (>= {GOAL_HITS})", "tok moved", f"equal of {rows}", "")
    show(f"The bundled model, {rows} rows with a shared system message, in turns with one worker", head, table)
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--real", action="store_true", help="the bundled model (32 rows)")
    arguments = parser.parse_args()
    finish(real(32) if arguments.real else simulated(arguments.rows))


if __name__ == "__main__":
    main()
