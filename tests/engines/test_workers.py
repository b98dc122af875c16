"""Several workers as one engine: every request is delivered once, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from halo_sql.engines import workers as group_module
from halo_sql.engines.protocol import EngineInfo, GenRequest, GenResult
from halo_sql.engines.router import DECODE_TOK
from halo_sql.engines.worker import ASSUMED_TOK_PER_S, Worker, assumed_tok_per_s, tok_per_s
from halo_sql.engines.workers import WorkerGroup
from halo_sql.errors import EngineError

from .fake_worker import FakeWorker
from .helpers import on_loop


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "RETRY_S", 0.002)


class Inbox:
    """What was delivered."""

    def __init__(self) -> None:
        self.results: dict[int, GenResult] = {}
        self._more = asyncio.Event()

    def __call__(self, results: Sequence[GenResult]) -> None:
        for result in results:
            assert result.id not in self.results, "delivered once"
            self.results[result.id] = result
        self._more.set()

    async def holds(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.results) < count:
                self._more.clear()
                await self._more.wait()

    def errors(self) -> Counter[str]:
        return Counter(result.error.code for result in self.results.values() if result.error)


def asking(count: int, start: int = 0, **options: object) -> list[GenRequest]:
    return [GenRequest(n, f"row {n} of many", **options) for n in range(start, start + count)]  # type: ignore[arg-type]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - fakes have no events for it
            await asyncio.sleep(0.001)


async def left_over() -> None:
    """Nothing runs on behind a closed group."""
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@on_loop
async def test_rows_are_split_and_say_who_answered() -> None:
    made = [FakeWorker(0.001), FakeWorker(0.001)]
    group, inbox = WorkerGroup(made), Inbox()
    info = await group.start()
    await group.all_ready()
    assert (info.window_requests, info.identity) == (16, "fake")
    group.submit(asking(100), inbox)
    await inbox.holds(100)
    by_worker = Counter(result.worker for result in inbox.results.values())
    assert by_worker == {0: len(made[0].seen), 1: len(made[1].seen)}
    assert min(by_worker.values()) >= 40
    assert [result.text for result in inbox.results.values() if result.id == 7] == ["ROW 7 OF MANY"]
    assert [counts["requests"] for counts in group.worker_stats()] == [by_worker[0], by_worker[1]]
    assert all(counts["busy_s"] > 0 and counts["in_flight"] == 0 for counts in group.worker_stats())
    await group.close()
    assert [worker.closes for worker in made] == [1, 1]
    await left_over()


@on_loop
async def test_the_first_that_is_ready_begins_and_later_ones_join() -> None:
    made = [FakeWorker(0.002, start_s=0.1), FakeWorker(0.002)]
    group, inbox = WorkerGroup(made), Inbox()
    await group.start()
    assert [worker.state for worker in group.workers] == ["starting", "ready"]
    group.submit(asking(16), inbox)
    await inbox.holds(16)
    assert {result.worker for result in inbox.results.values()} == {1}
    await until(lambda: group.workers[0].state == "ready")
    group.submit(asking(40, 100), inbox)
    await inbox.holds(56)
    assert made[0].seen
    await group.close()


@on_loop
async def test_a_worker_that_joins_takes_what_is_queued() -> None:
    made = [FakeWorker(0.02), FakeWorker(0.02, start_s=0.01)]
    group, inbox = WorkerGroup(made), Inbox()
    group.submit(asking(64), inbox)  # begins the start
    await inbox.holds(64)
    assert len(made[1].seen) >= 16
    await group.close()


@on_loop
async def test_submit_before_any_is_ready_waits() -> None:
    made = [FakeWorker(start_s=0.01), FakeWorker(start_s=0.02)]
    group, inbox = WorkerGroup(made), Inbox()
    group.submit(asking(5), inbox)
    assert not inbox.results
    await inbox.holds(5)
    assert not inbox.errors()
    await group.close()


@on_loop
async def test_a_dead_worker_is_restarted_and_only_its_rows_are_sent_again() -> None:
    made = [FakeWorker(0.01), FakeWorker(0.01)]
    group, inbox = WorkerGroup(made), Inbox()
    await group.start()
    await group.all_ready()
    group.submit(asking(16), inbox)
    lost = set(made[0].running)
    made[0].start_s = 0.1
    made[0].die()
    await inbox.holds(16)
    assert not inbox.errors()
    assert {number for number, result in inbox.results.items() if result.retries == 1} == lost
    assert all(inbox.results[number].worker == 1 for number in lost)
    assert {request.id for request in made[1].seen} >= lost
    assert group.restarts == 1
    await until(lambda: group.workers[0].state == "ready")
    group.submit(asking(16, 100), inbox)
    await inbox.holds(32)
    assert made[0].starts == 2
    assert {result.worker for number, result in inbox.results.items() if number >= 100} == {0, 1}
    await group.close()
    await left_over()


@pytest.mark.parametrize("seed", range(12))
def test_every_row_is_delivered_once_under_random_kills(seed: int) -> None:
    async def main() -> None:
        random_ = random.Random(seed)
        made = [FakeWorker(random_.choice([0.0, 0.001, 0.003]), start_s=0.001) for _ in range(3)]
        group, inbox = WorkerGroup(made), Inbox()
        if seed % 2:
            made[0].on_lost = None  # shows its death only when it is asked
        aborted: set[int] = set()
        sent = 0
        for _ in range(40):
            count = random_.randrange(1, 20)
            allowed = random_.choice([(), (), (1,), (0, 2)])
            group.submit(asking(count, sent, workers=allowed), inbox)
            sent += count
            if random_.random() < 0.2:
                random_.choice(made).die()
            if random_.random() < 0.3:
                ids = random_.sample(range(sent), 2)
                aborted.update(ids)
                group.abort(ids)
            await asyncio.sleep(random_.choice([0, 0.001, 0.003]))
        await inbox.holds(sent)
        assert set(inbox.results) == set(range(sent))
        for number, result in inbox.results.items():
            if result.error is None:
                assert result.text == f"ROW {number} OF MANY"
            elif result.error.code == "cancelled":
                assert number in aborted
            else:
                assert result.error.code == "unavailable"
        assert not any(worker.running for worker in made)
        assert group.router.load_tok == pytest.approx([0, 0, 0], abs=1e-6)
        await group.close()
        await left_over()

    asyncio.run(main())


@on_loop
async def test_a_request_that_kills_every_worker_fails_alone() -> None:
    made = [FakeWorker(0.001, poison="poison"), FakeWorker(0.001, poison="poison")]
    group, inbox = WorkerGroup(made), Inbox()
    await group.start()
    group.submit([*asking(20), GenRequest(99, "poison")], inbox)
    await inbox.holds(21)
    assert inbox.errors() == {"unavailable": 1}
    assert inbox.results[99].error is not None
    assert inbox.results[99].retries == 3
    assert sum(worker.deaths for worker in made) == 3
    await group.close()


@on_loop
async def test_when_none_is_left_requests_fail_and_later_ones_try_again() -> None:
    made = [FakeWorker(fail_starts=1), FakeWorker(fail_starts=1)]
    group, inbox = WorkerGroup(made), Inbox()
    with pytest.raises(EngineError, match="start 1 failed"):
        await group.start()
    group.submit(asking(3), inbox)  # their second start is fine
    await inbox.holds(3)
    assert not inbox.errors()
    for worker in made:
        worker.fail_starts = 100
        worker.die()
    group.submit(asking(3, 10), inbox)
    await inbox.holds(6)
    assert inbox.errors() == {"unavailable": 3}
    for worker in made:
        worker.fail_starts = 0
    group.submit(asking(3, 20), inbox)
    await inbox.holds(9)
    assert inbox.errors() == {"unavailable": 3}
    await group.close()
    await left_over()


@on_loop
async def test_an_idle_worker_that_dies_is_replaced_before_it_is_asked() -> None:
    made = [FakeWorker(), FakeWorker()]
    group, inbox = WorkerGroup(made), Inbox()
    await group.start()
    await group.all_ready()
    made[0].die()
    assert group.workers[0].state == "starting"
    await until(lambda: group.workers[0].state == "ready")
    group.submit(asking(20), inbox)
    await inbox.holds(20)
    assert {result.worker for result in inbox.results.values()} == {0, 1}
    assert not any(result.retries for result in inbox.results.values())
    await group.close()


@on_loop
async def test_workers_that_cannot_be_restarted_end_the_query() -> None:
    made = [FakeWorker(0.01), FakeWorker(0.01)]
    group, inbox = WorkerGroup(made), Inbox()
    await group.start()
    await group.all_ready()
    group.submit(asking(4), inbox)
    for worker in made:
        worker.fail_starts = 100
        worker.die()
    await inbox.holds(4)
    error = inbox.results[0].error
    assert error is not None
    assert (error.code, error.fatal) == ("unavailable", True)
    assert [worker.starts for worker in made] == [3, 3]
    await group.close()
    await left_over()


@on_loop
async def test_a_start_that_fails_leaves_the_work_to_the_others() -> None:
    made = [FakeWorker(fail_starts=100), FakeWorker(start_s=0.005)]
    group, inbox = WorkerGroup(made), Inbox()
    await group.start()
    group.submit(asking(10), inbox)
    group.submit(asking(2, 50, workers=(0,)), inbox)  # the plan wants the one that is gone
    await inbox.holds(12)
    assert {result.worker for result in inbox.results.values()} == {1}
    assert not inbox.errors()
    await group.close()


@on_loop
async def test_aborted_requests_are_cancelled_wherever_they_are() -> None:
    made = [FakeWorker(5.0)]
    group, inbox = WorkerGroup(made), Inbox()
    group.submit(asking(3), inbox)
    group.abort([1])  # no worker is ready yet
    await group.start()
    group.submit(asking(10, 10), inbox)  # eight in flight, the rest queued
    group.abort([0, 2, 10, 19, 77])
    await inbox.holds(5)
    assert set(inbox.results) == {0, 1, 2, 10, 19}
    assert inbox.errors() == {"cancelled": 5}
    await until(lambda: len(made[0].running) == 8)
    await group.close()
    assert inbox.errors() == {"cancelled": 13}
    inbox.results.clear()
    group.submit(asking(1, 500), inbox)
    assert inbox.errors() == {"cancelled": 1}
    await left_over()


@on_loop
async def test_another_model_behind_a_worker_is_refused() -> None:
    made = [FakeWorker(), FakeWorker(start_s=0.005, info=EngineInfo("other"))]
    group, inbox = WorkerGroup(made), Inbox()
    await group.start()
    await group.all_ready()
    assert group.workers[1].state == "lost"
    group.submit(asking(10), inbox)
    await inbox.holds(10)
    assert {result.worker for result in inbox.results.values()} == {0}
    assert "another model" in str(group.workers[1].error)
    await group.close()


@on_loop
async def test_a_plan_for_more_workers_than_there_are_uses_those_there_are() -> None:
    group, inbox = WorkerGroup([FakeWorker(), FakeWorker()]), Inbox()
    group.submit(asking(4, workers=(5,)) + asking(4, 10, workers=(1, 9)), inbox)
    await inbox.holds(8)
    assert not inbox.errors()
    assert {result.worker for number, result in inbox.results.items() if number >= 10} == {1}
    await group.close()


class Wire:
    """A gigabyte per second."""

    def bytes_per_s(self) -> float:
        return 1e9

    def close(self) -> None:
        pass


@on_loop
async def test_a_prefix_computed_by_one_worker_is_fetched_by_the_other() -> None:
    storage: set[int] = set()
    info = EngineInfo("fake", window_requests=8, device="cpu", kv_tok_bytes=1000)
    made = [FakeWorker(0.001, storage=storage, info=info) for _ in range(2)]
    group = WorkerGroup(made, storage=Wire(), prefill_tok_per_s=1000.0)
    inbox, system = Inbox(), "rules and facts " * 200
    await group.start()
    await group.all_ready()
    group.submit([GenRequest(0, "first", system)], inbox)
    await inbox.holds(1)
    group.submit([GenRequest(n, f"row {n}", system) for n in range(1, 41)], inbox)
    await inbox.holds(41)
    computed = sum(result.prompt_tok - result.prompt_tok_cached for result in inbox.results.values())
    assert computed <= 800 + 41 * 10  # the system message once
    assert {result.worker for result in inbox.results.values()} == {0, 1}
    assert sum(counts["prompt_tok_moved"] for counts in group.worker_stats()) >= 700
    await group.close()


@on_loop
async def test_a_callers_mistake_is_reported_and_the_others_get_theirs() -> None:
    group, inbox = WorkerGroup([FakeWorker(), FakeWorker()]), Inbox()
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def broken(results: Sequence[GenResult]) -> None:
        raise ValueError("mine")

    group.submit(asking(2, 100), broken)
    group.submit(asking(4), inbox)
    await inbox.holds(4)
    await until(lambda: len(reported) == 2)
    assert "could not be delivered" in str(reported[0]["message"])
    await group.close()


def test_the_pace_is_that_of_the_size_until_it_is_measured() -> None:
    small = EngineInfo("m", weight_bytes=540_000_000, dtype="float32", device="cpu")
    large = EngineInfo("m", weight_bytes=28_000_000_000, dtype="bfloat16", device="cuda")
    assert 200 < assumed_tok_per_s(small) < 600
    assert 10_000 < assumed_tok_per_s(large) < 20_000
    assert assumed_tok_per_s(EngineInfo("m")) == ASSUMED_TOK_PER_S
    worker = Worker(0, FakeWorker())
    assert tok_per_s([worker], 7.0) == 7.0
    worker.meter.busy_s = 2.0
    for number in range(16):
        worker.meter.add(GenResult(number, prompt_tok=110, prompt_tok_cached=10, output_tok=5))
    assert tok_per_s([worker], 7.0) == 16 * (100 + 5 * DECODE_TOK) / 2


@on_loop
async def test_all_sleep_and_wake_together() -> None:
    made = [FakeWorker(can_sleep=True), FakeWorker(can_sleep=True)]
    group = WorkerGroup(made)
    await group.start()
    await group.all_ready()
    assert group.can_sleep
    await group.sleep()
    assert all(worker.asleep for worker in made)
    await group.wake()
    assert not any(worker.asleep for worker in made)
    assert not WorkerGroup([FakeWorker(), FakeWorker(can_sleep=True)]).can_sleep
    await group.close()
