"""What a vLLM worker tells of its scheduler, as the window gets it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from halo_sql.engines.protocol import Deliver, EngineInfo, Gauges, GenRequest, GenResult, estimate_prompt_tok
from halo_sql.engines.vllm_gauges import read_gauges, scheduler_gauges
from halo_sql.engines.window import LOOK_S

from .helpers import SHORT, on_loop, run
from .lru_engine import LruEngine, four_characters


def test_seconds_in_the_queue_are_those_since_the_report_before() -> None:
    first = {"kv_used": 0.5, "running": 3.0, "waiting": 2.0, "preemptions": 1.0, "queued_s": 4.0, "queued": 8.0}
    assert read_gauges(first, {}) == Gauges(0.5, 3, 2, 1, 0.5)
    assert read_gauges(first | {"queued_s": 10.0, "queued": 10.0}, first) == Gauges(0.5, 3, 2, 1, 3.0)
    assert read_gauges(first, first).queue_s == 0.0
    assert read_gauges({}, {}) == Gauges(0.0, 0, 0, 0)


def test_gauges_are_read_by_name() -> None:
    prometheus = pytest.importorskip("prometheus_client")
    made = [
        prometheus.Gauge("vllm:num_requests_running", "of a test", ["engine"]),
        prometheus.Counter("vllm:num_preemptions", "of a test", ["engine"]),
        prometheus.Histogram("vllm:request_queue_time_seconds", "of a test", ["engine"]),
        prometheus.Gauge("vllm:lora_requests_info", "of a test", ["engine"]),
    ]
    try:
        for engine in ("0", "1"):
            made[0].labels(engine).set(2)
            made[1].labels(engine).inc(3)
            made[2].labels(engine).observe(0.5)
            made[3].labels(engine).set(9)
        assert scheduler_gauges() == {"running": 4.0, "preemptions": 6.0, "queued_s": 1.0, "queued": 2.0}
    finally:
        for metric in made:
            prometheus.REGISTRY.unregister(metric)


@on_loop
async def test_the_engine_is_kept_full_whatever_its_answers_may_take() -> None:
    """Requests that may take 8 tokens each take one: a window of 100 tokens grows until the engine is full."""
    engine = LruEngine(4_000, batch=16, tokenize=four_characters, window_tok=300)
    async with run(engine) as on:  # type: ignore[arg-type]
        node, channel = await on.node(sampling=SHORT)
        channel.put([(number, f"{number} {'x' * 200}") for number in range(1_500)])
        await node.settled(1_500)
    assert engine.turns <= 1.25 * 1_500 / 16


class LongAnswers:
    """Answers all it has at once, ten seconds after the last request came; tells that it has room."""

    def __init__(self) -> None:
        self.running: list[tuple[GenRequest, Deliver]] = []
        self.most = 0
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> EngineInfo:
        return EngineInfo("long", 4_000, 40_000, window_tok=600, window_requests=256, batch_requests=128)

    async def describe(self) -> EngineInfo | None:
        return None

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        self.running += [(request, deliver) for request in requests]
        self.most = max(self.most, len(self.running))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(10, self._answer)

    def _answer(self) -> None:
        running, self.running = self.running, []
        for request, deliver in running:
            deliver([GenResult(request.id, "x", prompt_tok=estimate_prompt_tok(request), output_tok=8)])

    def gauges(self) -> Gauges:
        return Gauges(0.05, len(self.running), 0, 0, 0.0)

    def abort(self, ids: Sequence[int]) -> None:
        raise AssertionError("nothing is dropped here")

    def count_tok(self, request: GenRequest) -> int:
        return estimate_prompt_tok(request)

    async def close(self) -> None:
        pass


@on_loop
async def test_the_window_grows_while_no_answer_comes() -> None:
    """100 calls of 60 tokens for a window of 600: all are in flight before the first answer."""
    engine, loop = LongAnswers(), asyncio.get_running_loop()
    async with run(engine) as on:
        node, channel = await on.node(sampling=SHORT)
        began_s = loop.time()
        channel.put([(number, f"{number} {'x' * 200}") for number in range(100)])
        await node.settled(100)
    assert engine.most == 100
    assert loop.time() - began_s < 10 + 20 * LOOK_S
