"""The loop on a virtual clock: waiting costs nothing, computing takes no time, the order is always the same."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from halo_sql.clock import clock_s, unix_s
from halo_sql.virtual_time import EPOCH_S, VirtualTimeLoop, held, is_virtual, outside


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


def test_a_day_of_sleep_takes_no_time() -> None:
    async def day() -> float:
        await asyncio.sleep(100_000.0)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert run(day()) == 100_000.0
    assert time.perf_counter() - began < 5.0


def test_timers_run_in_their_order_at_their_times() -> None:
    async def all_of_them() -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def one(name: str, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            seen.append((name, clock_s()))
            await asyncio.sleep(delay_s)
            seen.append((name, clock_s()))

        await asyncio.gather(one("slow", 3.0), one("fast", 2.0))
        return seen

    assert run(all_of_them()) == [("fast", 2.0), ("slow", 3.0), ("fast", 4.0), ("slow", 6.0)]


def test_deadlines_are_virtual() -> None:
    async def late() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60.0):
                await asyncio.sleep(61.0)
        return clock_s()

    assert run(late()) == 60.0


def test_the_clock_stands_while_a_thread_works() -> None:
    async def both() -> tuple[float, float]:
        timer = asyncio.ensure_future(asyncio.sleep(0.001))
        await asyncio.to_thread(time.sleep, 0.05)
        behind_the_thread = clock_s()
        await timer
        return behind_the_thread, clock_s()

    assert run(both()) == (0.0, 0.001)


def test_threads_are_heard_in_the_order_in_which_they_were_asked() -> None:
    async def race() -> list[int]:
        heard: list[int] = []

        async def one(number: int) -> None:
            heard.append(await asyncio.to_thread(slowly, number))

        await asyncio.gather(*(one(number) for number in range(4)))
        return heard

    def slowly(number: int) -> int:
        time.sleep(0.02 * (4 - number))  # the first is the slowest
        return number

    assert run(race()) == [0, 1, 2, 3]


def test_an_error_in_a_thread_is_raised_and_a_cancelled_call_is_given_up() -> None:
    gate = threading.Event()

    async def calls() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            answer = outside(threads.submit(gate.wait))
            answer.cancel()
            await asyncio.sleep(5.0)  # it is not waited for
            gate.set()
        assert clock_s() == 5.0

    run(calls())


def test_the_clock_stands_while_something_beside_the_process_is_waited_for() -> None:
    async def both() -> float:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        loop.call_later(1.0, done.cancel)
        with held():
            threading.Timer(0.05, loop.call_soon_threadsafe, [done.set_result, None]).start()
            await done
        return clock_s()

    assert run(both()) == 0.0


def test_time_passes_only_while_somebody_waits() -> None:
    loop = VirtualTimeLoop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        first = asyncio.run_coroutine_threadsafe(asyncio.sleep(7.0), loop)
        time.sleep(0.05)
        assert not first.done()
        assert loop.time() == 0.0
        loop.awaited(first)
        first.result(5.0)
        assert loop.time() == 7.0
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_calls_from_other_threads_wait_until_the_loop_has_nothing_else_to_do() -> None:
    async def turns() -> list[str]:
        seen: list[str] = []
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def call() -> None:
            loop.call_soon_threadsafe(seen.append, "thread")
            loop.call_soon_threadsafe(done.set_result, None)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        for _ in range(3):
            await asyncio.sleep(0)
            seen.append("loop")
        await done
        return seen

    assert run(turns()) == ["loop", "loop", "loop", "thread"]


def test_clocks() -> None:
    async def seen() -> tuple[bool, float, float]:
        await asyncio.sleep(1.5)
        return is_virtual(), clock_s(), unix_s()

    assert run(seen()) == (True, 1.5, EPOCH_S + 1.5)
    virtual, _, now_s = asyncio.run(seen_now())
    assert not virtual
    assert abs(now_s - time.time()) < 60.0
    assert not is_virtual()
    assert abs(clock_s() - time.monotonic()) < 60.0


async def seen_now() -> tuple[bool, float, float]:
    return is_virtual(), clock_s(), unix_s()


def test_no_wait_is_lost_however_the_threads_interleave() -> None:
    loop = VirtualTimeLoop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        for number in range(1, 500):
            future = asyncio.run_coroutine_threadsafe(asyncio.sleep(1.0), loop)
            loop.awaited(future)
            future.result(10.0)
            assert loop.time() == float(number)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
