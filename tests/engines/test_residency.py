"""Models that do not fit their device together: who leaves, who waits, what is said when nothing helps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest

from halo_sql.catalog.objects import ModelDef
from halo_sql.engines import residency
from halo_sql.engines.pool import EnginePool
from halo_sql.engines.pooled import PooledEngine
from halo_sql.engines.protocol import Engine, EngineInfo
from halo_sql.errors import EngineError

from .fake_worker import FakeWorker
from .helpers import in_virtual_time
from .test_workers import Inbox, asking, left_over

GB = 1_000_000_000


class Sized(FakeWorker):
    """Weights and KV cache of so many GB on a device of ten; what it needs is known before it starts."""

    def __init__(self, weights: float, kv: float = 0.0, known: bool = True, **options: Any) -> None:
        info = EngineInfo(
            "fake",
            device="cuda",
            weight_bytes=int(weights * GB),
            kv_capacity_tok=1000,
            kv_tok_bytes=int(kv * GB / 1000),
            memory_bytes=10 * GB,
        )
        super().__init__(info=info, **options)
        self.known = known

    async def describe(self) -> EngineInfo | None:
        return self.info if self.known else None


class Machine:
    """A pool whose models are of the engine kind 'sized'; what it made, by name."""

    def __init__(self, **kinds: Callable[[], FakeWorker]) -> None:
        self.kinds = kinds
        self.made: dict[str, list[FakeWorker]] = {name: [] for name in kinds}
        self.pool = EnginePool(asyncio.get_running_loop(), create=self._make)
        self.inbox = Inbox()
        self._ids = 0

    def _make(self, model: ModelDef, functions: Any) -> Engine:
        self.made[model.name].append(self.kinds[model.name]())
        return self.made[model.name][-1]

    def model(self, name: str, **options: object) -> ModelDef:
        return ModelDef(name, name, "sized", options)

    def get(self, name: str, **options: object) -> PooledEngine:
        return self.pool.get(self.model(name, **options))

    def send(self, engine: PooledEngine, count: int = 1) -> None:
        engine.submit(asking(count, self._ids), self.inbox)
        self._ids += count

    async def ask(self, engine: PooledEngine, count: int = 1) -> None:
        self.send(engine, count)
        await self.inbox.holds(self._ids)
        assert not self.inbox.errors(), self.inbox.results

    def there(self) -> set[str]:
        return {name for name, made in self.made.items() for worker in made if worker.alive and not worker.asleep}


def on_machine(
    **kinds: Callable[[], FakeWorker],
) -> Callable[[Callable[[Machine], Awaitable[None]]], Callable[[], None]]:
    """A test of a machine with these models."""

    def decorate(test: Callable[[Machine], Awaitable[None]]) -> Callable[[], None]:
        def run() -> None:
            async def main() -> None:
                machine = Machine(**kinds)
                try:
                    await test(machine)
                finally:
                    await machine.pool.close()
                made = [worker for workers in machine.made.values() for worker in workers]
                assert all(worker.closes == 1 for worker in made)
                assert len(machine.inbox.results) == machine._ids
                await left_over()

            in_virtual_time(main())

        return run

    return decorate


@on_machine(a=lambda: Sized(4), b=lambda: Sized(4))
async def test_models_that_fit_stay_together(machine: Machine) -> None:
    a, b = machine.get("a"), machine.get("b")
    for _ in range(3):
        await machine.ask(a)
        await machine.ask(b)
    assert machine.there() == {"a", "b"}
    assert machine.pool.residency.swaps == 0


@on_machine(a=lambda: Sized(4, 2), b=lambda: Sized(4, 2))
async def test_models_that_do_not_fit_take_turns(machine: Machine) -> None:
    a, b = machine.get("a"), machine.get("b")
    await machine.ask(a)
    await machine.ask(b)
    assert machine.there() == {"b"}
    assert machine.made["a"][0].closed
    await machine.ask(a, 3)
    assert machine.there() == {"a"}
    assert [len(made) for made in machine.made.values()] == [2, 2]
    assert machine.pool.started() == {"a"}
    assert machine.pool.resident(machine.model("a"))
    assert not machine.pool.resident(machine.model("b"))


@on_machine(a=lambda: Sized(6, can_sleep=True), b=lambda: Sized(6, can_sleep=True))
async def test_one_that_can_sleep_is_not_started_again(machine: Machine) -> None:
    a, b = machine.get("a"), machine.get("b")
    for engine in (a, b, a, b):
        await machine.ask(engine)
    assert [len(made) for made in machine.made.values()] == [1, 1]
    first, second = machine.made["a"][0], machine.made["b"][0]
    assert (first.starts, first.sleeps, first.wakes) == (1, 2, 1)
    assert (second.starts, second.sleeps, second.wakes) == (1, 1, 1)


@on_machine(a=lambda: Sized(4, delay_s=0.05), b=lambda: Sized(8))
async def test_nobody_is_put_out_with_requests_in_flight(machine: Machine) -> None:
    a, b = machine.get("a"), machine.get("b")
    await machine.ask(a)
    machine.send(a, 4)
    machine.send(b)
    await asyncio.sleep(0.01)
    assert machine.there() == {"a"}
    await machine.inbox.holds(6)
    assert not machine.inbox.errors()
    assert machine.there() == {"b"}


def test_a_busy_model_makes_way_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "PATIENCE_S", 0.03)

    @on_machine(a=lambda: Sized(6, delay_s=0.005), b=lambda: Sized(6))
    async def scenario(machine: Machine) -> None:
        a, b = machine.get("a"), machine.get("b")
        await machine.ask(a)
        machine.send(b)
        for _ in range(40):  # never idle, were it not held back
            machine.send(a)
            await asyncio.sleep(0.002)
        await machine.inbox.holds(42)
        assert not machine.inbox.errors()
        assert machine.made["b"][0].seen
        assert len(machine.made["a"]) == 2

    scenario()


@on_machine(a=lambda: Sized(4), b=lambda: Sized(4), c=lambda: Sized(4))
async def test_the_least_recently_used_leaves_first(machine: Machine) -> None:
    a, b, c = (machine.get(name) for name in "abc")
    for engine in (a, b, a, c):
        await machine.ask(engine)
    assert machine.there() == {"a", "c"}


@on_machine(a=lambda: Sized(4), b=lambda: Sized(4), c=lambda: Sized(4))
async def test_the_one_that_the_plan_asks_last_leaves_first(machine: Machine) -> None:
    a, b, c = (machine.get(name) for name in "abc")
    await machine.ask(a)
    await machine.ask(b)
    end = machine.pool.expect(["c", "a", "b"])
    await machine.ask(c)
    assert machine.there() == {"a", "c"}  # without the plan, a would have gone
    end()
    await machine.ask(b)
    assert machine.there() == {"b", "c"}


@on_machine(a=lambda: Sized(4), b=lambda: Sized(4), c=lambda: Sized(4))
async def test_a_pinned_model_stays(machine: Machine) -> None:
    a, b, c = machine.get("a", pinned=True), machine.get("b"), machine.get("c")
    for engine in (a, b, c, b, c):
        await machine.ask(engine)
    assert machine.there() == {"a", "c"}


@on_machine(a=lambda: Sized(8), b=lambda: Sized(4, 2))
async def test_pinned_models_that_leave_no_room_are_named(machine: Machine) -> None:
    a, b = machine.get("a", pinned=True), machine.get("b")
    await machine.ask(a)
    machine.send(b)
    await machine.inbox.holds(2)
    error = machine.inbox.results[1].error
    assert error is not None
    assert (error.code, error.fatal) == ("unavailable", True)
    assert 'model "b" needs 6.0 GB (weights 4.0, KV cache 2.0); "a" (pinned) leave 2.0 GB' in error.message
    assert "ALTER MODEL a RESET (pinned)" in error.remedy


@pytest.mark.parametrize(
    ("weights", "kv", "remedy"), [(8, 4, "SET (kv_cache_gib = 1.8)"), (12, 1, "smaller or quantized model")]
)
def test_a_model_that_cannot_fit_says_what_would(weights: float, kv: float, remedy: str) -> None:
    @on_machine(a=lambda: Sized(weights, kv))
    async def scenario(machine: Machine) -> None:
        with pytest.raises(EngineError) as caught:
            await machine.get("a").start()
        assert f"needs {weights + kv:.1f} GB" in caught.value.message
        assert "cuda has 10.0 GB" in caught.value.message
        assert remedy in caught.value.remedy
        assert not machine.made["a"][0].starts

    scenario()


@on_machine(a=lambda: Sized(6, start_s=0.02), b=lambda: Sized(6))
async def test_one_that_is_starting_is_not_put_out(machine: Machine) -> None:
    machine.pool.start(machine.model("a"))
    await asyncio.sleep(0.005)
    await machine.ask(machine.get("b"))
    assert machine.made["a"][0].starts == 1
    assert machine.made["a"][0].closed
    assert machine.there() == {"b"}
    await machine.ask(machine.get("a"))
    assert machine.there() == {"a"}


@on_machine(a=lambda: Sized(6), b=lambda: Sized(6), c=lambda: Sized(3))
async def test_background_starts_put_nobody_out(machine: Machine) -> None:
    machine.pool.start(machine.model("a"))
    machine.pool.start(machine.model("b"))
    machine.pool.start(machine.model("c"))
    await asyncio.sleep(0.01)
    assert machine.there() == {"a", "c"}
    end = machine.pool.expect(["a", "c"])
    assert not await machine.pool.preload(machine.model("b"))
    assert not await machine.pool.preload(machine.model("a"))  # it is there
    end()
    assert (await machine.get("b").start()).weight_bytes == 6 * GB  # known without: it comes when it is asked
    assert machine.there() == {"a", "c"}
    await machine.ask(machine.get("b"))
    assert machine.there() == {"b", "c"}


@on_machine(a=lambda: Sized(6, delay_s=0.02), b=lambda: Sized(4, start_s=0.01))
async def test_the_next_model_is_loaded_while_another_works(machine: Machine) -> None:
    a = machine.get("a")
    await machine.ask(a)
    machine.send(a)
    assert await machine.pool.preload(machine.model("b"))
    await machine.inbox.holds(2)
    assert machine.there() == {"a", "b"}


@on_machine(a=lambda: Sized(5), b=lambda: Sized(5), c=lambda: Sized(5, start_s=0.001))
async def test_the_plans_next_model_takes_the_place_of_one_that_it_does_not_ask(machine: Machine) -> None:
    a, b, c = (machine.get(name) for name in "abc")
    await machine.ask(c)
    await b.describe()
    end = machine.pool.expect(["a", "b"])
    await machine.ask(a)  # begins to work: b is loaded beside it, and c leaves
    await asyncio.sleep(0.01)
    assert machine.there() == {"a", "b"}
    end()
    assert c.load_s > 0


@on_machine(a=lambda: Sized(6, known=False), b=lambda: Sized(6, known=False))
async def test_sizes_that_only_a_start_tells(machine: Machine) -> None:
    a, b = machine.get("a"), machine.get("b")
    await a.start()
    await b.start()
    assert machine.there() == {"b"}
    await machine.ask(a)
    assert machine.there() == {"a"}


class Greedy(Sized):
    """Does not start as long as another is there."""

    other: ClassVar[list[FakeWorker]] = []

    async def start(self) -> EngineInfo:
        if any(worker.alive for worker in self.other):
            raise EngineError("out of memory", code="unavailable")
        return await super().start()


@on_machine(a=lambda: Sized(2), b=lambda: Greedy(2, known=False))
async def test_out_of_memory_at_a_start_makes_room_and_tries_again(machine: Machine) -> None:
    Greedy.other = machine.made["a"]
    await machine.ask(machine.get("a"))
    await machine.ask(machine.get("b"))
    assert machine.there() == {"b"}


@on_machine(a=lambda: Sized(6), b=lambda: Sized(6, start_s=0.02))
async def test_requests_that_wait_for_a_place_can_be_aborted(machine: Machine) -> None:
    a, b = machine.get("a"), machine.get("b")
    await machine.ask(a)
    machine.send(b, 3)
    b.abort([2])
    await machine.inbox.holds(4)
    assert machine.inbox.errors() == {"cancelled": 1}
    assert len(machine.made["b"][0].seen) == 2


@on_machine(a=lambda: Sized(6), b=lambda: Sized(6, fail_starts=1))
async def test_a_start_that_fails_leaves_its_place(machine: Machine) -> None:
    await machine.ask(machine.get("a"))
    b = machine.get("b")
    machine.send(b)
    await machine.inbox.holds(2)
    assert machine.inbox.errors() == {"unavailable": 1}
    await asyncio.sleep(0)
    assert not machine.pool.started()
    machine.send(machine.get("a"))
    await machine.inbox.holds(3)
    assert machine.there() == {"a"}


@on_machine(a=lambda: Sized(8), b=lambda: Sized(8))
async def test_models_on_different_devices_do_not_mind_each_other(machine: Machine) -> None:
    a, b = machine.get("a", devices="0"), machine.get("b", devices="1")
    await machine.ask(a)
    await machine.ask(b)
    assert machine.there() == {"a", "b"}


def test_workers_stand_on_the_devices_that_they_need() -> None:
    def on(**options: object) -> tuple[list[int], int, bool]:
        pool = EnginePool(asyncio.new_event_loop(), create=lambda model, functions: Sized(1))
        entry = pool._entry(ModelDef("m", "m", "sized", options))
        pool.loop.close()
        return list(entry.devices), entry.workers, entry.pinned

    assert on() == ([0], 1, False)
    assert on(workers=2, pinned=True) == ([0, 1], 2, True)
    assert on(workers=2, tensor_parallel_size=2) == ([0, 1, 2, 3], 2, False)
    assert on(Workers=2, devices="4-5") == ([4, 5], 2, False)


@pytest.mark.parametrize("seed", range(8))
def test_many_models_in_turns_lose_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "PATIENCE_S", 0.01)
    random_ = random.Random(seed)
    sizes = {"a": 3, "b": 4, "c": 5, "d": 9}

    def kind(size: float, sleeper: bool) -> Callable[[], FakeWorker]:
        return lambda: Sized(size, delay_s=random_.choice([0, 0.001]), can_sleep=sleeper, start_s=0.001)

    @on_machine(**{name: kind(size, random_.random() < 0.5) for name, size in sizes.items()})
    async def scenario(machine: Machine) -> None:
        engines = {name: machine.get(name) for name in sizes}
        aborted: set[int] = set()

        async def user(length: int) -> None:
            names = random_.choices("abcd", k=length)
            end = machine.pool.expect(names) if random_.random() < 0.5 else None
            for name in names:
                first = machine._ids
                machine.send(engines[name], random_.randrange(1, 5))
                if random_.random() < 0.2:
                    aborted.add(first)
                    engines[name].abort([first])
                await asyncio.sleep(random_.choice([0, 0.002, 0.004]))
            if end is not None:
                end()

        await asyncio.gather(user(12), user(12), user(6))
        await machine.inbox.holds(machine._ids)
        assert set(machine.inbox.errors()) <= {"cancelled"}
        assert all(number in aborted for number, result in machine.inbox.results.items() if result.error)
        assert sum(sizes[name] for name in machine.there()) <= 10

    scenario()
