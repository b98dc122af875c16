"""Work on a shared connection: cancelling one call leaves the others alone."""

from __future__ import annotations

import asyncio
import threading

import pytest

from halo_sql.duck import Duck
from halo_sql.operators.duck_thread import DuckThread

LONG = "SELECT count(*) FROM range(150000000) r(i) WHERE i % 7 = 3"


@pytest.fixture
def duck() -> Duck:
    return Duck.connect(":memory:", False, {})


def test_cancelling_a_waiting_call_does_not_interrupt_the_running_one(duck: Duck) -> None:
    begun, done = threading.Event(), []

    def long_query() -> list[tuple[int]]:
        begun.set()
        return duck.rows(LONG)

    async def run() -> list[tuple[int]]:
        thread = DuckThread(duck, "test")
        running = asyncio.create_task(thread.call(long_query))
        await asyncio.to_thread(begun.wait)
        waiting = asyncio.create_task(thread.call(lambda: done.append(1)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        rows = await running
        thread.close()
        return rows

    assert asyncio.run(run()) == [(150000000 // 7,)]
    assert not done


def test_cancelling_a_running_call_interrupts_it(duck: Duck) -> None:
    begun = threading.Event()

    def endless() -> object:
        begun.set()
        return duck.rows("SELECT count(*) FROM range(10000000000000) r(i) WHERE i % 7 = 3")

    async def run() -> None:
        thread = DuckThread(duck, "test")
        running = asyncio.create_task(thread.call(endless))
        await asyncio.to_thread(begun.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await thread.call(lambda: duck.rows("SELECT 1")) == [(1,)]
        thread.close()

    asyncio.run(run())
