"""Calibration: known figures are found again, kept, read back, refined; damaged files cost nothing."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halo_sql.catalog.objects import ModelDef
from halo_sql.engines.budget import Budget
from halo_sql.engines.calibrate import calibrate
from halo_sql.engines.fit import nonnegative
from halo_sql.engines.meter import Meter
from halo_sql.engines.protocol import Deliver, EngineInfo, GenRequest, GenResult, estimate_prompt_tok
from halo_sql.engines.speed import FURTHEST, Speed, Work
from halo_sql.engines.speeds import COLUMNS, Speeds, definition_of, row
from halo_sql.errors import EngineError

MODEL = ModelDef("m", "somewhere", "vllm")


class Simulated:
    """A continuous-batching engine of known speed, with a clock of its own: what is asked at once is computed in
    steps of at most ``batch`` sequences, each to its ``max_tokens``; a long beginning is cached when seen before."""

    def __init__(self, noise: float = 0.0, batch: int = 64, kind: str = "generate", **speed: float) -> None:
        self.now = 0.0
        self.rate = speed.get("rate", 2_000.0)
        self.step_s, self.seq_s = speed.get("step_s", 0.02), speed.get("seq_s", 0.004)
        self.read_s, self.request_s = speed.get("read_s", 4e-6), speed.get("request_s", 0.01)
        self.least_s, self.first_s = speed.get("least_s", 0.0), speed.get("first_s", 0.0)
        self._shapes: set[tuple[int, int]] = set()
        self.info = EngineInfo(
            "simulated", 8192, 100_000, window_requests=2 * batch, batch_requests=batch, device="cpu"
        )
        self.asked = 0
        self._batch, self._noise, self._dice = batch, noise, random.Random(1)
        self._seen: set[str] = set()

    async def start(self) -> EngineInfo:
        return self.info

    async def describe(self) -> EngineInfo | None:
        return self.info

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        results, seconds, computed_s = [], 0.0, 0.0
        left: list[list[float]] = []
        for request in requests:
            self.asked += 1
            prompt_tok = self.count_tok(request)
            lead = request.user[:2400]
            cached = 600 if len(lead) == 2400 and lead in self._seen else 0
            self._seen.add(lead)
            output_tok = 0 if request.answer.kind == "embedding" else request.sampling.max_tokens
            seconds += self.request_s
            computed_s += (prompt_tok - cached) / self.rate
            left.append([float(prompt_tok), float(output_tok)])
            results.append(GenResult(request.id, "x", "length", prompt_tok, cached, output_tok))
        seconds += max(computed_s, self.least_s)  # a step reads the weights, however few tokens it computes
        shape = len(requests), sum(int(prompt_tok) for prompt_tok, _ in left) // 64
        if shape not in self._shapes:
            self._shapes.add(shape)
            seconds += self.first_s
        while running := [item for item in left if item[1] > 0][: self._batch]:
            seconds += self.step_s + self.seq_s * len(running) + self.read_s * sum(item[0] for item in running)
            for item in running:
                item[0], item[1] = item[0] + 1, item[1] - 1
        self.now += seconds * (1.0 + self._noise * self._dice.random())
        asyncio.get_running_loop().call_soon(deliver, results)

    def abort(self, ids: Sequence[int]) -> None:
        raise AssertionError("nothing is cancelled here")

    def count_tok(self, request: GenRequest) -> int:
        return 10 + estimate_prompt_tok(request)

    async def close(self) -> None:
        pass


def measured(engine: Simulated, kind: str = "generate", budget: Budget | None = None) -> Speed:
    clock = lambda: engine.now  # noqa: E731
    return asyncio.run(calibrate(engine, engine.info, definition_of(MODEL), kind, 3.0, clock, budget))


@pytest.mark.parametrize(
    "speed",
    [
        {},
        {"rate": 230.0, "step_s": 0.05, "seq_s": 0.01, "read_s": 1e-5, "request_s": 0.005},
        {"rate": 14_000.0, "step_s": 0.0093, "seq_s": 2e-5, "read_s": 2e-8, "request_s": 1e-4},
    ],
)
def test_the_figures_of_a_known_engine_are_found(speed: dict[str, float]) -> None:
    engine = Simulated(**speed)
    found = measured(engine)
    assert found.prefill_tok_per_s == pytest.approx(engine.rate, rel=0.1)
    assert found.decode_step_s == pytest.approx(engine.step_s, rel=0.1)
    assert found.decode_seq_s == pytest.approx(engine.seq_s, rel=0.1)
    assert found.kv_read_s == pytest.approx(engine.read_s, rel=0.1)
    assert found.request_s == pytest.approx(engine.request_s, rel=0.1)
    assert found.error < 0.02
    assert (found.load_s, found.bare_tok, found.chars_per_tok) == (3.0, 11, pytest.approx(4.0, rel=0.03))
    assert found.probe_tok < 15_000 + (30_000 if engine.rate > 4_000 else 0)


def test_what_the_first_batch_of_a_shape_costs_is_no_figure_of_a_quick_engine() -> None:
    engine = Simulated(rate=40_000.0, step_s=0.006, seq_s=2e-5, read_s=2e-8, request_s=4e-4, first_s=0.08, least_s=0.01)
    found = measured(engine)
    assert found.prefill_tok_per_s == pytest.approx(engine.rate, rel=0.15)
    assert found.decode_step_s == pytest.approx(engine.step_s, rel=0.15)
    assert found.error < 0.1


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_a_noisy_engine_is_predicted_within_its_noise(noise: float) -> None:
    engine = Simulated(noise)
    found = measured(engine)
    for requests, prompt_tok, output_tok in ((1, 100, 50), (8, 300, 16), (32, 40, 4), (64, 200, 100)):
        reads = requests * output_tok * (prompt_tok + output_tok / 2)
        work = Work(requests, requests * prompt_tok, requests * output_tok, output_tok, reads)
        truth = replace(
            found,
            prefill_tok_per_s=engine.rate,
            decode_step_s=engine.step_s,
            decode_seq_s=engine.seq_s,
            kv_read_s=engine.read_s,
            request_s=engine.request_s,
        )
        assert found.seconds(work) == pytest.approx((1 + noise / 2) * truth.seconds(work), rel=noise)


def test_a_model_of_vectors_has_a_rate_only() -> None:
    engine = Simulated(rate=5_000.0, request_s=0.002)
    found = measured(engine, "embedding")
    assert found.prefill_tok_per_s == pytest.approx(5_000, rel=0.1)
    assert (found.decode_step_s, found.decode_seq_s) == (0.0, 0.0)


def test_a_slow_engine_gets_fewer_probes() -> None:
    fast, slow = Simulated(), Simulated(rate=50.0, step_s=0.5, seq_s=0.1)
    measured(fast)
    measured(slow)
    assert slow.asked < fast.asked / 2
    assert slow.now < 120


def test_the_budget_bounds_the_probes() -> None:
    engine = Simulated()
    with pytest.raises(EngineError, match="halo_max_tokens") as caught:
        measured(engine, budget=Budget(max_tokens=500))
    assert caught.value.code == "budget"
    assert 0 < engine.asked < 10


@pytest.mark.vllm
def test_the_bundled_model_is_measured(real_engine: Any, tmp_path: Path) -> None:
    engine, info = real_engine.engine, real_engine.info
    assert (info.device, info.dtype, info.kv_tok_bytes) == ("cpu", "float32", 2 * 30 * 3 * 64 * 4)
    assert info.weight_bytes > 400e6
    assert info.memory_bytes > info.weight_bytes
    found = real_engine.run(calibrate(engine, info, definition_of(MODEL), load_s=1.0, enough_s=1.0))
    assert 10 < found.prefill_tok_per_s < 1e5
    assert 1e-4 < found.decode_step_s + found.decode_seq_s + 50 * found.kv_read_s + found.request_s < 5.0
    assert 3.0 < found.chars_per_tok < 5.0
    assert (found.bare_tok, found.system_tok) == (30, 14)
    assert found.error < 1.0
    assert found.probe_tok < 3_000
    longer, shorter = (found.seconds(Work(4, 4 * size, 4 * size, size, 4 * size * size)) for size in (100, 10))
    assert longer > shorter  # by how much depends on what else the machine does in this second
    store = Speeds(tmp_path)
    assert store.put(found)
    assert Speeds(tmp_path).find(MODEL, info) == found


@pytest.mark.vllm
def test_the_bundled_embedding_model_is_measured(real_embedder: Any) -> None:
    engine, info = real_embedder.engine, real_embedder.info
    found = real_embedder.run(calibrate(engine, info, definition_of(MODEL), "embedding", enough_s=1.0))
    assert found.prefill_tok_per_s > 10
    assert (found.decode_step_s, found.decode_seq_s, found.kv_read_s, found.system_tok) == (0.0, 0.0, 0.0, 0.0)
    assert found.bare_tok == 2  # the marks around a text


# --- the fit ---


def test_coefficients_are_found_and_never_negative() -> None:
    dice = random.Random(3)
    rows = [[dice.random() * 10, dice.random(), dice.random() * 100] for _ in range(12)]
    exact = nonnegative(rows, [2.0 * a + 30.0 * b + 0.5 * c for a, b, c in rows])
    assert exact == pytest.approx([2.0, 30.0, 0.5])
    falling = nonnegative([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]], [3.0, 2.0, 1.5])
    assert falling[0] > 0
    assert falling[1] == 0.0
    assert nonnegative([[1.0, 0.0], [2.0, 0.0]], [3.0, 6.0]) == pytest.approx([3.0, 0.0])


def test_one_disturbed_measurement_hardly_counts() -> None:
    rows = [[float(size), 1.0] for size in range(1, 12)]
    seconds = [2.0 * size + 1.0 for size, _ in rows]
    seconds[4] *= 6
    assert nonnegative(rows, seconds) == pytest.approx([2.0, 1.0], rel=0.03)


# --- kept ---


def speed(**changes: object) -> Speed:
    info = EngineInfo("simulated", 8192, 100_000, device="cpu", dtype="float32")
    given = {"prefill_tok_per_s": 100.0, "decode_step_s": 0.1, "decode_seq_s": 0.01, "kv_read_s": 0.0, "request_s": 0.0,
             "load_s": 5.0, "chars_per_tok": 4.0, "bare_tok": 1, "system_tok": 1, "created_s": 1.0}  # fmt: skip
    return Speed(*definition_of(MODEL), **{"info": info, **given, **changes})  # type: ignore[arg-type]


def test_kept_and_found_by_engine_or_definition(tmp_path: Path) -> None:
    store, other = Speeds(tmp_path / "c"), Speeds(tmp_path / "c")
    assert store.all() == []
    assert store.find(MODEL, None) is None
    one = speed()
    assert store.put(one)
    assert other.all() == [one]
    assert other.find(MODEL, one.info) == one
    assert other.find(MODEL, None) == one
    assert other.find(MODEL, replace(one.info, identity="other weights")) is None
    assert other.find(MODEL, replace(one.info, device="cuda")) is None
    assert other.find(MODEL, replace(one.info, window_requests=7)) is None
    assert other.find(MODEL, replace(one.info, kv_capacity_tok=7)) == one
    assert other.find(replace(MODEL, options={"max_num_seqs": 1}), None) is None
    assert other.find(replace(MODEL, options={"max_num_seqs": 1}), one.info) == one
    again = speed(prefill_tok_per_s=200.0, created_s=2.0)
    other.put(again)
    assert store.all() == [again]
    assert len(row(again)) == len(COLUMNS)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{",
        "null",
        '{"model": "m"}',
        {"prefill_tok_per_s": 0},
        {"prefill_tok_per_s": "fast"},
        {"decode_step_s": -1},
        {"load_s": float("nan")},
        {"model": 7},
        {"more": 1},
        {"info": {"identity": "x", "kv_capacity_tok": "many"}},
    ],
)
def test_a_damaged_file_is_left_out_with_a_warning(tmp_path: Path, damage: str | dict[str, object]) -> None:
    store = Speeds(tmp_path)
    store.put(speed())
    [path] = tmp_path.glob("*.json")
    path.write_text(damage if isinstance(damage, str) else json.dumps({**json.loads(path.read_text()), **damage}))
    other = Speeds(tmp_path)
    assert other.all() == []
    assert len(other.warnings) == 1
    assert "CALIBRATE MODEL" in other.warnings[0]


def test_a_disk_that_refuses_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("a file")
    store = Speeds(tmp_path / "c")
    assert not store.put(speed())
    assert store.all() == []
    assert "could not be kept" in store.warnings[0]


# --- refined ---

WORK = Work(10, 1_000, 500, 50, 0)  # 20 s at the speed above


def test_queries_move_the_pace_a_little_each() -> None:
    one = speed()
    expected = one.seconds(WORK)
    assert expected == pytest.approx(10 + 5 + 5)
    assert one.refined(WORK, expected).pace == pytest.approx(1.0)
    slower = one
    for _ in range(30):
        slower = slower.refined(WORK, 1.5 * expected)
    assert slower.pace == pytest.approx(1.5, rel=0.01)
    assert slower.queries == 30
    assert slower.seconds(WORK) == pytest.approx(1.5 * expected, rel=0.01)


def test_one_odd_query_has_bounded_influence_and_small_ones_none() -> None:
    one = speed()
    assert one.refined(WORK, 1e6).pace < 1.15
    assert one.refined(WORK, 1.0).pace > 0.86
    assert one.refined(Work(1, 100, 50, 50, 0), 100.0) is one
    assert one.refined(WORK, 0.1) is one
    worst = one
    for _ in range(200):
        worst = worst.refined(WORK, 1e9)
    assert worst.pace == FURTHEST


def test_a_meter_counts_busy_time_and_the_mean_batch() -> None:
    now = [0.0]
    meter = Meter(clock=lambda: now[0])

    def at(seconds: float, change: int) -> None:
        now[0] = seconds
        meter.change(change)

    at(1.0, 4)
    at(3.0, -2)
    at(4.0, -2)
    at(10.0, 1)  # idle in between
    at(11.0, -1)
    for number in range(5):
        meter.add(GenResult(number, "x", "stop", 100, 60, 10))
    assert meter.busy_s == pytest.approx(4.0)
    assert meter.sound
    batch = (4 * 2 + 2 * 1 + 1) / 4
    assert meter.work(64) == Work(5, 200, 50, pytest.approx(50 / batch), 5 * 10 * 105)
    assert meter.work(2).steps == pytest.approx(25)
    meter.add(GenResult(9, error=EngineError("no", code="engine")))
    assert not meter.sound
