"""Budgets: reserved before a request is sent, exact, and settled to what was used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from halo_sql.engines.budget import Budget, Price
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.protocol import ChannelSpec, Deliver, Engine, EngineInfo, GenRequest, GenResult, Outcome, failure
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling
from halo_sql.metrics import NodeMetrics

from .helpers import on_loop


class Paced:
    """An engine that answers one request per turn of the loop; every answer takes 10 + 5 tokens."""

    def __init__(self, stuck: bool = False) -> None:
        self.seen: list[GenRequest] = []
        self.running: dict[int, Deliver] = {}
        self.most = 0
        self.stuck = stuck

    async def start(self) -> EngineInfo:
        return EngineInfo("paced", window_requests=64, storable=False)

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        self.seen += requests
        for request in requests:
            self.running[request.id] = deliver
            if not self.stuck:
                asyncio.get_running_loop().call_soon(self.finish, request.id)
        self.most = max(self.most, len(self.running))

    def finish(self, number: int) -> None:
        deliver = self.running.pop(number, None)
        if deliver is not None:
            deliver([GenResult(number, "ok", "stop", 10, 0, 5)])

    def abort(self, ids: Sequence[int]) -> None:
        for number in ids:
            deliver = self.running.pop(number, None)
            if deliver is not None:
                deliver([failure(number, "aborted", "cancelled")])

    def count_tok(self, request: GenRequest) -> int:
        return 10

    async def close(self) -> None:
        self.abort(list(self.running))


async def ask(budget: Budget, count: int, engine: Paced, price: Price | None = None, models: int = 1) -> list[Outcome]:
    engines: dict[str, Engine] = {f"m{index}": engine for index in range(models)}

    async def engine_of(model: str) -> tuple[Engine, EngineInfo]:
        return engines[model], await engines[model].start()

    dispatcher = Dispatcher(engine_of, None, budget, prices={"m0": price} if price else None)
    outcomes: dict[int, Outcome] = {}
    done = asyncio.Event()

    def deliver(batch: object) -> None:
        outcomes.update(batch)  # type: ignore[call-overload]
        if len(outcomes) == count:
            done.set()

    metrics = NodeMetrics()
    spec = ChannelSpec("m0", None, Sampling(max_tokens=100))
    channel = await dispatcher.open(spec, lambda text, finish: None, metrics, deliver)
    channel.put([(number, f"p{number}") for number in range(count)])
    await asyncio.wait_for(done.wait(), 20)
    await dispatcher.close()
    assert metrics.llm_calls == len(engine.seen)
    assert metrics.in_flight == 0
    return [outcomes[number] for number in range(count)]


def refused(outcomes: list[Outcome], setting: str) -> int:
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert all(error.code == "budget" and f"SET {setting} = " in error.remedy for error in errors)
    return len(errors)


@on_loop
async def test_exactly_the_calls_allowed() -> None:
    engine = Paced()
    outcomes = await ask(Budget(max_calls=1000), 5000, engine)
    assert len(engine.seen) == 1000
    assert engine.most == 64
    assert refused(outcomes, "halo_max_calls") == 4000
    error = next(outcome.error for outcome in outcomes if outcome.error)
    assert "1,000 LLM calls" in error.message
    assert "SET halo_max_calls = 2000" in error.remedy


@on_loop
async def test_no_limit() -> None:
    engine = Paced()
    budget = Budget()
    assert not budget.limited
    assert refused(await ask(budget, 500, engine), "") == 0


@on_loop
async def test_tokens_are_settled_to_what_was_used() -> None:
    engine = Paced()
    budget = Budget(max_tokens=3000)  # each call reserves some 120 tokens and uses 15
    outcomes = await ask(budget, 400, engine)
    asked = len(engine.seen)
    assert 1 < engine.most <= 3000 // 110  # more would have been promised than there is
    assert budget.tokens == 15 * asked <= 3000
    assert asked >= (3000 - 130) // 15
    assert refused(outcomes, "halo_max_tokens") == 400 - asked


@on_loop
async def test_money() -> None:
    engine = Paced()
    budget = Budget(max_usd=1.0)
    outcomes = await ask(budget, 400, engine, Price(100.0, 1000.0))  # 0.006 USD each, 0.1 reserved
    assert budget.usd == pytest.approx(0.006 * len(engine.seen))
    assert 0.85 < budget.usd <= 1.0
    assert refused(outcomes, "halo_max_usd") == 400 - len(engine.seen)


@on_loop
async def test_time_ends_what_is_in_flight() -> None:
    engine = Paced(stuck=True)
    outcomes = await ask(Budget(max_seconds=0.05), 100, engine)
    assert refused(outcomes, "halo_max_seconds") == 100
    assert len(engine.seen) == 64
    assert not engine.running


def test_reservations_of_others_are_waited_for() -> None:
    budget = Budget(max_tokens=100)
    assert budget.reserve(60)
    assert not budget.reserve(60)
    budget.settle(60, 30)
    assert budget.reserve(60)
    budget.settle(60, 50)
    with pytest.raises(EngineError, match="100 tokens"):
        budget.reserve(21)
    assert budget.reserve(20)
    assert (budget.tokens, budget.calls) == (80, 3)


def test_time_is_checked_before_sending() -> None:
    budget = Budget(max_seconds=1e-9)
    with pytest.raises(EngineError, match="1e-09 seconds"):
        budget.reserve(1)
